"""SEER trunks, from a model with VISSL's module names, read by timm's own filter as a check."""

import re
from collections import OrderedDict

import pytest
import timm
import torch
from timm.models.regnet import _filter_fn
from torch import nn
from torchvision.transforms.v2 import functional as F

from d2_regnet.archs import get_arch
from d2_regnet.checkpoint.conversion import convert, convert_state
from d2_regnet.checkpoint.sources import vissl


def conv_bn(w_in, w_out, kernel, stride=1, groups=1):
    conv = nn.Conv2d(w_in, w_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(w_out)]


class SqueezeAndExcitation(nn.Module):
    def __init__(self, width, reduced):
        super().__init__()
        self.excitation = nn.Sequential(
            nn.Conv2d(width, reduced, 1), nn.ReLU(), nn.Conv2d(reduced, width, 1), nn.Sigmoid()
        )

    def forward(self, x):
        return x * self.excitation(x.mean((2, 3), keepdim=True))


class Block(nn.Module):
    """classy-vision's ResBottleneckBlock, by the names of its modules."""

    def __init__(self, w_in, w_out, stride, group_width):
        super().__init__()
        self.has_projection = stride != 1 or w_in != w_out
        if self.has_projection:
            self.proj, self.bn = conv_bn(w_in, w_out, 1, stride)
        c, final_bn = conv_bn(w_out, w_out, 1)
        self.f = nn.Sequential(
            OrderedDict(
                a=nn.Sequential(*conv_bn(w_in, w_out, 1), nn.ReLU()),
                b=nn.Sequential(*conv_bn(w_out, w_out, 3, stride, w_out // group_width), nn.ReLU()),
                se=SqueezeAndExcitation(w_out, round(w_in / 4)),
                c=c,
                final_bn=final_bn,
            )
        )

    def forward(self, x):
        shortcut = self.bn(self.proj(x)) if self.has_projection else x
        return torch.relu(shortcut + self.f(x))


def trunk(arch):
    """VISSL's `regnet` trunk: `_feature_blocks` of conv1, res2 to res5."""
    stem = nn.Sequential(OrderedDict(stem=nn.Sequential(*conv_bn(3, 32, 3, 2), nn.ReLU())))
    blocks, w_in = OrderedDict(conv1=stem), 32
    parts = zip(arch.stage_widths, arch.stage_depths, arch.stage_group_widths)
    for stage, (width, depth, group_width) in enumerate(parts, start=1):
        blocks[f"res{stage + 1}"] = nn.Sequential(
            OrderedDict(
                (
                    f"block{stage}-{i}",
                    Block(width if i else w_in, width, 1 if i else 2, group_width),
                )
                for i in range(depth)
            )
        )
        w_in = width
    model = nn.Module()
    model._feature_blocks = nn.ModuleDict(blocks)
    return model


def normalise(rgb):
    picture = F.to_dtype(torch.tensor(rgb).permute(2, 0, 1), torch.float32, scale=True)
    return F.normalize(picture, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]


@pytest.mark.parametrize(
    "name",
    ["RegNetY-400MF", "RegNetY-1.6GF", pytest.param("RegNetY-32GF", marks=pytest.mark.slow)],
)
def test_features_are_the_trunks_own(name, bodies):
    model = bodies.built(lambda: trunk(get_arch(name)))
    bodies.check_features(model, list(model._feature_blocks.values()), normalise, "vissl", name)


def vissl_file(state, heads):
    model = {"trunk": state, "heads": heads}
    return {
        "phase_idx": 77,
        "loss": 1.5,
        "classy_state_dict": {
            "base_model": {"model": model, "meta": {"name": "ssl"}},
            "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}},
        },
    }


@pytest.fixture
def state(bodies):
    return bodies.built(lambda: trunk(get_arch("RegNetY-400MF"))).state_dict()


HEADS = {"0.clf.0.weight": torch.zeros(1000, 440), "0.clf.0.bias": torch.zeros(1000)}


def test_a_file_of_vissl(state, tmp_path):
    torch.save(vissl_file(state, HEADS), tmp_path / "seer.torch")
    report = convert(tmp_path / "seer.torch", tmp_path / "out.pth")
    assert (report.source, report.arch) == ("vissl", "RegNetY-400MF")
    heads = {n for n, why in report.dropped.items() if why == "head on top of the trunk"}
    assert heads == {"heads.0.clf.0.weight", "heads.0.clf.0.bias"}
    assert "optimizer.state.0.momentum_buffer" in report.dropped


def test_agrees_with_timms_own_reading_of_vissl_files(state):
    theirs = timm.create_model("regnety_004").eval()
    theirs.load_state_dict(_filter_fn(vissl_file(state, HEADS)))
    from_timm = convert_state(theirs.state_dict())[1].state
    from_vissl = convert_state({f"trunk.{n}": t for n, t in state.items()})[1].state
    assert from_timm.keys() == from_vissl.keys()
    assert all(torch.equal(from_timm[name], from_vissl[name]) for name in from_timm)


def in_parts(name):
    """As the sharded trunks are spelled: two blocks to a part."""
    return re.sub(
        r"block(\d)-(\d+)", lambda m: f"block{m[1]}-part{int(m[2]) // 2}.block{m[1]}-{m[2]}", name
    )


def classy(name):
    """As classy-vision's own models are spelled."""
    name = name.replace("_feature_blocks.conv1.", "stem.")
    return re.sub(
        r"_feature_blocks\.res(\d)\.", lambda m: f"trunk_output.block{int(m[1]) - 1}.", name
    )


@pytest.mark.parametrize("spell", [in_parts, classy, lambda name: f"trunk.{name}"])
def test_other_spellings(state, spell):
    respelled = {spell(name): tensor for name, tensor in state.items()}
    assert sum(name in state for name in respelled) <= 6  # the stem
    source, mapped = convert_state(respelled)
    expected = convert_state(state)[1]
    assert (source, mapped.arch) == ("vissl", "RegNetY-400MF")
    assert all(torch.equal(mapped.state[n], t) for n, t in expected.state.items())
    assert set(mapped.mapped) | set(mapped.dropped) == set(respelled)


@pytest.mark.parametrize("size", ["32GF", "64GF", "128GF", "256GF"])
def test_seers_sizes_are_recognised(size):
    # timm holds SEER's weights of these four; its classes give their shapes.
    facts = {"32GF": "regnety_320", "64GF": "regnety_640"}
    facts |= {"128GF": "regnety_1280", "256GF": "regnety_2560"}
    with torch.device("meta"):
        theirs = timm.create_model(facts[size]).state_dict()
        state = trunk(get_arch(f"RegNetY-{size}")).state_dict()
    mapped = vissl.convert(state, {})
    assert mapped.arch == f"RegNetY-{size}"
    expected = {n: t.shape for n, t in theirs.items() if not n.startswith("head.")}
    assert sorted(t.shape for t in state.values()) == sorted(expected.values())
    assert {n: tuple(t.shape) for n, t in mapped.state.items()} == mapped.shapes


def test_what_is_mapped_comes_back(state, bodies):
    bodies.check_restored(vissl, state)
