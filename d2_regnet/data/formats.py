"""Data sets of other formats as COCO's: LabelMe, Pascal VOC and YOLO, read by supervision."""

import json
import tempfile
import warnings
from pathlib import Path

from d2_regnet.archs import suggest

from .checks import read_coco

__all__ = ["FORMATS", "read_dataset", "recognise"]

FORMATS = ("coco", "labelme", "voc", "yolo")
_NAMES_OF_CLASSES = ("data.yaml", "dataset.yaml", "data.yml", "classes.txt", "obj.names")


def recognise(annotations: str | Path) -> str:
    """The format of a file or folder of annotations: one of `FORMATS`.

    A `.json` file is COCO's; a folder is told by what lies in it: `.xml` of Pascal VOC, `.json` of
    LabelMe, `.txt` of YOLO.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it is none of these, or several.
    """
    path = Path(annotations)
    if not path.exists():
        raise FileNotFoundError(f"annotations: there is no {path}")
    if path.is_file():
        if path.suffix == ".json":
            return "coco"
        if path.suffix in (".yaml", ".yml"):
            return "yolo"
        raise ValueError(
            f"annotations: {path} is of no known format: COCO's is a .json file, of LabelMe, "
            "Pascal VOC and YOLO give the folder"
        )
    # YOLO's folder may have the classes' names in a .txt beside the labels, LabelMe's none.
    by_suffix = {".xml": "voc", ".json": "labelme", ".txt": "yolo"}
    found = {by_suffix[s] for s in by_suffix if any(path.glob(f"*{s}"))}
    if len(found) > 1 and "yolo" in found and not _labels(path):
        found.remove("yolo")
    if len(found) != 1:
        raise ValueError(
            f"annotations: the folder {path} has "
            + (f"files of {' and '.join(sorted(found))}" if found else "no .xml, .json or .txt")
            + f": say which is meant with --format ({', '.join(FORMATS)})"
        )
    return found.pop()


def read_dataset(images: str | Path, annotations: str | Path, format: str | None = None) -> dict:
    """A data set of any of the formats as a COCO dict.

    Args:
        images: the folder of the images.
        annotations: COCO's JSON file; the folder of LabelMe's `.json`, Pascal VOC's `.xml` or
            YOLO's `.txt` files, which may be that of the images. The names of YOLO's classes are
            looked for in data.yaml, classes.txt or obj.names there, beside the images, and in
            the two folders above; or give data.yaml, with the labels in `labels/` for `images/`.
        format: one of `FORMATS`; recognised where not given.

    Returns:
        `images` (file names relative to the folder), `categories` (ids from 1, but for COCO's own)
        and `annotations`. Masks of LabelMe, VOC and YOLO are polygons, or uncompressed RLE where
        they have holes or several parts. Crowds are COCO's alone.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: an unknown format, malformed annotations, or no image.
        ImportError: supervision is not installed.
    """
    images, annotations = Path(images), Path(annotations)
    if not images.is_dir():
        raise FileNotFoundError(f"images: there is no folder {images}")
    format = format or recognise(annotations)
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}: {suggest(format, FORMATS)}")
    if format == "coco":
        return read_coco(str(annotations))
    try:
        from supervision import DetectionDataset
    except ImportError as error:
        raise ImportError(
            f"data sets of {format} are read with supervision: pip install 'd2_regnet[data]'"
        ) from error
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it leaves out is found by the checks
        try:
            if format == "yolo":
                labels, names = _yolo(images, annotations, Path(scratch))
                dataset = DetectionDataset.from_yolo(str(images), str(labels), str(names))
            elif format == "voc":
                dataset = DetectionDataset.from_pascal_voc(str(images), str(annotations))
            else:
                dataset = DetectionDataset.from_labelme(str(images), str(annotations))
            file = Path(scratch, "coco.json")
            dataset.as_coco(annotations_path=str(file))
        except OSError:
            raise
        except Exception as error:  # whatever a malformed file makes its parser raise
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ValueError(
                f"annotations: {annotations} cannot be read as {format}: {reason}"
            ) from error
        coco = json.loads(file.read_text())
    if not coco["images"]:
        raise ValueError(f"images: {images} has no images, or none with annotations")
    if not coco["categories"]:
        raise ValueError(f"annotations: {annotations} has nothing of the format {format}")
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = 0  # supervision calls masks of several parts crowds
        if not annotation["segmentation"]:
            del annotation["segmentation"]
    return coco


def _labels(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*.txt") if file.name not in _NAMES_OF_CLASSES]


def _yolo(images: Path, annotations: Path, scratch: Path) -> tuple[Path, Path]:
    """The folder of the labels, and a data.yaml with the names of the classes."""
    if annotations.is_file():
        labels = Path(*("labels" if part == "images" else part for part in images.parts))
        if not labels.is_dir():
            raise FileNotFoundError(f"annotations: there is no folder {labels} beside {images}")
        return labels, annotations
    folders = [annotations, images, *annotations.absolute().parents[:2]]
    for name in _NAMES_OF_CLASSES:
        for folder in folders:
            file = folder / name
            if file.is_file():
                return annotations, file if file.suffix in (".yaml", ".yml") else _yaml(
                    file, scratch
                )
    raise FileNotFoundError(
        f"annotations: {annotations} is YOLO's, and the names of its classes are missing: put "
        f"data.yaml or classes.txt there or one folder above"
    )


def _yaml(names: Path, scratch: Path) -> Path:
    """A data.yaml of a file with one name a line."""
    file = scratch / "data.yaml"
    found = [line.strip() for line in names.read_text().splitlines() if line.strip()]
    file.write_text(json.dumps({"names": found}))  # JSON is YAML
    return file
