"""timm's own models, converted."""

import pytest
import timm.data
import torch
from safetensors.torch import save_file
from timm.models.regnet import model_cfgs

from d2_regnet.archs import list_archs
from d2_regnet.checkpoint import convert, read
from d2_regnet.checkpoint.conversion import convert_state
from d2_regnet.checkpoint.sources import timm as source


def timm_name(arch):
    """RegNetX-3.2GF is regnetx_032: hundreds of MFLOPs."""
    family, size = arch.removeprefix("RegNet").split("-")
    size = float(size[:-2]) * (1000 if size[-2] == "G" else 1)
    return f"regnet{family.lower()}_{round(size / 100):03d}"


def regnet(name):
    return timm.create_model(name)


def normalise(rgb):
    mean = torch.tensor(timm.data.IMAGENET_DEFAULT_MEAN).view(3, 1, 1)
    std = torch.tensor(timm.data.IMAGENET_DEFAULT_STD).view(3, 1, 1)
    return ((torch.tensor(rgb).permute(2, 0, 1) / 255 - mean) / std)[None]


def check(model, arch, bodies):
    stages = [model.stem, model.s1, model.s2, model.s3, model.s4]
    bodies.check_features(model, stages, normalise, "timm", arch)


def test_features_are_timms_own(published_arch, bodies):
    check(bodies.built(lambda: regnet(timm_name(published_arch))), published_arch, bodies)


@pytest.mark.parametrize("name", ["regnetx_004_tv", "regnety_008_tv"])
def test_models_with_torchvisions_rounding(name, bodies):
    arch = {"regnetx_004_tv": "RegNetX-400MF", "regnety_008_tv": "RegNetY-800MF"}[name]
    check(bodies.built(lambda: regnet(name)), f"{arch}-torchvision", bodies)


@pytest.mark.parametrize(
    "name",
    [n for n in model_cfgs if n.startswith(("regnetx", "regnety")) and n != "regnety_040_sgn"],
)
def test_every_published_model_is_recognised(name):
    with torch.device("meta"):
        state = regnet(name).state_dict()
    mapped = source.convert(state, {})
    arch = mapped.arch.removesuffix("-torchvision")
    assert timm_name(arch) == name.removesuffix("_tv")
    assert mapped.arch.endswith("-torchvision") == name.endswith("_tv")
    assert mapped.arch in list_archs(others=True)
    assert {n: tuple(t.shape) for n, t in mapped.state.items()} == mapped.shapes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("regnetz_005", "RegNetZ"),
        ("regnetz_040", "RegNetZ"),
        ("regnetv_040", "RegNetV"),
        ("regnety_040_sgn", "lacks .*running_mean"),
    ],
)
def test_other_blocks_are_refused(name, why):
    state = regnet(name).state_dict()
    with pytest.raises(ValueError, match=why):
        convert_state(state)


def test_what_is_mapped_comes_back(bodies):
    bodies.check_restored(source, bodies.built(lambda: regnet("regnety_002")).state_dict())


def test_safetensors_as_timm_publishes_them(bodies, tmp_path):
    model = bodies.built(lambda: regnet("regnetx_002"))
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    report = convert(tmp_path / "model.safetensors", tmp_path / "out.pth")
    assert (report.source, report.arch) == ("timm", "RegNetX-200MF")
    written = read(tmp_path / "out.pth").state
    assert torch.equal(written["s2.b1.f.b.weight"], model.s2.b1.conv2.conv.weight)
