"""timm's RegNetX and RegNetY.

Original implementation:
https://github.com/huggingface/pytorch-image-models (timm/models/regnet.py).
"""

from collections.abc import Mapping
from typing import Any

from .backbone import Mapped, Naming, State, map_body

naming = Naming(
    stem={"conv": "stem.conv", "bn": "stem.bn"},
    block="s{stage}.b{number}",
    modules={
        "proj": "downsample.conv",
        "bn": "downsample.bn",
        "f.a": "conv1.conv",
        "f.a_bn": "conv1.bn",
        "f.b": "conv2.conv",
        "f.b_bn": "conv2.bn",
        "f.se.f_ex.0": "se.fc1",
        "f.se.f_ex.2": "se.fc2",
        "f.c": "conv3.conv",
        "f.c_bn": "conv3.bn",
    },
)


def matches(state: State) -> bool:
    """Whether the names are those of timm's RegNets."""
    return any(name.startswith("s1.b1.conv") for name in state)


def convert(state: State, meta: Mapping[str, Any]) -> Mapped:
    """An ImageNet classifier's backbone, for Detectron2.

    Raises:
        ValueError: it is a RegNetZ or RegNetV, whose blocks Detectron2's RegNet does not have.
    """
    if any(name.startswith("s1.b1.norm1.") or name == "stem.weight" for name in state):
        raise ValueError("is a RegNetV: Detectron2's RegNet has no pre-activation blocks")
    if not any(".downsample." in name for name in state):
        raise ValueError("is a RegNetZ: Detectron2's RegNet has no blocks with a linear output")
    return map_body(state, naming, "RGB", {r"head\.": "classifier head"})
