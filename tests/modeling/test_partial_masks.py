"""The mask loss is that of the objects which have a mask."""

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from d2_regnet.modeling import PartialMaskHead


def instances(masks, has_mask=None):
    found = Instances((32, 32))
    found.proposal_boxes = Boxes(torch.tensor([[0.0, 0, 32, 32]] * len(masks)))
    found.gt_classes = torch.zeros(len(masks), dtype=torch.int64)
    found.gt_masks = BitMasks(masks)
    if has_mask is not None:
        found.gt_has_mask = torch.tensor(has_mask)
    return found


def test_the_loss_of_those_with_masks():
    torch.manual_seed(0)
    args = dict(num_classes=1, conv_dims=[4, 4])
    ours = PartialMaskHead(ShapeSpec(channels=4, height=14, width=14), **args).train()
    theirs = MaskRCNNConvUpsampleHead(ShapeSpec(channels=4, height=14, width=14), **args).train()
    theirs.load_state_dict(ours.state_dict())
    masks = torch.rand(5, 32, 32) < 0.5
    x = torch.rand(5, 4, 14, 14)
    keep = [True, False, False, True, True]
    with EventStorage():
        loss = ours(x, [instances(masks[:3], keep[:3]), instances(masks[3:])])
        expected = theirs(x[keep], [instances(masks[:3][keep[:3]]), instances(masks[3:])])
        torch.testing.assert_close(loss, expected, rtol=0, atol=0)
        none = ours(x[:2], [instances(masks[:2], [False, False])])
        assert sum(none.values()) == 0
