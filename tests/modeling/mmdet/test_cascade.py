"""CascadeMaskROIHeads: what each stage is trained on, and what is averaged in inference."""

import pytest
import torch
from detectron2.config import get_cfg, instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import build_roi_heads
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F
from torchvision.ops import box_iou

from d2_regnet import add_regnet_config
from d2_regnet.model_zoo import detectors
from d2_regnet.modeling import CascadeMaskROIHeads, MaxIoUMatcher

SIZE = (64, 64)


def small_heads(**options):
    """The heads of the recipes with few channels, for features of stride 4 alone."""
    node = detectors.cascade_mask_rcnn(detectors.regnet("RegNetX-200MF"), num_classes=3).roi_heads
    node.update(box_in_features=["p2"], mask_in_features=["p2"], batch_size_per_image=10**6)
    node.box_pooler.scales = node.mask_pooler.scales = [0.25]
    for box_head, predictor, mask_head in zip(node.box_heads, node.box_predictors, node.mask_heads):
        box_head.update(input_shape=ShapeSpec(channels=4, height=7, width=7), fc_dims=[8])
        predictor.input_shape = ShapeSpec(channels=8)
        mask_head.update(input_shape=ShapeSpec(channels=4, height=14, width=14), conv_dims=[4, 4])
    node.update(options)
    heads = instantiate(node)
    with torch.no_grad():  # stages that move boxes, and whose scores and masks differ
        for parameter in heads.parameters():
            parameter.copy_(torch.randn(parameter.shape) / parameter[0].numel() ** 0.5)
    return heads


@pytest.fixture
def heads(seed):
    return small_heads()


@pytest.fixture
def features(seed):
    return {"p2": torch.randn(1, 4, 16, 16)}


def proposals(*boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return [Instances(SIZE, proposal_boxes=Boxes(boxes), objectness_logits=torch.zeros(len(boxes)))]


def objects(*boxes):
    targets = Instances(SIZE)
    targets.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    targets.gt_classes = torch.arange(len(boxes)) % 3
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes):
        mask[int(y0) : int(y1), int(x0) : int(x1)] = True
    targets.gt_masks = BitMasks(masks)
    return [targets]


def stage_outputs(heads, features, boxes, stage):
    """Logits, and the boxes moved by hand: MMDetection's DeltaXYWHBBoxCoder, unclipped scales."""
    crops = heads.box_pooler([features["p2"]], [Boxes(boxes)])
    logits, deltas = heads.box_predictor[stage](heads.box_head[stage](crops))
    stds = [(0.1, 0.2), (0.05, 0.1), (0.033, 0.067)][stage]
    size = boxes[:, 2:] - boxes[:, :2]
    center = (boxes[:, :2] + boxes[:, 2:]) / 2 + deltas[:, :2] * stds[0] * size
    size = size * (deltas[:, 2:] * stds[1]).exp()
    moved = torch.cat([center - size / 2, center + size / 2], dim=1).clamp(0, 64)
    return logits, deltas, moved.detach()


BOXES = [[4, 4, 30, 30], [8, 20, 50, 60], [33, 1, 62, 40], [0, 0, 64, 64]]


@torch.no_grad()
def test_inference_averages_logits_and_mask_probabilities(heads, features):
    heads.eval()
    for predictor in heads.box_predictor:
        predictor.test_score_thresh, predictor.test_nms_thresh = 0.0, 1.0
    found, losses = heads(None, features, proposals(*BOXES))
    assert losses == {}
    found = found[0]

    boxes, logits = torch.tensor(BOXES, dtype=torch.float32), []
    for stage in range(3):
        scores, _, boxes = stage_outputs(heads, features, boxes, stage)
        logits.append(scores)
    scores = (sum(logits) / 3).softmax(dim=1)[:, :3]
    expected, order = scores.flatten().sort(descending=True)
    torch.testing.assert_close(found.scores, expected)
    assert torch.equal(found.pred_classes, order % 3)
    torch.testing.assert_close(found.pred_boxes.tensor, boxes[order // 3], rtol=0, atol=1e-4)

    crops = heads.mask_pooler([features["p2"]], [found.pred_boxes])
    masks = torch.stack([head.layers(crops).sigmoid() for head in heads.mask_head]).mean(dim=0)
    expected = masks[torch.arange(len(found)), found.pred_classes][:, None]
    torch.testing.assert_close(found.pred_masks, expected)


def test_every_stage_samples_anew_weighs_its_losses_and_keeps_its_gradients(heads, features):
    heads.train()
    targets = objects([5, 5, 29, 31], [34, 2, 60, 40])
    features = {"p2": features["p2"].requires_grad_()}
    with EventStorage() as storage:
        _, losses = heads(None, features, proposals(*BOXES), targets)
        counted = {name: int(value) for name, (value, _) in storage.latest().items()}

    # By hand: each stage sees the boxes of the one before, then the objects, which it matches with
    # themselves; the boxes that were objects do not go on.
    gt = targets[0].gt_boxes.tensor
    boxes, total = torch.tensor(BOXES, dtype=torch.float32), 0
    for stage, (iou, weight) in enumerate([(0.5, 1.0), (0.6, 0.5), (0.7, 0.25)]):
        best, index = box_iou(gt, boxes).max(dim=0)
        sampled = torch.cat([boxes, gt])
        index = torch.cat([index, torch.arange(2)])
        positive = torch.cat([best >= iou, torch.ones(2, dtype=torch.bool)])
        classes = torch.where(positive, index, 3)
        logits, deltas, moved = stage_outputs(heads, features, sampled, stage)
        expected = weight * F.cross_entropy(logits, classes)
        torch.testing.assert_close(losses[f"loss_cls_stage{stage}"], expected)
        total = total + expected
        assert counted[f"stage{stage}/roi_head/num_fg_samples"] == positive.sum()

        size, gt_size = sampled[:, 2:] - sampled[:, :2], gt[index, 2:] - gt[index, :2]
        shift = (gt[index, :2] + gt_size / 2 - sampled[:, :2] - size / 2) / size
        stds = [(0.1, 0.2), (0.05, 0.1), (0.033, 0.067)][stage]
        wanted = torch.cat([shift / stds[0], (gt_size / size).log() / stds[1]], dim=1)
        smooth_l1 = F.smooth_l1_loss(deltas[positive], wanted[positive], reduction="sum", beta=1.0)
        expected = weight * smooth_l1 / len(sampled)
        torch.testing.assert_close(losses[f"loss_box_reg_stage{stage}"], expected)
        total = total + expected
        assert losses[f"loss_mask_stage{stage}"] > 0
        boxes = moved[: len(boxes)]
    assert len(losses) == 9

    box_losses = sum(loss for name, loss in losses.items() if "mask" not in name)
    wanted = torch.autograd.grad(total, features["p2"])[0]
    torch.testing.assert_close(torch.autograd.grad(box_losses, features["p2"])[0], wanted)


def test_a_picture_without_objects(heads, features):
    heads.train()
    with EventStorage():
        _, losses = heads(None, features, proposals(*BOXES), objects())
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_mask_stage2"] == 0 and losses["loss_box_reg_stage0"] == 0


def test_no_detections(heads, features):
    heads.eval()
    found, _ = heads(None, features, proposals())
    assert len(found[0]) == 0 and found[0].pred_masks.shape[0] == 0


def test_boxes_alone(seed, features):
    heads = small_heads(mask_in_features=None, mask_pooler=None, mask_heads=None)
    assert not any("mask" in name for name, _ in heads.named_parameters())
    heads.train()
    with EventStorage():
        _, losses = heads(None, features, proposals(*BOXES), objects([5, 5, 29, 31]))
    assert len(losses) == 6
    heads.eval()
    assert not heads(None, features, proposals(*BOXES))[0][0].has("pred_masks")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"stage_loss_weights": [1.0, 0.5]}, "2 stage_loss_weights for 3 stages"),
        ({"mask_heads": None}, "mask_heads: 0 for 3 stages"),
        ({"keypoint_in_features": ["p2"]}, "not keypoints"),
    ],
)
def test_what_does_not_fit_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        small_heads(**options)


def test_yacs():
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_HEADS.NAME = "CascadeMaskROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2"]
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC, cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 1, 8
    cfg.MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = True
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_BOX_CASCADE_HEAD.STAGE_LOSS_WEIGHTS = (1.0, 0.75, 0.5)
    heads = build_roi_heads(cfg, {"p2": ShapeSpec(channels=4, stride=4)})
    assert isinstance(heads, CascadeMaskROIHeads)
    assert len(heads.mask_head) == 3 and heads.stage_loss_weights == (1.0, 0.75, 0.5)
    assert all(isinstance(matcher, MaxIoUMatcher) for matcher in heads.proposal_matchers)
    assert all(matcher.objects_appended for matcher in heads.proposal_matchers)
