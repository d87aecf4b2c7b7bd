"""Normalization with frozen statistics, and norms by name."""

from collections.abc import Callable

import torch
from detectron2.layers import get_norm
from torch import nn
from torch.nn import functional as F


class EvalBN(nn.Module):
    """Batch normalization whose statistics are frozen while its scale and shift are trained.

    MMDetection's `norm_eval=True` with `requires_grad=True`: running statistics are always used
    and never updated, in training as in evaluation. Detectron2's FrozenBN freezes scale and shift
    too. Parameter and buffer names are those of `torch.nn.BatchNorm2d`, whose state dicts load.

    Args:
        num_features: channels of the input.
        eps: added to the variance.
    """

    def __init__(self, num_features: int, eps: float = 1e-5):
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same shape."""
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # A counter that BatchNorm2d writes and that frozen statistics have no use for.
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}"


def resolve_norm(norm: str | Callable | None) -> Callable[[int], nn.Module]:
    """A function from channels to a norm layer, refusing norms that do not fit the channels.

    Args:
        norm: what Detectron2's `get_norm` takes (a name such as "BN", "SyncBN", "FrozenBN", "GN",
            or a callable), or "EvalBN".

    Raises:
        ValueError: an unknown name, or no norm (a RegNet's convolutions have no bias, so that a
            norm must follow each). The returned function raises ValueError, with the reason,
            where the norm cannot be built for that number of channels.
    """
    if not norm:
        raise ValueError("norm is missing: a RegNet's convolutions have no bias of their own")
    layer = EvalBN if norm == "EvalBN" else norm
    if isinstance(layer, str):
        try:
            get_norm(layer, 32)
        except KeyError:
            raise ValueError(
                f"norm {norm!r} is unknown: use EvalBN, FrozenBN, BN, SyncBN, GN, LN or a callable"
            ) from None

    def build(channels: int) -> nn.Module:
        try:
            return get_norm(layer, channels)
        except (ValueError, AssertionError) as error:
            raise ValueError(f"norm {norm!r} does not fit {channels} channels: {error}") from error

    return build
