"""torchvision's own models, converted."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torchvision.models import regnet
from torchvision.transforms.v2 import functional as F

from d2_regnet.archs import TorchvisionArch, get_arch, list_archs
from d2_regnet.checkpoint.sources import torchvision

FACTS = json.loads((Path(__file__).parents[1] / "fixtures/regnet_archs.json").read_text())


def published(name):
    """A torchvision RegNet of the stages that the paper publishes."""
    facts = FACTS[name]
    return regnet.RegNet(
        regnet.BlockParams(
            facts["stage_depths"],
            facts["stage_widths"],
            facts["stage_group_widths"],
            [1.0] * 4,
            [2] * 4,
            facts["se_ratio"] or None,
        )
    )


def normalise(rgb):
    picture = F.to_dtype(torch.tensor(rgb).permute(2, 0, 1), torch.float32, scale=True)
    return F.normalize(picture, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])[None]


def check(model, arch, bodies):
    stages = [model.stem, *model.trunk_output]
    bodies.check_features(model, stages, normalise, "torchvision", arch)


def test_features_are_torchvisions_own(published_arch, bodies):
    check(bodies.built(lambda: published(published_arch)), published_arch, bodies)


@pytest.fixture
def published_as(monkeypatch):
    """The block parameters of a model that torchvision publishes, without its weights."""
    monkeypatch.setattr(regnet, "_regnet", lambda block_params, *args, **kwargs: block_params)
    return lambda name: getattr(regnet, name)()


@pytest.mark.parametrize(
    ("name", "arch"),
    [
        ("regnet_x_400mf", "RegNetX-400MF-torchvision"),
        ("regnet_y_800mf", "RegNetY-800MF-torchvision"),
        ("regnet_y_8gf", "RegNetY-8.0GF-torchvision"),
        ("regnet_x_1_6gf", "RegNetX-1.6GF"),
        pytest.param("regnet_y_128gf", "RegNetY-128GF", marks=pytest.mark.slow),
    ],
)
def test_models_that_torchvision_publishes(name, arch, published_as, bodies):
    params = published_as(name)
    check(bodies.built(lambda: regnet.RegNet(params)), arch, bodies)


@pytest.mark.parametrize("name", list_archs())
def test_torchvisions_rounding(name):
    arch = get_arch(name)
    design = dataclasses.asdict(arch) | {"se_ratio": arch.se_ratio or None}
    theirs = regnet.BlockParams.from_init_params(**design)
    ours = TorchvisionArch(**dataclasses.asdict(arch))
    assert list(ours.stage_widths) == theirs.widths
    assert list(ours.stage_depths) == theirs.depths
    assert list(ours.stage_group_widths) == theirs.group_widths


def test_every_published_model_is_recognised(published_as):
    for name in regnet.__all__:
        if not name.startswith("regnet_"):
            continue
        params = published_as(name)
        with torch.device("meta"):
            state = regnet.RegNet(params).state_dict()
        mapped = torchvision.convert(state, {})
        size = name.removeprefix("regnet_").replace("_", "", 1).replace("_", ".").upper()
        spelled = f"RegNet{size[0]}-{size[1:]}".replace("8GF", "8.0GF").replace("128.0", "128")
        assert mapped.arch.removesuffix("-torchvision") == spelled
        assert {n: tuple(t.shape) for n, t in mapped.state.items()} == mapped.shapes


def test_what_is_mapped_comes_back(bodies):
    state = bodies.built(lambda: published("RegNetY-400MF")).state_dict()
    bodies.check_restored(torchvision, state)
