"""SEER: the RegNetY trunks of VISSL and classy-vision.

Original implementations: https://github.com/facebookresearch/vissl (models/trunks/regnet.py and
regnet_fsdp.py) and https://github.com/facebookresearch/ClassyVision (models/anynet.py).
"""

import re
from collections.abc import Mapping
from typing import Any

from .backbone import Mapped, Naming, State, map_body

naming = Naming(
    stem={"conv": "_feature_blocks.conv1.stem.0", "bn": "_feature_blocks.conv1.stem.1"},
    block="_feature_blocks.res{part}.block{stage}-{index}",
    modules={
        "proj": "proj",
        "bn": "bn",
        "f.a": "f.a.0",
        "f.a_bn": "f.a.1",
        "f.b": "f.b.0",
        "f.b_bn": "f.b.1",
        "f.se.f_ex.0": "f.se.excitation.0",
        "f.se.f_ex.2": "f.se.excitation.2",
        "f.c": "f.c",
        "f.c_bn": "f.final_bn",
    },
)


def canonical(name: str) -> str:
    """VISSL's first spelling of a name.

    The trunk may lie inside a whole model (`trunk.`), be classy-vision's own (`stem.stem.0`,
    `trunk_output.block1.block1-0`), or have its stages cut in parts for sharded training
    (`res2.block1-part0.block1-0`).
    """
    name = re.sub(r"^trunk\.", "", name)
    name = re.sub(r"^stem\.stem\.", "_feature_blocks.conv1.stem.", name)
    name = re.sub(
        r"^trunk_output\.block(\d)\.", lambda m: f"_feature_blocks.res{int(m[1]) + 1}.", name
    )
    return re.sub(r"\.block\d-part\d+\.", ".", name)


def matches(state: State) -> bool:
    """Whether the names are those of a VISSL or classy-vision RegNet trunk."""
    return any(canonical(name).startswith("_feature_blocks.conv1.stem.") for name in state)


def convert(state: State, meta: Mapping[str, Any]) -> Mapped:
    """A self-supervised (or fine-tuned) trunk, for Detectron2."""
    return map_body(state, naming, "RGB", {r"heads\.": "head on top of the trunk"}, canonical)
