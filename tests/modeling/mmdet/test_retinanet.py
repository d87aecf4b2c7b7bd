"""MMDetRetinaNet: labels, the divisor of the losses, and clipping before suppression."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torchvision.ops import sigmoid_focal_loss

from d2_regnet import add_regnet_config
from d2_regnet.modeling import MaxIoUMatcher, MMDetRetinaNet


class Pooled(Backbone):
    """Features are the image's means over 32x32 pixels."""

    size_divisibility = 32

    def forward(self, x):
        return {"p5": nn.functional.avg_pool2d(x, 32)}

    def output_shape(self):
        return {"p5": ShapeSpec(channels=3, stride=32)}


@pytest.fixture
def model(seed):
    return MMDetRetinaNet(
        backbone=Pooled(),
        head=RetinaNetHead(
            input_shape=[ShapeSpec(channels=3)], num_classes=2, num_anchors=1, conv_dims=[8]
        ),
        head_in_features=["p5"],
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[32]], aspect_ratios=[1.0], strides=[32], offset=0.0
        ),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        anchor_matcher=MaxIoUMatcher([0.4, 0.5], [0, -1, 1], 0.0),
        num_classes=2,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )


def picture(height, width, boxes, classes):
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return {"image": torch.rand(3, height, width), "instances": instances}


def test_losses_are_this_batchs_and_depend_on_no_batch_before(model):
    # 96 x 96 and 64 x 64 in a batch of 96 x 96: 3x3 and 2x2 anchors of 32 pixels.
    batch = [
        picture(96, 96, [[49, 48, 79, 80], [1, 2, 5, 6]], [1, 0]),
        picture(64, 64, [], []),
    ]
    model.train()
    with EventStorage():
        losses = [model(batch) for _ in range(3)]
    first = {name: loss.item() for name, loss in losses[0].items()}
    for again in losses[1:]:
        assert {n: loss.item() for n, loss in again.items()} == pytest.approx(first, rel=1e-6)

    images = model.preprocess_image(batch)
    logits, deltas = model.head([model.backbone(images.tensor)["p5"]])
    # The first object's anchor (IoU 0.94) is the one at (64, 64), the second's, at any IoU, the
    # one at (0, 0). The others are background.
    target = torch.zeros(2, 2, 3, 3)
    target[0, 1, 2, 2] = target[0, 0, 0, 0] = 1
    used = torch.ones(2, 2, 3, 3, dtype=torch.bool)
    used[1, :, 2, :] = used[1, :, :, 2] = False  # the smaller image's padding
    focal = sigmoid_focal_loss(logits[0], target, alpha=0.25, gamma=2.0)
    divisor = 2 + 1  # two matched anchors, and none counted as one
    assert first["loss_cls"] == pytest.approx(focal[used].sum().item() / divisor, rel=1e-5)

    sizes = [
        (torch.tensor([64.0, 64, 30, 32]), (64, 64), (2, 2)),
        (torch.tensor([3.0, 4, 4, 4]), (0, 0), (0, 0)),
    ]
    l1 = 0
    for (x, y, w, h), (cx, cy), (row, column) in sizes:
        expected = torch.stack([(x - cx) / 32, (y - cy) / 32, (w / 32).log(), (h / 32).log()])
        l1 += (deltas[0][0, :, row, column] - expected).abs().sum()
    assert first["loss_box_reg"] == pytest.approx(l1.item() / divisor, rel=1e-5)


def test_boxes_are_clipped_before_suppression(model):
    """Two boxes that overlap by 0.4 of their union, and by 0.8 within the image."""
    anchors = [Boxes(torch.tensor([[0.0, 0, 100, 100], [0, 0, 100, 100], [0, 0, 100, 100]]))]
    # 0..100 x 0..40 and 0..100 x 0..100, in an image of 50 x 100; the third is below the image.
    log = torch.tensor([0.4, 0.9]).log()
    deltas = torch.tensor([[0, -0.3, 0, log[0]], [0, 0, 0, 0], [0, 0.9, 0, log[0]]])
    scores = torch.tensor([[0.9, 0.01], [0.8, 0.02], [0.7, 0.0]])
    found = model.inference_single_image(anchors, [scores], [deltas], (50, 100))
    assert found.scores.tolist() == pytest.approx([0.9])
    assert found.pred_boxes.tensor[0].tolist() == pytest.approx([0, 0, 100, 40], abs=1e-4)
    # The same in a larger image: nothing is clipped, so the overlaps are 0.4 or none.
    found = model.inference_single_image(anchors, [scores], [deltas], (300, 300))
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_best_candidates_of_a_level(model):
    model.test_topk_candidates, model.max_detections_per_image = 2, 100
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]]))] * 2
    scores = torch.tensor([[0.3, 0.2], [0.1, 0.05]])
    found = model.inference_single_image(
        anchors, [scores, scores / 4], [torch.zeros(2, 4)] * 2, (99, 99)
    )
    # 0.05 is not above the threshold; 0.1 is the third of its level.
    assert found.scores.tolist() == pytest.approx([0.3, 0.2])
    assert found.pred_classes.tolist() == [0, 1]


def test_nothing_found(model):
    anchors = [Boxes(torch.tensor([[0.0, 0, 10, 10]]))]
    found = model.inference_single_image(anchors, [torch.zeros(1, 2)], [torch.zeros(1, 4)], (9, 9))
    assert len(found) == 0 and found.pred_boxes.tensor.shape == (0, 4)


def test_yacs():
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "MMDetRetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_regnet_fpn_backbone"
    cfg.MODEL.REGNETS.ARCH = "RegNetX-200MF"
    cfg.MODEL.FPN.IN_FEATURES = ["s2", "s3", "s4"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 40, 50]] * 5
    cfg.MODEL.RETINANET.MIN_LOW_QUALITY_IOU = 0.125
    model = build_model(cfg)
    assert isinstance(model, MMDetRetinaNet)
    assert model.anchor_matcher.min_low_quality_iou == 0.125
