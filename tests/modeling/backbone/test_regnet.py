"""The backbone against pycls's, torchvision's, timm's and Detectron2's RegNet; its options."""

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.regnet import RegNet as Detectron2RegNet
from detectron2.modeling.backbone.regnet import ResBottleneckBlock, SimpleStem
from pycls.core.config import cfg as pycls_cfg
from pycls.models.regnet import RegNet as PyclsRegNet
from torch import nn

from d2_regnet import RegNetArch, build_regnet, get_arch, list_archs
from d2_regnet.modeling import EvalBN, ModulatedDeformConv

STAGES = ["s1", "s2", "s3", "s4"]
FACTS = json.loads((Path(__file__).parents[2] / "fixtures/regnet_archs.json").read_text())
TINY = RegNetArch(depth=4, w_0=8, w_a=8, w_m=2, group_width=8, stem_width=8)


def randomize(model):
    """Statistics, scales and shifts that a mapping error cannot hide behind."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight.data, 0.5, 1.0),
                (module.bias.data, -0.2, 0.2),
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model


def pycls_regnet(name):
    arch = get_arch(name)
    node = pycls_cfg.REGNET
    node.DEPTH, node.W0, node.WA, node.WM = arch.depth, arch.w_0, arch.w_a, arch.w_m
    node.GROUP_W, node.SE_ON, node.SE_R = arch.group_width, arch.se_ratio > 0, arch.se_ratio
    model = PyclsRegNet()
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    return model, {s: getattr(model, s) for s in STAGES}, state


def detectron2_regnet(name):
    arch = get_arch(name)
    model = Detectron2RegNet(
        stem_class=SimpleStem,
        stem_width=32,
        block_class=ResBottleneckBlock,
        depth=arch.depth,
        w_a=arch.w_a,
        w_0=arch.w_0,
        w_m=arch.w_m,
        group_width=arch.group_width,
        se_ratio=arch.se_ratio,
        out_features=STAGES,
    )
    return model, {s: getattr(model, s) for s in STAGES}, model.state_dict()


def torchvision_regnet(name):
    family, size = name[6].lower(), name[8:].lower().replace(".0gf", "gf").replace(".", "_")
    model = getattr(torchvision.models, f"regnet_{family}_{size}")(weights=None)
    stages = {s: getattr(model.trunk_output, f"block{s[1]}") for s in STAGES}
    # torchvision defines its layers in pycls's order.
    names = build_regnet(name, norm="BN").state_dict()
    values = [v for k, v in model.state_dict().items() if not k.startswith("fc.")]
    return model, stages, dict(zip(names, values, strict=True))


def timm_regnet(name):
    number = float(name[8:-2]) * (10 if name.endswith("GF") else 0.01)
    model = timm.create_model(f"regnet{name[6].lower()}_{round(number):03d}")
    renamed = {"conv1": "a", "conv2": "b", "conv3": "c"}
    state = {}
    for key, value in model.state_dict().items():
        parts = key.split(".")
        if parts[0] == "stem":
            state[key] = value
        elif parts[0] in STAGES:
            block, layer, rest = ".".join(parts[:2]), parts[2], parts[3:]
            if layer == "downsample":
                target = "proj" if rest[0] == "conv" else "bn"
                rest = rest[1:]
            elif layer == "se":
                target, rest = f"f.se.f_ex.{0 if rest[0] == 'fc1' else 2}", rest[1:]
            else:
                target = f"f.{renamed[layer]}{'_bn' if rest[0] == 'bn' else ''}"
                rest = rest[1:]
            state[".".join([block, target, *rest])] = value
    return model, {s: getattr(model, s) for s in STAGES}, state


def features_of(model, stages, x):
    features = {}
    hooks = [
        stage.register_forward_hook(lambda _, __, out, s=s: features.__setitem__(s, out))
        for s, stage in stages.items()
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return features


def assert_close(actual, expected, tolerance=1e-5):
    for name in STAGES:
        error = (actual[name] - expected[name]).abs().max() / expected[name].abs().max()
        assert error < tolerance, (name, float(error))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("name", ["RegNetX-800MF", "RegNetY-400MF"])
@pytest.mark.parametrize(
    "original", [pycls_regnet, detectron2_regnet, torchvision_regnet, timm_regnet]
)
def test_equals_the_originals(original, name, training, seed):
    model, stages, state = original(name)
    randomize(model)
    body = build_regnet(name, norm="BN")
    body.load_state_dict(state)
    model.train(training)
    body.train(training)
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        assert_close(body(x), features_of(model, stages, x))
    if training:  # and moved the running statistics alike
        other = original(name)[2]  # names in the same order
        moved = {k: v for k, v in body.state_dict().items() if "running" in k}
        assert moved and set(moved) <= set(other)
        for ours, theirs in zip(
            (m for m in body.modules() if isinstance(m, nn.BatchNorm2d)),
            (m for m in _norms_in_order(model, body)),
        ):
            torch.testing.assert_close(ours.running_var, theirs.running_var, rtol=1e-4, atol=1e-6)


def _norms_in_order(model, body):
    """The original's norms, in the order of ours (timm defines a block's shortcut last)."""
    norms = [m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    if not any("downsample" in n for n, _ in model.named_modules()):
        return norms
    ordered = [model.stem.bn]
    for stage in STAGES:
        for block in getattr(model, stage).children():
            if not isinstance(block.downsample, nn.Identity) and block.downsample is not None:
                ordered.append(block.downsample.bn)
            ordered += [block.conv1.bn, block.conv2.bn, block.conv3.bn]
    return ordered


@pytest.mark.parametrize("name", list_archs())
def test_every_published_body_has_the_facts_shapes_and_parameters(name):
    facts = FACTS[name]
    with torch.device("meta"):
        body = build_regnet(name, norm="BN")
    shape = body.output_shape()
    assert [shape[s].channels for s in STAGES] == facts["stage_widths"]
    assert [shape[s].stride for s in STAGES] == [4, 8, 16, 32]
    classifier = facts["stage_widths"][-1] * 1000 + 1000
    assert sum(p.numel() for p in body.parameters()) + classifier == facts["params"]
    assert len(body.state_dict()) + 2 == facts["state_dict_entries"]
    assert body.arch == get_arch(name)


def test_odd_pictures_and_other_channels():
    body = build_regnet(TINY, in_channels=4, out_features=["stem", "s2"])
    features = body(torch.randn(1, 4, 37, 50))
    assert {k: tuple(v.shape) for k, v in features.items()} == {
        "stem": (1, 8, 19, 25),
        "s2": (1, body.output_shape()["s2"].channels, 5, 7),
    }


def test_parameters_by_name_and_own_norm():
    body = build_regnet(
        {"depth": 4, "w_0": 8, "w_a": 8, "w_m": 2, "group_width": 8, "stem_width": 8},
        norm=lambda channels: nn.BatchNorm2d(channels, momentum=0.3),
    )
    assert body.arch == TINY and body.stem.bn.momentum == 0.3


@pytest.mark.parametrize("norm", ["BN", "EvalBN"])
@pytest.mark.parametrize("freeze_at", [0, 1, 2, 5])
def test_freeze_at_counts_as_detectron2_does(freeze_at, norm):
    body = build_regnet("RegNetX-200MF", norm=norm, freeze_at=freeze_at)
    for number, name in enumerate(["stem", *STAGES], start=1):
        part = getattr(body, name)
        frozen = number <= freeze_at
        assert all(p.requires_grad != frozen for p in part.parameters()), name
        kind = {"EvalBN": EvalBN, "BN": FrozenBatchNorm2d if frozen else nn.BatchNorm2d}[norm]
        norms = [m for n, m in part.named_modules() if n.endswith("bn")]
        assert norms and all(type(m) is kind for m in norms), name


@pytest.mark.parametrize("norm", ["BN", "EvalBN", "FrozenBN", "LN"])
def test_activation_checkpoint_changes_nothing(norm, seed):
    plain = build_regnet("RegNetY-200MF", norm=norm, freeze_at=1)
    saving = build_regnet("RegNetY-200MF", norm=norm, freeze_at=1, activation_checkpoint=STAGES)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    outputs = [body(x) for body in (plain, saving)]
    for out in outputs:
        sum(f.square().mean() for f in out.values()).backward()
    for name in STAGES:
        assert torch.equal(outputs[0][name], outputs[1][name])
    for (name, p), q in zip(plain.named_parameters(), saving.parameters()):
        assert (p.grad is None) == (q.grad is None)
        if p.grad is not None:
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-5, atol=1e-8, msg=name)
    for (name, a), b in zip(plain.state_dict().items(), saving.state_dict().values()):
        assert torch.equal(a, b), name


def saved_bytes(body, x):
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        body(x)
    return sum(sizes.values())


def test_activation_checkpoint_stores_less():
    x = torch.randn(1, 3, 128, 128)
    plain = saved_bytes(build_regnet("RegNetX-400MF", norm="BN"), x)
    saving = saved_bytes(build_regnet("RegNetX-400MF", norm="BN", activation_checkpoint=STAGES), x)
    assert saving < 0.5 * plain


def test_deform_stages_start_as_the_plain_convolution_times_one_half(seed):
    plain = build_regnet("RegNetX-400MF", norm="BN")
    deform = build_regnet("RegNetX-400MF", norm="BN", deform_stages=["s2", "s4"])
    missing, unexpected = deform.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(".b.conv_offset." in name for name in missing)
    for stage in STAGES:
        for block, reference in zip(
            getattr(deform, stage).children(), getattr(plain, stage).children()
        ):
            conv, plain_conv = block.f.b, reference.f.b
            assert isinstance(conv, ModulatedDeformConv) == (stage in ("s2", "s4"))
            assert conv.groups == plain_conv.groups and conv.stride == plain_conv.stride
            if stage in ("s2", "s4"):
                x = torch.randn(1, conv.in_channels, 16, 20)
                expected = 0.5 * plain_conv(x)
                torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-5)


def test_body_is_copied_whole():
    body = build_regnet(TINY, norm="BN", activation_checkpoint=["s1"])
    twin = copy.deepcopy(body)
    x = torch.randn(1, 3, 32, 32)
    nn.init.zeros_(twin.stem.conv.weight)
    assert not twin.eval()(x)["s3"].equal(body.eval()(x)["s3"])
    assert list(body(x)) == ["s1", "s2", "s3"]


@pytest.mark.parametrize(
    "options, reason",
    [
        ({"arch": "RegNetZ-400MF"}, "unknown RegNet 'RegNetZ-400MF'.*RegNetX-400MF"),
        ({"norm": "GroupNorm"}, "norm 'GroupNorm' is unknown"),
        ({"norm": ""}, "norm is missing"),
        ({"norm": "GN", "arch": "RegNetX-200MF"}, "norm 'GN' does not fit 24 channels"),
        ({"out_features": ["s1", "s5"]}, "out_features: no stage 's5'.*stem, s1, s2, s3, s4"),
        ({"out_features": []}, "out_features is empty"),
        ({"out_features": ["s1", "s1"]}, "out_features: a stage is named twice"),
        ({"activation_checkpoint": ["stem"]}, "activation_checkpoint: no stage 'stem'"),
        ({"deform_stages": ["res3"]}, "deform_stages: no stage 'res3'"),
        ({"freeze_at": 6}, "freeze_at must be 0 to 5, not 6"),
        ({"freeze_at": -1}, "freeze_at must be 0 to 5"),
        ({"in_channels": 0}, "in_channels must be a positive integer"),
    ],
)
def test_bad_options_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        build_regnet(**{"arch": "RegNetX-400MF", **options})
