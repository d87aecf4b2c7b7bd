"""Counts of multiply-adds, against pycls's formulas, fvcore and numbers worked by hand."""

import pytest
import torch
from detectron2.config import instantiate
from fvcore.nn import FlopCountAnalysis

from d2_regnet import model_zoo
from d2_regnet.model_zoo.recipes import recipe
from d2_regnet.modeling import ModulatedDeformConv
from d2_regnet.utils.flops import count_flops


def build(cfg):
    if "arch" in cfg.model.backbone.bottom_up:
        cfg.model.backbone.bottom_up.fuse_conv_norm = False
    with torch.device("meta"):
        return instantiate(cfg.model).eval()


@pytest.mark.parametrize("arch", ["RegNetX-400MF", "RegNetY-1.6GF"])
@pytest.mark.parametrize("size", [(800, 1216), (256, 320)])
def test_backbone(arch, size):
    model = build(recipe("retinanet", arch, "1x"))
    regnet = model.backbone.bottom_up.arch
    # pycls counts one addition for each bias of squeeze-and-excitation as well.
    biases = 0
    widths = [w for w, d in zip(regnet.stage_widths, regnet.stage_depths) for _ in range(d)]
    if regnet.se_ratio:
        biases = sum(se + width for se, width in zip(regnet.se_widths, widths))
    assert count_flops(model, size)["backbone"] == regnet.complexity(size, 0).flops - biases


def test_heads_by_hand():
    counts = count_flops(build(recipe("mask_rcnn", "RegNetX-200MF", "1x")), (256, 320), 10, 2)
    cells = sum((256 // stride) * (320 // stride) for stride in (4, 8, 16, 32, 64))
    assert counts["rpn"] == cells * (256 * 256 * 9 + 256 * 3 * 5)
    assert counts["box"] == 10 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))
    four, upsampled, logits = (
        4 * 14 * 14 * 256 * 256 * 9,
        14 * 14 * 256 * 256 * 4,
        28 * 28 * 256 * 80,
    )
    assert counts["mask"] == 2 * (four + upsampled + logits)


def test_cascade_counts_every_stage():
    counts = count_flops(build(recipe("cascade_mask_rcnn", "RegNetX-200MF", "1x")), (256, 320), 10)
    assert counts["box"] == 3 * 10 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 4))
    assert (
        counts["mask"]
        == 3 * count_flops(build(recipe("mask_rcnn", "RegNetX-200MF", "1x")), (256, 320))["mask"]
    )


def test_backbone_as_fvcore_counts_it():
    model = instantiate(recipe("retinanet", "RegNetX-200MF", "1x").model).eval()

    class Backbone(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = model.backbone

        def forward(self, x):
            return list(self.backbone(x).values())

    analysis = FlopCountAnalysis(Backbone(), torch.zeros(1, 3, 128, 128))
    analysis.unsupported_ops_warnings(False).tracer_warnings("none")
    counts = count_flops(model, (128, 128))
    assert counts["backbone"] + counts["fpn"] == analysis.by_operator()["conv"]


def test_deformable_convolutions_cost_their_offsets_more():
    plain = build(recipe("retinanet", "RegNetX-200MF", "1x"))
    deformable = build(recipe("retinanet", "RegNetX-200MF", "1x", deform_stages=["s2", "s4"]))
    more = 0
    for stage, stride in (("s2", 8), ("s4", 32)):
        for module in getattr(deformable.backbone.bottom_up, stage).modules():
            if isinstance(module, ModulatedDeformConv):
                more += module.conv_offset.weight.numel() * (256 // stride) * (320 // stride)
    found = [count_flops(model, (256, 320))["backbone"] for model in (plain, deformable)]
    assert found[1] - found[0] == more > 0


def test_measured_numbers_are_current():
    for name in ("retinanet_regnetx_800mf_fpn_1x", "mask_rcnn_regnetx_3.2gf_dcn_fpn_1x"):
        model, facts = build(model_zoo.get_config(name)), model_zoo.rows()[name]
        assert facts["flops"] == sum(count_flops(model).values())
        assert facts["params"] == sum(p.numel() for p in model.parameters())
