"""3x3 convolutions in 36 instead of 144 multiplications for 16 outputs, on a CPU, in float32.

Winograd's minimal filtering F(4x4, 3x3) as in "Fast Algorithms for Convolutional Neural Networks"
(Lavin and Gray, 2015, https://arxiv.org/abs/1509.09308), section 4.3. The error is some four times
that of the direct sum: about 3e-6 of the output's norm with 256 channels.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

# What a tile (B), the kernel (G) and the 36 products (A) are multiplied with from both sides.
_B = [
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
_G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]
_A = [
    [1, 1, 1, 1, 1, 0],
    [0, 1, -1, 2, -2, 0],
    [0, 1, 1, 4, 4, 0],
    [0, 1, -1, 8, -8, 1],
]
_FEWEST_CHANNELS = 128  # with fewer, the transforms cost what the products save
# Bytes of the tiles that are worked on at once. Larger ones would leave the cache, and their memory
# would go back to the system, page by page, at each call.
_AT_ONCE = 4 << 20


def use_winograd(conv: nn.Conv2d) -> bool:
    """Makes a convolution compute by `conv2d`, in place, where that is worth it; says whether.

    Its weight is then (36, in, out). For inference only.
    """
    worth = (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= _FEWEST_CHANNELS
        and conv.weight.dtype == torch.float32
        and conv.weight.device.type == "cpu"
    )
    if worth:
        conv.weight = nn.Parameter(transform(conv.weight.detach()), requires_grad=False)
        # Not another module in its place: FPN has its convolutions in lists of its own as well.
        conv.forward = functools.partial(_forward, conv)  # pyright: ignore[reportAttributeAccessIssue]
    return worth


def transform(weight: torch.Tensor) -> torch.Tensor:
    """A kernel (out, in, 3, 3) as `conv2d` takes it: (36, in, out)."""
    g = torch.tensor(_G, dtype=torch.float64)
    return torch.einsum("ai,bj,ocij->abco", g, g, weight.double()).flatten(0, 1).to(weight.dtype)


def conv2d(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`F.conv2d` with a 3x3 kernel and padding 1.

    Args:
        x: (N, in, H, W), best channels-last.
        weight: (36, in, out), from `transform`.
        bias: (out,).

    Returns:
        (N, out, H, W), channels-last.
    """
    count, channels, height, width = x.shape
    down, across = -(-height // 4), -(-width // 4)
    to_tile, from_products = _both_sides(x.dtype)
    rows = x.permute(0, 2, 3, 1)
    out = x.new_empty(count, height, width, weight.shape[2])
    lines = max(1, _AT_ONCE // (36 * 4 * across * channels))
    images, lines = max(1, lines // down), min(lines, down)
    for i in range(0, count, images):
        for j in range(0, down, lines):
            tiles = _tiles(rows[i : i + images], j, min(lines, down - j), across)
            part = to_tile @ tiles.permute(4, 5, 0, 1, 2, 3).reshape(36, -1)
            part = torch.bmm(part.view(36, -1, channels), weight)
            part = (from_products @ part.view(36, -1)).view(4, 4, *tiles.shape[:3], -1)
            part = part.permute(2, 3, 0, 4, 1, 5).flatten(3, 4).flatten(1, 2)
            out[i : i + images, 4 * j : 4 * (j + lines)] = part[:, : height - 4 * j, :width]
    if bias is not None:
        out += bias
    return out.permute(0, 3, 1, 2)


def _tiles(rows, first, lines, across):
    """Some lines of tiles, with zeros around the image: (N, lines, across, C, 6, 6)."""
    _, height, width, _ = rows.shape
    top, bottom = 4 * first - 1, 4 * (first + lines) + 1
    margins = (0, 0, 1, 4 * across + 1 - width, max(-top, 0), max(bottom - height, 0))
    return F.pad(rows[:, max(top, 0) : bottom], margins).unfold(1, 6, 4).unfold(2, 6, 4)


def _both_sides(dtype):
    return (
        torch.kron(m, m) for m in (torch.tensor(_B, dtype=dtype), torch.tensor(_A, dtype=dtype))
    )


def _forward(conv, x):
    x = conv2d(x, conv.weight, conv.bias)
    # Those of Detectron2's Conv2d.
    norm, activation = getattr(conv, "norm", None), getattr(conv, "activation", None)
    x = x if norm is None else norm(x)
    return x if activation is None else activation(x)
