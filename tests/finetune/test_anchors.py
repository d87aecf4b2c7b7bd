"""Anchors against boxes: the IoU is the grid's own, and what is fitted misses less."""

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, pairwise_iou

from d2_regnet import model_zoo
from d2_regnet.finetune import adapt
from d2_regnet.finetune.anchors import Anchors, anchors_of, boxes_as_resized, fitted, suit_anchors
from d2_regnet.finetune.datasets import DataSet

RPN = Anchors(((32,), (64,), (128,), (256,), (512,)), (0.5, 1.0, 2.0), (4, 8, 16, 32, 64))


def drawn(count, smallest, largest, ratio=1.0, size=512, seed=0):
    """Boxes (N, 4) as x0, y0, width, height, inside a square image."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(np.log(smallest), np.log(largest), (count, 1)))
    sides = sides * np.array([ratio**-0.5, ratio**0.5]) * rng.uniform(0.9, 1.1, (count, 2))
    return np.hstack([rng.uniform(0, 1, (count, 2)) * (size - sides), sides])


def coco(boxes, size=512, **image):
    """A data set of one image."""
    return {
        "images": [{"id": 7, "width": size, "height": size} | image],
        "annotations": [{"image_id": 7, "bbox": box.tolist(), "iscrowd": 0} for box in boxes],
    }


def as_data_set(boxes):
    return DataSet("/images", coco(boxes), None, "mine")


@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("smallest", [4, 12, 40])
def test_missed_is_what_detectron2s_own_anchors_miss(offset, smallest):
    anchors = Anchors(RPN.sizes, RPN.ratios, RPN.strides, offset)
    generator = DefaultAnchorGenerator(
        sizes=RPN.sizes, aspect_ratios=[RPN.ratios], strides=RPN.strides, offset=offset
    )
    # One cell more: the last centre of a level lies a stride before the image's edge.
    cells = [512 // stride for stride in RPN.strides]
    grid = Boxes.cat(generator([torch.zeros(1, 1, cell + 1, cell + 1) for cell in cells]))
    boxes = drawn(300, smallest, 4 * smallest)
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    best = pairwise_iou(Boxes(torch.from_numpy(corners).float()), grid).max(dim=1).values
    assert anchors.missed(boxes) == pytest.approx((best < 0.5).double().mean().item())


def test_small_and_flat_boxes_are_fitted():
    for boxes in (drawn(400, 12, 60), drawn(400, 40, 200, ratio=0.2), drawn(400, 30, 90, ratio=5)):
        before = RPN.missed(boxes)
        better = fitted(RPN, boxes)
        assert before > 0.3 and better.missed(boxes) < 0.05
        assert [len(each) for each in better.sizes] == [1] * 5 and len(better.ratios) == 3


def test_what_suits_is_left_as_it_is():
    boxes = drawn(400, 32, 400)
    assert RPN.missed(boxes) == 0
    assert fitted(RPN, boxes) == RPN


def test_boxes_as_the_model_sees_them():
    boxes = np.array([[10.0, 20, 30, 40]])
    wide = coco(boxes, width=800, height=400)
    assert boxes_as_resized(wide, None, None) == pytest.approx(boxes)
    assert boxes_as_resized(wide, 800, 2000) == pytest.approx(2 * boxes)
    assert boxes_as_resized(wide, 800, 1200) == pytest.approx(1.5 * boxes)
    wide["annotations"][0]["iscrowd"] = 1
    assert not len(boxes_as_resized(wide, 800, 1200))


@pytest.mark.parametrize(
    "name", ["mask_rcnn_regnetx_400mf_fpn_3x", "retinanet_regnetx_800mf_fpn_1x"]
)
def test_the_plan_proposes_and_takes(name):
    cfg = model_zoo.get_config(name)
    own = anchors_of(cfg)
    generators = {"mask_rcnn": "proposal_generator"}
    part = getattr(cfg.model, generators.get(name.split("_regnet")[0], ""), cfg.model)
    generator = instantiate(part.anchor_generator)
    assert own.strides == tuple(generator.strides)
    assert generator.num_anchors == [len(own.sizes[0]) * len(own.ratios)] * 5
    train = as_data_set(drawn(300, 14, 48))
    data = train.coco

    adapt._set_size(cfg, type("", (), {"short_edge": 512}), 512)
    before = cfg.copy()
    (line,) = suit_anchors(cfg, train, fit=False)
    assert cfg == before
    assert "of the boxes have no anchor with an IoU of 0.5: --fit-anchors takes anchors" in line
    assert "--short-edge " in line
    (line,) = suit_anchors(cfg, train, fit=True)
    assert "the model takes anchors of" in line
    fitted_ones = anchors_of(cfg)
    assert fitted_ones.missed(boxes_as_resized(data, *adapt.test_size(cfg))) <= 0.05
    assert instantiate(part.anchor_generator).num_anchors == generator.num_anchors
    assert suit_anchors(cfg, train, fit=False) == []
    (line,) = suit_anchors(cfg, train, fit=True)
    assert line.endswith("they stay")


def test_a_config_that_does_not_resize():
    cfg = model_zoo.get_config("mask_rcnn_regnetx_400mf_fpn_3x")
    cfg.dataloader.test.mapper.augmentations = []
    (line,) = suit_anchors(cfg, as_data_set(drawn(300, 15, 60)), fit=False)
    assert line.endswith("; --short-edge 768 enlarges the images")  # 1.5 times 512


def test_a_model_without_anchors():
    cfg = model_zoo.get_config("retinanet_regnetx_800mf_fpn_1x")
    del cfg.model.anchor_generator
    assert suit_anchors(cfg, as_data_set(drawn(9, 5, 14)), fit=False) == []
    with pytest.raises(ValueError, match="--fit-anchors: the model has no anchors"):
        suit_anchors(cfg, as_data_set(drawn(9, 5, 14)), fit=True)
