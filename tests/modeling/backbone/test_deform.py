"""The deformable convolution against sampling by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from d2_regnet.modeling import ModulatedDeformConv


def sampled_by_hand(conv, x):
    """Equation 1 of "Deformable ConvNets v2", one kernel position at a time, by grid_sample."""
    kernel, stride, padding = conv.kernel_size[0], conv.stride[0], conv.padding[0]
    predicted = conv.conv_offset(x)
    h_out, w_out = predicted.shape[-2:]
    h, w = x.shape[-2:]
    out = 0
    rows = torch.arange(h_out).view(1, -1, 1) * stride - padding
    columns = torch.arange(w_out).view(1, 1, -1) * stride - padding
    for position in range(kernel * kernel):
        i, j = divmod(position, kernel)
        y = rows + i + predicted[:, 2 * position]
        z = columns + j + predicted[:, 2 * position + 1]
        mask = predicted[:, 2 * kernel * kernel + position].sigmoid().unsqueeze(1)
        grid = torch.stack([2 * z / (w - 1) - 1, 2 * y / (h - 1) - 1], dim=-1)
        sample = F.grid_sample(x, grid, align_corners=True, padding_mode="zeros") * mask
        out = out + F.conv2d(sample, conv.weight[:, :, i : i + 1, j : j + 1], groups=conv.groups)
    return out


@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 4), (2, 4)])
def test_equals_sampling_by_hand(stride, groups, seed):
    conv = ModulatedDeformConv(8, 16, 3, stride=stride, padding=1, groups=groups, bias=False)
    nn.init.normal_(conv.conv_offset.weight, std=0.1)
    nn.init.normal_(conv.conv_offset.bias)
    x = torch.randn(2, 8, 9, 11)
    ours = conv(x)
    torch.testing.assert_close(ours, sampled_by_hand(conv, x), rtol=1e-4, atol=1e-5)
    parameters = [conv.weight, conv.conv_offset.weight, conv.conv_offset.bias]
    for ours_grad, hand_grad in zip(
        torch.autograd.grad(ours.square().sum(), parameters),
        torch.autograd.grad(sampled_by_hand(conv, x).square().sum(), parameters),
    ):
        torch.testing.assert_close(ours_grad, hand_grad, rtol=1e-3, atol=1e-3)


def test_starts_as_half_the_plain_convolution(seed):
    conv = ModulatedDeformConv(8, 8, 3, padding=1, groups=2)
    x = torch.randn(1, 8, 6, 7)
    weight, bias = 0.5 * conv.weight, conv.bias
    expected = F.conv2d(x, weight, bias, padding=1, groups=2)
    torch.testing.assert_close(conv(x), expected, rtol=1e-4, atol=1e-6)


def test_runs_under_autocast(seed):
    conv = ModulatedDeformConv(8, 8, 3, padding=1)
    x = torch.randn(1, 8, 6, 7)
    with torch.autocast("cpu", torch.bfloat16):
        low = conv(x.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), conv(x), rtol=0.05, atol=0.02)
