"""The memory of per-class outputs, against the outputs of real heads."""

import pytest
import torch
from detectron2.config import instantiate

from d2_regnet.engine import memory
from d2_regnet.engine.memory import check_memory, class_output_bytes
from d2_regnet.model_zoo.recipes import recipe

FLOAT_AND_GRADIENT = 8


def test_masks():
    cfg = recipe("mask_rcnn", "RegNetX-200MF", "1x")
    cfg.model.roi_heads.num_classes = 50
    cfg.dataloader.train.total_batch_size = 4
    head = instantiate(cfg.model.roi_heads.mask_head)
    one = head.layers(torch.zeros(1, 256, 14, 14))
    fraction = 0.25 * cfg.model.roi_heads.batch_size_per_image
    expected = one.numel() * fraction * FLOAT_AND_GRADIENT
    assert class_output_bytes(cfg) == 4 * expected
    assert class_output_bytes(cfg, processes=2) == 2 * expected


def test_anchors():
    cfg = recipe("retinanet", "RegNetX-800MF", "1x")
    cfg.model.num_classes = 11
    cfg.dataloader.train.total_batch_size = 1
    cfg.dataloader.train.mapper.augmentations[0].short_edge_length = (192, 384)
    generator = instantiate(cfg.model.anchor_generator)
    maps = [torch.zeros(1, 1, 384 // s, 512 // s) for s in (8, 16, 32, 64, 128)]
    anchors = sum(len(boxes) for boxes in generator(maps))
    expected = anchors * 11 * FLOAT_AND_GRADIENT
    assert class_output_bytes(cfg) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("detector", "remedy"), [("mask_rcnn", "mask_head.num_classes=1"), ("retinanet", "faster_rcnn")]
)
def test_refuses_what_cannot_fit(monkeypatch, detector, remedy):
    cfg = recipe(detector, "RegNetX-800MF", "1x")
    heads = cfg.model.get("roi_heads", cfg.model)
    monkeypatch.setattr(memory.os, "sysconf", lambda name: 2**17)  # 16 GiB
    check_memory(cfg, "cpu")
    heads.num_classes = 10_000
    with pytest.raises(ValueError, match=rf"at least \d+ GiB .* has 16: .*{remedy}"):
        check_memory(cfg, "cpu")
    if detector == "mask_rcnn":
        heads.mask_head.num_classes = 1
        check_memory(cfg, "cpu")


def test_boxes_do_not_count():
    cfg = recipe("faster_rcnn", "RegNetX-800MF", "1x")
    cfg.model.roi_heads.num_classes = 10_000
    assert class_output_bytes(cfg) == 0
    check_memory(cfg, "cpu")
