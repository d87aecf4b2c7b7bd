"""Checks of registered data sets, and of a config's before training."""

import contextlib
import logging
import os
from collections import Counter

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf

from d2_regnet.archs import suggest

from .checks import Finding, check_annotations, check_images, read_coco

__all__ = [
    "Uncheckable",
    "check_before_training",
    "dataset_names",
    "load_registered",
    "register_described",
    "to_coco",
]

logger = logging.getLogger(__name__)
_PICTURES_AT_START = 200


class Uncheckable(ValueError):
    """A data set of another kind than the checks know."""


def dataset_names(cfg: DictConfig) -> dict[str, list[str]]:
    """The data sets that a LazyConfig trains on and evaluates on, by "train" and "test"."""
    found = {}
    for part in ("train", "test"):
        names = OmegaConf.select(cfg, f"dataloader.{part}.dataset.names")
        found[part] = [names] if isinstance(names, str) else list(names or [])
    return found


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
        known = {"described": True}
        if categories := sorted(node.get("categories") or [], key=lambda each: each.id):
            known["thing_classes"] = [each.name for each in categories]
            known["thing_dataset_id_to_contiguous_id"] = {
                each.id: index for index, each in enumerate(categories)
            }
        register_coco_instances(name, known, node.json_file, node.image_root)


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
        return read_coco(path), metadata.get("image_root") or "", path
    records = DatasetCatalog.get(name)
    if not isinstance(records, list):
        raise Uncheckable(f"data set {name} is no list of dataset dicts, and cannot be checked")
    return to_coco(records, metadata.get("thing_classes")), "", None


def to_coco(records: list[dict], classes: list[str] | None) -> dict:
    """Detectron2's dataset dicts in COCO's format, as far as `check_annotations` looks at it.

    Args:
        records: in Detectron2's format; file names stay whole, and what is malformed stays so.
        classes: the names, of which `category_id` is the index; None where they are not known.
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
            box = entry.get("bbox")
            with contextlib.suppress(Exception):  # found as malformed later
                box = BoxMode.convert(box, entry["bbox_mode"], BoxMode.XYWH_ABS)
                box = [float(value) for value in box]
            annotation = {
                "id": len(coco["annotations"]) + 1,
                "image_id": number,
                "category_id": entry.get("category_id"),
                "bbox": box,
                "area": 0,  # evaluators of other formats have their own
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


def check_before_training(cfg: DictConfig, *, eval_only: bool = False) -> None:
    """The part of the checks that is cheap: all annotations, and the headers of some pictures.

    Errors are raised; warnings are logged, with their count and an example.

    Args:
        cfg: a LazyConfig; data sets are looked for under `dataloader.{train,test}.dataset.names`.
        eval_only: leave out those that are trained on.

    Raises:
        ValueError: naming the data set, the number of errors and an example: annotations that
            would stop the training, pictures of which none can be used, nothing to train on,
            masks that are missing or of the wrong kind, or more or fewer classes than the model's.
        FileNotFoundError: a data set's JSON file does not exist.
    """
    names = dataset_names(cfg)
    for part in ("test",) if eval_only else ("train", "test"):
        for name in names[part]:
            try:
                coco, folder, _ = load_registered(name)
            except Uncheckable as reason:
                logger.info(reason)
                continue
            _report(name, check_annotations(coco))
            _check_some_pictures(name, coco["images"], folder)
            _check_classes(cfg, name, len(coco["categories"]), part)
            if part == "train":
                _check_targets(cfg, name, coco.get("annotations", []))


def _report(name: str, findings: list[Finding]) -> None:
    errors = [f for f in findings if f.level == "error"]
    if errors:
        raise ValueError(
            f"data set {name} has {len(errors)} error(s), the first: {errors[0].kind}: "
            f"{errors[0].detail}. List them with `python tools/check_dataset.py --dataset {name}`; "
            "--fix-to NEW.json writes a cleaned file"
        )
    counts = Counter(f.kind for f in findings if f.level == "warning")
    examples = {f.kind: f.detail for f in reversed(findings)}
    for kind, count in counts.items():
        logger.warning("data set %s: %d x %s, such as %s", name, count, kind, examples[kind])


def _check_some_pictures(name: str, images: list[dict], folder: str) -> None:
    some = images[:: max(1, len(images) // _PICTURES_AT_START)]
    findings = check_images(some, folder)
    if len(findings) == len(some):
        raise ValueError(
            f"data set {name}: of {len(some)} images looked at, none can be used; the first: "
            f"{findings[0].kind}: {findings[0].detail}"
        )
    if findings:
        logger.warning(
            "data set %s: of %d images looked at, %d cannot be used, such as %s: %s",
            *(name, len(some), len(findings), findings[0].kind, findings[0].detail),
        )


def _check_classes(cfg: DictConfig, name: str, classes: int, part: str) -> None:
    for key in ("model.roi_heads.num_classes", "model.num_classes"):
        expected = OmegaConf.select(cfg, key)
        if expected is None or expected == classes:
            continue
        # An evaluator stops at a class that it does not know; a model may know more than it sees.
        if part == "test" or classes > expected:
            raise ValueError(
                f"data set {name} has {classes} classes, but {key} is {expected}: "
                f"set {key}={classes}"
            )
        logger.warning("data set %s has %d classes, %s is %d", name, classes, key, expected)


def _check_targets(cfg: DictConfig, name: str, annotations: list[dict]) -> None:
    """That there is something to learn from, and that it has the masks that the mapper expects."""
    masks = [a.get("segmentation") for a in annotations if not a.get("iscrowd")]
    mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
    if not masks:
        raise ValueError(f"data set {name} has no annotations, so nothing to train on")
    if mapper.get("use_instance_mask") and not all(masks):
        raise ValueError(
            f"data set {name} has no masks: train a detector without them, such as faster_rcnn"
        )
    if (
        mapper.get("use_instance_mask")
        and mapper.get("instance_mask_format", "polygon") == "polygon"
        and any(isinstance(mask, dict) for mask in masks)
    ):
        raise ValueError(
            f"data set {name} has masks as RLE: set "
            "dataloader.train.mapper.instance_mask_format=bitmask"
        )
