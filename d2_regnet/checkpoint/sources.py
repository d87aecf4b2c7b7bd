"""The projects that publish RegNet backbones, and how each spells the names of their tensors.

Applied to every name that the model needs, a `Source` is the conversion; applied to the names of a
converted state dict, it undoes one. Original implementations:

- pycls: https://github.com/facebookresearch/pycls (models/anynet.py)
- torchvision, SWAG included: https://github.com/pytorch/vision (torchvision/models/regnet.py)
- timm: https://github.com/huggingface/pytorch-image-models (timm/models/regnet.py)
- SEER: https://github.com/facebookresearch/vissl (models/trunks/regnet.py, regnet_fsdp.py) and
  https://github.com/facebookresearch/ClassyVision (models/anynet.py)
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from d2_regnet.utils.imagenet import pixel_statistics

from . import mmdet
from .backbone import COUNTER, MODULES, Mapped, State, backbone_shapes, recognise


@dataclass(frozen=True)
class Source:
    """RegNet backbones as one project names their tensors.

    Attributes:
        signs: beginnings of names, one of which every file of the project has.
        block: its name of a block, a format of `stage` (from 1), `number` (from 1) and `index`
            (from 0) in the stage, and `part` (from 2), the stage as a ResNet counts.
        modules: its names of `MODULES`, in that order.
        head: what the names of the layers on top of the backbone begin with.
        why_headless: why they are left out.
        input_format: the channel order that it trains with, "BGR" or "RGB".
        canonical: a name -> the spelling meant above, if there are several.
    """

    signs: tuple[str, ...]
    block: str
    modules: Iterable[str]
    head: str
    why_headless: str = "classifier head"
    input_format: str = "RGB"
    canonical: Callable[[str], str] = str

    def matches(self, state: State) -> bool:
        """Whether the names are this project's."""
        return any(self.canonical(name).startswith(self.signs) for name in state)

    def convert(self, state: State, meta: Mapping[str, Any]) -> Mapped:
        """The backbone of a classifier, or a trunk, for Detectron2.

        Raises:
            ValueError: depths, widths and group widths are those of no known RegNet.
        """
        originals = {self.canonical(name): name for name in state}

        def shape(name: str) -> tuple[int, ...] | None:
            original = originals.get(self.spell(name))
            return None if original is None else tuple(state[original].shape)

        arch = recognise(shape)
        shapes = backbone_shapes(arch)
        spelled = {self.spell(name): name for name in shapes}
        mapped = {originals[name]: ours for name, ours in spelled.items() if name in originals}
        heads = {name: self.why_headless for name in state if name.startswith(self.head)}
        counters = {name: COUNTER for name in state if name.endswith(".num_batches_tracked")}
        mean, std = pixel_statistics(self.input_format)
        return Mapped(
            state={ours: state[name] for name, ours in mapped.items()},
            mapped=mapped,
            dropped=heads | counters,
            arch=arch,
            shapes=shapes,
            input_format=self.input_format,
            pixel_mean=mean,
            pixel_std=std,
        )

    def spell(self, name: str) -> str:
        """Detectron2's name of a tensor (`s1.b1.f.a_bn.bias`) as this project spells it."""
        theirs = dict(zip(MODULES, self.modules))
        path, tensor = name.rsplit(".", 1)
        if path in theirs:
            return f"{theirs[path]}.{tensor}"
        stage, block, module = path.split(".", 2)
        stage, number = int(stage[1:]), int(block[1:])
        prefix = self.block.format(stage=stage, number=number, index=number - 1, part=stage + 1)
        return f"{prefix}.{theirs[module]}.{tensor}"

    def restore(self, state: State) -> dict[str, torch.Tensor]:
        """Undoes a conversion: this project's names of a backbone's tensors."""
        return {self.spell(name): tensor for name, tensor in state.items()}


class _Torchvision(Source):
    """torchvision's RegNets, and its ResNets, which are named as MMDetection's are."""

    def matches(self, state):
        return super().matches(state) or self._is_resnet(state)

    def convert(self, state, meta):
        return mmdet.convert(state, {}) if self._is_resnet(state) else super().convert(state, meta)

    def _is_resnet(self, state: State) -> bool:
        stem = state.get("conv1.weight")
        return stem is not None and stem.shape[2:] == (7, 7) and "fc.weight" in state


class _Timm(Source):
    """timm's RegNetX and RegNetY; a RegNetZ or RegNetV has blocks that Detectron2's do not know."""

    def convert(self, state, meta):
        if any(name.startswith("s1.b1.norm1.") or name == "stem.weight" for name in state):
            raise ValueError("is a RegNetV: Detectron2's RegNet has no pre-activation blocks")
        if not any(".downsample." in name for name in state):
            raise ValueError("is a RegNetZ: Detectron2's RegNet has no blocks with a linear output")
        return super().convert(state, meta)


def _first_spelling(name: str) -> str:
    """VISSL's first spelling of a name.

    The trunk may lie inside a whole model (`trunk.`), be classy-vision's own (`stem.stem.0`,
    `trunk_output.block1.block1-0`), or have its stages cut in parts for sharded training
    (`res2.block1-part0.block1-0`).
    """
    name = name.removeprefix("trunk.")
    name = re.sub(r"^stem\.stem\.", "_feature_blocks.conv1.stem.", name)
    name = re.sub(
        r"^trunk_output\.block(\d)\.", lambda m: f"_feature_blocks.res{int(m[1]) + 1}.", name
    )
    return re.sub(r"\.block\d-part\d+\.", ".", name)


_TORCHVISION, _TIMM, _VISSL = zip(
    ("stem.0", "stem.conv", "_feature_blocks.conv1.stem.0"),
    ("stem.1", "stem.bn", "_feature_blocks.conv1.stem.1"),
    ("proj.0", "downsample.conv", "proj"),
    ("proj.1", "downsample.bn", "bn"),
    ("f.a.0", "conv1.conv", "f.a.0"),
    ("f.a.1", "conv1.bn", "f.a.1"),
    ("f.b.0", "conv2.conv", "f.b.0"),
    ("f.b.1", "conv2.bn", "f.b.1"),
    ("f.se.fc1", "se.fc1", "f.se.excitation.0"),
    ("f.se.fc2", "se.fc2", "f.se.excitation.2"),
    ("f.c.0", "conv3.conv", "f.c"),
    ("f.c.1", "conv3.bn", "f.final_bn"),
)

pycls = Source(("s1.b1.f.",), "s{stage}.b{number}", MODULES, "head.", input_format="BGR")
torchvision = _Torchvision(
    ("stem.0.", "trunk_output.block1.block1-0.f.c.0."),
    "trunk_output.block{stage}.block{stage}-{index}",
    _TORCHVISION,
    "fc.",
)
timm = _Timm(("s1.b1.conv",), "s{stage}.b{number}", _TIMM, "head.")
vissl = Source(
    ("_feature_blocks.conv1.stem.",),
    "_feature_blocks.res{part}.block{stage}-{index}",
    _VISSL,
    "heads.",
    "head on top of the trunk",
    canonical=_first_spelling,
)
