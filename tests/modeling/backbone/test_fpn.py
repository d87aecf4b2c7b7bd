"""The FPN's levels, RetinaNet's top block, and the builders for yacs."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch.nn import functional as F

from d2_regnet import add_regnet_config
from d2_regnet.modeling import LastLevelP6P7NoReLU


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_regnet_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_regnet_fpn_backbone"
    cfg.MODEL.REGNETS.ARCH = "RegNetX-200MF"
    cfg.MODEL.FPN.IN_FEATURES = ["s1", "s2", "s3", "s4"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    return cfg


def levels(backbone, size):
    x = torch.randn(1, 3, *size)
    features = backbone.eval()(x)
    shape = backbone.output_shape()
    assert all(features[k].shape[1] == shape[k].channels for k in features)
    return {k: (shape[k].stride, tuple(v.shape[-2:])) for k, v in features.items()}


def test_rcnn_levels(cfg):
    backbone = build_backbone(cfg)
    assert backbone.size_divisibility == 32
    assert levels(backbone, (64, 96)) == {
        "p2": (4, (16, 24)),
        "p3": (8, (8, 12)),
        "p4": (16, (4, 6)),
        "p5": (32, (2, 3)),
        "p6": (64, (1, 2)),
    }


def test_retinanet_levels_with_the_top_block_fed_by_s4(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_regnet_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = ["s2", "s3", "s4"]
    backbone = build_backbone(cfg)
    assert backbone.size_divisibility == 32
    assert levels(backbone, (128, 160)) == {
        "p3": (8, (16, 20)),
        "p4": (16, (8, 10)),
        "p5": (32, (4, 5)),
        "p6": (64, (2, 3)),
        "p7": (128, (1, 2)),
    }
    assert type(backbone.top_block) is LastLevelP6P7
    x = torch.randn(1, 3, 64, 64)
    expected = backbone.top_block.p6(backbone.bottom_up(x)["s4"])
    torch.testing.assert_close(backbone(x)["p6"], expected)


def test_top_block_without_relu(cfg, seed):
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_regnet_fpn_backbone"
    cfg.MODEL.FPN.P7_RELU = False
    assert type(build_backbone(cfg).top_block) is LastLevelP6P7NoReLU
    block = LastLevelP6P7NoReLU(4, 8)
    assert block.in_feature == "s4" and block.num_levels == 2
    x = torch.randn(1, 4, 8, 8)
    p6, p7 = block(x)
    assert p6.min() < 0  # or the ReLU would not matter
    by_hand = F.conv2d(p6, block.p7.weight, block.p7.bias, stride=2, padding=1)
    torch.testing.assert_close(p7, by_hand)
    reference = LastLevelP6P7(4, 8, "s4")
    reference.load_state_dict(block.state_dict())
    assert not torch.allclose(reference(x)[1], p7)


def test_body_alone_with_every_setting(cfg):
    cfg.MODEL.BACKBONE.NAME = "build_regnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 1
    cfg.MODEL.REGNETS.NORM = "EvalBN"
    cfg.MODEL.REGNETS.DEFORM_ON_PER_STAGE = [False, False, False, True]
    cfg.MODEL.REGNETS.ACTIVATION_CHECKPOINT = ["s3"]
    cfg.MODEL.REGNETS.OUT_FEATURES = ["s4"]
    body = build_backbone(cfg, ShapeSpec(channels=1))
    assert list(body.output_shape()) == ["s4"]
    assert body.stem.conv.in_channels == 1
    assert not body.stem.bn.weight.requires_grad and body.s1.b1.f.a_bn.weight.requires_grad
    assert hasattr(body.s4.b1.f.b, "conv_offset") and not hasattr(body.s3.b1.f.b, "conv_offset")


@pytest.mark.parametrize("features, reason", [(["s1", "s5"], "names 's5'"), ([], "is empty")])
def test_fpn_of_stages_that_are_not_returned(cfg, features, reason):
    cfg.MODEL.FPN.IN_FEATURES = features
    with pytest.raises(ValueError, match=f"MODEL.FPN.IN_FEATURES {reason}"):
        build_backbone(cfg)
