"""A convolution and the frozen-statistics norm after it, computed as one convolution.

With fixed statistics a norm is an affine map of every channel, so that it can be moved into the
convolution's weight and bias in each forward pass ("Efficient ConvBN Blocks for Transfer Learning
and Beyond", You et al., 2023, https://arxiv.org/abs/2305.11624). Weight, scale and shift are
trained as before; the convolution's own output is neither written nor kept for the backward pass.
"""

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.regnet import ResBottleneckBlock, SimpleStem
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .norm import EvalBN


def conv_norm(conv: nn.Module, norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """`norm(conv(x))`, as one convolution where the norm's statistics are frozen.

    Args:
        conv: a convolution without bias.
        norm: the norm that follows it: EvalBN and FrozenBN are fused with a plain convolution,
            any other pair is called as it is.
        x: (N, C, H, W).
    """
    if type(conv) is not nn.Conv2d or not isinstance(norm, EvalBN | FrozenBatchNorm2d):
        return norm(conv(x))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    shift = norm.bias - norm.running_mean * scale
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    if torch.is_grad_enabled() and not torch.jit.is_tracing():
        return _ScaledConv.apply(x, conv.weight, scale, shift, *geometry)
    return F.conv2d(x, _scaled(conv.weight, scale, x), shift.to(x.dtype), *geometry)


class _ScaledConv(torch.autograd.Function):
    """A convolution with `weight * scale` and bias `shift`, on a CPU in channels-last layout.

    CPUs need four fifths of the time in that layout; the parameters keep theirs. The scaled weight
    is formed again in the backward pass: kept, it would cost as much memory as the weight itself.
    """

    @staticmethod
    def forward(ctx, x, weight, scale, shift, *geometry):
        if x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight, scale)
        ctx.geometry = geometry
        return F.conv2d(x, _scaled(weight, scale, x), shift.to(x.dtype), *geometry)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, scale = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        needs_x, needs_weight, needs_scale, needs_shift, *_ = ctx.needs_input_grad
        grad_x, grad_scaled, grad_shift = torch.ops.aten.convolution_backward(
            grad,
            x,
            _scaled(weight, scale, x),
            scale.shape,  # the bias's
            stride,
            padding,
            dilation,
            False,  # not transposed
            [0, 0],
            groups,
            [needs_x, needs_weight or needs_scale, needs_shift],
        )
        grad_weight = grad_scale = None
        if needs_shift:
            grad_shift = grad_shift.to(scale.dtype)
        if needs_scale:
            grad_scale = (grad_scaled.to(weight.dtype) * weight).sum(dim=(1, 2, 3))
        if needs_weight:
            grad_weight = grad_scaled.to(weight.dtype) * scale.view(-1, 1, 1, 1)
        return grad_x, grad_weight, grad_scale, grad_shift, *[None] * len(ctx.geometry)


def _scaled(weight, scale, x):
    """The scaled weight in the type and layout of `x`."""
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return (weight * scale.view(-1, 1, 1, 1)).to(x.dtype, memory_format=layout)


class FusedStem(SimpleStem):
    """Detectron2's stem with its convolution and norm fused where the statistics are frozen."""

    def forward(self, x):
        """(N, C, H, W) to (N, out_channels, H / 2, W / 2)."""
        return self.af(conv_norm(self.conv, self.bn, x))


class FusedBlock(ResBottleneckBlock):
    """Detectron2's block with its convolutions and norms fused where the statistics are frozen."""

    def forward(self, x):
        """(N, C, H, W) to (N, out_channels, H / stride, W / stride)."""
        f = self.f
        shortcut = x if self.proj is None else conv_norm(self.proj, self.bn, x)
        x = f.a_af(conv_norm(f.a, f.a_bn, x))
        x = f.b_af(conv_norm(f.b, f.b_bn, x))
        if f.se is not None:
            x = f.se(x)
        x = conv_norm(f.c, f.c_bn, x)
        x += shortcut  # in place: a block's largest tensor, which nothing keeps
        return self.af(x)
