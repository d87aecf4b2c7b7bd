"""pycls: its names are Detectron2's own, its pictures blue first.

Original implementation: https://github.com/facebookresearch/pycls (models/anynet.py).
"""

from collections.abc import Mapping
from typing import Any

import torch

from d2_regnet.checkpoint.backbone import MODULES, Mapped, Naming, map_body

to_source = Naming(
    stem={"conv": "stem.conv", "bn": "stem.bn"},
    block="s{stage}.b{number}",
    modules={module: module for module in MODULES},
)


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the names are pycls's."""
    return any(name.startswith("s1.b1.f.") for name in state)


def convert(state: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> Mapped:
    """An ImageNet classifier's body, for Detectron2."""
    return map_body(state, to_source, "BGR", {r"head\.": "classifier head"})
