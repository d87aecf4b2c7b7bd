"""Pillow's bilinear resizing of 8-bit images, bit for bit, in operations that can be exported.

ONNX's `Resize` and PyTorch's `interpolate` come near it and no nearer: a small mask's outline and a
score's third decimal depend on the rest. Pillow's (`Resample.c`) takes one axis after the other,
columns first; its filter is a triangle as wide as two pixels of the source or, where the image
shrinks, of the target; weights are rounded to 22 binary digits, and each axis's sums to 8 bits.
"""

from dataclasses import dataclass

import torch
from detectron2.layers import shapes_to_tensor

_ONE = 2.0**22
_BLOCK = 64


@dataclass(frozen=True)
class ShortestEdge:
    """Detectron2's `ResizeShortestEdge` with one length; in pixels of the resized image.

    Attributes:
        length: the shorter side.
        max_size: what the longer side may be, for which the shorter one gives way.
    """

    length: int
    max_size: int

    def output_size(self, size: torch.Tensor) -> torch.Tensor:
        """An image's height and width, int64 (2,), to the resized image's.

        The arithmetic is that of `ResizeShortestEdge.get_output_shape`, operation by operation in
        float64, so that it rounds to the same pixel.
        """
        size = size.double()
        # As tensors: a number divided by a tensor is rounded twice.
        length, max_size = torch.tensor([self.length, self.max_size]).double().unbind()
        shorter = size.min()
        scaled = torch.where(size == shorter, length, size * (length / shorter))
        longer = scaled.max()
        scaled = torch.where(longer > max_size, scaled * (max_size / longer), scaled)
        return (scaled + 0.5).floor().long()


def resize(image: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """What `PIL.Image.resize((width, height), PIL.Image.BILINEAR)` answers.

    Args:
        image: uint8 (H, W, C).
        size: height and width wanted, int64 (2,). Where the height loses more than twice the
            pixels that the width does, Pillow takes the rows first from version 13 on
            (https://github.com/python-pillow/Pillow/pull/9549), and differs by 1 in places.

    Returns:
        float64 (height, width, C) of whole numbers from 0 to 255.
    """
    columns = _resampled(image.transpose(0, 1), size[1])
    return _resampled(columns.transpose(0, 1), size[0])


def _resampled(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(source, R, C) to float64 (target, R, C): weighted sums of neighbours along the first axis.

    A block of outputs at a time is a small matrix of weights times the window of the source that
    the block draws on. All is float64, which holds every product and sum exactly.
    """
    source = shapes_to_tensor([x.shape[0]]).double()
    scale = source / target.double()
    radius = scale.clamp(min=1.0)
    blocks = (target + _BLOCK - 1) // _BLOCK
    outputs = torch.arange(blocks * _BLOCK).double().view(-1, 1, _BLOCK)
    centers = (outputs + 0.5) * scale
    first = (centers[:, :, :1] - radius).floor()
    width = (_BLOCK * scale + 2 * radius).ceil().long()[0] + 2
    taps = first + torch.arange(width).double()[:, None]
    weights = (1 - (taps + 0.5 - centers).abs() / radius).clamp(min=0.0)
    weights = weights * ((taps >= 0) & (taps < source)).double()
    weights = (weights / weights.sum(1, keepdim=True) * _ONE + 0.5).floor()
    windows = x[torch.minimum(taps[:, :, 0].clamp(min=0.0), source - 1).long()].double()
    sums = weights.transpose(1, 2) @ windows.flatten(2)
    rounded = (sums / _ONE + 0.5).floor().clamp(0.0, 255.0)
    return rounded.flatten(0, 1)[:target].reshape(-1, x.shape[1], x.shape[2])
