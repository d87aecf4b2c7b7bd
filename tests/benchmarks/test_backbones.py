"""The same backbone of every library: names, weights, multiply-adds."""

import pytest
import torch

from benchmarks import backbone
from benchmarks.backbones import build, equal_weights, multiply_adds, name_in, random_state, spelled
from d2_regnet import list_archs


def test_names():
    assert name_in("torchvision", "RegNetX-3.2GF") == "regnet_x_3_2gf"
    assert name_in("torchvision", "RegNetX-8.0GF") == "regnet_x_8gf"
    assert name_in("torchvision", "RegNetX-400MF") is None  # its last stage is wider
    assert name_in("torchvision", "RegNetX-12GF") is None
    assert name_in("timm", "RegNetX-3.2GF") == "regnetx_032"
    assert name_in("timm", "RegNetY-400MF") == "regnety_004"
    assert name_in("timm", "RegNetX-32GF") == "regnetx_320"
    assert all(name_in("timm", arch) for arch in list_archs())
    assert spelled("regnetx_400mf") == "RegNetX-400MF"
    assert name_in("timm", "efficientnet_b0") is None
    with pytest.raises(ValueError, match="unknown EfficientNet"):
        spelled("efficientnet_b9")


@pytest.mark.parametrize("arch", ["RegNetX-200MF", "RegNetX-800MF", "RegNetY-400MF"])
def test_peers_answer_alike(arch):
    torch.manual_seed(0)
    image = torch.randn(1, 3, 64, 96)
    state = random_state(arch)
    answers = {}
    for peer in backbone.PEERS:
        if peer != "torchvision" or name_in(peer, arch):
            net = build(peer, arch)
            equal_weights(peer, net, state)
            with torch.no_grad():
                answers[peer] = net.eval()(image)
    expected = answers.pop("detectron2")
    assert expected.abs().max() > 0.1
    assert len(answers) >= 4
    for found in answers.values():
        assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_multiply_adds_are_the_papers():
    assert multiply_adds("RegNetX-400MF", (224, 224)) / 1e6 == pytest.approx(400, rel=0.05)
    assert multiply_adds("RegNetY-4.0GF", (224, 224)) / 1e9 == pytest.approx(4.0, rel=0.05)
    assert multiply_adds("efficientnet_b0", (224, 224)) / 1e9 == pytest.approx(0.39, rel=0.03)


def test_plan_leaves_out_what_a_library_has_not():
    groups, skipped = backbone.plan(["RegNetX-12GF", "efficientnet_b0"], ["ours", "torchvision"])
    assert groups == {"RegNetX-12GF": ["ours"], "efficientnet_b0": ["torchvision"]}
    assert skipped == ["torchvision has no RegNetX-12GF"]
    assert list(backbone.plan(["efficientnet_b4@380"], ["ours"])[0]) == ["efficientnet_b4@380"]
    with pytest.raises(ValueError, match="side of an image"):
        backbone.plan(["efficientnet_b4@"], ["ours"])


def test_published_ap():
    assert backbone.published_ap("RegNetX-3.2GF") == 43.1
    assert backbone.published_ap("RegNetY-400MF") is None
    assert backbone.published_ap("efficientnet_b0") is None
