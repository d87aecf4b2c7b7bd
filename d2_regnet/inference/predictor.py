"""A trained detector, called on images."""

import functools
import io
import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch import GeneralizedRCNN, RetinaNet
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from d2_regnet.archs import suggest
from d2_regnet.checkpoint.fitting import load_fitting
from d2_regnet.data.images import read_image, to_8_bits, to_array

from .models import dataset_metadata, find_model, number_of_classes
from .optimize import optimize_for_inference
from .prediction import Prediction

__all__ = ["Image", "Predictor"]

logger = logging.getLogger(__name__)
THRESHOLD = 0.5  # the lowest score kept, in Python and by `d2-regnet predict`
_ORDERS = ("RGB", "BGR")
ImageLike = str | os.PathLike | np.ndarray | Image.Image
_ONE = ImageLike | bytes | Mapping | io.IOBase | torch.Tensor  # of which some are no image


class Predictor:
    """Predicts with the config's own resizing, in the channel order that the weights were trained
    on.

        predictor = Predictor.from_zoo("mask_rcnn_regnetx_400mf_fpn_3x")
        predictor("input.jpg").to_coco()
        predictor(cv2.imread("input.jpg"), array_format="BGR")

    **Arrays are RGB** unless `array_format="BGR"` says otherwise, as it must for what OpenCV
    reads. Detectron2's `DefaultPredictor` takes BGR. Of files and PIL images the order is known.
    """

    def __init__(
        self,
        cfg: DictConfig | CfgNode,
        weights: str,
        *,
        threshold: float = THRESHOLD,
        classes: Sequence[str] | None = None,
        batch_size: int = 1,
        device: str | None = None,
        dtype: torch.dtype | None = None,
    ):
        """
        Args:
            cfg: a LazyConfig or a yacs config, of any of this package's or Detectron2's detectors.
            weights: a detector's checkpoint: a file, or an address that Detectron2 takes.
            threshold: the lowest score kept, 0 to 1. The model's config has one of its own, 0.05
                usually, below which nothing is found.
            classes: names of the classes kept; default: all.
            batch_size: images predicted together, at most: those of one size, so that the others
                in a batch do not change an image's answer (see docs/guides/predict.md).
            device: such as "cpu" or "cuda:1"; default: the GPU, if there is one.
            dtype: prepare the model with `optimize_for_inference` in this type.

        Raises:
            ValueError: an impossible argument, an unknown class, weights that leave a part of the
                model without values or were trained on other images (see `Fit.check`), or a file
                that is not a checkpoint.
            FileNotFoundError: there is no such checkpoint.
        """
        self._set_options(threshold, batch_size)
        self.device = _device(device)
        model = _build(cfg, self.device)
        fit = load_fitting(model, weights)
        fit.check(weights, whole=True, allow_missing=None)
        self.metadata = dataset_metadata(cfg, number_of_classes(model), fit.classes)
        self._kept = indices(classes, self.metadata.thing_classes)
        model.eval()
        self.model: GeneralizedRCNN | RetinaNet = (
            model if dtype is None else optimize_for_inference(model, dtype)
        )
        self.input_format, self.augmentations = _input(cfg)

    def _set_options(self, threshold: float, batch_size: int) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"the threshold is a score from 0 to 1, not {threshold}")
        if batch_size < 1:
            raise ValueError(f"the batch size must be at least 1, not {batch_size}")
        self.threshold, self.batch_size = threshold, batch_size

    @classmethod
    def from_zoo(cls, name: str, **options) -> "Predictor":
        """The predictor of a model of the zoo; its published weights are downloaded once.

        Args:
            name: see `model_zoo.list()`.
            **options: the constructor's.

        Raises:
            ValueError: no such model, or none with published weights.
        """
        return cls(*find_model(name), **options)

    @property
    def classes(self) -> list[str]:
        """The names of all the model's classes, by index."""
        return list(self.metadata.thing_classes)

    def __call__(
        self, images: ImageLike | Sequence[ImageLike], *, array_format: str | None = None
    ) -> Prediction | list[Prediction]:
        """
        Args:
            images: one image or several: paths, PIL images, which are turned as their EXIF
                orientation says, or uint8 arrays (H, W, 3), also (H, W) and, with transparency,
                which is dropped, (H, W, 4). Values of 16 bits are scaled to 8.
            array_format: the channel order of arrays, "RGB" or "BGR"; default: RGB, as a warning
                says once.

        Returns:
            A `Prediction`, or a list of them for several images. Of many, `stream` holds one
            batch at a time in memory.

        Raises:
            ValueError: an array of another kind, or no such order.
            OSError: a file that is missing or not an image.
        """
        if isinstance(images, _ONE) or not isinstance(images, Iterable):
            return next(self.stream([images], array_format=array_format))
        return list(self.stream(images, array_format=array_format))

    def stream(
        self, images: Iterable[ImageLike], *, array_format: str | None = None
    ) -> Iterator[Prediction]:
        """As calling it with `images` and `array_format`, but one prediction after the other."""
        if array_format is not None and array_format not in _ORDERS:
            raise ValueError(f"array_format must be RGB or BGR, not {array_format!r}")
        images = iter(images)
        while batch := list(islice(images, self.batch_size)):
            yield from self._predict([self._read(each, array_format) for each in batch])

    def _read(self, image: ImageLike, array_format: str | None) -> np.ndarray:
        """uint8 (H, W, 3) in the model's channel order."""
        if isinstance(image, str | os.PathLike):
            return read_image(os.fspath(image), self.input_format)
        if isinstance(image, Image.Image):
            return to_array(image, self.input_format)
        array, order = _three_channels(image), array_format
        if order is None:
            _say_the_order()
            order = "RGB"
        return array if order == self.input_format else array[:, :, ::-1]

    @torch.no_grad()
    def _predict(self, images: list[np.ndarray]) -> list[Prediction]:
        stride = max(1, self.model.backbone.size_divisibility)
        # By the size that the model pads to: padding to another image's would change what is found
        # near the edges.
        groups = defaultdict(dict)
        for i, image in enumerate(images):
            height, width = image.shape[:2]
            augmented = T.AugInput(image)
            T.AugmentationList(self.augmentations)(augmented)
            tensor = torch.as_tensor(np.ascontiguousarray(augmented.image.transpose(2, 0, 1)))
            padded = tuple(-(-side // stride) for side in tensor.shape[1:])
            groups[padded][i] = {"image": tensor, "height": height, "width": width}
        found = {}
        for group in groups.values():
            outputs = self.model(list(group.values()))
            found |= {i: output["instances"].to("cpu") for i, output in zip(group, outputs)}
        return [Prediction(self._filtered(found[i]), self.metadata) for i in range(len(images))]

    def _filtered(self, instances):
        keep = instances.scores >= self.threshold
        if self._kept is not None:
            keep &= torch.isin(instances.pred_classes, torch.tensor(self._kept))
        return instances[keep]


def _device(name: str | None) -> torch.device:
    gpus = torch.cuda.device_count()
    try:
        device = torch.device(name or ("cuda" if gpus else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"{name!r} is not a device: cpu, cuda or cuda:N") from error
    if device.type == "cuda" and (device.index or 0) >= gpus:
        raise ValueError(f"device {name}: there are {gpus} GPU(s) here")
    return device


def _build(cfg: DictConfig | CfgNode, device: torch.device) -> GeneralizedRCNN | RetinaNet:
    if isinstance(cfg, CfgNode):
        cfg = cfg.clone()
        cfg.MODEL.DEVICE = str(device)
        return build_model(cfg)
    return instantiate(cfg.model).to(device)


def _input(cfg: DictConfig | CfgNode) -> tuple[str, list[T.Augmentation]]:
    """The channel order and the augmentations of test images."""
    if isinstance(cfg, CfgNode):
        size = [cfg.INPUT.MIN_SIZE_TEST] * 2
        return cfg.INPUT.FORMAT, [T.ResizeShortestEdge(size, cfg.INPUT.MAX_SIZE_TEST)]
    mapper = OmegaConf.select(cfg, "dataloader.test.mapper")
    if mapper is None:
        raise ValueError("the config has no dataloader.test.mapper, which says how to resize")
    return mapper.image_format, [instantiate(each) for each in mapper.augmentations]


def indices(names: Sequence[str] | None, known: list[str]) -> list[int] | None:
    if names is None:
        return None
    for name in names:
        if name not in known:
            raise ValueError(f"the model has no class {name!r}: {suggest(name, known)}")
    return [known.index(name) for name in names]


def _three_channels(array) -> np.ndarray:
    kind = getattr(array, "dtype", type(array).__name__)
    if array is None:
        kind = "None, which is what cv2.imread gives for a file that it cannot read"
    if not isinstance(array, np.ndarray) or array.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an image is a path, a PIL image or a uint8 or uint16 array, not {kind}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or not array.size:
        raise ValueError(f"an image's array is (H, W, 3), not {array.shape}")
    if array.dtype == np.uint16:
        array = to_8_bits(array)
    return array.repeat(3, axis=2) if array.shape[2] == 1 else array[:, :, :3]


@functools.cache
def _say_the_order() -> None:
    """Once a process."""
    logger.warning(
        "Arrays are taken as RGB. Say array_format='BGR' for those of OpenCV (and of Detectron2's "
        "DefaultPredictor), or array_format='RGB' to be rid of this line"
    )
