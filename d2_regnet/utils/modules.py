"""Modules that a cascade has several of."""

from torch import nn


def stages(part: nn.Module) -> list[nn.Module]:
    """The stages of a cascade's head, or the one head of any other detector."""
    return [*part] if isinstance(part, nn.ModuleList) else [part]
