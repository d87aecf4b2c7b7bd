"""What the sources of weights share: what they make of a file, and recognising the arch."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from d2_regnet.archs import get_arch, list_archs
from d2_regnet.modeling.backbone.regnet import build_regnet

State = Mapping[str, torch.Tensor]

# The modules of the stem and of a block that hold tensors, as Detectron2 and pycls name them.
MODULES = (
    *("stem.conv", "stem.bn"),
    *("proj", "bn", "f.a", "f.a_bn", "f.b", "f.b_bn"),
    *("f.se.f_ex.0", "f.se.f_ex.2", "f.c", "f.c_bn"),
)

COUNTER = "counter of training steps"  # why a tensor is left out


@dataclass(frozen=True)
class Mapped:
    """What a source makes of a state dict.

    Attributes:
        state: the target's names and tensors.
        mapped: source name -> target name, of every tensor that is used.
        dropped: source name -> why it is left out on purpose.
        arch: name of the network (`archs.list_archs(others=True)` for a RegNet).
        shapes: every name and shape that the target model needs, from `model_shapes`.
        input_format: "BGR" or "RGB", the channel order that the weights were trained with.
        pixel_mean, pixel_std: per channel in that order, on pixels of 0 to 255; an image is
            normalised as (pixel - mean) / std.
        stem: target name of the first convolution's weight.
        backbone: the names are a backbone's alone, to be loaded into any model that has one.
        classes: the names of a detector's classes, by index; empty if they are not known.
    """

    state: dict[str, torch.Tensor]
    mapped: dict[str, str]
    dropped: dict[str, str]
    arch: str
    shapes: Mapping[str, tuple[int, ...]]
    input_format: str
    pixel_mean: tuple[float, ...]
    pixel_std: tuple[float, ...]
    stem: str = "stem.conv.weight"
    backbone: bool = True
    classes: tuple[str, ...] = ()


def model_shapes(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of the model that `build` builds, without its memory."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


@cache
def backbone_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a RegNet backbone by the name of its arch."""
    return model_shapes(lambda: build_regnet(arch))


# A stage as its tensors show it: depth, width, group width and squeeze-and-excitation or not.
Stage = tuple[int | None, int | None, int | None, bool]


def recognise(shape: Callable[[str], tuple[int, ...] | None]) -> str:
    """The name of the arch whose stages these are.

    Args:
        shape: shape of a tensor by Detectron2's name, or None if there is no such tensor.

    Raises:
        ValueError: no known RegNet has these stages; the message names the nearest.
    """
    found = tuple(_stages(shape))
    known = {name: _arch_stages(name) for name in list_archs(others=True)}

    def agreement(name: str) -> int:
        pairs = [pair for ours, its in zip(found, known[name]) for pair in zip(ours, its)]
        return sum(ours == its for ours, its in pairs if ours is not None)

    nearest = max(known, key=agreement)
    shown = sum(value is not None for stage in found for value in stage)
    if len(found) == len(known[nearest]) and agreement(nearest) == shown:
        return nearest
    raise ValueError(
        f"is of no known RegNet: {describe(found)}; the nearest is {nearest}: "
        f"{describe(known[nearest])}"
    )


def describe(stages: tuple[Stage, ...]) -> str:
    """Stages in words, for messages."""
    if not stages:
        return "no stages"
    depths, widths, group_widths, se = (", ".join(map(str, part)) for part in zip(*stages))
    squeeze = "" if "True" in se else "out"
    return (
        f"stages of depth {depths}, width {widths}, group width {group_widths}, "
        f"with{squeeze} squeeze-and-excitation"
    )


def _arch_stages(name: str) -> tuple[Stage, ...]:
    arch = get_arch(name)
    parts = zip(arch.stage_depths, arch.stage_widths, arch.stage_group_widths)
    return tuple((*part, bool(arch.se_ratio)) for part in parts)


def _stages(shape: Callable[[str], tuple[int, ...] | None]) -> Iterator[Stage]:
    """The stages that tensors show, with None for a size that none of them shows."""
    for stage in itertools.count(1):
        blocks = []
        while block := {
            module: size
            for module in MODULES
            if (size := shape(f"s{stage}.b{len(blocks) + 1}.{module}.weight")) is not None
        }:
            blocks.append(block)
        if not blocks:
            return
        se = any("f.se.f_ex.0" in block or "f.se.f_ex.2" in block for block in blocks)
        yield len(blocks), _size(blocks, "f.c", 0), _size(blocks, "f.b", 1), se


def _size(blocks: list[dict[str, tuple[int, ...]]], module: str, axis: int) -> int | None:
    sizes = [block[module][axis] for block in blocks if len(block.get(module, ())) == 4]
    return sizes[0] if sizes else None
