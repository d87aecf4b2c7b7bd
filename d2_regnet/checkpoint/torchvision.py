"""torchvision's RegNets, SWAG's included, and its ResNets, which are named as MMDetection's are.

Original implementation: https://github.com/pytorch/vision (torchvision/models/regnet.py).
"""

from collections.abc import Mapping
from typing import Any

from . import mmdet
from .backbone import Mapped, Naming, State, map_body

naming = Naming(
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


def matches(state: State) -> bool:
    """Whether the names are those of torchvision's RegNets or, with a classifier, ResNets."""
    regnet = ("stem.0.", "trunk_output.block1.block1-0.f.c.0.")
    return any(name.startswith(regnet) for name in state) or _is_resnet(state)


def convert(state: State, meta: Mapping[str, Any]) -> Mapped:
    """An ImageNet classifier's backbone, for Detectron2."""
    if _is_resnet(state):
        return mmdet.convert(state, {})
    return map_body(state, naming, "RGB", {r"fc\.": "classifier head"})


def _is_resnet(state: State) -> bool:
    stem = state.get("conv1.weight")
    return stem is not None and stem.shape[2:] == (7, 7) and "fc.weight" in state
