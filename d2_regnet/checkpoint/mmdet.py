"""MMDetection's names -> Detectron2's names, for bodies and for whole detectors, and back.

Covers `open-mmlab://regnetx_*` and the like (a body alone) and trained Faster, Mask and Cascade
Mask R-CNNs and RetinaNets on RegNet, with deformable convolutions or without, ResNet and ResNeXt.
Both compute the same from the same tensors but for RetinaNet, whose anchors MMDetection orders
ratio by ratio and Detectron2 size by size: the channels of its last convolutions are reordered.
"""

from collections.abc import Iterator, Mapping

import torch

State = Mapping[str, torch.Tensor]

# More than any published network has.
_MOST_BLOCKS = 64
_STAGES = range(1, 5)

# Each pair is (MMDetection's module, Detectron2's module).
_REGNET_STEM = [("conv1", "stem.conv"), ("bn1", "stem.bn")]
_REGNET_BLOCK = [
    ("conv1", "f.a"),
    ("bn1", "f.a_bn"),
    ("conv2", "f.b"),
    ("conv2.conv_offset", "f.b.conv_offset"),
    ("bn2", "f.b_bn"),
    ("conv3", "f.c"),
    ("bn3", "f.c_bn"),
    ("downsample.0", "proj"),
    ("downsample.1", "bn"),
]
_RESNET_STEM = [("conv1", "stem.conv1"), ("bn1", "stem.conv1.norm")]
_RESNET_BLOCK = [
    ("conv1", "conv1"),
    ("bn1", "conv1.norm"),
    ("conv2", "conv2"),
    ("bn2", "conv2.norm"),
    ("conv3", "conv3"),
    ("bn3", "conv3.norm"),
    ("downsample.0", "shortcut"),
    ("downsample.1", "shortcut.norm"),
]
_RPN = [
    ("rpn_head.rpn_conv", "proposal_generator.rpn_head.conv"),
    ("rpn_head.rpn_cls", "proposal_generator.rpn_head.objectness_logits"),
    ("rpn_head.rpn_reg", "proposal_generator.rpn_head.anchor_deltas"),
]
_BOX_HEAD = [("shared_fcs.0", "fc1"), ("shared_fcs.1", "fc2")]
_BOX_PREDICTOR = [("fc_cls", "cls_score"), ("fc_reg", "bbox_pred")]
_MASK_HEAD = [
    *((f"convs.{i}.conv", f"mask_fcn{i + 1}") for i in range(4)),
    ("upsample", "deconv"),
    ("conv_logits", "predictor"),
]
# Each convolution of these two towers is followed by a ReLU, which Detectron2 counts too.
_RETINA_HEAD = [
    *((f"bbox_head.cls_convs.{i}.conv", f"head.cls_subnet.{2 * i}") for i in range(4)),
    *((f"bbox_head.reg_convs.{i}.conv", f"head.bbox_subnet.{2 * i}") for i in range(4)),
    ("bbox_head.retina_cls", "head.cls_score"),
    ("bbox_head.retina_reg", "head.bbox_pred"),
]

# Scales and ratios of RetinaNet's anchors.
_SCALES = _RATIOS = 3


def to_detectron2(state: State) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, str]]:
    """Detectron2's state dict of an MMDetection body or detector.

    Args:
        state: MMDetection's names and tensors; neither is changed.

    Returns:
        The target's names and tensors, which share memory with the source's where they are equal;
        source name -> target name of all that is used; source name -> why of all that is dropped.

    Raises:
        ValueError: a name that no known body or detector has, or a RetinaNet whose anchors are not
            three scales times three ratios.
    """
    names = dict(_modules(**_kind(state)))
    if not is_detector(state):
        names = {source.removeprefix("backbone."): names[source] for source in names}
        names = {
            source: target.removeprefix("backbone.bottom_up.") for source, target in names.items()
        }
        names |= {f"backbone.{source}": target for source, target in names.items()}
    out, mapped, dropped = {}, {}, {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            dropped[name] = "a counter that frozen statistics have no use for"
        elif module in ("fc", "head.fc") and not is_detector(state):
            dropped[name] = "the classifier"
        elif module not in names:
            raise ValueError(
                f"{name} is no tensor of an MMDetection body or detector that is known"
            )
        else:
            mapped[name] = f"{names[module]}.{leaf}"
            out[mapped[name]] = _reorder_anchors(names[module], tensor, (_RATIOS, _SCALES))
    return out, mapped, dropped


def from_detectron2(state: State) -> dict[str, torch.Tensor]:
    """MMDetection's state dict of a Detectron2 body or detector: the inverse of `to_detectron2`.

    The counters that MMDetection's norms have, and do not use, are left out.

    Raises:
        ValueError: a name that no known body or detector has.
    """
    resnet = any(name.endswith("stem.conv1.weight") for name in state)
    pairs = _modules(resnet=resnet, retinanet="head.cls_score.weight" in state)
    names = {target: source for source, target in pairs}
    if not any(name.startswith("backbone.bottom_up.") for name in state):
        names = {
            target.removeprefix("backbone.bottom_up."): source.removeprefix("backbone.")
            for target, source in names.items()
        }
    out = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if module not in names:
            raise ValueError(f"{name} has no counterpart in MMDetection")
        out[f"{names[module]}.{leaf}"] = _reorder_anchors(module, tensor, (_SCALES, _RATIOS))
    return out


def is_detector(state: State) -> bool:
    """Whether an MMDetection state dict holds a detector and not a body alone."""
    return any(name.startswith("neck.") for name in state)


def _kind(state: State) -> dict[str, bool]:
    stem = state.get("backbone.conv1.weight", state.get("conv1.weight"))
    if stem is None or stem.dim() != 4:
        raise ValueError("no conv1.weight of an MMDetection body")
    return {"resnet": stem.shape[-1] == 7, "retinanet": "bbox_head.retina_cls.weight" in state}


def _modules(resnet: bool, retinanet: bool) -> Iterator[tuple[str, str]]:
    """All pairs of modules that a kind of detector may have; neither side has a name twice."""
    body = "backbone.bottom_up."
    for source, target in _RESNET_STEM if resnet else _REGNET_STEM:
        yield f"backbone.{source}", body + target
    for stage in _STAGES:
        for block in range(_MOST_BLOCKS):
            here = f"res{stage + 1}.{block}" if resnet else f"s{stage}.b{block + 1}"
            for source, target in _RESNET_BLOCK if resnet else _REGNET_BLOCK:
                yield f"backbone.layer{stage}.{block}.{source}", f"{body}{here}.{target}"
    # RetinaNet's pyramid begins at the second stage.
    for index, level in enumerate(range(3 if retinanet else 2, 6)):
        yield f"neck.lateral_convs.{index}.conv", f"backbone.fpn_lateral{level}"
        yield f"neck.fpn_convs.{index}.conv", f"backbone.fpn_output{level}"
    if retinanet:
        yield "neck.fpn_convs.3.conv", "backbone.top_block.p6"
        yield "neck.fpn_convs.4.conv", "backbone.top_block.p7"
        yield from _RETINA_HEAD
        return
    yield from _RPN
    for stage in ("", "0.", "1.", "2."):  # the cascade's are numbered
        for source, target in _BOX_HEAD:
            yield f"roi_head.bbox_head.{stage}{source}", f"roi_heads.box_head.{stage}{target}"
        for source, target in _BOX_PREDICTOR:
            yield f"roi_head.bbox_head.{stage}{source}", f"roi_heads.box_predictor.{stage}{target}"
        for source, target in _MASK_HEAD:
            yield f"roi_head.mask_head.{stage}{source}", f"roi_heads.mask_head.{stage}{target}"


def _reorder_anchors(module: str, tensor: torch.Tensor, order: tuple[int, int]) -> torch.Tensor:
    """Swaps the two axes, of sizes `order`, by which RetinaNet's output channels are grouped."""
    if module not in ("head.cls_score", "head.bbox_pred"):
        return tensor
    if tensor.shape[0] % (_SCALES * _RATIOS):
        raise ValueError(
            f"RetinaNet's {module} has {tensor.shape[0]} channels, which are not "
            f"{_SCALES} scales x {_RATIOS} ratios of anchors"
        )
    grouped = tensor.reshape(*order, -1, *tensor.shape[1:])
    return grouped.transpose(0, 1).reshape(tensor.shape)
