"""Saved bytes of operations whose needs are known."""

import gc
import weakref

import torch
from torch import nn

from benchmarks.saved import saved_bytes


def test_bytes_by_hand():
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(lambda: x.exp()) == 4 * 8 * 4  # its result
    assert saved_bytes(lambda: x * x) == 4 * 8 * 4  # both factors are one tensor
    assert saved_bytes(lambda: x + 1) == 0
    assert saved_bytes(lambda: (x.exp() + 1).exp()) == 2 * 4 * 8 * 4
    with torch.no_grad():
        assert saved_bytes(lambda: x.exp()) == 0


def test_parameters_are_not_counted():
    layer = nn.Linear(8, 2)
    x = torch.randn(4, 8, requires_grad=True)
    assert saved_bytes(lambda: layer(x), layer.parameters()) == 4 * 8 * 4
    assert saved_bytes(lambda: layer(x)) == 4 * 8 * 4 + 8 * 2 * 4


def test_nothing_stays_alive():
    outputs = []

    def forward():
        output = torch.ones(3, requires_grad=True).sigmoid()  # of which the node keeps its output
        outputs.append(weakref.ref(output))
        return output

    assert saved_bytes(forward) == 12
    gc.collect()
    assert outputs[0]() is None
