"""pycls: its names are Detectron2's own, its images blue first.

Original implementation: https://github.com/facebookresearch/pycls (models/anynet.py).
"""

from collections.abc import Mapping
from typing import Any

from .backbone import MODULES, Mapped, Naming, State, map_body

naming = Naming(
    stem={"conv": "stem.conv", "bn": "stem.bn"},
    block="s{stage}.b{number}",
    modules={module: module for module in MODULES},
)


def matches(state: State) -> bool:
    """Whether the names are pycls's."""
    return any(name.startswith("s1.b1.f.") for name in state)


def convert(state: State, meta: Mapping[str, Any]) -> Mapped:
    """An ImageNet classifier's backbone, for Detectron2."""
    return map_body(state, naming, "BGR", {r"head\.": "classifier head"})
