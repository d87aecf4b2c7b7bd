"""What one picture costs a detector: multiply-adds, part by part."""

import logging
from collections.abc import Callable
from math import prod

import torch
from detectron2.modeling.meta_arch import RetinaNet
from fvcore.nn import FlopCountAnalysis
from fvcore.nn.jit_handles import get_shape
from torch import nn

# What has weights; norms, activations, sampling and suppression are not counted.
_COUNTED = ("conv", "linear", "addmm", "matmul", "deform_conv2d")


def count_flops(
    model: nn.Module, size: tuple[int, int] = (800, 1216), proposals: int = 1000, masks: int = 100
) -> dict[str, int]:
    """Multiply-adds of convolutions and linear layers for one picture, by fvcore's counter.

    How many boxes the heads look at depends on the picture, so it is fixed here: the box heads on
    `proposals` boxes, each stage of a cascade on all of them, and the mask heads on `masks` boxes.

    Args:
        model: Detectron2's GeneralizedRCNN with FPN, or its RetinaNet, on the CPU in evaluation
            mode.
        size: height and width of the picture in pixels.

    Returns:
        Multiply-adds of the `body`, the `fpn`, the `head` of a RetinaNet or the `rpn`, the `box`
        heads and the `mask` heads.
    """
    picture = torch.zeros(1, len(model.pixel_mean), *size)
    counts = {"body": _count(model.backbone.bottom_up, picture)}
    counts["fpn"] = _count(model.backbone, picture) - counts["body"]
    with torch.no_grad():
        features = model.backbone(picture)
    if isinstance(model, RetinaNet):
        names, head = model.head_in_features, model.head
        return counts | {"head": _count(head, [features[name] for name in names])}
    rpn, heads = model.proposal_generator, model.roi_heads
    counts["rpn"] = _count(rpn.rpn_head, [features[name] for name in rpn.in_features])
    channels = features[heads.box_in_features[0]].shape[1]
    side = heads.box_pooler.output_size[0]
    crops = torch.zeros(proposals, channels, side, side)
    counts["box"] = sum(
        _count(nn.Sequential(head, predictor), crops)
        for head, predictor in zip(_stages(heads.box_head), _stages(heads.box_predictor))
    )
    if heads.mask_on:
        side = heads.mask_pooler.output_size[0]
        crops = torch.zeros(masks, channels, side, side)
        counts["mask"] = sum(_count(_layers(head), crops) for head in _stages(heads.mask_head))
    return counts


def _stages(head: nn.Module) -> list[nn.Module]:
    return list(head) if isinstance(head, nn.ModuleList) else [head]


def _layers(mask_head: nn.Module) -> nn.Module:
    """The head as far as its logits; the rest needs instances."""
    return _Call(mask_head, mask_head.layers)


class _Call(nn.Module):
    """A function of a module, with its outputs as a list, as the tracer wants them."""

    def __init__(self, module: nn.Module, function: Callable):
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, x):
        outputs = self.function(x)
        return list(outputs.values()) if isinstance(outputs, dict) else outputs


def _count(module: nn.Module, inputs) -> int:
    wrapped = module if isinstance(module, _Call) else _Call(module, module)
    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(wrapped, (inputs,)).tracer_warnings("none")
    analysis.set_op_handle("torchvision::deform_conv2d", _deform_conv2d)
    return sum(count for name, count in analysis.by_operator().items() if name in _COUNTED)


def _deform_conv2d(inputs, outputs) -> int:
    return prod(get_shape(outputs[0])) * prod(get_shape(inputs[1])[1:])
