"""A file of `d2-regnet export`, called as the detector that it was made from."""

import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchvision.ops  # noqa: F401 (what loading a TorchScript file needs)
from detectron2.config import CfgNode
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig

from d2_regnet.utils.lazy import import_extra

from .models import find_model
from .prediction import Prediction
from .predictor import THRESHOLD, Predictor, indices

__all__ = [
    "METADATA",
    "SUFFIXES",
    "ExportedPredictor",
    "find_predictor",
    "load_exported",
    "load_predictor",
]

METADATA = "metadata.json"  # in a TorchScript file; in ONNX each of its keys is a property
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt"}  # of each format
_TEXTS = ("model", "producer", "input")
Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def load_exported(path: str | os.PathLike) -> tuple[Run, dict]:
    """An exported file as a function of an image, in as many threads as PyTorch uses here.

    Args:
        path: what `export.Export.write` has written, `.onnx` or `.pt`.

    Returns:
        A function from uint8 (height, width, 3), RGB, to arrays by the outputs' names; metadata.

    Raises:
        ImportError: onnxruntime is missing.
        ValueError: another program has written the file, or it is damaged.
        FileNotFoundError: there is no such file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    load = _load_onnx if Path(path).suffix == SUFFIXES["onnx"] else _load_torchscript
    try:
        run, metadata = load(os.fspath(path))
    except (RuntimeError, KeyError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} cannot be read as a file of `d2-regnet export`: {reason}"
        ) from error
    if "class_names" not in metadata:
        raise ValueError(f"{path} has no class_names: it is no file of `d2-regnet export`")
    return run, metadata


def find_predictor(
    model: str, weights: str | None = None
) -> tuple[Callable[..., Predictor], DictConfig | CfgNode | None, str]:
    """Whatever `--model` takes: `find_model`'s, or a file of `d2-regnet export`.

    Returns:
        What builds its predictor, of the options of `Predictor`; its config, None for an exported
        file; and where its weights are.

    Raises:
        ValueError, FileNotFoundError: from `find_model`, or weights for a file that holds its own.
    """
    if not model.endswith((*SUFFIXES.values(),)):
        cfg, weights = find_model(model, weights)
        return partial(Predictor, cfg, weights), cfg, weights
    if weights is not None:
        raise ValueError(f"--weights: {model} holds its own")
    if not Path(model).is_file():
        raise FileNotFoundError(f"{model}: there is no such file")
    return partial(ExportedPredictor, model), None, model


def load_predictor(model: str, weights: str | None = None, **options) -> Predictor:
    """The predictor of a model, a run or an exported file: see `find_predictor`, `Predictor`."""
    return find_predictor(model, weights)[0](**options)


class ExportedPredictor(Predictor):
    """`Predictor`'s calls and results, computed by an exported file, on the CPU.

    Images are resized within the file, one after the other. No score is below the file's own
    `score_threshold`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        threshold: float = THRESHOLD,
        classes: Sequence[str] | None = None,
        batch_size: int = 1,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """
        Args:
            path: see `load_exported`.
            threshold, classes, batch_size: as for `Predictor`.
            device: None or "cpu".
            dtype: None; a file computes in the type that it was written in.

        Raises:
            ValueError: an impossible argument or file.
            FileNotFoundError, ImportError: see `load_exported`.
        """
        if device not in (None, "cpu") or dtype is not None:
            raise ValueError(f"{path}: an exported file runs on the CPU, in its own precision")
        self._set_options(threshold, batch_size)
        run, facts = load_exported(path)
        names = facts["class_names"]
        ids = facts.get("category_ids", range(1, len(names) + 1))
        self.metadata = Metadata(
            thing_classes=names,
            thing_dataset_id_to_contiguous_id={each: i for i, each in enumerate(ids)},
        )
        self._kept = indices(classes, names)
        self.device, self.input_format, self.augmentations = torch.device("cpu"), "RGB", []
        self.model = _Detector(run)

    def _predict(self, images: list[np.ndarray]) -> list[Prediction]:
        found = self.model(
            [{"image": torch.from_numpy(np.array(each)).permute(2, 0, 1)} for each in images]
        )
        return [Prediction(self._filtered(each["instances"]), self.metadata) for each in found]


class _Detector:
    """The interface of Detectron2's detectors: dicts of `image`, (3, H, W), to `instances`."""

    def __init__(self, run: Run):
        self._run = run

    def __call__(self, inputs: list[dict]) -> list[dict]:
        return [{"instances": self._found(each["image"])} for each in inputs]

    def _found(self, image: torch.Tensor) -> Instances:
        pixels = np.ascontiguousarray(image.permute(1, 2, 0))
        found = {name: torch.from_numpy(value) for name, value in self._run(pixels).items()}
        instances = Instances(pixels.shape[:2])
        instances.pred_boxes = Boxes(found["boxes"])
        instances.scores, instances.pred_classes = found["scores"], found["classes"]
        if "masks" in found:
            instances.pred_masks = found["masks"]
        return instances


def _load_onnx(path: str) -> tuple[Run, dict]:
    onnxruntime = import_extra("onnxruntime", "export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(path, options)
    except Exception as error:  # its own classes derive from nothing else
        raise RuntimeError(error) from error
    names = [each.name for each in session.get_outputs()]
    props = session.get_modelmeta().custom_metadata_map
    metadata = {k: v if k in _TEXTS else json.loads(v) for k, v in props.items()}
    return lambda image: dict(zip(names, session.run(names, {"image": image}))), metadata


def _load_torchscript(path: str) -> tuple[Run, dict]:
    extra = {METADATA: ""}
    module = torch.jit.load(path, _extra_files=extra)
    metadata = json.loads(extra[METADATA])

    def run(image):
        with torch.no_grad():
            found = module(torch.from_numpy(np.array(image)))
        return dict(zip(metadata["outputs"], (each.numpy() for each in found)))

    return run, metadata
