"""The detectors' nodes against the published rows: all and trained parameters, and settings."""

import json

import pytest
import torch
from detectron2.config import instantiate

from d2_regnet.model_zoo import detectors

BODIES = {
    "r50": dict(depth=50),
    "r101": dict(depth=101),
    "x101-32x4d": dict(depth=101, num_groups=32, width_per_group=4),
}
KINDS = {
    "MaskRCNN": detectors.mask_rcnn,
    "FasterRCNN": detectors.faster_rcnn,
    "CascadeRCNN": detectors.cascade_mask_rcnn,
    "RetinaNet": detectors.retinanet,
}


def node(row):
    name = row["backbone"]
    body = (
        detectors.resnet(**BODIES[name])
        if name in BODIES
        else detectors.regnet(name, deform_stages=row["dcn_stages"])
    )
    return KINDS[row["detector"]](body, input_format=row["input_format"])


def test_parameters_and_pixels_of_all_rows(fixtures):
    rows = json.loads((fixtures / "table_rows.json").read_text())
    assert len(rows) == 31
    for row in rows:
        cfg = node(row)
        with torch.device("meta"):
            model = instantiate(cfg)
        trained = [p for p in model.parameters() if p.requires_grad]
        counts = (
            sum(p.numel() for p in model.parameters()),
            sum(p.numel() for p in trained),
            len(trained),
        )
        wanted = (row["params_total"], row["params_trainable"], row["tensors_trainable"])
        assert counts == wanted, row["mmdet_config"]
        assert list(cfg.pixel_mean) == row["pixel_mean"], row["mmdet_config"]
        assert list(cfg.pixel_std) == row["pixel_std"], row["mmdet_config"]


@pytest.mark.parametrize("kind", KINDS.values())
def test_classes_and_arch_may_be_changed_afterwards(kind):
    cfg = kind(detectors.regnet("RegNetX-200MF"), num_classes=5)
    cfg.backbone.bottom_up.arch = "RegNetY-400MF"
    with torch.device("meta"):
        model = instantiate(cfg)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes["backbone.bottom_up.s4.b1.f.c.weight"][0] == 440
    outputs = [
        shape[0]
        for name, shape in shapes.items()
        if name.endswith(("cls_score.bias", "mask_head.predictor.bias", "0.predictor.bias"))
    ]
    assert set(outputs) <= {5, 6, 9 * 5} and outputs


def test_box_deltas_of_the_cascade_are_mmdetections():
    cfg = detectors.cascade_mask_rcnn(detectors.regnet("RegNetX-200MF"))
    weights = [list(p.box2box_transform.weights) for p in cfg.roi_heads.box_predictors]
    # 1 / 0.033 and 1 / 0.067, where Detectron2 has 30 and 15.
    assert weights[2] == pytest.approx([30.30303, 30.30303, 14.92537, 14.92537])
    assert weights[:2] == [[10, 10, 5, 5], [20, 20, 10, 10]]


def test_unknown_input_format():
    with pytest.raises(ValueError, match="input_format must be BGR or RGB, not 'GBR'"):
        detectors.mask_rcnn(detectors.regnet("RegNetX-200MF"), input_format="GBR")


@pytest.mark.parametrize("detector", ["mask_rcnn", "faster_rcnn", "cascade_mask_rcnn", "retinanet"])
def test_the_backbone_node_is_left_as_it_is(detector):
    node = detectors.regnet("RegNetX-400MF")
    before = node.copy()
    build = getattr(detectors, detector)
    assert build(node) == build(node)
    assert node == before
