"""The RegNet backbone, on Detectron2's own AnyNet and blocks."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager, nullcontext

import torch
from detectron2.modeling.backbone.regnet import AnyNet, ResBottleneckBlock, SimpleStem
from torch import nn
from torch.utils.checkpoint import checkpoint

from d2_regnet.archs import Stages, get_arch

from .conv_norm import FusedBlock, FusedStem
from .deform import ModulatedDeformConv
from .norm import resolve_norm


def build_regnet(
    arch: str | Stages | Mapping,
    *,
    in_channels: int = 3,
    norm: str | Callable = "FrozenBN",
    freeze_at: int = 0,
    out_features: Iterable[str] | None = None,
    activation_checkpoint: Iterable[str] = (),
    deform_stages: Iterable[str] = (),
    fuse_conv_norm: bool = True,
) -> "RegNet":
    """Builds a RegNet backbone ("Designing Network Design Spaces", https://arxiv.org/abs/2003.13678).

    Modules are named as in Detectron2's `RegNet` and in pycls (`stem.conv`, `s1.b1.f.a_bn`, ...),
    whose checkpoints load as they are. Stages are `stem` (stride 2) and `s1` (stride 4), `s2`, ...

    Args:
        arch: what `archs.get_arch` takes: a published name, a YAML file, a `RegNetArch`, or its
            parameters by name.
        in_channels: channels of the input image.
        norm: what Detectron2's `get_norm` takes, or "EvalBN" (statistics frozen, scale and shift
            trained: `modeling.EvalBN`).
        freeze_at: how many stages from the beginning are frozen, their norms included: 1 is the
            stem, 2 the stem and `s1`, and so on, as everywhere in Detectron2.
        out_features: the stages whose output is returned; default: all but the stem.
        activation_checkpoint: stages whose inner activations are computed again in the backward
            pass instead of stored; outputs, gradients and running statistics are the same.
        deform_stages: stages whose 3x3 convolutions become `ModulatedDeformConv`.
        fuse_conv_norm: compute a convolution and an EvalBN or FrozenBN after it as one (see
            `modeling.conv_norm`): faster, and less is kept for the backward pass. Names and
            checkpoints stay the same, and the answers up to rounding.

    Returns:
        A Detectron2 `Backbone` from (N, in_channels, H, W) to a dict of features; feature `f` has
        the channels and the stride of `output_shape()[f]`.

    Raises:
        ValueError: an unknown arch, norm or stage, an unfit norm, or a number out of range.
    """
    arch = get_arch(arch)
    stages = [f"s{i}" for i, _ in enumerate(arch.stage_widths, start=1)]
    if not isinstance(in_channels, int) or in_channels < 1:
        raise ValueError(f"in_channels must be a positive integer, not {in_channels!r}")
    out_features = _known(
        "out_features", stages if out_features is None else out_features, ["stem", *stages]
    )
    if not out_features:
        raise ValueError(f"out_features is empty: name at least one of stem, {', '.join(stages)}")
    if not isinstance(freeze_at, int) or not 0 <= freeze_at <= len(stages) + 1:
        raise ValueError(f"freeze_at must be 0 to {len(stages) + 1}, not {freeze_at!r}")
    return RegNet(
        arch,
        in_channels,
        resolve_norm(norm),
        freeze_at,
        out_features,
        _known("activation_checkpoint", activation_checkpoint, stages),
        _known("deform_stages", deform_stages, stages),
        fuse_conv_norm,
    )


def _known(option: str, names: Iterable[str], stages: list[str]) -> list[str]:
    names = [names] if isinstance(names, str) else list(names)
    for name in names:
        if name not in stages:
            raise ValueError(f"{option}: no stage {name!r}; this RegNet has {', '.join(stages)}")
    if len(set(names)) < len(names):
        raise ValueError(f"{option}: a stage is named twice in {names}")
    return names


class RegNet(AnyNet):
    """Detectron2's AnyNet with the shape of an arch; built by `build_regnet`.

    Attributes:
        arch: the `archs.RegNetArch`, or other `archs.Stages`.
    """

    def __init__(
        self,
        arch,
        in_channels,
        norm,
        freeze_at,
        out_features,
        activation_checkpoint,
        deform_stages,
        fuse_conv_norm,
    ):
        stem_class = FusedStem if fuse_conv_norm else SimpleStem
        super().__init__(
            # AnyNet's own first argument is always 3.
            stem_class=lambda _, *args: stem_class(in_channels, *args),
            stem_width=arch.stem_width,
            block_class=FusedBlock if fuse_conv_norm else ResBottleneckBlock,
            depths=arch.stage_depths,
            widths=arch.stage_widths,
            group_widths=arch.stage_group_widths,
            strides=[2] * len(arch.stage_widths),
            bottleneck_ratios=arch.stage_bottleneck_ratios,
            se_ratio=arch.se_ratio,
            activation_class=lambda: nn.ReLU(inplace=True),
            norm=norm,
            out_features=out_features,
        )
        self.arch = arch
        self._activation_checkpoint = frozenset(activation_checkpoint)
        for name in deform_stages:
            for block in getattr(self, name).children():
                block.f.b = _deformable(block.f.b)
        self.freeze(freeze_at)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, in_channels, H, W), any H and W, to the features named in `out_features`."""
        outputs = {"stem": self.stem(x)}
        x = outputs["stem"]
        for stage, name in self.stages_and_names:
            if name in self._activation_checkpoint and self.training and torch.is_grad_enabled():
                x = checkpoint(
                    stage, x, use_reentrant=False, context_fn=lambda s=stage: _contexts(s)
                )
            else:
                x = stage(x)
            outputs[name] = x
        return {name: outputs[name] for name in self._out_features}


def _deformable(conv: nn.Conv2d) -> ModulatedDeformConv:
    deformable = ModulatedDeformConv(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
        bias=False,
    )
    deformable.weight = conv.weight
    return deformable


def _contexts(stage):
    """Contexts of a checkpointed stage's two passes: statistics must not count the second."""
    return nullcontext(), _running_statistics_kept(stage)


@contextmanager
def _running_statistics_kept(module):
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)
