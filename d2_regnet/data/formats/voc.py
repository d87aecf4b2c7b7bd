"""Pascal VOC: an XML file an image, of objects with a box each, and polygons of some tools.

The VOC2012 development kit: coordinates count from 1, and the last pixel belongs to the box.
"""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from xml.etree.ElementTree import Element

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from .account import Account
from .reading import Document
from .shape import Shape, Unusable, numbers, size_of

NAME, SUFFIX, UNLABELLED, ONE_IMAGE = "voc", ".xml", "skip", True

_FEW = 0.1  # of the boxes may have been drawn from right to left
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TRUE = ("1", "true", "yes")
_REMARKS = {"difficult": "marked difficult, and used"}


def places(images: Path, annotations: Path) -> tuple[Path, set[Path]]:
    return annotations, set()


def load(path: Path) -> Document:
    try:
        root = fromstring(_text(path.read_bytes()))
    except DefusedXmlException as error:
        raise ValueError("its XML declares entities, which are not read") from error
    except (ParseError, LookupError, UnicodeError) as error:
        raise ValueError(f"no XML: {error}") from error
    if root.tag != "annotation":
        known = " (CVAT's own form: export VOC or COCO)" if root.find("image") is not None else ""
        raise ValueError(f"its outermost element is <{root.tag}>, not <annotation>{known}")
    sides = [(root.findtext(f"size/{side}") or "").strip() for side in ("width", "height")]
    remarks = []
    if (root.findtext("segmented") or "").strip() == "1":
        remarks.append("has its masks as images (SegmentationObject), which are not read")
    return Document(
        objects=[_plain(each) for each in root.iter() if each.tag.lower() == "object"],
        where="object",
        size=size_of(numbers(sides)) if all(sides) else None,
        image=(root.findtext("filename") or "").strip() or None,
        remarks=remarks,
    )


def _text(data: bytes) -> bytes | str:
    """The XML, decoded where its own encoding is one that expat does not know."""
    head = data[:200].split(b"?>")[0]
    if not data.startswith(b"<?xml") or b"encoding=" not in head:
        return data
    encoding = head.split(b"encoding=")[1][1:].split(head.split(b"encoding=")[1][:1])[0].decode()
    if encoding.lower() in ("utf-8", "utf-16", "iso-8859-1", "us-ascii"):
        return data
    return data.decode(encoding).split("?>", 1)[1]


def _plain(element: Element) -> dict:
    """What is used of an object; texts as they are written."""
    box = element.find("bndbox")
    return {
        "name": (element.findtext("name") or "").strip(),
        "box": box if box is None else [(box.findtext(key) or "").strip() for key in _CORNERS],
        "polygons": [_points(polygon) for polygon in element.findall("polygon")],
        "parts": len(element.findall("part")),
        "marks": [
            key for key in _REMARKS if (element.findtext(key) or "").strip().lower() in _TRUE
        ],
        "tags": [child.tag for child in element],
    }


def _points(polygon: Element) -> list[str]:
    """x, y, x, y, ... of <x1>, <y1>, ... or of <pt> with <x> and <y> each."""
    return [(leaf.text or "").strip() for leaf in polygon.iter() if leaf.tag[:1] in "xy"]


def context(documents, images: Path, annotations: Path, account: Account) -> SimpleNamespace:
    """Counts from 1, but where a coordinate of 0 shows that the tool counted from 0, or all are up
    to 1, which are fractions of the image.

    Raises:
        ValueError: in many boxes `xmax` is less than `xmin`: these are sides.
    """
    boxes = []
    for box in (each["box"] for document in documents for each in document.objects):
        with contextlib.suppress(ValueError):  # `convert` says so
            boxes.append(numbers(box or []))
    boxes = [box for box in boxes if len(box) == 4]
    turned = sum(box[2] < box[0] or box[3] < box[1] for box in boxes)
    if turned > max(2, _FEW * len(boxes)):
        raise ValueError(
            f"annotations: {annotations}: of {len(boxes)} boxes, {turned} have xmax < xmin or "
            "ymax < ymin: they are probably (x, y, width, height). Convert them to corners"
        )
    zero = any(min(box[:2]) <= 0 for box in boxes) or all(max(box) <= 1 for box in boxes)
    return SimpleNamespace(names=None, first=0 if zero else 1)


def convert(written: dict, size: tuple[int, int], context) -> Shape:
    if not written["name"]:
        raise ValueError("it has no name")
    first, box = context.first, None
    polygons = [numbers(each) for each in written["polygons"]]
    if any(len(each) % 2 for each in polygons):
        raise ValueError("its polygon has an odd number of coordinates")
    if written["box"] is not None:
        xs, ys = (sorted(numbers(written["box"][i::2])) for i in (0, 1))
        box = (xs[0] - first, ys[0] - first, xs[1], ys[1])
    elif not polygons:
        raise Unusable(f"it has neither bndbox nor polygon, but {', '.join(written['tags'])}")
    outline = [[value - first for value in each] for each in polygons] or None
    remarks = [_REMARKS[key] for key in written["marks"]]
    if written["parts"]:
        remarks.append("has parts, which are not read")
    if first == 0:
        remarks.append("counted from 0, as a coordinate of 0 in the data set shows")
    return Shape(written["name"], box, outline, None, tuple(remarks))
