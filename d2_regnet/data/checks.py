"""What can be wrong with a data set in COCO's format.

Pure functions: a COCO dict goes in, findings come out. `cleaning` makes another dict of them.
"""

import codecs
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from detectron2.utils.file_io import PathManager

from .boxes import Form, form_of_boxes
from .findings import DROP, Finding, Kind, is_id, is_number, short, where
from .masks import area, extent, plausible_area, polygon_problem, run_lengths
from .numbers import written_otherwise

__all__ = [
    "SECTIONS",
    "check_annotations",
    "image_problems",
    "is_plain",
    "read_coco",
]

SECTIONS = ("categories", "images", "annotations")
_OF_THE_FORM = {Kind.BOX_EMPTY, Kind.BOX_OUTSIDE, Kind.BOX_BEYOND, Kind.NO_AREA}
_WITHOUT_MASK = {"segmentation": None}  # the box is sound without it
_EDGE = 1.0  # pixels that a box may be beyond the edge; COCO's coordinates are rounded
_OTHERS = {
    b"\x1f\x8b": "it is compressed (gzip): unpack it",
    b"PK": "it is a zip archive: unpack it",
    b"version https://git-lfs": "it is a pointer of Git LFS: `git lfs pull` fetches the file",
    b"<": "it is a page of HTML, or XML: was it downloaded?",
}
_LOOKED_AT = 5000  # boxes, of which their form is told


def read_coco(path: str) -> dict:
    """A COCO annotation file's content, of which only the outermost structure is checked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, not in COCO's format, or has no category or no image.
    """
    with PathManager.open(path, "rb") as file:
        data = file.read()
    try:
        coco = json.loads(data)
    except ValueError as error:  # JSONDecodeError, and UnicodeDecodeError
        what = next((what for head, what in _OTHERS.items() if data.startswith(head)), str(error))
        raise ValueError(f"{path} is not JSON: {what}") from error
    try:
        _check_structure(coco)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return coco


def is_plain(path: str) -> bool:
    """Whether a JSON file is in UTF-8 without a byte-order mark, as Detectron2 reads it."""
    with PathManager.open(path, "rb") as file:
        head = file.read(4)
    marks = codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE
    return not head.startswith(marks) and 0 not in head


def _check_structure(coco) -> None:
    if not isinstance(coco, dict):
        raise ValueError("not in COCO's format: the outermost value must be an object")
    for section in SECTIONS:
        if not isinstance(coco.get(section, [] if section == "annotations" else None), list):
            raise ValueError(f"not in COCO's format: it has no list of {section}")
    for section in ("categories", "images"):
        if not coco[section]:
            raise ValueError(f"the data set is empty: its list of {section} is")


def check_annotations(coco: dict) -> list[Finding]:
    """Everything that can be told without looking at the images.

    Args:
        coco: as `read_coco` returns it.

    Raises:
        ValueError: the outermost structure is not COCO's.
    """
    _check_structure(coco)
    coco, findings = _with_numbers(coco)
    categories, sizes = {}, {}
    for index, category in enumerate(coco["categories"]):
        for kind, detail, remedy in _category(category, categories):
            findings.append(Finding(kind, "categories", index, detail, remedy))
    files = {}
    for index, image in enumerate(coco["images"]):
        for kind, detail, remedy in image_problems(image, sizes, files):
            findings.append(Finding(kind, "images", index, detail, remedy))

    if len({type(number) for number in sizes}) > 1:
        detail = "image ids are texts and numbers, which have no order"
        findings.append(Finding(Kind.MALFORMED, "images", 0, detail))
    annotations = coco["annotations"]
    form = _form_of_boxes(annotations, sizes)
    if form:
        findings.append(Finding(Kind.FORM_OF_BOXES, "annotations", 0, str(form)))
    masks = any(isinstance(a, dict) and a.get("segmentation") for a in annotations)
    ids = [a["id"] for a in annotations if isinstance(a, dict) and is_id(a.get("id"))]
    unused = itertools.count(max(ids, default=0) + 1)
    first, used_images, used_categories = {}, set(), set()
    for index, annotation in enumerate(annotations):
        found = []
        for problem in _annotation(annotation, sizes, categories, masks):
            if form and problem[0] in _OF_THE_FORM:
                continue  # a wrong form is not mended box by box
            found.append(problem)
            if problem[2] == DROP:
                break
        else:
            used_images.add(annotation["image_id"])
            used_categories.add(annotation["category_id"])
            found += _id_of(annotation, first, unused)
        for kind, detail, remedy in found:
            detail = f"{where(annotation)}: {detail}"
            findings.append(Finding(kind, "annotations", index, detail, remedy))

    return findings + _unused(coco, findings, used_images, used_categories)


def _with_numbers(coco: dict) -> tuple[dict, list[Finding]]:
    """A copy with numbers for their texts, and what was written otherwise."""
    findings = []
    coco = {section: list(coco.get(section, [])) for section in SECTIONS}  # a test set has no last
    for section, index, numbers in written_otherwise(coco):
        entry = coco[section][index]
        name = where(entry) if section == "annotations" else f"{section}[{index}]"
        detail = f"{name}: {', '.join(f'{key} {short(entry.get(key))}' for key in numbers)}"
        findings.append(Finding(Kind.NOT_A_NUMBER, section, index, detail, numbers))
        coco[section][index] = entry | numbers
    return coco, findings


def _unused(coco: dict, findings, used_images: set, used_categories: set) -> list[Finding]:
    """Images and categories that are kept and have no annotation."""
    found = []
    dropped = {(f.section, f.index) for f in findings if f.remedy == DROP}
    for section, used, one, name, kind in (
        ("images", used_images, "image", "file_name", Kind.IMAGE_EMPTY),
        ("categories", used_categories, "category", "name", Kind.CATEGORY_EMPTY),
    ):
        for index, entry in enumerate(coco[section]):
            if (section, index) not in dropped and entry["id"] not in used:
                detail = f"{one} {entry['id']} ({entry[name]})"
                found.append(Finding(kind, section, index, detail))
    return found


Problem = tuple[Kind, str, Any]  # kind, detail, remedy: `Finding`'s


def _id_of(annotation: dict, first: dict, unused: Iterator[int]) -> Iterator[Problem]:
    """What is wrong with the id of an annotation that is kept, with the next unused number."""
    number = annotation.get("id")
    if not is_id(number):
        yield Kind.MALFORMED, "its id", {"id": next(unused)}
        return
    same = first.setdefault(number, annotation)
    if same is not annotation:
        remedy = DROP if same == annotation else {"id": next(unused)}
        yield Kind.ANNOTATION_TWICE, "its id", remedy
    elif number == 0:
        yield Kind.ANNOTATION_0, "its id", {"id": next(unused)}


def _category(category, known: dict) -> Iterator[Problem]:
    """The problems of one category, which is added to those known by id."""
    if not isinstance(category, dict) or not is_id(category.get("id")):
        yield Kind.MALFORMED, f"category without a whole number as id: {short(category)}", DROP
        return
    number, name = category["id"], category.get("name")
    if type(name) is int:
        yield Kind.MALFORMED, f"category {number} has a number as its name", {"name": str(name)}
        name = str(name)
    if not isinstance(name, str) or not name:
        yield Kind.MALFORMED, f"category {number} has no name: {short(category)}", DROP
    elif number in known:
        yield Kind.CATEGORY_TWICE, f"category {number}: {known[number]} and {name}", DROP
    else:
        if name in known.values():
            yield Kind.NAME_TWICE, f"category {number} ({name})", None
        known[number] = name


def image_problems(image, sizes: dict, files: dict) -> Iterator[Problem]:
    """The problems of one image, whose (width, height) is added to `sizes` by id."""
    number = image.get("id") if isinstance(image, dict) else None
    if not is_id(number) and not isinstance(number, str):
        yield Kind.MALFORMED, f"image without an id: {short(image)}", DROP
        return
    name, size = image.get("file_name"), (image.get("width"), image.get("height"))
    where = f"image {number} ({name})"
    if not isinstance(name, str) or not name:
        yield Kind.MALFORMED, f"image {number} has no file_name: {short(image)}", DROP
    elif not all(is_number(side) and side > 0 and side == int(side) for side in size):
        yield Kind.MALFORMED, f"{where}: width and height are {size[0]!r}, {size[1]!r}", DROP
    elif number in sizes:
        yield Kind.IMAGE_TWICE, where, DROP
    else:
        sizes[number] = size
        if files.setdefault(name, number) != number:
            yield Kind.FILE_TWICE, f"{where}, image {files[name]}", None


def _annotation(a, sizes: dict, categories: dict, masks: bool) -> Iterator[Problem]:
    """The problems of one annotation, except for those with others; the first DROP is the last."""
    if not isinstance(a, dict):
        yield Kind.MALFORMED, "not an object", DROP
        return
    for key in ("category_id", "image_id"):
        if not is_id(a.get(key)) and not (key == "image_id" and isinstance(a.get(key), str)):
            yield Kind.MALFORMED, f"{key} missing or not a number", DROP
            return
    if a.get("iscrowd", 0) not in (0, 1):
        yield Kind.MALFORMED, f"iscrowd is {short(a['iscrowd'])}, not 0 or 1", DROP
        return
    if a["category_id"] not in categories:
        yield Kind.NO_CATEGORY, f"category {a['category_id']}", DROP
        return
    size = sizes.get(a["image_id"])
    if size is None:
        yield Kind.NO_IMAGE, f"image {short(a['image_id'])}", DROP
        return
    segmentation, box = a.get("segmentation"), a.get("bbox")
    problems = [*mask_problems(segmentation, *size)] if segmentation else []
    mask = problems[0][2]["segmentation"] if problems else segmentation
    inside = _within(mask, *size)
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        detail = f"bbox is not four numbers: {short(box)}"
        yield Kind.MALFORMED, detail, {"bbox": _sized(inside)} if _sound(inside) else DROP
        if not _sound(inside):
            return
        box = _sized(inside)
    for problem in (*_box(box, size[0], size[1], inside), *problems):
        yield problem
        box = problem[2].get("bbox", box) if isinstance(problem[2], dict) else box
    if masks and not segmentation:
        yield Kind.NO_MASK, "no segmentation: its box is trained, its mask is not", None
    if a.get("ignore"):
        detail = f"ignore is {short(a['ignore'])}, which Detectron2 does not take"
        yield Kind.IGNORE, detail, {"ignore": 0, "iscrowd": 1}
    elif "iscrowd" not in a:
        yield Kind.NO_ISCROWD, "iscrowd is missing, which COCO's evaluation needs", {"iscrowd": 0}
    elif a["iscrowd"]:
        yield Kind.CROWD, "a crowd: not trained on, and ignored in evaluation", None
    if not plausible_area(a.get("area"), box, mask):
        detail = f"area is {short(a.get('area'))} of bbox {box}; COCO's evaluation needs it"
        yield Kind.NO_AREA, detail, {"area": area(box, mask)}


def _sound(corners) -> bool:
    return corners is not None and corners[2] > corners[0] and corners[3] > corners[1]


def _sized(corners) -> list[float]:
    x0, y0, x1, y1 = map(float, corners)
    return [x0, y0, x1 - x0, y1 - y0]


def _within(segmentation, width: float, height: float) -> tuple[float, ...] | None:
    """The extent of a sound mask, as far as it is in the image."""
    found = extent(segmentation) if segmentation else None
    return found and (*np.clip(found, 0, (width, height, width, height)).tolist(),)


def _box(box: list, width: float, height: float, inside) -> Iterator[Problem]:
    x, y, w, h = box
    if w <= 0 or h <= 0:
        remedy = {"bbox": _sized(inside)} if _sound(inside) else DROP
        yield Kind.BOX_EMPTY, f"bbox {box}", remedy
        return
    beyond = max(-x, -y, x + w - width, y + h - height)
    if beyond <= _EDGE:
        return
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    detail = f"bbox {box} in {width} x {height}"
    if left >= right or top >= bottom:
        yield Kind.BOX_OUTSIDE, detail, DROP
    else:
        yield Kind.BOX_BEYOND, detail, {"bbox": [left, top, right - left, bottom - top]}


def mask_problems(segmentation, width: float, height: float) -> Iterator[Problem]:
    """At most one problem of a mask that there is; its remedy says what of it is sound."""
    if isinstance(segmentation, list):
        problems = [polygon_problem(polygon, (width, height)) for polygon in segmentation]
        kept = [polygon for polygon, bad in zip(segmentation, problems) if not bad]
        if len(kept) < len(segmentation):
            index, kind = next((i, bad) for i, bad in enumerate(problems) if bad)
            detail = f"polygon {short(segmentation[index])}"
            yield kind, detail, {"segmentation": kept or None}
    elif isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            size = short(segmentation.get("size"))
            yield Kind.RLE_SIZE, f"size {size}, not [{height}, {width}]", _WITHOUT_MASK
            return
        counts = run_lengths(segmentation.get("counts"))
        if counts is None or sum(counts) != width * height:
            total = "no numbers" if counts is None else f"{sum(counts)} pixels in all"
            yield Kind.RLE_BROKEN, f"{total}, not {width * height}", _WITHOUT_MASK
    else:
        yield Kind.MALFORMED, f"segmentation is {short(segmentation)}", _WITHOUT_MASK


def _form_of_boxes(annotations: list, sizes: dict) -> Form | None:
    """Of objects with four numbers as their box, whose image is known; of many, evenly."""
    rows = []
    for a in annotations[:: max(1, len(annotations) // _LOOKED_AT)]:
        box = a.get("bbox") if isinstance(a, dict) else None
        sound = isinstance(box, list) and len(box) == 4 and all(map(is_number, box))
        sound = sound and box and all(box[2:])  # one that is but empty says nothing
        size = (
            sizes.get(a.get("image_id"))
            if sound and isinstance(a.get("image_id"), int | str)
            else None
        )
        if size:
            mask = a.get("segmentation")
            sound = mask and not list(mask_problems(mask, *size))
            rows.append((box, size, (extent(mask) if sound else None) or [np.nan] * 4))
    return form_of_boxes(*(np.array(each, float) for each in zip(*rows))) if rows else None
