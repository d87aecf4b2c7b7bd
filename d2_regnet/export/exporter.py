"""Writes a predictor's whole detector as one file, ONNX or TorchScript."""

import copy
import io
import json
import os
import tempfile
import warnings
from pathlib import Path

import detectron2.data.transforms as T
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch import RetinaNet
from torch import nn
from torch.onnx.errors import SymbolicValueError, UnsupportedOperatorError
from torch.onnx.symbolic_helper import parse_args

import d2_regnet
from d2_regnet.inference import Predictor
from d2_regnet.inference.exported import METADATA, SUFFIXES
from d2_regnet.inference.optimize import fold_norms
from d2_regnet.inference.pooler import ChannelsLastPooler
from d2_regnet.modeling.backbone.deform import ModulatedDeformConv
from d2_regnet.utils.files import write_file
from d2_regnet.utils.lazy import import_extra
from d2_regnet.utils.modules import stages

from .graph import traceable
from .resizing import ShortestEdge

FORMATS = tuple(SUFFIXES)
# RoIAlign is Detectron2's from 16 on; 20 is the last that PyTorch's tracing exporter writes.
OPSETS = range(16, 21)
# The first with deformable convolution; ONNX Runtime reads it from version 1.15 on.
DEFAULT_OPSET = 19
_DEFORMABLE_OPSET = 19
_AXES = {
    "image": {0: "height", 1: "width"},
    "boxes": {0: "detections"},
    "scores": {0: "detections"},
    "classes": {0: "detections"},
    "masks": {0: "detections", 1: "height", 2: "width"},
}


class Export:
    """A detector made ready to be written; making one finds out whether a format can carry it.

    Attributes:
        metadata: what is written into the file beside the detector: texts, numbers and lists.
    """

    def __init__(
        self, predictor: Predictor, format: str, *, opset: int = DEFAULT_OPSET, name: str = ""
    ):
        """
        Args:
            predictor: the file answers as it does, all classes and its `threshold` included. It
                stays as it is.
            format: "onnx" or "torchscript".
            opset: the version of ONNX's operators, 16 to 20; no matter for "torchscript".
            name: what the metadata calls the model.

        Raises:
            ValueError: the format cannot carry this model, or there is no such format or opset.
            ImportError: the onnx package is missing.
        """
        if format not in FORMATS:
            raise ValueError(f"the format must be {' or '.join(FORMATS)}, not {format!r}")
        _check_model(predictor.model)
        if format == "onnx":
            import_extra("onnx", "export")
            _check_opset(predictor.model, opset)
        self.shortest_edge = shortest_edge(predictor.augmentations)
        self.model = copy.deepcopy(predictor.model).cpu().eval().requires_grad_(False)
        fold_norms(self.model)
        score, count = limits(self.model)
        score = max(score, predictor.threshold)
        set_limits(self.model, score_threshold=score)
        self.format, self.opset, self.input_format = format, opset, predictor.input_format
        self.metadata = {
            "model": name,
            "producer": f"d2_regnet {d2_regnet.__version__}",
            "input": "image: uint8 (height, width, 3), RGB, of any size",
            "outputs": _outputs(self.model),
            "class_names": predictor.classes,
            "category_ids": list(predictor.metadata.thing_dataset_id_to_contiguous_id),
            "short_edge": self.shortest_edge and self.shortest_edge.length,
            "max_size": self.shortest_edge and self.shortest_edge.max_size,
            "score_threshold": score,
            "max_detections": count,
        }

    def write(self, path: str | os.PathLike) -> None:
        """Traces the detector and writes `path`, which appears only when it is whole.

        Raises:
            ValueError: the format has no operation for something in the model; nothing is written.
            OSError: the file cannot be written.
        """
        # Any image will do. Its sides differ, so that the tracer cannot take one for the other.
        example = torch.zeros((160, 224, 3), dtype=torch.uint8)
        module = traceable(self.model, self.shortest_edge, self.input_format, example)
        with warnings.catch_warnings(), torch.no_grad():
            # Each warns of a shape check that the trace leaves out, or that tracing is old.
            warnings.simplefilter("ignore")
            as_bytes = self._onnx if self.format == "onnx" else self._torchscript
            content = as_bytes(module, example)
        write_file(path, content)

    def _torchscript(self, module: nn.Module, example: torch.Tensor) -> bytes:
        traced = torch.jit.trace(module, example, check_trace=False)
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer, _extra_files={METADATA: json.dumps(self.metadata)})
        return buffer.getvalue()

    def _onnx(self, module: nn.Module, example: torch.Tensor) -> bytes:
        onnx = import_extra("onnx", "export")
        names = ["image", *self.metadata["outputs"]]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            try:
                # torchvision tells the exporter of its other operators, not of this one.
                name = "torchvision::deform_conv2d"
                torch.onnx.register_custom_op_symbolic(name, _deform_conv, _DEFORMABLE_OPSET)
                torch.onnx.export(
                    module,
                    (example,),
                    path,
                    dynamo=False,
                    opset_version=self.opset,
                    input_names=names[:1],
                    output_names=names[1:],
                    dynamic_axes={each: _AXES[each] for each in names},
                )
            except (UnsupportedOperatorError, SymbolicValueError) as error:
                raise ValueError(f"ONNX cannot carry this model: {error}") from error
            written = onnx.load(path)
        texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in self.metadata.items()}
        onnx.helper.set_model_props(written, texts)
        onnx.checker.check_model(written)
        return written.SerializeToString()


def shortest_edge(augmentations: list[T.Augmentation]) -> ShortestEdge | None:
    """The resizing of a config's test images.

    Raises:
        ValueError: it is neither none nor Detectron2's `ResizeShortestEdge` of one length.
    """
    if not augmentations:
        return None
    only = augmentations[0]
    if len(augmentations) > 1 or type(only) is not T.ResizeShortestEdge:
        raise ValueError(
            "the config's test images go through "
            f"{', '.join(type(each).__name__ for each in augmentations)}; an exported file resizes "
            "with ResizeShortestEdge alone, or not at all"
        )
    lengths = set(only.short_edge_length)
    if len(lengths) > 1:
        raise ValueError(f"test images are resized to one of {sorted(lengths)}: name one length")
    return ShortestEdge(int(lengths.pop()), int(only.max_size))


def _check_opset(model: nn.Module, opset: int) -> None:
    if opset not in OPSETS:
        raise ValueError(
            f"opset {opset}: from {OPSETS[0]} on ONNX has Detectron2's RoIAlign, and {OPSETS[-1]} "
            "is the last that PyTorch's tracing exporter writes"
        )
    deformable = any(isinstance(module, ModulatedDeformConv) for module in model.modules())
    if deformable and opset < _DEFORMABLE_OPSET:
        raise ValueError(
            f"opset {opset} cannot carry this model: ONNX has deformable convolution from opset "
            f"{_DEFORMABLE_OPSET} on"
        )


def _check_model(model: nn.Module) -> None:
    heads = getattr(model, "roi_heads", None)
    keypoints = getattr(heads, "keypoint_on", False)
    if keypoints or not isinstance(model, GeneralizedRCNN | RetinaNet):
        raise ValueError(
            f"{type(model).__name__}{' with keypoints' if keypoints else ''} cannot be exported: "
            "RetinaNet and Faster, Mask and Cascade R-CNN can"
        )
    if any(isinstance(m, ChannelsLastPooler) or "forward" in vars(m) for m in model.modules()):
        raise ValueError(
            "a model of optimize_for_inference computes in ways that cannot be exported: give the "
            "predictor no dtype"
        )


def limits(model: nn.Module) -> tuple[float, int]:
    """A detector's lowest score, and how many detections of an image it reports at most."""
    holder, names = _limit_holders(model)[-1]
    return tuple(getattr(holder, name) for name in names)


def set_limits(
    model: nn.Module, score_threshold: float | None = None, max_detections: int | None = None
) -> None:
    """Changes the `limits` of a detector in place; None leaves one as it is.

    Args:
        model: a detector.
        score_threshold: the lowest score reported, from 0 to 1.
        max_detections: of an image, at least 1.

    Raises:
        ValueError: a score that is not from 0 to 1, or less than one detection.
    """
    if score_threshold is not None and not 0 <= score_threshold <= 1:
        raise ValueError(f"the score threshold is from 0 to 1, not {score_threshold}")
    if max_detections is not None and max_detections < 1:
        raise ValueError(f"there must be room for at least 1 detection, not {max_detections}")
    for holder, names in _limit_holders(model):
        for name, value in zip(names, (score_threshold, max_detections)):
            if value is not None:
                setattr(holder, name, value)


def _limit_holders(model):
    """The modules that hold the limits, with the names of the two."""
    if isinstance(model, RetinaNet):
        return [(model, ("test_score_thresh", "max_detections_per_image"))]
    predictors = stages(model.roi_heads.box_predictor)
    return [(each, ("test_score_thresh", "test_topk_per_image")) for each in predictors]


def _outputs(model) -> dict[str, str]:
    outputs = {
        "boxes": "float32 (detections, 4): x0, y0, x1, y1 in the image's pixels",
        "scores": "float32 (detections,): 0 to 1, highest first",
        "classes": "int64 (detections,): indices into class_names",
    }
    if getattr(getattr(model, "roi_heads", None), "mask_on", False):
        outputs["masks"] = "bool (detections, height, width)"
    return outputs


@parse_args(*"vvvvv", *"iiiiiiii", "b")
def _deform_conv(
    g, x, weight, offset, mask, bias, sh, sw, ph, pw, dh, dw, groups, offset_groups, use_mask
):
    inputs = [x, weight, offset, bias, *([mask] if use_mask else [])]
    return g.op(
        "DeformConv",
        *inputs,
        strides_i=(sh, sw),
        pads_i=(ph, pw, ph, pw),
        dilations_i=(dh, dw),
        group_i=groups,
        offset_group_i=offset_groups,
    )
