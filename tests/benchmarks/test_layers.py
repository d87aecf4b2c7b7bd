"""How layers are told apart."""

import pytest
import torch
from torch import nn

from benchmarks.layers import _called, _kind


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.Conv2d(3, 8, 3, stride=2), "3x3, 3 to 8, stride 2"),
        (nn.Conv2d(8, 8, (1, 3), groups=4), "1x3, 8 to 8, 4 groups"),
        (nn.ConvTranspose2d(8, 4, 2), "2x2, 8 to 4, transposed"),
        (nn.Linear(8, 4), "linear, 8 to 4"),
    ],
)
def test_kinds(layer, said):
    assert _kind(layer) == said


def test_layers_that_do_the_same_are_one():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride=2))
    assert _called(model, torch.zeros(1, 4, 6, 6)) == {
        ("1x1, 4 to 4", (1, 4, 6, 6)): ["0", "1"],
        ("1x1, 4 to 4, stride 2", (1, 4, 6, 6)): ["2"],
    }
    assert not any(module._forward_pre_hooks for module in model)
