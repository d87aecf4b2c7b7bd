"""Makes a trained detector ready for inference: folded norms, channels-last, lower precision."""

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.backbone.regnet import (
    BottleneckTransform,
    ResBottleneckBlock,
    SimpleStem,
)
from detectron2.modeling.meta_arch import GeneralizedRCNN, RetinaNet
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import BaseMaskRCNNHead, FastRCNNConvFCHead
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from d2_regnet.config import yacs_options
from d2_regnet.modeling.backbone.norm import EvalBN
from d2_regnet.modeling.mmdet.retinanet import MMDetRetinaNet
from d2_regnet.utils.dtypes import DTYPES
from d2_regnet.utils.modules import stages

from .pooler import ChannelsLastPooler
from .winograd import use_winograd

_FOLDABLE = (EvalBN, FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm)
# Where Detectron2's RegNet modules keep a convolution and the norm that follows it.
_PAIRS = {
    SimpleStem: [("conv", "bn")],
    ResBottleneckBlock: [("proj", "bn")],
    BottleneckTransform: [("a", "a_bn"), ("b", "b_bn"), ("c", "c_bn")],
}


def optimize_for_inference(
    model: nn.Module, dtype: torch.dtype | None = None, compile: bool = False
) -> nn.Module:
    """A copy of a detector that gives the same answers sooner. It cannot be trained.

    Norms are folded into the convolutions before them, and the dense parts (backbone, FPN, the
    heads' convolutions and linear layers) work on channels-last tensors. On a CPU, boxes are pooled
    by `pooler`, and wide 3x3 convolutions computed by `winograd`. Images of any size are taken as
    before, and the answers are float32.

    Args:
        model: GeneralizedRCNN or RetinaNet, of this package's kinds or Detectron2's own, around a
            RegNet or ResNet backbone. It stays as it is.
        dtype: torch.bfloat16 or torch.float16 for the dense parts; box arithmetic, pooling,
            non-maximum suppression and masks stay in float32. On a CPU it is faster with AMX
            (`amx_bf16` among its flags), and slower without.
        compile: `torch.compile` the backbone with its FPN and the dense heads (without Winograd's
            convolutions). The first images of two sizes take a minute or so; after them any size
            of 256 pixels or more runs at once.

    Returns:
        A model in evaluation mode, on the same device.

    Raises:
        ValueError: another dtype.
    """
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"dtype must be float32, bfloat16 or float16, not {dtype}")
    model = copy.deepcopy(model).eval().requires_grad_(False)
    fold_norms(model)
    _pool_channels_last(model)
    for part in _dense_parts(model):
        part.to(memory_format=torch.channels_last)
        if dtype is not None:
            part.to(dtype)
        if not compile:
            for module in part.modules():
                if isinstance(module, nn.Conv2d):
                    use_winograd(module)
        part.register_forward_pre_hook(_as_weights)
        if part is not model.backbone:
            _work_in_place(part)
            # A mask head goes on from its last layer's output to probabilities, in float32.
            last = part.get_submodule("predictor") if isinstance(part, BaseMaskRCNNHead) else part
            last.register_forward_hook(_to_float32)
        if compile and not isinstance(part, BaseMaskRCNNHead):
            part.compile(dynamic=True)
    return model


class _Optimized(nn.Module):
    """Detects with a copy of itself from `optimize_for_inference`; trains as the class it is.

    State dicts are the class's own. The copy is made for the first image after weights were
    loaded or trained, with the options of `MODEL.OPTIMIZED`.
    """

    def __init__(self, cfg: CfgNode):
        optimize = functools.partial(optimize_for_inference, **yacs_options(cfg))
        super().__init__(cfg)
        self._optimize = optimize
        self._forget()
        self.register_load_state_dict_post_hook(lambda module, keys: module._forget())

    def train(self, mode: bool = True):
        if mode:
            self._forget()
        return super().train(mode)

    def forward(self, batched_inputs: list[dict]):
        if self.training:
            return super().forward(batched_inputs)
        if not self._optimized:
            optimized: Any = self._optimize(self)
            self._optimized.append(optimized)
        return super(_Optimized, self._optimized[0]).forward(batched_inputs)

    def _forget(self):
        self._optimized: list[_Optimized] = []  # in a list, it is no submodule


@META_ARCH_REGISTRY.register()
class OptimizedGeneralizedRCNN(_Optimized, GeneralizedRCNN):
    """GeneralizedRCNN that detects as `optimize_for_inference` makes it."""


@META_ARCH_REGISTRY.register()
class OptimizedRetinaNet(_Optimized, RetinaNet):
    """RetinaNet that detects as `optimize_for_inference` makes it."""


@META_ARCH_REGISTRY.register()
class OptimizedMMDetRetinaNet(_Optimized, MMDetRetinaNet):
    """MMDetRetinaNet that detects as `optimize_for_inference` makes it."""


def fold_norms(model: nn.Module) -> None:
    """Folds every norm with running statistics into the convolution before it, in place.

    Knows the places where Detectron2's RegNet and its `Conv2d` (ResNet, FPN, heads) keep norms.
    Other norms, such as GN, stay.
    """
    for module in model.modules():
        for kind, pairs in _PAIRS.items():
            if isinstance(module, kind):
                for conv, norm in pairs:
                    if _fold(getattr(module, conv), getattr(module, norm)):
                        setattr(module, norm, nn.Identity())
        if isinstance(module, Conv2d) and _fold(module, module.norm):
            module.register_module("norm", None)


def _fold(conv, norm) -> bool:
    if conv is None or not isinstance(norm, _FOLDABLE):
        return False
    statistics = norm.running_mean, norm.running_var, norm.eps
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, *statistics, norm.weight, norm.bias
    )
    return True


def _dense_parts(model: GeneralizedRCNN | RetinaNet) -> Iterator[nn.Module]:
    """The parts of a detector that map tensors to tensors."""
    yield model.backbone
    if isinstance(model, RetinaNet):
        yield model.head
        return
    yield model.proposal_generator.rpn_head
    for name in ("box_head", "box_predictor", "mask_head"):
        part = getattr(model.roi_heads, name, None)
        if part is not None:
            yield from stages(part)


def _pool_channels_last(model):
    """Pools channels-last, and flattens what is pooled in that order."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, ROIPooler):
                setattr(module, name, ChannelsLastPooler(child))
    for head in (m for m in model.modules() if isinstance(m, FastRCNNConvFCHead)):
        if isinstance(getattr(head, "flatten", None), nn.Flatten):
            height, width = model.roi_heads.box_pooler.pooler.output_size
            weight = head.fc1.weight.unflatten(1, (-1, height, width))
            head.fc1.weight = nn.Parameter(weight.permute(0, 2, 3, 1).flatten(1), False)
            head.flatten = _FlattenChannelsLast()


class _FlattenChannelsLast(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def _work_in_place(part):
    """ReLUs write over their input, the output of a convolution or linear layer."""
    for module in part.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True


def _as_weights(module, args):
    """Casts a dense part's features to the type of its weights, channels last."""
    dtype = next(module.parameters()).dtype
    return _map(args, lambda x: x.to(dtype, memory_format=_layout(x)))


def _to_float32(module, args, output):
    return _map(output, lambda x: x.float())


def _layout(x):
    return torch.channels_last if x.dim() == 4 else torch.preserve_format


def _map(value, function):
    """`function` of every tensor in lists, tuples and dicts; anything else stays as it is."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: _map(each, function) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_map(each, function) for each in value)
    return value
