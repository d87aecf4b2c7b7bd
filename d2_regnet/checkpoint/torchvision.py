"""torchvision's RegNets, SWAG's included.

Original implementation: https://github.com/pytorch/vision (torchvision/models/regnet.py).
"""

from collections.abc import Mapping
from typing import Any

import torch

from d2_regnet.checkpoint.backbone import Mapped, Naming, map_body

to_source = Naming(
    stem={"conv": "stem.0", "bn": "stem.1"},
    block="trunk_output.block{stage}.block{stage}-{index}",
    modules={
        "proj": "proj.0",
        "bn": "proj.1",
        "f.a": "f.a.0",
        "f.a_bn": "f.a.1",
        "f.b": "f.b.0",
        "f.b_bn": "f.b.1",
        "f.se.f_ex.0": "f.se.fc1",
        "f.se.f_ex.2": "f.se.fc2",
        "f.c": "f.c.0",
        "f.c_bn": "f.c.1",
    },
)


def matches(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether the names are those of torchvision's RegNets."""
    return "stem.0.weight" in state or any(
        name.startswith("trunk_output.block1.block1-0.f.c.") for name in state
    )


def convert(state: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> Mapped:
    """An ImageNet classifier's body, for Detectron2."""
    return map_body(state, to_source, "RGB", {r"fc\.": "classifier head"})
