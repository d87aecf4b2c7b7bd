"""LabelMe: a JSON file an image, of shapes; X-AnyLabeling's are of the same form.

https://github.com/wkentaro/labelme, `_label_file.py` and `_utils/shape.py`.
"""

import base64
import binascii
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from PIL import Image, UnidentifiedImageError
from pycocotools import mask as mask_utils

from .reading import Document
from .shape import Shape, Unusable, numbers, plain_rle, size_of

NAME, SUFFIX, UNLABELLED, ONE_IMAGE = "labelme", ".json", "skip", True

_CIRCLE = 64  # corners; the polygon has 99.8 % of the area
_WITHOUT_AREA = ("line", "linestrip", "point", "points")
_NO_CLASS = ("__ignore__", "_background_")  # LabelMe's own, of its files of labels


def places(images: Path, annotations: Path) -> tuple[Path, set[Path]]:
    return annotations, set()


def load(path: Path) -> Document:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError, and UnicodeDecodeError
        raise ValueError(f"no JSON: {error}") from error
    shapes = content.get("shapes") if isinstance(content, dict) else None
    if not isinstance(shapes, list):
        raise ValueError("it has no list of shapes")
    size = (content.get("imageWidth"), content.get("imageHeight"))
    image = content.get("imagePath")
    return Document(
        objects=shapes,
        where="shape",
        size=None if None in size else size_of(numbers(size)),
        image=image if isinstance(image, str) and image else None,
        alone=", but in its imageData: labelme_export_json writes it"
        if content.get("imageData")
        else "",
    )


def context(documents, images, annotations, account) -> SimpleNamespace:
    return SimpleNamespace(names=None)


def convert(shape: dict, size: tuple[int, int], context) -> Shape:
    if not isinstance(shape, dict):
        raise ValueError("it is not an object")
    label, kind = shape.get("label"), str(shape.get("shape_type") or "polygon").lower()
    name = str(label).strip() if isinstance(label, str | int) else ""
    if not name:
        raise ValueError(f"its label is {label!r}")
    points = shape.get("points")
    if not isinstance(points, list) or not all(
        isinstance(each, list) and len(each) == 2 for each in points
    ):
        raise ValueError("its points are not pairs of numbers")
    points = [tuple(numbers(point)) for point in points]
    if name in _NO_CLASS:
        raise Unusable(f"LabelMe's {name}, which is no class")
    if kind in _WITHOUT_AREA:
        raise Unusable(f"a {kind}, which has no area", name)
    if kind not in _KINDS:
        raise Unusable(f"a shape_type that is not known, {kind!r}", name)
    box, outline = _KINDS[kind](shape, points, size)
    remarks = ("marked difficult, and used",) if shape.get("difficult") else ()
    return Shape(name, box, outline, shape.get("group_id"), remarks)


def _polygon(shape, points, size):
    return None, [[value for point in points for value in point]]


def _rectangle(shape, points, size):
    if len(points) not in (2, 4):  # X-AnyLabeling gives all four corners
        raise ValueError(f"a rectangle has 2 points, not {len(points)}")
    x, y = zip(*points)
    return (min(x), min(y), max(x), max(y)), None


def _circle(shape, points, size):
    if len(points) != 2:
        raise ValueError(f"a circle has 2 points, not {len(points)}")
    (x, y), edge = points
    radius = math.dist((x, y), edge)
    turns = np.arange(_CIRCLE) * (2 * np.pi / _CIRCLE)
    around = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)
    return (x - radius, y - radius, x + radius, y + radius), [around.ravel().tolist()]


def _mask(shape, points, size):
    """A PNG of the box between both points, whose last column and row belong to it."""
    try:
        png = Image.open(io.BytesIO(base64.b64decode(shape.get("mask") or "", validate=True)))
        pixels = np.asarray(png).astype(bool)
    except (binascii.Error, UnidentifiedImageError, TypeError, OSError) as error:
        raise ValueError("its mask is not a PNG in base64") from error
    if len(points) != 2 or pixels.ndim != 2:
        raise ValueError("a mask has 2 points and a PNG of one channel")
    x, y = (round(value) for value in points[0])
    whole = np.zeros((size[1], size[0]), np.uint8, order="F")
    inside = whole[max(y, 0) : max(y + pixels.shape[0], 0), max(x, 0) : max(x + pixels.shape[1], 0)]
    top, left = max(-y, 0), max(-x, 0)
    inside[:] = pixels[top : top + inside.shape[0], left : left + inside.shape[1]]
    if not whole.any():
        raise Unusable("a mask without a pixel in its image", shape["label"])
    return None, plain_rle(mask_utils.encode(whole))


_KINDS = {
    "polygon": _polygon,
    "oriented_rectangle": _polygon,
    "rotation": _polygon,  # X-AnyLabeling's word for it
    "quadrilateral": _polygon,
    "rectangle": _rectangle,
    "circle": _circle,
    "mask": _mask,
}
