"""The cheap part of the checks, done at each start, and what a config says of its data sets."""

import logging
from collections import Counter
from dataclasses import dataclass

from detectron2.config import CfgNode
from omegaconf import DictConfig, OmegaConf

from .checks import check_annotations
from .findings import Finding
from .image_checks import check_images
from .registered import Uncheckable, load_registered

__all__ = ["check_before_training", "dataset_names"]

logger = logging.getLogger(__name__)
_PICTURES_AT_START = 200


@dataclass(frozen=True)
class _Expected:
    """What a config makes of its data sets.

    Attributes:
        classes: how many the model knows, by the config's key for it.
        masks: the key for the form of the masks, and that form; None where they are not used.
    """

    classes: dict[str, int]
    masks: tuple[str, str] | None

    @classmethod
    def of(cls, cfg: DictConfig | CfgNode) -> "_Expected":
        return cls._of_yacs(cfg) if isinstance(cfg, CfgNode) else cls._of_lazy(cfg)

    @classmethod
    def _of_lazy(cls, cfg: DictConfig) -> "_Expected":
        keys = ("model.roi_heads.num_classes", "model.num_classes")
        found = {key: OmegaConf.select(cfg, key) for key in keys}
        mapper = OmegaConf.select(cfg, "dataloader.train.mapper") or {}
        form = mapper.get("instance_mask_format", "polygon")
        key = "dataloader.train.mapper.instance_mask_format"
        return cls(
            {key: number for key, number in found.items() if number is not None},
            (key, form) if mapper.get("use_instance_mask") else None,
        )

    @classmethod
    def _of_yacs(cls, cfg: CfgNode) -> "_Expected":
        classes, kind = {}, cfg.MODEL.META_ARCHITECTURE
        if kind.endswith("RetinaNet"):
            classes["MODEL.RETINANET.NUM_CLASSES"] = cfg.MODEL.RETINANET.NUM_CLASSES
        elif kind.endswith("RCNN") or kind == "PanopticFPN":
            classes["MODEL.ROI_HEADS.NUM_CLASSES"] = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        masks = ("INPUT.MASK_FORMAT", cfg.INPUT.MASK_FORMAT) if cfg.MODEL.MASK_ON else None
        return cls(classes, masks)


def dataset_names(cfg: DictConfig | CfgNode) -> dict[str, list[str]]:
    """The data sets that a config trains on and evaluates on, by "train" and "test".

    Args:
        cfg: a LazyConfig, with them under `dataloader.{train,test}.dataset.names`, or a yacs
            config, with `DATASETS.TRAIN` and `.TEST`.
    """
    if isinstance(cfg, CfgNode):
        found = {"train": cfg.DATASETS.TRAIN, "test": cfg.DATASETS.TEST}
    else:
        parts = ("train", "test")
        found = {part: OmegaConf.select(cfg, f"dataloader.{part}.dataset.names") for part in parts}
    return {
        part: [names] if isinstance(names, str) else list(names or [])
        for part, names in found.items()
    }


def check_before_training(cfg: DictConfig | CfgNode, *, eval_only: bool = False) -> None:
    """The part of the checks that is cheap: all annotations, and the headers of some images.

    Errors are raised; warnings are logged, with their count and an example.

    Args:
        cfg: a config of either kind, see `dataset_names`.
        eval_only: leave out those that are trained on.

    Raises:
        ValueError: naming the data set, the number of errors and an example: annotations that
            would stop the training, images of which none can be used, nothing to train on,
            masks that are missing or of the wrong kind, or more or fewer classes than the model's.
        FileNotFoundError: a data set's JSON file does not exist.
    """
    names, expected = dataset_names(cfg), _Expected.of(cfg)
    for part in ("test",) if eval_only else ("train", "test"):
        for name in names[part]:
            try:
                coco, folder, _ = load_registered(name)
            except Uncheckable as reason:
                logger.info(reason)
                continue
            _report(name, check_annotations(coco))
            _check_some_pictures(name, coco["images"], folder)
            _check_classes(expected, name, len(coco["categories"]), part)
            if part == "train":
                _check_targets(expected, name, coco.get("annotations", []))


def _report(name: str, findings: list[Finding]) -> None:
    errors = [f for f in findings if f.level == "error"]
    if errors:
        raise ValueError(
            f"data set {name} has {len(errors)} error(s), the first: {errors[0].kind}: "
            f"{errors[0].detail}. List them with `d2-regnet check-dataset --dataset {name}`; "
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


def _check_classes(expected: _Expected, name: str, classes: int, part: str) -> None:
    for key, known in expected.classes.items():
        # An evaluator stops at a class that it does not know; a model may know more than it sees.
        if classes > known or (part == "test" and classes != known):
            raise ValueError(
                f"data set {name} has {classes} classes, but {key} is {known}: set it to {classes}"
            )
        if classes < known:
            logger.warning("data set %s has %d classes, %s is %d", name, classes, key, known)


def _check_targets(expected: _Expected, name: str, annotations: list[dict]) -> None:
    """That there is something to learn from, and that it has the masks that the mapper expects."""
    masks = [a.get("segmentation") for a in annotations if not a.get("iscrowd")]
    if not masks:
        raise ValueError(f"data set {name} has no annotations, so nothing to train on")
    if expected.masks is None:
        return
    if not all(masks):
        raise ValueError(
            f"data set {name} has no masks: train a detector without them, such as faster_rcnn"
        )
    key, form = expected.masks
    if form == "polygon" and any(isinstance(mask, dict) for mask in masks):
        raise ValueError(f"data set {name} has masks as RLE: set {key} to bitmask")
