"""An object as a format has it, as what a COCO annotation says of it."""

import math
from dataclasses import dataclass
from typing import Any

from pycocotools import mask as mask_utils

from d2_regnet.data.masks import FAR

__all__ = ["Shape", "Unusable", "entry_of", "join", "numbers", "plain_rle", "size_of"]


class Unusable(ValueError):
    """An object that is understood, and that a detector cannot be taught: the reason; its class."""

    def __init__(self, reason: str, name: str | None = None):
        super().__init__(reason)
        self.name = name


@dataclass
class Shape:
    """An object in pixels.

    Attributes:
        name: its class.
        box: x0, y0, x1, y1; None: that of the outline.
        outline: polygons, each [x, y, x, y, ...]; or compressed RLE. None: it has no mask.
        group: shapes of one image, class and group are parts of one object.
        remarks: what is worth knowing about it.
    """

    name: str
    box: tuple[float, float, float, float] | None = None
    outline: list[list[float]] | dict | None = None
    group: Any = None
    remarks: tuple[str, ...] = ()


def numbers(values) -> list[float]:
    """Finite numbers of numbers or texts.

    Raises:
        ValueError: naming the first that is none.
    """
    read = []
    for value in values:
        try:
            if isinstance(value, bool | None):
                raise TypeError
            if isinstance(value, str) and "_" in value:  # which Python reads
                raise ValueError
            read.append(float(value))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{value!r} is not a number") from None
        if not math.isfinite(read[-1]):
            raise ValueError(f"{value!r} is not a finite number")
    return read


def size_of(sides: list[float]) -> tuple[int, int] | None:
    """A written size; None if it is not one, as the 0 x 0 of some tools."""
    width, height = map(int, sides)
    return (width, height) if min(width, height) > 0 and [width, height] == sides else None


def entry_of(shape: Shape, size: tuple[int, int]) -> dict:
    """What a COCO annotation says of the shape alone."""
    remarks, outline = [], shape.outline
    if isinstance(outline, list):
        usable = [polygon for polygon in outline if len(polygon) >= 6]
        if outline and not usable:
            remarks.append("a polygon of under three points: an object without a mask")
        outline = usable
    box = shape.box or _bounds(shape.outline)
    reach = max((abs(value) for value in (*(box or ()), *(_bounds(outline) or ()))), default=0)
    if reach > FAR * max(size):  # where pycocotools would take all memory, or crash
        raise ValueError(f"it reaches {reach:.6g}, in an image of {size[0]} x {size[1]} pixels")
    if box is None or box[0] == box[2] or box[1] == box[3]:
        raise Unusable("a box without width or height", shape.name)
    area = _area(outline, size) if outline else 0.0
    if outline and not area:
        remarks.append("an outline that covers no pixel: an object without a mask")
    x0, y0, x1, y1 = box
    entry = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": area or (x1 - x0) * (y1 - y0)}
    if area:
        entry["segmentation"] = outline
    return entry | {"remarks": remarks}


def _bounds(outline) -> tuple[float, float, float, float] | None:
    if outline is not None and not isinstance(outline, list):
        x, y, width, height = (float(each) for each in mask_utils.toBbox(outline))
        return x, y, x + width, y + height
    points = [value for polygon in outline or [] for value in polygon]
    if not points:
        return None
    return min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])


def _area(outline, size: tuple[int, int]) -> float:
    """Pixels, as COCO's evaluation counts them."""
    return float(mask_utils.area(_rle(outline, size)))


def _rle(outline, size: tuple[int, int]):
    if not isinstance(outline, list):
        return outline
    return mask_utils.merge(mask_utils.frPyObjects(outline, size[1], size[0]))


def join(whole: dict, part: dict, size: tuple[int, int]) -> None:
    """Adds a part to an object; it has a mask where all its parts have."""
    (x, y, w, h), (left, top, width, height) = whole["bbox"], part["bbox"]
    x0, y0 = min(x, left), min(y, top)
    x1, y1 = max(x + w, left + width), max(y + h, top + height)
    whole["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    one, other = whole.pop("segmentation", None), part.get("segmentation")
    if not one or not other:
        whole["area"] = whole["bbox"][2] * whole["bbox"][3]
        return
    if isinstance(one, list) and isinstance(other, list):
        whole["segmentation"] = one + other
    else:
        whole["segmentation"] = plain_rle(mask_utils.merge([_rle(one, size), _rle(other, size)]))
    whole["area"] = _area(whole["segmentation"], size)


def plain_rle(rle) -> dict:
    """pycocotools' RLE as JSON has it."""
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}
