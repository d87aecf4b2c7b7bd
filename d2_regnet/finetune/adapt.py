"""A model's config made one for another data set."""

import os
from pathlib import Path

import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.modeling.roi_heads import MaskRCNNConvUpsampleHead
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import CosineParamScheduler
from omegaconf import DictConfig, OmegaConf

from d2_regnet.archs import get_arch
from d2_regnet.modeling import PartialMaskHead
from d2_regnet.utils.signatures import calls, parameters, target_of

from .datasets import DataSet
from .schedule import Plan

__all__ = ["body_activations", "from_scratch", "has_masks", "set_data", "set_model", "set_schedule"]

_UNKNOWN_BODY = "RegNetX-12GF"  # of a backbone that is no RegNet, so as not to promise too much
_PATIENCE = 3  # evaluations
_STEP = 32  # pixels: the coarsest stride of the usual levels
_MAX_OVER_SHORT = 1333 / 800  # the longest side that the models allow


def has_masks(cfg: DictConfig) -> bool:
    """Whether the config's model predicts masks."""
    return any(key.startswith("mask_") for key in cfg.model.get("roi_heads", {}))


def set_model(cfg: DictConfig, classes: int, masks: bool) -> None:
    """Gives the model's heads the number of classes, and takes its mask heads if not wanted.

    Raises:
        ValueError: a model of which neither `roi_heads` nor `num_classes` is known.
    """
    node = cfg.model.get("roi_heads", cfg.model)
    if "num_classes" not in node:
        raise ValueError("--model: the config has no num_classes to set: use a detector's")
    node.num_classes = classes
    if not masks:
        for key in [key for key in node if key.startswith("mask_")]:
            del node[key]


def set_data(
    cfg: DictConfig,
    name: str,
    train: DataSet,
    val: DataSet,
    *,
    folder: Path,
    short_edge: int | None,
) -> int | None:
    """Puts the data sets into the config, which then describes them itself.

    Args:
        cfg: changed in place; `set_model` comes first.
        name: what they are registered by: `{name}_train` and `{name}_val`.
        folder: where annotations are written that have no file.
        short_edge: of images for the model, in pixels. By default the config's own, or twice the
            images' median where that is less: larger ones would cost more and show no more. A
            config that does not resize does so where this is given.

    Returns:
        The short edge; None if the config does not resize by it.

    Raises:
        ValueError: `short_edge` for a config that changes test images in another way.
    """
    masks = has_masks(cfg)
    cfg.datasets = {}
    for part, data in (("train", train), ("val", val)):
        cfg.datasets[f"{name}_{part}"] = {
            "json_file": data.file or str((folder / f"{part}.json").absolute()),
            "image_root": data.folder,
            "categories": data.categories,
        }
    loaders = cfg.dataloader
    loaders.train.dataset.names, loaders.test.dataset.names = cfg.datasets
    mapper = loaders.train.mapper
    mapper.use_instance_mask = masks
    if masks and any(isinstance(mask, dict) for mask in train.masks):
        mapper.instance_mask_format = "bitmask"
    if "recompute_boxes" in mapper:
        mapper.recompute_boxes = mapper.recompute_boxes and masks
    if loaders.get("evaluator") is not None:
        tasks = ("bbox", "segm") if masks else ("bbox",)
        loaders.evaluator.update(tasks=tasks, output_dir="${train.output_dir}/inference")
    workers = max(1, min(4, (os.cpu_count() or 2) - 1))
    loaders.train.num_workers = loaders.test.num_workers = workers
    return _set_size(cfg, train, short_edge)


def _set_size(cfg: DictConfig, train: DataSet, short_edge: int | None) -> int | None:
    mappers = cfg.dataloader.train.mapper, cfg.dataloader.test.mapper
    if short_edge is not None and not mappers[1].augmentations:
        resize = L(T.ResizeShortestEdge)(
            short_edge_length=short_edge, max_size=round(_MAX_OVER_SHORT * short_edge)
        )
        for mapper in mappers:
            mapper.augmentations = [resize, *mapper.augmentations]
        return short_edge
    train_resizes, test = (_resizes(mapper.augmentations) for mapper in mappers)
    if not test:
        if short_edge is not None:
            raise ValueError("--short-edge: this config resizes in another way")
        return None
    own = test[0].short_edge_length
    own = own if isinstance(own, int) else max(own)
    if short_edge is None:
        short_edge = min(own, _to_stride(2 * train.short_edge))
    scale = short_edge / own
    for node in test + train_resizes:
        edges = node.short_edge_length
        node.short_edge_length = (
            round(edges * scale) if isinstance(edges, int) else [round(e * scale) for e in edges]
        )
        node.max_size = round(node.max_size * scale)
    return short_edge


def allow_objects_without_masks(cfg: DictConfig) -> None:
    """Has the mask heads learn from the objects that have a mask."""
    for node in calls(cfg.model, MaskRCNNConvUpsampleHead):
        node._target_ = PartialMaskHead


def set_detections(cfg: DictConfig, objects: int) -> int | None:
    """Lets the model find, and the evaluation count, as many objects as an image has.

    Args:
        objects: the most of one image.

    Returns:
        The new limit; None if the usual one, of 100 an image, is enough.
    """
    limit = -(-objects // 100) * 100
    if limit <= 100:
        return None
    for node in calls(cfg.model):
        for key in ("test_topk_per_image", "max_detections_per_image"):
            if key in node or key in (parameters(target_of(node)) or ()):
                node[key] = max(limit, node.get(key) or 0)
    if cfg.dataloader.get("evaluator") is not None:
        cfg.dataloader.evaluator.max_dets_per_image = [1, 10, limit]
    return limit


def _to_stride(pixels: int) -> int:
    return -(-pixels // _STEP) * _STEP


def test_size(cfg: DictConfig) -> tuple[int | None, int | None]:
    """The short edge of test images and the most that their long one may have; None: any."""
    resizes = _resizes(cfg.dataloader.test.mapper.augmentations)
    if not resizes:
        return None, None
    edges = resizes[0].short_edge_length
    return edges if isinstance(edges, int) else max(edges), resizes[0].max_size


def _resizes(augmentations) -> list[DictConfig]:
    return [node for node in augmentations if target_of(node) is T.ResizeShortestEdge]


def body_activations(cfg: DictConfig, train: DataSet, short_edge: int | None) -> int:
    """Outputs of the backbone's convolutions for an image of usual shape."""
    arch = OmegaConf.select(cfg, "model.backbone.bottom_up.arch")
    arch = OmegaConf.to_container(arch) if isinstance(arch, DictConfig) else arch
    side = short_edge or train.short_edge
    return get_arch(arch or _UNKNOWN_BODY).complexity((side, round(side * train.aspect)), 0).acts


def from_scratch(cfg: DictConfig) -> bool:
    """Trains the whole backbone, with batch norm: frozen random values would learn nothing.

    Returns:
        Whether anything was changed.
    """
    body = OmegaConf.select(cfg, "model.backbone.bottom_up")
    if body is None or "freeze_at" not in body or (body.freeze_at, body.get("norm")) == (0, "BN"):
        return False
    body.update(freeze_at=0, norm="BN")
    return True


def set_schedule(cfg: DictConfig, plan: Plan, *, weights: str, output: Path, seed: int) -> None:
    """Puts the plan into the config: batch, steps, rate with a cosine's descent, evaluations, of
    which the best is kept, and three without gain in a row end the training."""
    evaluated = cfg.dataloader.get("evaluator") is not None
    metric = ("segm/AP" if has_masks(cfg) else "bbox/AP") if evaluated else None
    cfg.dataloader.train.total_batch_size = plan.batch
    cfg.optimizer.lr = plan.lr
    cfg.lr_multiplier = L(WarmupParamScheduler)(
        scheduler=L(CosineParamScheduler)(start_value=1.0, end_value=0.01),
        warmup_factor=0.01,
        warmup_length=plan.warmup / plan.steps,
    )
    cfg.train.update(
        output_dir=str(output),
        init_checkpoint=weights,
        base_batch_size=plan.batch,
        scale_to_batch_size=True,
        max_iter=plan.steps,
        eval_period=plan.eval_period,
        checkpointer=dict(period=plan.eval_period, max_to_keep=2),
        keep_best=dict(metric=metric, mode="max"),
        early_stopping=dict(patience=_PATIENCE if evaluated else 0, min_delta=0.0),
        log_period=max(1, min(20, plan.steps // 50)),
        seed=seed,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
