"""pycls's own models, converted."""

import json
from pathlib import Path

import pytest
import torch
from pycls.core.config import cfg as pycls_cfg
from pycls.datasets import imagenet
from pycls.datasets.transforms import color_norm
from pycls.models.regnet import RegNet

from d2_regnet.checkpoint.sources import pycls

FACTS = json.loads((Path(__file__).parents[1] / "fixtures/regnet_archs.json").read_text())


def regnet(name):
    facts, node = FACTS[name], pycls_cfg.REGNET
    node.DEPTH, node.W0, node.WA, node.WM = (facts[k] for k in ("depth", "w_0", "w_a", "w_m"))
    node.GROUP_W, node.BOT_MUL = facts["group_width"], facts["bottleneck_ratio"]
    node.SE_ON, node.SE_R = bool(facts["se_ratio"]), facts["se_ratio"]
    return RegNet()


def normalise(rgb):
    # As pycls's ImageNet does: blue first, in 0..1, and its own mean and deviation.
    picture = (rgb[:, :, ::-1] / 255).astype("float32").transpose(2, 0, 1)
    picture = color_norm(picture, imagenet._MEAN, imagenet._SD)
    return torch.from_numpy(picture[None].copy())


@pytest.mark.parametrize("name", FACTS)
def test_features_are_pycls_own(name, bodies):
    model = bodies.built(lambda: regnet(name))
    stages = [model.stem, model.s1, model.s2, model.s3, model.s4]
    bodies.check_features(model, stages, normalise, "pycls", name)


def test_classifier_and_counters_are_dropped_and_the_rest_comes_back(bodies):
    state = bodies.built(lambda: regnet("RegNetY-200MF")).state_dict()
    mapped = pycls.convert(state, {})
    assert {n for n in mapped.dropped if "num_batches_tracked" not in n} == {
        "head.fc.weight",
        "head.fc.bias",
    }
    bodies.check_restored(pycls, state)
