"""The cheap part of the checks, done at each start, and what a config says of its data sets."""

import logging
from collections import Counter
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from omegaconf import DictConfig, OmegaConf

from .checks import check_annotations, is_plain
from .findings import Finding, refuse_errors
from .image_checks import check_images, missing_images
from .objects import nothing_usable, objects_of
from .registered import Uncheckable, known_classes, load_registered

__all__ = ["check_before_training", "dataset_names"]

logger = logging.getLogger(__name__)
_IMAGES_AT_START = 200
_PARTIAL = "PartialMaskHead"


@dataclass(frozen=True)
class _Expected:
    """What a config makes of its data sets.

    Attributes:
        classes: how many the model knows, by the config's key for it.
        masks: the key for the form of the masks, and that form; None if they are not used.
        partial: whether objects may lack theirs.
    """

    classes: dict[str, int]
    masks: tuple[str, str] | None
    partial: bool = False

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
            _PARTIAL in str(OmegaConf.select(cfg, "model.roi_heads")),
        )

    @classmethod
    def _of_yacs(cls, cfg: CfgNode) -> "_Expected":
        classes, kind = {}, cfg.MODEL.META_ARCHITECTURE
        if kind.endswith("RetinaNet"):
            classes["MODEL.RETINANET.NUM_CLASSES"] = cfg.MODEL.RETINANET.NUM_CLASSES
        elif kind.endswith("RCNN") or kind == "PanopticFPN":
            classes["MODEL.ROI_HEADS.NUM_CLASSES"] = cfg.MODEL.ROI_HEADS.NUM_CLASSES
        masks = ("INPUT.MASK_FORMAT", cfg.INPUT.MASK_FORMAT) if cfg.MODEL.MASK_ON else None
        return cls(classes, masks, cfg.MODEL.ROI_MASK_HEAD.NAME == _PARTIAL)


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


def check_before_training(cfg: DictConfig | CfgNode, *, eval_only: bool = False) -> list[str]:
    """The part of the checks that is cheap: all annotations, whether all images are there, and the
    headers of some.

    Errors are raised; warnings are logged, with their count and an example.

    Args:
        cfg: a config of either kind, see `dataset_names`.
        eval_only: leave out those that are trained on.

    Returns:
        The names of the classes, in the model's order; empty if no data set says them.

    Raises:
        ValueError: naming the data set, the number of errors and an example: annotations or images
            that would stop the training or the evaluation, nothing to train on or to evaluate on,
            masks that are missing or of the wrong kind, more or fewer classes than the model's,
            or other classes than those of the first training data.
        FileNotFoundError: a data set's JSON file does not exist.
    """
    names, expected = dataset_names(cfg), _Expected.of(cfg)
    learnt = known_classes(names["train"]) if eval_only else ("", [])
    for part in ("test",) if eval_only else ("train", "test"):
        for name in names[part]:
            try:
                coco, folder, path = load_registered(name)
            except Uncheckable as reason:
                logger.info(reason)
                continue
            if path:
                _check_encoding(name, path)
            _report(name, check_annotations(coco))
            objects = objects_of(coco)
            _check_images(name, coco["images"], folder, _may_be_skipped(cfg, coco, objects, part))
            _check_classes(expected, name, len(coco["categories"]), part)
            if MetadataCatalog.get(name).get("thing_classes") or path:
                learnt = _check_names(name, coco, learnt)
            _check_targets(expected, name, coco, objects, part)
    return learnt[1]


def _check_encoding(name: str, path: str) -> None:
    if not is_plain(path):
        raise ValueError(
            f"data set {name}: {path} begins with a byte-order mark, or is not in UTF-8, which is "
            f"what Detectron2 reads: `d2-regnet check-dataset --dataset {name} --fix-to NEW.json` "
            "writes it so"
        )


def _report(name: str, findings: list[Finding]) -> None:
    remedy = f"List them with `d2-regnet check-dataset --dataset {name}`; --fix-to NEW.json writes "
    refuse_errors(findings, f"data set {name}", f"{remedy}a cleaned file")
    counts = Counter(f.kind for f in findings if f.level == "warning")
    examples = {f.kind: f.detail for f in reversed(findings)}
    for kind, count in counts.items():
        logger.warning("data set %s: %d x %s, such as %s", name, count, kind, examples[kind])


def _may_be_skipped(cfg, coco: dict, objects: list[dict], part: str) -> int:
    """How many images may be unusable: in evaluation none, as it would be another metric."""
    if part == "test":
        return 0
    node = None if isinstance(cfg, CfgNode) else OmegaConf.select(cfg, "dataloader.train")
    share = (node or {}).get("max_skipped", 0.01)
    images = len({each["image_id"] for each in objects}) or len(coco["images"])
    return max(int(share * images), 1) if share else 0


def _check_images(name: str, images: list[dict], folder: str, allowed: int) -> None:
    """That all are there, but for those that may be skipped, and that some can be read."""
    missing = missing_images(images, folder)
    some = images[:: max(1, len(images) // _IMAGES_AT_START)] if allowed else images
    findings = check_images(some, folder)
    bad = max(len(missing), len(findings))
    if not bad:
        return
    first = f"{findings[0].kind}: {findings[0].detail}" if findings else f"there is no {missing[0]}"
    if len(findings) == len(some):
        raise ValueError(
            f"data set {name}: of {len(some)} images looked at, none can be used; the first: "
            f"{first}"
        )
    counts = f"of {len(some)} images looked at, {len(findings)} cannot be used"
    if len(missing) > len(findings):
        counts = f"of {len(images)} images, {len(missing)} are missing"
    if bad > allowed:
        raise ValueError(
            f"data set {name}: {counts}, such as {first}; at most {allowed} may be. `d2-regnet "
            f"check-dataset --dataset {name} --fix-to NEW.json` writes annotations without them"
        )
    logger.warning("data set %s: %s, such as %s", name, counts, first)


def _check_names(name: str, coco: dict, learnt: tuple[str, list[str]]) -> tuple[str, list[str]]:
    """That the classes are those of the first data set, in the order of their ids: the model knows
    them by their place in it."""
    own = [each["name"] for each in sorted(coco["categories"], key=lambda each: each["id"])]
    said = MetadataCatalog.get(name).get("thing_classes") or own
    for other, classes in (("its registration", list(said)), learnt):
        # One may have fewer, at the end: `_check_classes` says so.
        differs = [i for i, pair in enumerate(zip(own, classes)) if pair[0] != pair[1]]
        if differs:
            order = "in another order" if sorted(classes) == sorted(own) else "not"
            raise ValueError(
                f"data set {name} has the classes of {other} {order}: class {differs[0] + 1} is "
                f"{own[differs[0]]!r}, and {classes[differs[0]]!r} there. Give its categories the "
                "same names, and ids in the same order"
            )
    return learnt if learnt[1] else (name, own)


def _check_classes(expected: _Expected, name: str, classes: int, part: str) -> None:
    for key, known in expected.classes.items():
        # An evaluator stops at a class that it does not know; a model may know more than it sees.
        if classes > known or (part == "test" and classes != known):
            raise ValueError(
                f"data set {name} has {classes} classes, but {key} is {known}: set it to {classes}"
            )
        if classes < known:
            logger.warning("data set %s has %d classes, %s is %d", name, classes, key, known)


def _check_targets(
    expected: _Expected, name: str, coco: dict, objects: list[dict], part: str
) -> None:
    """That there is something to learn from or to find, with the masks that the config expects."""
    if part == "test" and "annotations" not in coco:
        return  # such as COCO's test2017: predictions are written, and not evaluated
    if not objects:
        raise ValueError(nothing_usable(coco, f"data set {name}"))
    if expected.masks is None:
        return
    masks = [each.get("segmentation") for each in objects]
    key, form = expected.masks
    missing = len(masks) - sum(map(bool, masks))
    if missing == len(masks) or (missing and part == "train" and not expected.partial):
        number = "no masks" if missing == len(masks) else f"{missing} objects without a mask"
        raise ValueError(
            f"data set {name} has {number}: train a detector without them, such as faster_rcnn"
            + ("" if missing == len(masks) else f", or with {_PARTIAL} as its mask head")
        )
    if part == "train" and form == "polygon" and any(isinstance(mask, dict) for mask in masks):
        raise ValueError(f"data set {name} has masks as RLE: set {key} to bitmask")
