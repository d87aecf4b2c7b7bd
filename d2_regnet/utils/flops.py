"""What one image costs a detector: multiply-adds, part by part."""

from collections.abc import Callable
from math import prod

import torch
from detectron2.modeling.meta_arch import RetinaNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .modules import stages


@torch.no_grad()
def count_flops(
    model: nn.Module, size: tuple[int, int] = (800, 1216), proposals: int = 1000, masks: int = 100
) -> dict[str, int]:
    """Multiply-adds of convolutions and linear layers for one image.

    Norms, activations, sampling and suppression are not counted. How many boxes the heads look at
    depends on the image, so it is fixed here: the box heads on `proposals` boxes, each stage of
    a cascade on all of them, and the mask heads on `masks` boxes.

    Args:
        model: Detectron2's GeneralizedRCNN with FPN, or its RetinaNet, in evaluation mode. On the
            meta device (`with torch.device("meta"): ...`) it takes no time and no memory; a RegNet
            runs there when it is built with `fuse_conv_norm=False`.
        size: height and width of the image in pixels, divisible by the FPN's largest stride.

    Returns:
        Multiply-adds of the `backbone`, the `fpn`, a RetinaNet's `head` or the `rpn`, the `box`
        heads and the `mask` heads.
    """
    device = next(model.parameters()).device
    image = torch.zeros(1, model.pixel_mean.shape[0], *size, device=device)
    features = model.backbone(image)
    counts = {"backbone": multiply_adds(model.backbone.bottom_up, image)}
    counts["fpn"] = multiply_adds(model.backbone, image) - counts["backbone"]
    if isinstance(model, RetinaNet):
        names = model.head_in_features
        head = multiply_adds(model.head, [features[name] for name in names])
        return counts | {"head": head}
    rpn, heads = model.proposal_generator, model.roi_heads
    counts["rpn"] = multiply_adds(rpn.rpn_head, [features[name] for name in rpn.in_features])
    channels = features[heads.box_in_features[0]].shape[1]
    crops = torch.zeros(proposals, channels, *heads.box_pooler.output_size, device=device)
    counts["box"] = sum(
        multiply_adds(nn.Sequential(head, predictor), crops)
        for head, predictor in zip(stages(heads.box_head), stages(heads.box_predictor))
    )
    if heads.mask_on:
        crops = torch.zeros(masks, channels, *heads.mask_pooler.output_size, device=device)
        counts["mask"] = sum(multiply_adds(head.layers, crops) for head in stages(heads.mask_head))
    return counts


@torch.no_grad()
def multiply_adds(function: Callable, inputs) -> int:
    """Of the convolutions, linear layers and matrix products that `function(inputs)` computes."""
    own = {torch.ops.torchvision.deform_conv2d: _deform_conv2d}
    with FlopCounterMode(display=False, custom_mapping=own) as counter:
        function(inputs)
    # The counter takes a multiplication and an addition for two.
    return counter.get_total_flops() // 2


def _deform_conv2d(input_shape, weight_shape, *args, out_shape, **kwargs) -> int:
    return 2 * prod(out_shape) * prod(weight_shape[1:])
