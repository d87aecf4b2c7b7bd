"""Modulated deformable convolution."""

import torch
from torch import nn
from torchvision.ops import deform_conv2d


class ModulatedDeformConv(nn.Conv2d):
    """A convolution that samples at learned offsets, each sample weighted by a learned mask.

    "Deformable ConvNets v2" (Zhu et al., CVPR 2019), as in mmcv's `ModulatedDeformConv2dPack`: a
    plain convolution, `conv_offset`, predicts from the same input two offsets (y, x; pixels of
    the input) and one mask logit for each kernel position. `conv_offset` starts at zero, where
    the offsets are 0 and every mask is sigmoid(0) = 0.5, so that a new layer answers half of what
    the plain convolution with the same weight would. Arguments are those of `torch.nn.Conv2d`.
    Runs on `torchvision.ops.deform_conv2d`; in float32 under autocast.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.conv_offset = nn.Conv2d(
            self.in_channels,
            3 * self.kernel_size[0] * self.kernel_size[1],
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
        )
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Zero offsets, masks of one half."""
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, out_channels, H', W'), as the plain convolution's."""
        positions = self.kernel_size[0] * self.kernel_size[1]
        offset, mask = self.conv_offset(x).float().split([2 * positions, positions], dim=1)
        out = deform_conv2d(
            x.float(),
            offset,
            self.weight.float(),
            None if self.bias is None else self.bias.float(),
            self.stride,
            self.padding,
            self.dilation,
            mask.sigmoid(),
        )
        return out.to(x.dtype)
