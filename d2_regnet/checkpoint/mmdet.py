"""MMDetection's backbones and whole detectors, and torchvision's ResNets, which are named alike.

Covers `open-mmlab://regnetx_*` and the like (a backbone alone) and trained Faster, Mask and Cascade
Mask R-CNNs and RetinaNets on RegNet, with deformable convolutions or without, ResNet and ResNeXt.
Both sides compute the same from the same tensors but for RetinaNet, whose anchors MMDetection
orders ratio by ratio and Detectron2 size by size: the channels of its last convolutions are
reordered.

Original implementation: https://github.com/open-mmlab/mmdetection (mmdet 3.3.0).
"""

import itertools
import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig

from d2_regnet.model_zoo import detectors
from d2_regnet.utils.imagenet import PIXEL_MEAN, PIXEL_STD, pixel_statistics

from .backbone import COUNTER, Mapped, State, model_shapes, recognise

_THEIRS, _OURS = "backbone.", "backbone.bottom_up."

# Published models on RegNet that were trained on RGB. So was Mask R-CNN 3x on RegNetX-4.0GF, whose
# names and shapes are those of 1x, trained on BGR: there only `meta` tells.
_RGB_MODELS = {
    ("mask_rcnn", "RegNetX-400MF"),
    ("mask_rcnn", "RegNetX-800MF"),
    ("mask_rcnn", "RegNetX-1.6GF"),
}

# Blocks in a ResNet's longest stage -> its layers.
_RESNETS = {6: 50, 23: 101, 36: 152}

# More than any published network has.
_MOST_BLOCKS = 64

# MMDetection's modules -> Detectron2's. Those of `roi_heads` are of each stage, which a cascade
# numbers. In RetinaNet's towers Detectron2 also counts the ReLU after each convolution.
_NAMES = json.loads(resources.files("d2_regnet.checkpoint").joinpath("mmdet.json").read_text())

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
            tells the channel order; by default it is that of the published models of this
            detector and arch.

    Raises:
        ValueError: no backbone or detector that is known.
    """
    converted, mapped, dropped = to_detectron2(state)
    arch, node = _backbone(converted)
    kind = ""
    if _is_detector(state):
        kind = _detector(converted)
        node = getattr(detectors, kind)(node, num_classes=_num_classes(converted))
    published = "RGB" if not arch.startswith("RegNet") or (kind, arch) in _RGB_MODELS else "BGR"
    input_format = _input_format(meta) or published
    mean, std = _statistics(meta) or pixel_statistics(input_format)
    stems = ("stem.conv.weight", "stem.conv1.weight")
    return Mapped(
        converted,
        mapped,
        dropped,
        arch,
        model_shapes(lambda: instantiate(node)),
        input_format,
        tuple(mean),
        tuple(std),
        stem=next(name for name in converted if name.endswith(stems)),
        backbone=not kind,
        classes=tuple(class_names(meta)),
    )


def to_detectron2(state: State) -> tuple[dict[str, torch.Tensor], dict[str, str], dict[str, str]]:
    """Detectron2's state dict of an MMDetection backbone or detector, which is left as it is.

    Returns:
        The target's names and tensors, which share memory with the source's where they are equal;
        source name -> target name of all that is used; source name -> why of all that is dropped.
        Names that no known backbone or detector has are in neither.

    Raises:
        ValueError: no backbone is found, or a RetinaNet's anchors are not three scales times three
            ratios.
    """
    stem = state.get("backbone.conv1.weight", state.get("conv1.weight"))
    if stem is None or stem.dim() != 4:
        raise ValueError("no conv1.weight of an MMDetection backbone")
    detector = _is_detector(state)
    names = _modules(stem.shape[-1] == 7, "bbox_head.retina_cls.weight" in state)
    if not detector:
        # MMPretrain's begin with "backbone.".
        prefix = _THEIRS if f"{_THEIRS}conv1.weight" in state else ""
        names = {
            prefix + theirs.removeprefix(_THEIRS): ours.removeprefix(_OURS)
            for theirs, ours in names.items()
        }
    out, mapped, dropped = {}, {}, {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            dropped[name] = COUNTER
        elif module in ("fc", "head.fc") and not detector:
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
    names = _modules(resnet, retinanet="head.cls_score.weight" in state)
    alone = not any(name.startswith(_OURS) for name in state)
    names = {
        ours.removeprefix(_OURS) if alone else ours: theirs.removeprefix(_THEIRS)
        if alone
        else theirs
        for theirs, ours in names.items()
    }
    out = {}
    for name, tensor in state.items():
        module, _, leaf = name.rpartition(".")
        if module not in names:
            raise ValueError(f"{name} has no counterpart in MMDetection")
        out[f"{names[module]}.{leaf}"] = _reorder_anchors(module, tensor, (_SCALES, _RATIOS))
    return out


def _is_detector(state: State) -> bool:
    """Whether an MMDetection state dict holds a detector and not a backbone alone."""
    return any(name.startswith("neck.") for name in state)


def _backbone(state: State) -> tuple[str, DictConfig]:
    """Name and node of the backbone in a converted state dict."""
    shapes = {name.removeprefix(_OURS): tuple(tensor.shape) for name, tensor in state.items()}
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


def _plain(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """MMDetection's own `meta` in what lay beside a state dict."""
    inner = meta.get("meta")
    return inner if isinstance(inner, Mapping) else {}


def _config_text(meta: Mapping[str, Any]) -> str:
    return str(_plain(meta).get("cfg") or _plain(meta).get("config") or "")


def _input_format(meta: Mapping[str, Any]) -> str | None:
    """The channel order that MMDetection's `meta` tells by its config, or by the model's name."""
    said = set(re.findall(r"to_rgb['\"]?\s*[:=]\s*(True|False)", _config_text(meta)))
    if len(said) == 1:
        return {"True": "RGB", "False": "BGR"}[said.pop()]
    # All RegNet models with polygons as targets, and no other, were trained on RGB.
    return "RGB" if re.search("ms(train)?-poly", str(meta.get("meta"))) else None


def _statistics(meta: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """`mean` and `std` of the config, in the order of the model's channels; None if it has none,
    or ImageNet's, whose order follows the channels'.

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
        return None
    return found["mean"], found["std"]


def class_names(meta: Mapping[str, Any]) -> list[str]:
    """The names of the classes that MMDetection's file holds; empty if it has none."""
    said = _plain(meta).get("dataset_meta")
    names = {**_plain(meta), **(said if isinstance(said, Mapping) else {})}
    found = names.get("classes") or names.get("CLASSES") or ()
    return [str(each) for each in found] if isinstance(found, list | tuple) else []


def _modules(resnet: bool, retinanet: bool) -> dict[str, str]:
    """All modules that a kind of detector may have; neither side has a name twice."""
    backbone = _NAMES["resnet" if resnet else "regnet"]
    names = {_THEIRS + theirs: _OURS + ours for theirs, ours in backbone["stem"].items()}
    for stage, number in itertools.product((1, 2, 3, 4), range(_MOST_BLOCKS)):
        here = f"res{stage + 1}.{number}" if resnet else f"s{stage}.b{number + 1}"
        for theirs, ours in backbone["block"].items():
            names[f"{_THEIRS}layer{stage}.{number}.{theirs}"] = f"{_OURS}{here}.{ours}"
    # RetinaNet's pyramid begins at the second stage.
    for index, level in enumerate(range(3 if retinanet else 2, 6)):
        names[f"neck.lateral_convs.{index}.conv"] = f"backbone.fpn_lateral{level}"
        names[f"neck.fpn_convs.{index}.conv"] = f"backbone.fpn_output{level}"
    if retinanet:
        return names | _NAMES["retinanet"]
    for stage, (theirs, ours) in itertools.product(
        ("", "0.", "1.", "2."), _NAMES["roi_heads"].items()
    ):
        names[f"roi_head.{theirs % stage}"] = f"roi_heads.{ours % stage}"
    return names | _NAMES["rpn"]


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
