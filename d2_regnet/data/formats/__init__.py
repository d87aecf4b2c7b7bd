"""Data sets of every format as COCO's, with an account of what was used.

`coco`, `labelme`, `voc` and `yolo` hold a format each. A new one of label files is one more such
module, with what `reading.read_label_files` asks for, and its name in `_FORMATS`.
"""

import json
from pathlib import Path

from d2_regnet.archs import suggest
from d2_regnet.utils.files import is_hidden, walk

from . import coco, labelme, voc, yolo
from .account import Account
from .reading import read_label_files

__all__ = ["FORMATS", "UNLABELLED", "Account", "read_dataset", "recognise"]

_FORMATS = {each.NAME: each for each in (coco, labelme, voc, yolo)}
FORMATS = tuple(_FORMATS)
UNLABELLED = ("skip", "empty")
_LOOKED_AT = 20  # files of a folder that are opened to tell its format


def read_dataset(
    images: str | Path,
    annotations: str | Path,
    format: str | None = None,
    *,
    unlabelled: str | None = None,
) -> tuple[dict, Account]:
    """A data set of any of the formats as a COCO dict, and the account of it.

    What has no place in detection is left out and counted, such as a line of LabelMe's. What
    cannot be understood is refused: half a label file would teach that there is nothing in its
    image.

    An image's `width` and `height` are those of the pixels that the annotations are in, by which
    `data.read_image` knows whether to turn it as its EXIF orientation says. They are the annotated
    size, where the annotations name it, in all formats. Where they do not, and in YOLO's, they are
    those of the image as it is displayed, and the account says so of images that are turned.

    Args:
        images: the folder of the images, at any depth.
        annotations: COCO's JSON file; the folder of LabelMe's `.json`, Pascal VOC's `.xml` or
            YOLO's `.txt` files, which may be that of the images. The names of YOLO's classes are
            looked for in data.yaml, classes.txt or obj.names there, beside the images, and in
            the two folders above; or give data.yaml, with the labels in `labels/` for `images/`.
        format: one of `FORMATS`; default: recognised.
        unlabelled: an image without a label file: "skip" leaves it out, as one that nobody has
            labelled yet; "empty" takes it as showing nothing. By default YOLO's are empty, which
            is the convention there, LabelMe's and VOC's are skipped. COCO's file lists its images.

    Returns:
        The COCO dict: `images` (file names relative to the folder), `categories` (ids from 1, but
        for COCO's own; YOLO's are its numbers and 1) and `annotations`. Masks are polygons, or
        compressed RLE of LabelMe's masks; an object without one has no `segmentation`. Crowds are
        COCO's alone. And the `Account`, whose `lines()` are for people.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: an unknown format, malformed annotations (the first of them is named, with its
            line or shape), or nothing that can be used.
    """
    images, annotations = Path(images), Path(annotations)
    if not images.is_dir():
        raise FileNotFoundError(f"images: there is no folder {images}")
    if unlabelled not in (None, *UNLABELLED):
        raise ValueError(f"unlabelled is {' or '.join(UNLABELLED)}, not {unlabelled!r}")
    format = format or recognise(annotations)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: {suggest(format, FORMATS)}")
    if not annotations.exists():
        raise FileNotFoundError(f"annotations: there is no {annotations}")
    if annotations.is_file() and format in ("labelme", "voc"):
        raise ValueError(f"annotations: {annotations} is a file: give {format}'s folder")
    if format == "coco":
        return coco.read(images, annotations)
    return read_label_files(_FORMATS[format], images, annotations, unlabelled)


def recognise(annotations: str | Path) -> str:
    """The format of a file or folder of annotations: one of `FORMATS`.

    A `.json` file is COCO's; a folder is told by what lies in it, at any depth: `.xml` of Pascal
    VOC, `.json` of LabelMe, `.txt` of YOLO.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is none of these, or several.
    """
    path = Path(annotations)
    if not path.exists():
        raise FileNotFoundError(f"annotations: there is no {path}")
    if path.is_file():
        if path.suffix.lower() == ".json":
            return "coco"
        if path.suffix.lower() in (".yaml", ".yml"):
            return "yolo"
        raise ValueError(
            f"annotations: {path} is of no known format: COCO's is a .json file, of LabelMe, "
            "Pascal VOC and YOLO give the folder"
        )
    by_suffix: dict[str, list[Path]] = {".xml": [], ".json": [], ".txt": []}
    for file in walk(path):
        if file.suffix.lower() in by_suffix and not is_hidden(file, path):
            by_suffix[file.suffix.lower()].append(file)
    files = {name: by_suffix[_FORMATS[name].SUFFIX] for name in ("labelme", "voc", "yolo")}
    of_coco = [file for file in files["labelme"][:_LOOKED_AT] if _is_coco(file)]
    files["labelme"] = [file for file in files["labelme"] if file not in of_coco]
    found = [name for name in files if files[name]]
    if len(found) > 1 and "yolo" in found and not any(map(_is_yolo, files["yolo"][:_LOOKED_AT])):
        found.remove("yolo")  # lists of labels, notes
    if of_coco and found in ([], ["yolo"]) and not any(map(_is_yolo, files["yolo"])):
        raise ValueError(f"annotations: give COCO's file itself, {of_coco[0]}")
    if len(found) != 1:
        raise ValueError(
            f"annotations: the folder {path} has "
            + (f"files of {' and '.join(found)}" if found else "no .xml, .json or .txt")
            + f": say which is meant with --format ({', '.join(FORMATS)})"
        )
    return found[0]


def _is_coco(file: Path) -> bool:
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "categories" in content and "shapes" not in content


def _is_yolo(file: Path) -> bool:
    """Whether each line is five numbers or more."""
    try:
        lines = [line.split() for line in file.read_text("utf-8-sig").splitlines() if line.strip()]
        return all(len(list(map(float, values))) > 4 for values in lines)
    except ValueError:  # UnicodeDecodeError is one
        return False
