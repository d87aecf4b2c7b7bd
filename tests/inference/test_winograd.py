"""Winograd's convolution against torch's in float64."""

import copy

import pytest
import torch
from detectron2.layers import Conv2d
from torch import nn
from torch.nn import functional as F

from d2_regnet.inference.winograd import conv2d, transform, use_winograd


@pytest.mark.parametrize(
    "shape",
    [
        (1, 5, 6, 8),
        (2, 3, 7, 9),
        (3, 4, 1, 1),
        (0, 4, 14, 14),
        (1, 256, 90, 151),
        (70, 128, 14, 14),
    ],
    ids=str,
)
def test_equals_the_direct_convolution(shape, seed):
    x, weight, bias = torch.randn(shape), torch.randn(6, shape[1], 3, 3), torch.randn(6)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    for each in (x, x.contiguous(memory_format=torch.channels_last)):
        ours = conv2d(each, transform(weight), bias)
        assert ours.is_contiguous(memory_format=torch.channels_last)
        assert (ours - exact).norm() <= 1e-5 * exact.norm()
    without = conv2d(x.double(), transform(weight.double()), None) + bias.view(-1, 1, 1)
    torch.testing.assert_close(without, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", [None, nn.GroupNorm(8, 160)], ids=["plain", "norm"])
def test_replaces_a_convolution_in_place(norm, seed):
    plain = Conv2d(128, 160, 3, padding=1, norm=norm, activation=nn.ReLU()).requires_grad_(False)
    fast = copy.deepcopy(plain)
    assert use_winograd(fast)
    x = torch.randn(2, 128, 10, 13)
    for conv in (fast, copy.deepcopy(fast)):
        torch.testing.assert_close(conv(x), plain(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=0),
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 36, 3, padding=1),
        nn.Conv2d(128, 128, 3, padding=1, dtype=torch.bfloat16),
    ],
    ids=str,
)
def test_leaves_others_alone(conv):
    before = conv.weight
    assert not use_winograd(conv)
    assert conv.weight is before and "forward" not in vars(conv)
