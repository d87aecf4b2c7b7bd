"""MMDetRPN: which anchors are labelled, and what the losses are divided by."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.proposal_generator import StandardRPNHead, build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch.nn import functional as F

from d2_regnet import add_regnet_config
from d2_regnet.modeling import MaxIoUMatcher, MMDetRPN


def rpn(**options):
    return MMDetRPN(
        in_features=["p4"],
        head=StandardRPNHead(in_channels=4, num_anchors=1),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[20]], aspect_ratios=[1.0], strides=[16], offset=0.0
        ),
        anchor_matcher=MaxIoUMatcher([0.3, 0.7], [0, -1, 1], 0.3),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        **{
            "batch_size_per_image": 256,
            "positive_fraction": 0.5,
            "pre_nms_topk": (100, 100),
            "post_nms_topk": (50, 50),
            **options,
        },
    )


def objects(boxes, size):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances(size, gt_boxes=Boxes(boxes))


@pytest.fixture
def batch(seed):
    """Two images, of 64x64 and 96x96, in a batch of 96x96: 6x6 anchors of 20 pixels."""
    features = {"p4": torch.randn(2, 4, 6, 6)}
    images = ImageList(torch.zeros(2, 3, 96, 96), [(64, 64), (96, 96)])
    targets = [objects([[23, 23, 42, 42]], (64, 64)), objects([], (96, 96))]
    return images, features, targets


def test_labels(batch):
    _, features, targets = batch
    model = rpn()
    anchors = model.anchor_generator([features["p4"]])
    labels, boxes = model.label_and_sample_anchors(anchors, targets)
    grid = labels[0].reshape(6, 6)
    # Centers of the smaller image's anchors lie at 0, 16, 32 and 48; the rest is padding.
    assert (grid[4:] == -1).all() and (grid[:, 4:] == -1).all()
    assert grid[2, 2] == 1 and grid[:4, :4].eq(1).sum() == 1
    assert boxes[0].reshape(6, 6, 4)[2, 2].tolist() == [23, 23, 42, 42]
    assert labels[1].eq(0).all() and boxes[1].shape == (36, 4)


def test_labels_within_the_edge(batch):
    _, features, targets = batch
    model = rpn(anchor_boundary_thresh=0.0)
    labels, _ = model.label_and_sample_anchors(model.anchor_generator([features["p4"]]), targets)
    # Those with centers at 16, 32 and 48, and in the larger image up to 80.
    inside = [int(label.ge(0).sum()) for label in labels]
    assert inside == [9, 25]


def test_as_many_as_asked_for_are_sampled(batch):
    _, features, targets = batch
    model = rpn(batch_size_per_image=8)
    labels, _ = model.label_and_sample_anchors(model.anchor_generator([features["p4"]]), targets)
    assert [int(label.ge(0).sum()) for label in labels] == [8, 8]
    assert int(labels[0].eq(1).sum()) == 1


def test_losses_are_divided_by_the_sampled_anchors(batch):
    images, features, targets = batch
    model = rpn()
    with EventStorage():
        _, losses = model(images, features, targets)
    logits, deltas = model.rpn_head([features["p4"]])
    small, large = logits[0][0, 0, :4, :4], logits[0][1, 0]
    positive = torch.zeros(4, 4)
    positive[2, 2] = 1
    # 1 positive and 15 negatives; none (counted as one) and 36 negatives.
    divisor = 1 + 15 + 1 + 36
    expected = F.binary_cross_entropy_with_logits(small, positive, reduction="sum")
    expected = (expected + F.softplus(large).sum()) / divisor
    assert losses["loss_rpn_cls"].item() == pytest.approx(expected.item(), rel=1e-5)
    # The anchor 22..42 moved by half a pixel and made 19 pixels wide and high.
    target = torch.tensor([0.5 / 20, 0.5 / 20, *(2 * [torch.tensor(19 / 20).log()])])
    expected = (deltas[0][0, :, 2, 2] - target).abs().sum() / divisor
    assert losses["loss_rpn_loc"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_yacs():
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "MMDetRPN"
    cfg.MODEL.RPN.IN_FEATURES = ["p4"]
    cfg.MODEL.RPN.MIN_LOW_QUALITY_IOU = 0.25
    model = build_proposal_generator(cfg, {"p4": ShapeSpec(channels=8, stride=16)})
    assert isinstance(model, MMDetRPN)
    assert isinstance(model.anchor_matcher, MaxIoUMatcher)
    assert model.anchor_matcher.min_low_quality_iou == 0.25
    assert not model.anchor_matcher.objects_appended
