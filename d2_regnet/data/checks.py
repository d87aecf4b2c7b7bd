"""What can be wrong with a data set in COCO's format, and what a cleaned one looks like.

Pure functions: a COCO dict goes in, findings come out, and `cleaned` makes another dict of them.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from detectron2.utils.file_io import PathManager
from PIL import Image

from .images import orientation, read_image

__all__ = ["DROP", "KINDS", "Finding", "check_annotations", "check_images", "cleaned", "read_coco"]

# An error stops Detectron2 or teaches the model what is wrong; what a warning is about,
# Detectron2 leaves out or clips on its own, or only the evaluation needs; a note is for knowing.
KINDS = {
    "malformed entry": "error",
    "duplicate category id": "error",
    "duplicate image id": "error",
    "duplicate annotation id": "error",
    "unknown category id": "error",
    "annotated as to be ignored": "error",
    "RLE of a wrong size": "error",
    "broken RLE": "error",
    "malformed polygon": "error",
    "no mask, where others have one": "error",
    "missing image": "error",
    "unreadable image": "error",
    "size contradicts the annotations": "error",
    "unknown image id": "warning",
    "empty box": "warning",
    "box outside": "warning",
    "box beyond the edge": "warning",
    "polygon of under three points": "warning",
    "no area": "warning",
    "no iscrowd": "warning",
    "annotation id 0": "warning",
    "two categories of one name": "warning",
    "one file for several images": "note",
    "image without annotations": "note",
    "category without annotations": "note",
    "crowd": "note",
}
DROP = "drop"
_SECTIONS = ("categories", "images", "annotations")
_EDGE = 1.0  # pixels that a box may be beyond the edge; COCO's coordinates are rounded


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found.

    Attributes:
        kind: a key of `KINDS`, whose value is its level: error, warning or note.
        section, index: the entry that it is about, `coco[section][index]`.
        detail: names the entry and what is wrong with it, for people.
        remedy: what `cleaned` does about it: `DROP` the entry, change fields of it (a dict of
            their new values), or nothing (None).
    """

    kind: str
    section: str
    index: int
    detail: str
    remedy: str | dict | None = None

    @property
    def level(self) -> str:
        return KINDS[self.kind]


def read_coco(path: str) -> dict:
    """A COCO annotation file's content, of which only the outermost structure is checked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, not in COCO's format, or has no category or no image.
    """
    try:
        with PathManager.open(path, "rb") as file:
            coco = json.load(file)
    except ValueError as error:  # JSONDecodeError, and UnicodeDecodeError
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        _check_structure(coco)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return coco


def _check_structure(coco) -> None:
    if not isinstance(coco, dict):
        raise ValueError("not in COCO's format: the outermost value must be an object")
    for section in _SECTIONS:
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
    findings = []
    categories, sizes = {}, {}
    for index, category in enumerate(coco["categories"]):
        for kind, detail, remedy in _category(category, categories):
            findings.append(Finding(kind, "categories", index, detail, remedy))
    files = {}
    for index, image in enumerate(coco["images"]):
        for kind, detail, remedy in _image(image, sizes, files):
            findings.append(Finding(kind, "images", index, detail, remedy))

    annotations = coco.get("annotations", [])  # a test set has none
    masks = any(isinstance(a, dict) and a.get("segmentation") for a in annotations)
    ids = [a["id"] for a in annotations if isinstance(a, dict) and _is_id(a.get("id"))]
    first, unused = {}, max(ids, default=0)
    used_images, used_categories = set(), set()
    for index, annotation in enumerate(annotations):
        for kind, detail, remedy in _annotation(annotation, sizes, categories, masks):
            findings.append(
                Finding(kind, "annotations", index, f"{_where(annotation)}: {detail}", remedy)
            )
            if remedy == DROP:
                break
        else:
            used_images.add(annotation["image_id"])
            used_categories.add(annotation["category_id"])
            number = annotation["id"]
            same = first.setdefault(number, annotation)
            if number == 0 or same is not annotation:
                unused += 1
                findings.append(
                    Finding(
                        "annotation id 0" if number == 0 else "duplicate annotation id",
                        "annotations",
                        index,
                        _where(annotation),
                        DROP if same is not annotation and same == annotation else {"id": unused},
                    )
                )

    dropped = {(f.section, f.index) for f in findings if f.remedy == DROP}
    for section, used, one, name in (
        ("images", used_images, "image", "file_name"),
        ("categories", used_categories, "category", "name"),
    ):
        for index, entry in enumerate(coco[section]):
            if (section, index) not in dropped and entry["id"] not in used:
                detail = f"{one} {entry['id']} ({entry[name]})"
                findings.append(Finding(f"{one} without annotations", section, index, detail))
    return findings


Problem = tuple[str, str, str | dict | None]  # kind, detail, remedy


def _category(category, known: dict) -> Iterator[Problem]:
    """The problems of one category, which is added to those known by id."""
    if not isinstance(category, dict) or not _is_id(category.get("id")):
        yield "malformed entry", f"category without a whole number as id: {_short(category)}", DROP
        return
    number, name = category["id"], category.get("name")
    if not isinstance(name, str) or not name:
        yield "malformed entry", f"category {number} has no name: {_short(category)}", DROP
    elif number in known:
        yield "duplicate category id", f"category {number}: {known[number]} and {name}", DROP
    else:
        if name in known.values():
            yield "two categories of one name", f"category {number} ({name})", None
        known[number] = name


def _image(image, sizes: dict, files: dict) -> Iterator[Problem]:
    """The problems of one image, whose (width, height) is added to `sizes` by id."""
    number = image.get("id") if isinstance(image, dict) else None
    if not _is_id(number) and not isinstance(number, str):
        yield "malformed entry", f"image without an id: {_short(image)}", DROP
        return
    name, size = image.get("file_name"), (image.get("width"), image.get("height"))
    where = f"image {number} ({name})"
    if not isinstance(name, str) or not name:
        yield "malformed entry", f"image {number} has no file_name: {_short(image)}", DROP
    elif not all(_is_number(side) and side > 0 and side == int(side) for side in size):
        yield "malformed entry", f"{where}: width and height are {size[0]!r}, {size[1]!r}", DROP
    elif number in sizes:
        yield "duplicate image id", where, DROP
    else:
        sizes[number] = size
        if files.setdefault(name, number) != number:
            yield "one file for several images", f"{where}, image {files[name]}", None


def _annotation(a, sizes: dict, categories: dict, masks: bool) -> Iterator[Problem]:
    """The problems of one annotation, except for those with others; the first DROP is the last."""
    if not isinstance(a, dict):
        yield "malformed entry", "not an object", DROP
        return
    bad = [key for key in ("id", "category_id") if not _is_id(a.get(key))]
    if bad or not isinstance(a.get("image_id"), int | str):
        yield "malformed entry", f"{bad[0] if bad else 'image_id'} missing or not a number", DROP
        return
    box = a.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        yield "malformed entry", f"bbox is not four numbers: {_short(box)}", DROP
        return
    if a.get("iscrowd", 0) not in (0, 1):
        yield "malformed entry", f"iscrowd is {_short(a['iscrowd'])}, not 0 or 1", DROP
        return
    if a["category_id"] not in categories:
        yield "unknown category id", f"category {a['category_id']}", DROP
        return
    size = sizes.get(a["image_id"])
    if size is None:
        yield "unknown image id", f"image {_short(a['image_id'])}", DROP
        return
    yield from _box(box, *size)
    segmentation = a.get("segmentation")
    if segmentation:
        yield from _segmentation(segmentation, *size)
    elif masks:
        yield "no mask, where others have one", "no segmentation", DROP
    if a.get("ignore"):
        detail = f"ignore is {_short(a['ignore'])}, which Detectron2 does not take"
        yield "annotated as to be ignored", detail, {"ignore": 0, "iscrowd": 1}
    elif "iscrowd" not in a:
        yield "no iscrowd", "iscrowd is missing, which COCO's evaluation needs", {"iscrowd": 0}
    elif a["iscrowd"]:
        yield "crowd", "a crowd: not trained on, and ignored in evaluation", None
    if not _is_number(a.get("area")) or a["area"] < 0:
        detail = f"area is {_short(a.get('area'))}, which COCO's evaluation needs"
        yield "no area", detail, {"area": _area(box, segmentation)}


def _box(box: list, width: float, height: float) -> Iterator[Problem]:
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield "empty box", f"bbox {box}", DROP
        return
    beyond = max(-x, -y, x + w - width, y + h - height)
    if beyond <= _EDGE:
        return
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    detail = f"bbox {box} in {width} x {height}"
    if left >= right or top >= bottom:
        yield "box outside", detail, DROP
    else:
        yield "box beyond the edge", detail, {"bbox": [left, top, right - left, bottom - top]}


def _segmentation(segmentation, width: float, height: float) -> Iterator[Problem]:
    if isinstance(segmentation, list):
        problems = [_polygon_problem(polygon) for polygon in segmentation]
        kept = [polygon for polygon, bad in zip(segmentation, problems) if not bad]
        if len(kept) < len(segmentation):
            index, kind = next((i, bad) for i, bad in enumerate(problems) if bad)
            detail = f"polygon {_short(segmentation[index])}"
            yield kind, detail, {"segmentation": kept} if kept else DROP
    elif isinstance(segmentation, dict):
        if segmentation.get("size") != [height, width]:
            size = _short(segmentation.get("size"))
            yield "RLE of a wrong size", f"size {size}, not [{height}, {width}]", DROP
            return
        counts = _run_lengths(segmentation.get("counts"))
        if counts is None or sum(counts) != width * height:
            total = "no numbers" if counts is None else f"{sum(counts)} pixels in all"
            yield "broken RLE", f"{total}, not {width * height}", DROP
    else:
        yield "malformed entry", f"segmentation is {_short(segmentation)}", DROP


def _polygon_problem(polygon) -> str | None:
    """A kind of finding; None where there is nothing wrong with it."""
    try:
        # The sum shows what is no number, and is not finite where any number is not.
        if len(polygon) % 2 or not math.isfinite(sum(polygon)):
            return "malformed polygon"
    except (TypeError, OverflowError):
        return "malformed polygon"
    return None if len(polygon) >= 6 else "polygon of under three points"


def _run_lengths(counts) -> list[int] | None:
    """The run lengths of COCO's RLE, plain or compressed; None where they are neither.

    Compressed as in cocoapi's maskApi.c, rleFrString: groups of 5 bits, least first, with a
    continuation bit, from "0"; from the fourth on, differences to the last but one.
    """
    if isinstance(counts, list):
        good = all(_is_id(count) and count >= 0 for count in counts)
        return counts if good else None
    if not isinstance(counts, str) or not counts or not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist() if values.min() >= 0 else None


def _area(box: list, segmentation) -> float:
    """The mask's area in pixels; that of the box where there is no sound mask."""
    if isinstance(segmentation, dict):
        counts = _run_lengths(segmentation.get("counts"))
        if counts is not None:
            return float(sum(counts[1::2]))
    elif isinstance(segmentation, list):
        polygons = [p for p in segmentation if not _polygon_problem(p)]
        if polygons:
            return float(sum(map(_polygon_area, polygons)))
    return float(box[2] * box[3])


def _polygon_area(polygon: list) -> float:
    x, y = np.array(polygon[::2], float), np.array(polygon[1::2], float)
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def check_images(
    images: list[dict],
    folder: str,
    *,
    decode: bool = False,
    threads: int = 8,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Finding]:
    """Looks at the images: are they there, readable and of the annotated size?

    Args:
        images: the `images` of a COCO dict; malformed ones, which `check_annotations` finds, are
            passed over.
        folder: where they lie.
        decode: read every pixel, which finds truncated files too; if not, only the headers.
        threads: how many to read at once.
        progress: wraps an iterable with one element an image, as `tqdm.tqdm` does.
    """

    def look(job):
        index, image = job
        for kind, detail in _look_at(image, folder, decode):
            return Finding(
                kind, "images", index, f"image {image['id']} ({image['file_name']}): {detail}", DROP
            )
        return None

    jobs = [(i, image) for i, image in enumerate(images) if not list(_image(image, {}, {}))]
    pool = ThreadPoolExecutor(threads)
    try:
        return [f for f in progress(pool.map(look, jobs)) if f is not None]
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for all images


def _look_at(image: dict, folder: str, decode: bool) -> Iterator[tuple[str, str]]:
    path = os.path.join(folder, image["file_name"])
    annotated = image["width"], image["height"]
    try:
        if decode:
            height, width, _ = read_image(path, "RGB", annotated).shape
            sizes = [(width, height)]
        else:
            with PathManager.open(path, "rb") as file, Image.open(file) as picture:
                sizes = [picture.size]
                # As read_image: annotations may be of the stored or of the upright image.
                if annotated != picture.size and orientation(picture) >= 5:
                    sizes.append(picture.size[::-1])
    except FileNotFoundError:
        yield "missing image", f"there is no {path}"
    except Exception as error:
        yield "unreadable image", " ".join(f"{type(error).__name__}: {error}".split())
    else:
        if annotated not in sizes:
            (width, height), (w, h) = annotated, sizes[0]
            yield "size contradicts the annotations", f"annotated {width} x {height}, is {w} x {h}"


def cleaned(coco: dict, findings: Iterable[Finding]) -> dict:
    """Another COCO dict, to which every finding's remedy was applied; `coco` stays as it is.

    What an image or category is dropped of is dropped too. Images stay when they lose all their
    annotations.
    """
    dropped = {section: set() for section in _SECTIONS}
    changes = {section: {} for section in _SECTIONS}
    for finding in findings:
        if finding.remedy == DROP:
            dropped[finding.section].add(finding.index)
        elif finding.remedy:
            changes[finding.section].setdefault(finding.index, {}).update(finding.remedy)
    result = dict(coco)
    for section in filter(coco.__contains__, _SECTIONS):
        result[section] = [
            entry | changes[section][index] if index in changes[section] else entry
            for index, entry in enumerate(coco[section])
            if index not in dropped[section]
        ]
    images = {image["id"] for image in result["images"]}
    categories = {category["id"] for category in result["categories"]}
    if "annotations" in coco:
        result["annotations"] = [
            annotation
            for annotation in result["annotations"]
            if annotation["image_id"] in images and annotation["category_id"] in categories
        ]
    return result


def _is_number(value) -> bool:
    # NaN is in no range; the numbers that are, stay finite in float arithmetic.
    return type(value) in (int, float) and -1e100 < value < 1e100


def _is_id(value) -> bool:
    return type(value) is int


def _where(annotation) -> str:
    if not isinstance(annotation, dict):
        return f"annotation {_short(annotation)}"
    return (
        f"annotation {_short(annotation.get('id'))} of image {_short(annotation.get('image_id'))}"
    )


def _short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
