"""Recipes: arch x detector x schedule, composed into one complete LazyConfig.

    cfg = recipe("mask_rcnn", "RegNetX-3.2GF", "1x")
    cfg.optimizer.lr = 0.01  # any key may be changed afterwards

`1x`, `2x` and `3x` are MMDetection's RegNet recipes (mmdet 3.3.0, configs/regnet), `lsj_100ep`,
`lsj_200ep` and `lsj_400ep` Detectron2's with large-scale jitter (its configs/new_baselines).
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import detectron2.data.transforms as T
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from d2_regnet.archs import RegNetArch
from d2_regnet.solver import multi_step_lr, steps_per_epoch

from . import detectors
from .detectron2_recipes import detectron2_1x, lsj
from .parts import RESIZES, RESNETS, backbone, choice, coco, config, is_resnet, sgd, train_group

__all__ = ["DETECTORS", "RESNETS", "detectron2_1x", "recipe", "scale_to_batch_size"]

DETECTORS = {
    "mask_rcnn": detectors.mask_rcnn,
    "faster_rcnn": detectors.faster_rcnn,
    "retinanet": detectors.retinanet,
    "cascade_mask_rcnn": detectors.cascade_mask_rcnn,
}

# Epochs, and the epochs at which the learning rate drops to a tenth.
SCHEDULES = {"1x": (12, (8, 11)), "2x": (24, (16, 22)), "3x": (36, (27, 33))}
LSJ_EPOCHS = {"lsj_100ep": 100, "lsj_200ep": 200, "lsj_400ep": 400}


def recipe(
    detector: str,
    arch: str | RegNetArch | Mapping,
    schedule: str,
    *,
    input_format: str | None = None,
    resize: str | None = None,
    mask_format: str | None = None,
    drops: Sequence[int] | None = None,
    lr: float | None = None,
    clip_grad: float | None = None,
    deform_stages: Sequence[str] = (),
    total_batch_size: int | None = None,
) -> DictConfig:
    """One complete LazyConfig: model, dataloader, optimizer, lr_multiplier and train.

    The backbone is pre-trained on ImageNet, its stem and first stage are frozen, and so are the
    statistics of all its norms, whose scale and shift are trained. A custom arch has no published
    weights: nothing of it is frozen and its norms are BN, until the config says otherwise.

    Args:
        detector: mask_rcnn, faster_rcnn, retinanet or cascade_mask_rcnn.
        arch: what `archs.get_arch` takes, or r50, r101, x101_32x4d.
        schedule: 1x (12 epochs of COCO), 2x, 3x, or lsj_100ep, lsj_200ep, lsj_400ep, which takes
            `deform_stages` and `total_batch_size` alone of the options below.
        input_format: channel order of the images, "BGR" or "RGB"; default: that of the backbone's
            weights, which is BGR for RegNets and RGB for ResNets.
        resize: a key of `RESIZES`; default: "range" at 3x, and "fixed" else.
        mask_format: "bitmask" (default) or "polygon"; of no effect on boxes-only detectors.
        drops: the epochs at which the learning rate drops to a tenth; default: the schedule's.
        lr: the learning rate after warm-up at 16 images a step; default: 0.02.
        clip_grad: the largest norm of all gradients together; None leaves them as they are.
        deform_stages: stages of a RegNet whose 3x3 convolutions are deformable.
        total_batch_size: images a step over all GPUs; default: 16, or 64 with large-scale jitter.
            The learning rate and the steps follow (see `scale_to_batch_size`).

    Raises:
        ValueError: an unknown name, or an impossible value; the message lists what there is.
    """
    detector = choice("detector", detector, DETECTORS)
    schedule = choice("schedule", schedule, [*SCHEDULES, *LSJ_EPOCHS])
    options = dict(input_format=input_format, resize=resize, mask_format=mask_format)
    options |= dict(drops=drops, lr=lr, clip_grad=clip_grad)
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if schedule in LSJ_EPOCHS and given:
        raise ValueError(
            f"{schedule} is Detectron2's recipe: set keys of its config instead of "
            f"{', '.join(given)}"
        )
    if schedule in LSJ_EPOCHS:
        cfg = lsj(detector, arch, LSJ_EPOCHS[schedule], deform_stages)
    else:
        cfg = _mmdetection(detector, arch, schedule, deform_stages, **given)
    if total_batch_size is not None:
        cfg.dataloader.train.total_batch_size = total_batch_size
        scale_to_batch_size(cfg)
    return cfg


def _mmdetection(
    detector,
    arch,
    schedule,
    deform_stages,
    *,
    input_format=None,
    resize=None,
    mask_format="bitmask",
    drops=None,
    lr=0.02,
    clip_grad=None,
) -> DictConfig:
    bottom_up, weights, own_format = backbone(arch, deform_stages)
    input_format = choice("input_format", input_format or own_format, ["BGR", "RGB"])
    mask_format = choice("mask_format", mask_format, ["bitmask", "polygon"])
    resize = choice("resize", resize or ("range" if schedule == "3x" else "fixed"), RESIZES)
    epochs, usual_drops = SCHEDULES[schedule]
    max_iter = epochs * steps_per_epoch(16)
    style, edges = RESIZES[resize]
    cfg = config(
        model=DETECTORS[detector](bottom_up, input_format=input_format),
        dataloader=coco(
            [
                L(T.ResizeShortestEdge)(sample_style=style, short_edge_length=edges, max_size=1333),
                L(T.RandomFlip)(horizontal=True),
            ],
            input_format,
            mask_format=mask_format if "mask" in detector else None,
        ),
        optimizer=sgd(lr, weight_decay=1e-4 if is_resnet(arch) else 5e-5),
        lr_multiplier=multi_step_lr(epochs, usual_drops if drops is None else drops, max_iter),
        train=train_group(max_iter, period=steps_per_epoch(16), init_checkpoint=weights),
    )
    if clip_grad is not None:
        cfg.train.clip_grad = dict(max_norm=clip_grad, norm_type=2.0)
    return cfg


def scale_to_batch_size(cfg: DictConfig, fixed: Collection[str] = ()) -> None:
    """Fits the learning rate and the steps to the batch size, in place: half the batch, half the
    learning rate, twice the steps.

    The linear scaling rule (Goyal et al., https://arxiv.org/abs/1706.02677), as Detectron2's
    `DefaultTrainer.auto_scale_workers`. `train.base_batch_size` is the batch size that they
    are meant for; `dataloader.train.total_batch_size`, times `train.accumulate`, is
    the one to be used. Where they differ, `optimizer.lr` is multiplied by their ratio,
    `train.max_iter`, `train.eval_period` and `train.checkpointer.period` are divided by it, and
    `base_batch_size` becomes the new size, so that a second call changes nothing. The schedule is
    in fractions of the training and stretches along, its warm-up too.
    `train.scale_to_batch_size=False` turns it off.

    Args:
        cfg: a recipe; any other config has no `train.base_batch_size` and is left as it is.
        fixed: dotted keys that stay as they are.

    Raises:
        ValueError: a batch size below 1.
    """
    train = cfg.get("train", {})
    base = train.get("base_batch_size")
    if not base or not train.get("scale_to_batch_size", True):
        return
    batch = cfg.dataloader.train.total_batch_size
    if batch < 1:
        raise ValueError(f"dataloader.train.total_batch_size must be at least 1, not {batch}")
    several = train.get("accumulate", 1)
    batch *= max(1, several) if isinstance(several, int) else 1  # the checks name what is wrong
    if batch == base:
        return
    scaled = {
        "optimizer.lr": lambda lr: lr * (batch / base),
        "train.max_iter": lambda steps: round(steps * base / batch),
        "train.eval_period": lambda steps: round(steps * base / batch),
        "train.checkpointer.period": lambda steps: max(1, round(steps * base / batch)),
        "train.base_batch_size": lambda _: batch,
    }
    for key in scaled.keys() - set(fixed):
        OmegaConf.update(cfg, key, scaled[key](OmegaConf.select(cfg, key)))
