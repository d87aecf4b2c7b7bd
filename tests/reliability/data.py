"""Images and annotations as they come: read right, replaced, or found before training."""

import copy
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
from PIL import Image

from d2_regnet.data.checks import check_annotations
from d2_regnet.data.cleaning import cleaned
from d2_regnet.data.findings import Kind
from d2_regnet.data.image_checks import check_images
from d2_regnet.data.loader import build_train_loader
from d2_regnet.data.mapper import RobustMapper

from .results import Result, Scale, Warnings

_IMAGES = 8
_SIDES = (48, 32)
_TIMES = 4


def run(scale: Scale) -> Iterator[Result]:
    rng = np.random.default_rng(scale.seed)
    for number in range(scale.of(_TIMES)):
        for fault, (damage, readable) in _IMAGE_FAULTS.items():
            yield _image(scale.folder / f"image{number}", fault, damage, readable, rng)
        for kind in Kind:
            yield _annotation(scale.folder / f"annotation{number}", kind, rng)


def _image(folder: Path, fault: str, damage: Callable, readable: bool, rng) -> Result:
    """One image of a data set of eight is of a kind; an epoch of it is trained on."""
    coco = _data_set(folder, rng)
    records = [
        {**image, "file_name": str(folder / image["file_name"]), "image_id": image["id"]}
        for image in coco["images"]
    ]
    victim = records[int(rng.integers(_IMAGES))]
    damage(victim, rng)
    warnings = Warnings()
    log = logging.getLogger("d2_regnet.data.loader")
    log.addHandler(warnings)
    log.propagate, before = False, log.propagate
    try:
        mapper = RobustMapper(
            is_train=True, augmentations=[T.ResizeShortestEdge(128, 1333)], image_format="BGR"
        )
        loader = build_train_loader(
            records, mapper=mapper, total_batch_size=2, seed=0, aspect_ratio_grouping=False
        )
        seen = [x for batch in islice(loader, 2 * _IMAGES) for x in batch]
    except Exception as error:
        return Result(fault, f"fails: {type(error).__name__}", "all", False, str(error))
    finally:
        log.removeHandler(warnings)
        log.propagate = before
        _remove(folder)
    read = any(x["image_id"] == victim["image_id"] for x in seen)
    named = [text for text in warnings.texts if victim["file_name"] in text]
    sound = all(x["image"].dtype.itemsize == 1 and x["image"].shape[0] == 3 for x in seen)
    if readable:
        return Result(fault, "read", "nothing", read and not warnings.texts and sound, str(named))
    return Result(
        fault,
        "another image in its place, one warning that names it",
        "the image",
        not read and len(named) == 1 == len(warnings.texts) and sound,
        str(warnings.texts),
    )


def _annotation(folder: Path, kind: str, rng) -> Result:
    """One fault of a kind that the checks know, in a data set that is sound otherwise."""
    coco = _data_set(folder, rng)

    def found(coco):
        findings = check_annotations(coco)
        return findings + check_images(coco["images"], str(folder), decode=True, threads=1)

    before = {f.kind for f in found(coco)}
    _ANNOTATION_FAULTS[kind](coco, folder, rng)
    findings = found(coco)
    left = {f.kind for f in found(cleaned(coco, findings)[0]) if f.level != "note"}
    _remove(folder)
    # What nobody but its owner can mend: it stays, and is said again.
    stays = {kind} & {"two categories of one name", "boxes of another form"}
    level = Kind(kind).level
    happened = {
        "error": "found as an error; none is left in the cleaned file",
        "warning": "found as a warning; none is left in the cleaned file",
        "note": "found, as a note",
    }[level]
    if stays:
        happened = f"found as {'an error' if level == 'error' else 'a warning'}"
    return Result(
        f"data set: {kind}",
        happened,
        "nothing" if level == "note" or stays else "the entry at fault, or what is wrong in it",
        not before and kind in {f.kind for f in findings} and left <= stays,
        f"{before} {findings} {left}",
    )


def _data_set(folder: Path, rng) -> dict:
    """Eight images with a box and a polygon each, in COCO's format, without any finding."""
    folder.mkdir(exist_ok=True)
    width, height = _SIDES
    images, annotations = [], []
    for number in range(1, _IMAGES + 1):
        pixels = rng.integers(256, size=(height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append(dict(id=number, file_name=f"{number}.png", width=width, height=height))
        x, y = map(float, rng.integers(1, 10, 2))
        annotations.append(
            dict(
                id=number,
                image_id=number,
                category_id=1 + number % 2,
                bbox=[x, y, 20.0, 15.0],
                segmentation=[[x, y, x + 20, y, x + 20, y + 15, x, y + 15]],
                area=300.0,
                iscrowd=0,
            )
        )
    categories = [dict(id=1, name="one"), dict(id=2, name="two")]
    return dict(images=images, annotations=annotations, categories=categories)


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


# --- images -------------------------------------------------------------------------------------


def _saved_as(mode: str | None = None, suffix: str = ".png", **options) -> Callable:
    """Saves the image in another mode or format."""

    def damage(record, rng):
        path = Path(record["file_name"])
        image = Image.open(path)
        image = image.convert(mode) if mode else image
        record["file_name"] = str(path.with_suffix(suffix))
        image.save(record["file_name"], **options)

    return damage


def _sized(width: int, height: int) -> Callable:
    def damage(record, rng):
        Image.new("RGB", (width, height), (9, 99, 199)).save(record["file_name"])
        record.update(width=width, height=height)

    return damage


def _cut(record, rng):
    _saved_as(suffix=".jpg")(record, rng)
    content = Path(record["file_name"]).read_bytes()
    Path(record["file_name"]).write_bytes(content[: int(rng.integers(1, len(content) - 99))])


def _cut_png(record, rng):
    content = Path(record["file_name"]).read_bytes()
    Path(record["file_name"]).write_bytes(content[: int(rng.integers(1, len(content) - 99))])


def _sixteen_bits(record, rng):
    values = rng.integers(65536, size=_SIDES[::-1]).astype(np.uint16)
    Image.fromarray(values).save(record["file_name"])


def _turned(record, rng):
    exif = Image.Exif()
    exif[274] = int(rng.integers(2, 9))
    _saved_as(suffix=".jpg", exif=exif)(record, rng)


def _floating(record, rng):
    path = Path(record["file_name"]).with_suffix(".tiff")
    Image.fromarray(rng.random(_SIDES[::-1], dtype=np.float32)).save(path)
    record["file_name"] = str(path)


def _written(content: bytes) -> Callable:
    return lambda record, rng: Path(record["file_name"]).write_bytes(content)


def _wrong_suffix(record, rng):
    _saved_as(suffix=".jpg")(record, rng)
    jpeg = Path(record["file_name"])
    record["file_name"] = str(jpeg.rename(jpeg.with_suffix(".png")))


# kind -> what makes it, and whether it can be read
_IMAGE_FAULTS = {
    "greyscale image": (_saved_as("L"), True),
    "palette image": (_saved_as("P"), True),
    "image of 1 bit": (_saved_as("1"), True),
    "image with transparency": (_saved_as("RGBA"), True),
    "CMYK image": (_saved_as("CMYK", ".jpg"), True),
    "image of 16 bits": (_sixteen_bits, True),
    "image that EXIF turns": (_turned, True),
    "image of 1 x 1": (_sized(1, 1), True),
    "image of 20000 x 10": (_sized(20000, 10), True),
    "JPEG called .png": (_wrong_suffix, True),
    "truncated JPEG": (_cut, False),
    "truncated PNG": (_cut_png, False),
    "floating-point image": (_floating, False),
    "vanished image": (lambda r, rng: Path(r["file_name"]).unlink(), False),
    "image of no bytes": (_written(b""), False),
    "text in place of an image": (_written(b"<html>404 Not Found</html>"), False),
    "image of another size than annotated": (lambda r, rng: r.update(width=99), False),
}


# --- annotations ----------------------------------------------------------------------------------


def _set(section: str, **fields) -> Callable:
    """Gives fields of a random entry other values."""

    def inject(coco, folder, rng):
        entries = coco[section]
        entries[int(rng.integers(1, len(entries)))].update(fields)

    return inject


def _fractions(coco, folder, rng) -> None:
    """Writes every box as fractions of its image, so that it contradicts its polygon."""
    for each in coco["annotations"]:
        each["bbox"] = [value / side for value, side in zip(each["bbox"], _SIDES * 2)]


def _append(section: str, make: Callable) -> Callable:
    """Adds an entry made of a random one."""

    def inject(coco, folder, rng):
        entries = coco[section]
        entry = copy.deepcopy(entries[int(rng.integers(1, len(entries)))])
        entries.append(make(entry))

    return inject


def _without(section: str, field: str) -> Callable:
    def inject(coco, folder, rng):
        del coco[section][int(rng.integers(1, len(coco[section])))][field]

    return inject


def _file(change: Callable[[Path], None]) -> Callable:
    def inject(coco, folder, rng):
        change(folder / coco["images"][int(rng.integers(_IMAGES))]["file_name"])

    return inject


_SIZE = [_SIDES[1], _SIDES[0]]
_ANNOTATION_FAULTS = {
    "malformed entry": _set("annotations", bbox=[1.0, float("nan"), 5.0, 5.0]),
    "duplicate category id": _append("categories", lambda c: c | {"name": "three"}),
    "duplicate image id": _append("images", lambda i: i | {"file_name": "1.png"}),
    "duplicate annotation id": _append("annotations", lambda a: a | {"bbox": [3.0, 3.0, 9.0, 9.0]}),
    "unknown category id": _set("annotations", category_id=99),
    "boxes of another form": _fractions,
    "annotated as to be ignored": _set("annotations", ignore=1),
    "RLE of a wrong size": _set("annotations", segmentation={"size": [9, 9], "counts": [81]}),
    "broken RLE": _set("annotations", segmentation={"size": _SIZE, "counts": [5, 6]}),
    "malformed polygon": _set("annotations", segmentation=[[1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 4.0]]),
    "polygon far beyond the image": _set(
        "annotations", segmentation=[[1, 1, 5e3, 1, 5e3, 9, 1, 9]]
    ),
    "number written as text or fraction": _set("annotations", category_id="1"),
    "no mask, where others have one": _without("annotations", "segmentation"),
    "missing image": _file(Path.unlink),
    "unreadable image": _file(lambda path: path.write_bytes(b"GIF89a")),
    "size contradicts the annotations": _file(lambda path: Image.new("RGB", (7, 7)).save(path)),
    "unknown image id": _append("annotations", lambda a: a | {"id": 77, "image_id": 99}),
    "empty box": _set("annotations", bbox=[3.0, 3.0, 0.0, 5.0]),
    "box outside": _set("annotations", bbox=[400.0, 300.0, 20.0, 20.0]),
    "box beyond the edge": _set("annotations", bbox=[30.0, 20.0, 40.0, 5.0]),
    "polygon of under three points": _set("annotations", segmentation=[[1.0, 1.0, 9.0, 9.0]]),
    "no area": _without("annotations", "area"),
    "no iscrowd": _without("annotations", "iscrowd"),
    "annotation id 0": _set("annotations", id=0),
    "two categories of one name": _append("categories", lambda c: c | {"id": 3}),
    "one file for several images": _append("images", lambda i: i | {"id": 99}),
    "image without annotations": lambda coco, folder, rng: coco["annotations"].pop(),
    "category without annotations": _append("categories", lambda c: dict(id=3, name="three")),
    "crowd": _set("annotations", iscrowd=1),
}
