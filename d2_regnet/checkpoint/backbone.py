"""What the sources of backbones share: recognising the arch, and mapping names one to one.

A source is described by a `Naming`, from Detectron2's names to its own. Applied to every name that
the model needs it is the conversion; applied to the names of a state dict it undoes one.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from d2_regnet.archs import RegNetArch, get_arch, list_archs
from d2_regnet.modeling.backbone.regnet import build_regnet
from d2_regnet.utils.imagenet import pixel_statistics

State = Mapping[str, torch.Tensor]

# The modules of a block that hold tensors, as Detectron2 and pycls name them.
MODULES = (
    *("proj", "bn", "f.a", "f.a_bn", "f.b", "f.b_bn"),
    *("f.se.f_ex.0", "f.se.f_ex.2", "f.c", "f.c_bn"),
)


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


@dataclass(frozen=True)
class Naming:
    """How a source spells the names of a RegNet backbone.

    Args:
        stem: Detectron2's module names in the stem ("conv", "bn") -> the source's full names.
        block: the source's name of a block, a format of `stage` (from 1), `number` (from 1) and
            `index` (from 0) in the stage, and `part` (from 2), the stage as a ResNet counts.
        modules: Detectron2's module names in a block (`MODULES`) -> the source's.
    """

    stem: Mapping[str, str]
    block: str
    modules: Mapping[str, str]

    def __call__(self, name: str) -> str:
        """Detectron2's name of a tensor (`s1.b1.f.a_bn.bias`) in the source's spelling."""
        path, tensor = name.rsplit(".", 1)
        if path.startswith("stem."):
            return f"{self.stem[path.removeprefix('stem.')]}.{tensor}"
        stage, block, module = path.split(".", 2)
        stage, number = int(stage[1:]), int(block[1:])
        prefix = self.block.format(stage=stage, number=number, index=number - 1, part=stage + 1)
        return f"{prefix}.{self.modules[module]}.{tensor}"

    def restore(self, state: State) -> dict[str, torch.Tensor]:
        """Undoes a conversion: the source's names of a backbone's tensors."""
        return {self(name): tensor for name, tensor in state.items()}


def model_shapes(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of the model that `build` builds, without its memory."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build().state_dict().items()}


@cache
def body_shapes(arch: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a RegNet backbone by the name of its arch."""
    return model_shapes(lambda: build_regnet(arch))


def map_body(
    state: State,
    naming: Callable[[str], str],
    input_format: str,
    dropped: Mapping[str, str],
    canonical: Callable[[str], str] = str,
) -> Mapped:
    """Renames a RegNet backbone's tensors to Detectron2's names.

    Args:
        state: names and tensors of the source.
        naming: Detectron2's name -> the source's.
        input_format: the channel order that the source trains with, "BGR" or "RGB".
        dropped: pattern (matched from the start) of names to leave out -> why.
        canonical: a name in `state` -> the spelling that `naming` gives, where there are several.

    Raises:
        ValueError: depths, widths and group widths are those of no known RegNet.
    """
    originals = {canonical(name): name for name in state}

    def shape(name: str) -> tuple[int, ...] | None:
        original = originals.get(naming(name))
        return None if original is None else tuple(state[original].shape)

    arch = recognise(shape)
    shapes = body_shapes(arch)
    mapped = {originals[naming(n)]: n for n in shapes if naming(n) in originals}
    patterns = {**dropped, r".*\.num_batches_tracked$": "counter of training steps"}
    left_out = {
        name: reason
        for name in state
        for pattern, reason in patterns.items()
        if name not in mapped and re.match(pattern, name)
    }
    mean, std = pixel_statistics(input_format)
    return Mapped(
        {target: state[name] for name, target in mapped.items()},
        mapped,
        left_out,
        arch,
        shapes,
        input_format,
        mean,
        std,
    )


# A stage as its tensors show it: depth, width, group width and squeeze-and-excitation or not.
Stage = tuple[int, int, int, bool]


def recognise(shape: Callable[[str], tuple[int, ...] | None]) -> str:
    """The name of the arch whose stages these are.

    Args:
        shape: shape of a tensor by Detectron2's name, or None if it has no such tensor.

    Raises:
        ValueError: no known RegNet has these stages; the message names the nearest.
    """
    found = tuple(_stages(shape))
    known = {name: _arch_stages(get_arch(name)) for name in list_archs(others=True)}

    def agreement(name: str) -> float:
        pairs = [pair for ours, its in zip(found, known[name]) for pair in zip(ours, its)]
        return sum(ours == its for ours, its in pairs if ours is not None)

    nearest = max(known, key=agreement)
    if len(found) == len(known[nearest]) and agreement(nearest) == sum(
        value is not None for stage in found for value in stage
    ):
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


def _arch_stages(arch: RegNetArch) -> tuple[Stage, ...]:
    parts = zip(arch.stage_depths, arch.stage_widths, arch.stage_group_widths)
    return tuple((*part, bool(arch.se_ratio)) for part in parts)


def _stages(shape: Callable[[str], tuple[int, ...] | None]) -> Iterator[Stage]:
    """The stages that tensors show, with None for a size that none of them shows."""
    for stage in itertools.count(1):
        blocks = []
        while weights := _block_weights(shape, f"s{stage}.b{len(blocks) + 1}"):
            blocks.append(weights)
        if not blocks:
            return
        se = any("f.se.f_ex.0" in block or "f.se.f_ex.2" in block for block in blocks)
        yield len(blocks), _size(blocks, "f.c", 0), _size(blocks, "f.b", 1), se


def _block_weights(shape, block: str) -> dict[str, tuple[int, ...]]:
    weights = {module: shape(f"{block}.{module}.weight") for module in MODULES}
    return {module: size for module, size in weights.items() if size is not None}


def _size(blocks: list[dict[str, tuple[int, ...]]], module: str, axis: int) -> int | None:
    sizes = [block[module][axis] for block in blocks if len(block.get(module, ())) == 4]
    return sizes[0] if sizes else None
