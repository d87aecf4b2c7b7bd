"""Whether a model's anchors suit a data set's boxes, and anchors that do."""

import math
from dataclasses import dataclass, replace

import numpy as np
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from omegaconf import DictConfig, OmegaConf

from d2_regnet.data.objects import objects_of
from d2_regnet.utils.signatures import calls

from .adapt import test_size
from .datasets import DataSet

__all__ = ["Anchors", "anchors_of", "boxes_as_resized", "fitted", "suit_anchors"]

_IOU = 0.5
_TOO_MANY = 0.05  # of the boxes without an anchor of that IoU
_SCALES = 2.0 ** np.arange(-4, 3.01, 0.25)
_LARGER = (1.25, 1.5, 2, 2.5, 3, 4)  # times the short edge
_LOOKED_AT = 20_000  # boxes


@dataclass(frozen=True)
class Anchors:
    """
    Attributes:
        sizes: of each level, square roots of areas in pixels of the resized image.
        ratios: heights over widths, of every size.
        strides: of each level, in pixels.
        offset: of the first anchor's centre, in strides.
    """

    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]
    strides: tuple[int, ...]
    offset: float = 0.0

    def missed(self, boxes: np.ndarray) -> float:
        """The share, 0 to 1, of boxes (N, 4), as x0, y0, width, height, that no anchor overlaps
        with an IoU of 0.5."""
        sides = boxes[:, 2:]
        best = np.zeros(len(boxes))
        for sizes, stride in zip(self.sizes, self.strides):
            centers = (boxes[:, :2] + sides / 2) / stride - self.offset
            apart = np.abs(centers - np.round(centers)) * stride  # from the nearest anchor's centre
            for size in sizes:
                for ratio in self.ratios:
                    anchor = size * np.array([ratio**-0.5, ratio**0.5])
                    shared = np.minimum((sides + anchor) / 2 - apart, np.minimum(sides, anchor))
                    shared = shared.clip(0).prod(axis=1)
                    union = sides.prod(axis=1) + anchor.prod() - shared
                    best = np.maximum(best, shared / union)
        return float((best < _IOU).mean())

    def __str__(self) -> str:
        ratios = ", ".join(f"{ratio:.2g}" for ratio in self.ratios)
        return f"{self.sizes[0][0]:.3g} to {self.sizes[-1][-1]:.3g} pixels, ratios {ratios}"


def anchors_of(cfg: DictConfig) -> Anchors | None:
    """Those of a LazyConfig's model; None if it has none, or other ratios at each level."""
    for node in calls(cfg.model, DefaultAnchorGenerator):
        sizes, ratios = (OmegaConf.to_container(node[key]) for key in ("sizes", "aspect_ratios"))
        if isinstance(ratios[0], list):
            if any(each != ratios[0] for each in ratios):
                return None
            ratios = ratios[0]
        strides = tuple(node.strides)
        sizes = sizes if isinstance(sizes[0], list) else [sizes]
        sizes = tuple(map(tuple, sizes * len(strides) if len(sizes) == 1 else sizes))
        return Anchors(sizes, tuple(ratios), strides, node.get("offset", 0.0))
    return None


def suit_anchors(cfg: DictConfig, train: DataSet, *, fit: bool) -> list[str]:
    """Compares the anchors of a planned config with the boxes that it is to learn.

    Args:
        cfg: with its sizes of images set; changed in place where `fit` asks for it.
        train: the training data.
        fit: take anchors that suit the boxes better, where more than a twentieth of them have no
            anchor with an IoU of 0.5.

    Returns:
        Lines for the user: what was found and done, or what to do.

    Raises:
        ValueError: there is nothing to fit.
    """
    own = anchors_of(cfg)
    if own is None:
        if fit:
            raise ValueError("--fit-anchors: the model has no anchors, or other ratios by level")
        return []
    short, longest = test_size(cfg)
    boxes = boxes_as_resized(train.coco, short, longest)
    missed = own.missed(boxes)
    if missed <= _TOO_MANY:
        return [f"the anchors suit {1 - missed:.0%} of the boxes: they stay"] if fit else []
    better = fitted(own, boxes)
    found = f"{missed:.0%} of the boxes have no anchor with an IoU of 0.5"
    offer = f"anchors of {better} ({better.missed(boxes):.0%})"
    if fit:
        for node in calls(cfg.model, DefaultAnchorGenerator):
            node.sizes = [list(each) for each in better.sizes]
            node.aspect_ratios = [list(better.ratios)]
        return [f"{found}: the model takes {offer}"]
    ways = f"--fit-anchors takes {offer}"
    larger = (factor for factor in _LARGER if own.missed(factor * boxes) <= _TOO_MANY)
    if factor := next(larger, None):
        larger_edge = math.ceil((short or train.short_edge) * factor)
        ways += f"; --short-edge {larger_edge} enlarges the images"
    return [f"{found}: {ways}"]


def boxes_as_resized(coco: dict, short_edge: int | None, max_size: int | None) -> np.ndarray:
    """The boxes of a COCO dict in pixels of the model's images, (N, 4) as x0, y0, width, height.

    Args:
        short_edge, max_size: see Detectron2's `ResizeShortestEdge`; None does not resize.
    """
    scales = {}
    for image in coco["images"]:
        short, long = sorted((image["width"], image["height"]))
        scale = short_edge / short if short_edge else 1.0
        scales[image["id"]] = min(scale, max_size / long) if max_size else scale
    boxes = [np.multiply(each["bbox"], scales[each["image_id"]]) for each in objects_of(coco)]
    return np.array(boxes[:: max(1, len(boxes) // _LOOKED_AT)])


def fitted(anchors: Anchors, boxes: np.ndarray) -> Anchors:
    """As many anchors that miss the fewest boxes: all sizes times one factor, with the ratios as
    they are or as k-means finds them. Each level keeps its part of the sizes, as its stride asks.
    """
    means = _k_means(np.log(boxes[:, 3] / boxes[:, 2]), len(anchors.ratios))
    candidates = [
        replace(
            anchors,
            ratios=ratios,
            sizes=tuple(tuple(float(s * scale) for s in sizes) for sizes in anchors.sizes),
        )
        for ratios in (anchors.ratios, tuple(float(each) for each in np.exp(means)))
        for scale in sorted(_SCALES, key=lambda scale: abs(np.log(scale)))
    ]
    return min(candidates, key=lambda each: each.missed(boxes))  # of equals the least changed


def _k_means(values: np.ndarray, k: int) -> np.ndarray:
    """(k,) means of numbers (N,), from their quantiles on."""
    means = np.quantile(values, (np.arange(k) + 0.5) / k)
    for _ in range(50):
        nearest = np.abs(values[:, None] - means).argmin(axis=1)
        means = np.array(
            [values[nearest == i].mean() if (nearest == i).any() else means[i] for i in range(k)]
        )
    return means
