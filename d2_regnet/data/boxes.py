"""In which form boxes are written: told by their masks, and by where the images end."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["Form", "form_of_boxes"]

# A form -> boxes (N, 4) and image sizes (N, 2) as corners (N, 4): x0, y0, x1, y1 in pixels.
Corners = Callable[[np.ndarray, np.ndarray], np.ndarray]
_ENOUGH = 0.9  # of the boxes must fit a form for it to be named
_HALF = 0.5  # fewer fit their own masks: something is wrong with all
_BEYOND = 0.1  # of the boxes are beyond the image by more than tools round off
_FEW, _MANY = 0.25, 10  # fewer of more boxes fit their masks: no form explains it
_FEWEST = 3  # boxes beyond the image make a pattern
_OVERLAP = 0.5  # IoU of a box and its mask's extent, from which it fits
COCO = "(x, y, width, height) in pixels"


class Form(NamedTuple):
    """What is wrong with the boxes of a data set.

    Attributes:
        name: of the form they fit best; empty if they fit none.
        share: of them that fit it.
        coco: the share that fits COCO's, (x, y, width, height) in pixels.
        evidence: what that was measured by.
    """

    name: str
    share: float
    coco: float
    evidence: str

    def __str__(self) -> str:
        seen = f"{self.coco:.0%} of the boxes {self.evidence} as {COCO}"
        if not self.name:
            return f"{seen}: they are of other images, or of a form that is not known"
        return f"{seen}, {self.share:.0%} as {self.name}, which they probably are"


def _sized(boxes):
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def _centred(boxes):
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def _swapped(boxes):
    return boxes[:, [1, 0, 3, 2]]


def _scaled(boxes, sizes, by: float = 1.0):
    return boxes * np.tile(sizes, 2) / by


def _grown(boxes, by):
    """Corners of what a reader made of other numbers: `by` of the sides was taken off."""
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] * by, boxes[:, 2:]], 1)


_LAYOUTS = {
    "(x, y, width, height)": _sized,
    "corners (x0, y0, x1, y1)": lambda boxes: boxes,
    "centres (x, y, width, height)": _centred,
    "(y, x, height, width)": lambda boxes: _sized(_swapped(boxes)),
    "corners (y0, x0, y1, x1)": _swapped,
    "(x, y, width, height), read as centres": lambda boxes: _sized(_grown(boxes, 0.5)),
    "corners, read as centres": lambda boxes: _grown(boxes, 0.5),
    "(x, y, width, height), read as corners": lambda boxes: _sized(
        np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    ),
}
_UNITS = {
    "in pixels": lambda boxes, sizes: boxes,
    "as fractions of the image": _scaled,
    "in percent of the image": lambda boxes, sizes: _scaled(boxes, sizes, 100),
    "in thousandths of the image": lambda boxes, sizes: _scaled(boxes, sizes, 1000),
    "in pixels, taken for fractions": lambda boxes, sizes: boxes / np.tile(sizes, 2),
}


def form_of_boxes(boxes: np.ndarray, sizes: np.ndarray, extents: np.ndarray) -> Form | None:
    """Whether boxes are something else than COCO's (x, y, width, height) in pixels.

    With masks, the form is sought in which most boxes cover their masks. Without, boxes that are
    all below a pixel are fractions, and where many go beyond their image the form is sought in
    which none does.

    Args:
        boxes: (N, 4) as they are written.
        sizes: (N, 2), width and height of each box's image.
        extents: (N, 4), x0, y0, x1, y1 of each object's mask; NaN if it has none.

    Returns:
        What they are; None if nothing is wrong with them.
    """
    masked = np.isfinite(extents).all(1)
    form = None
    if masked.sum() >= max(1, _HALF * len(boxes)):
        form = _by_masks(boxes[masked], sizes[masked], extents[masked])
    return form or _by_edges(boxes, sizes)


def _by_masks(boxes, sizes, extents) -> Form | None:
    def fitting(corners):
        return float((_iou(corners, extents) >= _OVERLAP).mean())

    shares = _shares(boxes, sizes, fitting)
    coco = shares[COCO]
    if coco >= _HALF:
        return None
    if (extents <= 1).all():
        return Form("", 0.0, coco, "fit their masks, which are below a pixel,")
    scale = _scale(boxes, extents)
    resized = f"{COCO} of images {1 / scale[0]:.3g} and {1 / scale[1]:.3g} times as large"
    shares[resized] = fitting(_sized(boxes * scale))
    found = _best(shares, coco, "fit their masks")
    return found if found.name or (coco < _FEW and len(boxes) >= _MANY) else None


def _shares(boxes, sizes, fitting) -> dict[str, float]:
    return {
        f"{layout} {unit}": fitting(corners(convert(boxes, sizes)))
        for unit, convert in _UNITS.items()
        for layout, corners in _LAYOUTS.items()
    }


def _scale(boxes, extents) -> np.ndarray:
    """(4,): what boxes are to be multiplied by, where they were made on resized images."""
    ratios = []
    for side, extent in zip(boxes[:, 2:].T, (extents[:, 2:] - extents[:, :2]).T):
        known = (side > 0) & np.isfinite(extent)
        ratio = np.median(extent[known] / side[known]) if known.any() else 1.0
        ratios.append(ratio if np.isfinite(ratio) and ratio > 0 else 1.0)
    return np.tile(ratios, 2)


def _by_edges(boxes, sizes) -> Form | None:
    if len(boxes) < _FEWEST:
        return None
    shares = _shares(boxes, sizes, lambda corners: float(_inside(corners, sizes).mean()))
    coco = shares[COCO]
    if (boxes <= 1).all():
        return Form(_fractions(shares), 1.0, coco, "are over a pixel and inside the image")
    if coco > 1 - _BEYOND or round((1 - coco) * len(boxes)) < _FEWEST:
        return None
    # Fractions that are none are far beyond every image, percents and thousandths cannot be told.
    known = {k: v for k, v in shares.items() if k.endswith(("in pixels", "for fractions"))}
    found = _best(known, coco, "are inside the image")
    outside = ((boxes[:, :2] >= sizes) | (boxes[:, :2] + boxes[:, 2:] <= 0)).any(1).mean()
    return found if found.name or max(1 - coco - _HALF, outside - _BEYOND) > 0 else None


def _fractions(shares: dict[str, float]) -> str:
    of_image = {name: share for name, share in shares.items() if "as fractions" in name}
    return max(of_image, key=of_image.__getitem__)


def _best(shares: dict[str, float], coco: float, evidence: str) -> Form:
    name = max(shares, key=shares.__getitem__)
    if shares[name] < _ENOUGH or name == COCO:
        return Form("", shares[name], coco, evidence)
    return Form(name, shares[name], coco, evidence)


def _inside(corners: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Which boxes have an area of over a pixel, and end within 1 % (and a pixel) of the image."""
    slack = np.maximum(1, 0.01 * sizes)
    sides = corners[:, 2:] - corners[:, :2]
    within = (corners[:, :2] >= -slack) & (corners[:, 2:] <= sizes + slack) & (sides >= 1)
    return np.all(within, axis=1)


def _iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    overlap = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = overlap.clip(0).prod(1)
    areas = [(each[:, 2:] - each[:, :2]).clip(0).prod(1) for each in (a, b)]
    return shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)
