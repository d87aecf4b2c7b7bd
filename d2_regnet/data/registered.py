"""Registered data sets, and those that a config describes."""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from omegaconf import DictConfig

from d2_regnet.archs import suggest

from .checks import read_coco

__all__ = ["Uncheckable", "known_classes", "load_registered", "register_described", "to_coco"]


class Uncheckable(ValueError):
    """A data set of another kind than the checks know."""


def register_described(cfg: DictConfig) -> None:
    """Registers the data sets that a config describes itself, so that it needs nothing else.

    Under `datasets.NAME` are the `json_file` in COCO's format, the `image_root`, and, if the names
    are to be known without the file, the `categories` (`id` and `name` each) that it has. A name
    that was registered so before is replaced.

    Raises:
        ValueError: an entry is incomplete, or has the name of another data set.
    """
    for name, node in (cfg.get("datasets") or {}).items():
        missing = {"json_file", "image_root"} - set(node)
        if missing:
            raise ValueError(f"datasets.{name} has no {min(missing)}")
        if name in DatasetCatalog:
            if not MetadataCatalog.get(name).get("described"):
                raise ValueError(
                    f"datasets.{name}: there is a data set of this name; choose another"
                )
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
        known: dict[str, Any] = {"described": True}
        if categories := sorted(node.get("categories") or [], key=lambda each: each.id):
            known["thing_classes"] = [each.name for each in categories]
            known["thing_dataset_id_to_contiguous_id"] = {
                each.id: index for index, each in enumerate(categories)
            }
        register_coco_instances(name, known, node.json_file, node.image_root)


def known_classes(names: str | Sequence[str] | None) -> tuple[str, list[str]]:
    """The first of some data sets whose classes are known without its file, and their names, in the
    model's order; both empty if there is none."""
    for name in [names] if isinstance(names, str) else names or []:
        known = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog else None
        if known:
            return name, list(known)
    return "", []


def load_registered(name: str) -> tuple[dict, str, str | None]:
    """A registered data set in COCO's format.

    Returns:
        The COCO dict, the folder of its images, and the path of its JSON file. Of a data set that
        is not in a COCO file, the dict is made from Detectron2's dataset dicts, and the path is
        None.

    Raises:
        ValueError: there is no such data set, or it is malformed as a whole.
        Uncheckable: it is neither a COCO file nor a list.
        FileNotFoundError: its JSON file does not exist.
    """
    if name not in DatasetCatalog:
        raise ValueError(
            f"the data set {name!r} is not registered; {suggest(name, DatasetCatalog.list())}"
        )
    metadata = MetadataCatalog.get(name)
    path = metadata.get("json_file")
    if path and metadata.get("evaluator_type") == "coco":
        if "://" not in path and not os.path.exists(path):
            with contextlib.suppress(Exception):  # one that is made when it is first loaded?
                DatasetCatalog.get(name)
            if not os.path.exists(path):
                raise FileNotFoundError(
                    f"data set {name}: {path} does not exist; the environment variable "
                    "DETECTRON2_DATASETS names the folder of Detectron2's built-in data sets"
                )
        return read_coco(path), metadata.get("image_root") or "", path
    records = DatasetCatalog.get(name)
    if not isinstance(records, list):
        raise Uncheckable(f"data set {name} is not a list of dataset dicts, and cannot be checked")
    return to_coco(records, metadata.get("thing_classes")), "", None


def to_coco(records: list[dict], classes: list[str] | None) -> dict:
    """Detectron2's dataset dicts in COCO's format, as far as `check_annotations` looks at it.

    Args:
        records: in Detectron2's format; file names stay whole, and what is malformed stays so.
        classes: the names, of which `category_id` is the index; None if they are not known.
    """
    if classes is None:
        ids = [entry.get("category_id") for r in records for entry in r.get("annotations", [])]
        classes = [str(i) for i in range(max((i for i in ids if type(i) is int), default=0) + 1)]
    coco = {
        "categories": [{"id": index, "name": name} for index, name in enumerate(classes)],
        "images": [],
        "annotations": [],
    }
    for index, record in enumerate(records):
        number = record.get("image_id", index)
        image = {key: record.get(key) for key in ("file_name", "height", "width")}
        coco["images"].append({"id": number, **image})
        for entry in record.get("annotations", []):
            box, sound = entry.get("bbox"), False
            with contextlib.suppress(Exception):  # found as malformed later
                box = BoxMode.convert(box, entry["bbox_mode"], BoxMode.XYWH_ABS)
                box, sound = [float(value) for value in box], True
            annotation = {
                "id": len(coco["annotations"]) + 1,
                "image_id": number,
                "category_id": entry.get("category_id"),
                "bbox": box,
                "area": abs(box[2] * box[3]) if sound else 0,  # its evaluator has its own
                "iscrowd": entry.get("iscrowd", 0),
            }
            if "segmentation" in entry:
                annotation["segmentation"] = _plain(entry["segmentation"])
            coco["annotations"].append(annotation)
    return coco


def _plain(segmentation):
    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), bytes):
        return segmentation | {"counts": segmentation["counts"].decode("ascii", "replace")}
    if isinstance(segmentation, list):
        return [p.tolist() if isinstance(p, np.ndarray) else p for p in segmentation]
    return segmentation
