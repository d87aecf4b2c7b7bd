"""MMDetection's backbones and whole detectors, and torchvision's ResNets, which are named alike.

Covers `open-mmlab://regnetx_*` and the like (a backbone alone) and trained Faster, Mask and Cascade
Mask R-CNNs and RetinaNets on RegNet, with deformable convolutions or without, ResNet and ResNeXt.
Both sides compute the same from the same tensors but for RetinaNet, whose anchors MMDetection
orders ratio by ratio and Detectron2 size by size: the channels of its last convolutions are
reordered.

Original implementation: https://github.com/open-mmlab/mmdetection (mmdet 3.3.0).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_regnet.model_zoo import detectors
from d2_regnet.utils.imagenet import PIXEL_MEAN, PIXEL_STD, pixel_statistics

from .backbone import Mapped, State, model_shapes, recognise

_SOURCE_BODY, _TARGET_BODY = "backbone.", "backbone.bottom_up."

# Published models on RegNet that were trained on RGB. So was Mask R-CNN 3x on RegNetX-4.0GF, whose
# names and shapes are those of the 1x model, trained on BGR: there only `meta` tells.
_RGB_ROWS = {
    ("mask_rcnn", "RegNetX-400MF"),
    ("mask_rcnn", "RegNetX-800MF"),
    ("mask_rcnn", "RegNetX-1.6GF"),
}

# Blocks in a ResNet's longest stage -> its layers.
_RESNETS = {6: 50, 23: 101, 36: 152}

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


def matches(state: State) -> bool:
    """Whether the names are those of MMDetection's backbones or detectors."""
    stems = {"conv1.weight", "backbone.conv1.weight"}
    return any(name in stems for name in state) and any(".conv3." in name for name in state)


def convert(state: State, meta: Mapping[str, Any]) -> Mapped:
    """A backbone, or a whole detector, for Detectron2.

    Args:
        state: MMDetection's names and tensors.
        meta: what lay beside `state` in the file. MMDetection's own `meta` holds its config, which
            tells the channel order; without one it is the published models' of this detector and
            arch.

    Raises:
        ValueError: no backbone or detector that is known.
    """
    converted, mapped, dropped = to_detectron2(state)
    arch, body = _body(converted)
    if is_detector(state):
        kind = _detector(converted)
        num_classes = _num_classes(converted)
        node = getattr(detectors, kind)(body, num_classes=num_classes)
    else:
        kind, node = "", body
    input_format = _input_format(meta) or _row_format(kind, arch)
    mean, std = _statistics(meta) or pixel_statistics(input_format)
    return Mapped(
        converted,
        mapped,
        dropped,
        arch,
        model_shapes(lambda: instantiate(node)),
        input_format,
        tuple(mean),
        tuple(std),
        classes=tuple(class_names(meta)),
        stem=next(
            name for name in converted if name.endswith(("stem.conv.weight", "stem.conv1.weight"))
        ),
        backbone=not kind,
    )


def to_detectron2(state: State) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, str]]:
    """Detectron2's state dict of an MMDetection backbone or detector.

    Args:
        state: MMDetection's names and tensors; neither is changed.

    Returns:
        The target's names and tensors, which share memory with the source's where they are equal;
        source name -> target name of all that is used; source name -> why of all that is dropped.
        Names that no known backbone or detector has are in neither.

    Raises:
        ValueError: no backbone is found, or a RetinaNet's anchors are not three scales times three
            ratios.
    """
    names = dict(_modules(**_kind(state)))
    if not is_detector(state):
        # MMPretrain's begin with "backbone.".
        prefix = _SOURCE_BODY if f"{_SOURCE_BODY}conv1.weight" in state else ""
        names = {
            prefix + source.removeprefix(_SOURCE_BODY): target.removeprefix(_TARGET_BODY)
            for source, target in names.items()
        }
    out, mapped, dropped = {}, {}, {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            dropped[name] = "counter of training steps"
        elif module in ("fc", "head.fc") and not is_detector(state):
            dropped[name] = "classifier head"
        elif module in names:
            mapped[name] = f"{names[module]}.{leaf}"
            out[mapped[name]] = _reorder_anchors(names[module], tensor, (_RATIOS, _SCALES))
    return out, mapped, dropped


def from_detectron2(state: State) -> dict[str, torch.Tensor]:
    """MMDetection's state dict of a Detectron2 model: the inverse of `to_detectron2`.

    The counters that MMDetection's norms have, and do not use, are left out.

    Raises:
        ValueError: a name that no known backbone or detector has.
    """
    resnet = any(name.endswith("stem.conv1.weight") for name in state)
    pairs = _modules(resnet=resnet, retinanet="head.cls_score.weight" in state)
    names = {target: source for source, target in pairs}
    if not any(name.startswith(_TARGET_BODY) for name in state):
        names = {
            target.removeprefix(_TARGET_BODY): source.removeprefix(_SOURCE_BODY)
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
    """Whether an MMDetection state dict holds a detector and not a backbone alone."""
    return any(name.startswith("neck.") for name in state)


def _body(state: State) -> tuple[str, DictConfig]:
    """Name and node of the backbone in a converted state dict."""
    body = {name.removeprefix(_TARGET_BODY): tensor for name, tensor in state.items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in body.items()}
    if "stem.conv1.weight" not in shapes:
        arch = recognise(shapes.get)
        deform = {name.partition(".")[0] for name in shapes if ".conv_offset." in name}
        return arch, detectors.regnet(arch, deform_stages=sorted(deform))
    blocks = sum(bool(re.fullmatch(r"res4\.\d+\.conv1\.weight", name)) for name in shapes)
    if blocks not in _RESNETS:
        known = ", ".join(map(str, _RESNETS.values()))
        raise ValueError(f"is of no known ResNet (of {known} layers): res4 has {blocks} blocks")
    depth = _RESNETS[blocks]
    width, group_width = (*shapes.get("res2.0.conv2.weight", ()), 64, 64)[:2]
    group_width = max(1, group_width)
    groups = max(1, width // group_width)
    arch = f"r{depth}" if groups == 1 else f"x{depth}_{groups}x{group_width}d"
    return arch, detectors.resnet(depth, num_groups=groups, width_per_group=group_width)


def _detector(state: State) -> str:
    """The function of `detectors` that builds the detector of a converted state dict."""
    if "head.cls_score.weight" in state:
        return "retinanet"
    if any(name.startswith("roi_heads.box_head.0.") for name in state):
        return "cascade_mask_rcnn"
    masks = any(name.startswith("roi_heads.mask_head.") for name in state)
    return "mask_rcnn" if masks else "faster_rcnn"


def _num_classes(state: State) -> int:
    """Classes of objects, as the shapes of the classifiers' biases tell."""
    for name, per_class, background in (
        ("roi_heads.box_predictor.cls_score.bias", 1, 1),
        ("roi_heads.box_predictor.0.cls_score.bias", 1, 1),
        ("head.cls_score.bias", _SCALES * _RATIOS, 0),
    ):
        if name in state and state[name].dim() == 1:
            return max(1, len(state[name]) // per_class - background)
    return 80


def _input_format(meta: Mapping[str, Any]) -> str | None:
    """The channel order that MMDetection's `meta` tells by its config, or by the model's name."""
    inner, config = meta.get("meta"), _config_text(meta)
    said = set(re.findall(r"to_rgb['\"]?\s*[:=]\s*(True|False)", config))
    if len(said) == 1:
        return {"True": "RGB", "False": "BGR"}[said.pop()]
    # All RegNet models with polygons as targets, and no other, were trained on RGB.
    return "RGB" if re.search("ms(train)?-poly", str(inner)) else None


def _config_text(meta: Mapping[str, Any]) -> str:
    inner = meta.get("meta")
    inner = inner if isinstance(inner, Mapping) else {}
    return str(inner.get("cfg") or inner.get("config") or "")


def _statistics(meta: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """`mean` and `std` as MMDetection's config has them: of channels in the order of the model's
    input; None if it has none, or several.

    Raises:
        ValueError: it has several.
    """
    found = {}
    for key in ("mean", "std"):
        texts = re.findall(rf"\b{key}['\"]?\s*[:=]\s*[\[(]([\d.,\se+-]+)[\])]", _config_text(meta))
        values = {tuple(float(each) for each in text.split(",") if each.strip()) for text in texts}
        values = {each for each in values if len(each) == 3}
        if len(values) > 1:
            raise ValueError(f"its config has several {key}s of pixels: {sorted(values)}")
        if values:
            found[key] = [*values.pop()]
    usual = {"mean": sorted(PIXEL_MEAN), "std": sorted(PIXEL_STD)}
    if len(found) < 2 or {key: sorted(values) for key, values in found.items()} == usual:
        return None  # ImageNet's, whose order follows the channels'
    return found["mean"], found["std"]


def class_names(meta: Mapping[str, Any]) -> list[str]:
    """The names of the classes that MMDetection's file holds; empty if it has none."""
    inner = meta.get("meta")
    inner = inner if isinstance(inner, Mapping) else {}
    said = inner.get("dataset_meta")
    names = {**inner, **(said if isinstance(said, Mapping) else {})}
    found = names.get("classes") or names.get("CLASSES") or ()
    return [str(each) for each in found] if isinstance(found, list | tuple) else []


def _row_format(kind: str, arch: str) -> str:
    """The channel order of the published weights."""
    resnet = not arch.startswith("RegNet")
    return "RGB" if resnet or (kind, arch) in _RGB_ROWS else "BGR"


def _kind(state: State) -> dict[str, bool]:
    stem = state.get("backbone.conv1.weight", state.get("conv1.weight"))
    if stem is None or stem.dim() != 4:
        raise ValueError("no conv1.weight of an MMDetection backbone")
    return {"resnet": stem.shape[-1] == 7, "retinanet": "bbox_head.retina_cls.weight" in state}


def _modules(resnet: bool, retinanet: bool) -> Iterator[tuple[str, str]]:
    """All pairs of modules that a kind of detector may have; neither side has a name twice."""
    for source, target in _RESNET_STEM if resnet else _REGNET_STEM:
        yield _SOURCE_BODY + source, _TARGET_BODY + target
    for stage in _STAGES:
        for block in range(_MOST_BLOCKS):
            here = f"res{stage + 1}.{block}" if resnet else f"s{stage}.b{block + 1}"
            for source, target in _RESNET_BLOCK if resnet else _REGNET_BLOCK:
                yield (
                    f"{_SOURCE_BODY}layer{stage}.{block}.{source}",
                    f"{_TARGET_BODY}{here}.{target}",
                )
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
    if tensor.dim() == 0 or len(tensor) % (_SCALES * _RATIOS):
        raise ValueError(
            f"RetinaNet's {module} has shape {list(tensor.shape)}, whose channels are not "
            f"{_SCALES} scales x {_RATIOS} ratios of anchors"
        )
    grouped = tensor.reshape(*order, -1, *tensor.shape[1:])
    return grouped.transpose(0, 1).reshape(tensor.shape)
