"""Optimization as the recipes need it: schedules in epochs, whole-model gradient clipping."""

import math
from collections.abc import Sequence

import torch
from detectron2.config import LazyCall as L
from detectron2.solver import WarmupParamScheduler
from detectron2.utils.events import get_event_storage, has_event_storage
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig

# Images of COCO train2017 with at least one object: what Detectron2 and MMDetection train on.
COCO_TRAIN_IMAGES = 117_266


def steps_per_epoch(batch_size: int, images: int = COCO_TRAIN_IMAGES) -> int:
    """How many steps of `batch_size` images see every image once; the last may be short."""
    return math.ceil(images / batch_size)


def multi_step_lr(
    epochs: int,
    drops: Sequence[int],
    max_iter: int,
    *,
    gamma: float = 0.1,
    warmup_steps: int = 500,
    warmup_factor: float = 0.001,
) -> DictConfig:
    """A step schedule with linear warm-up: an `lr_multiplier` for a LazyConfig.

    At step i of `max_iter` the learning rate is multiplied by gamma to the power of the drops that
    have passed, and for i < w = `warmup_steps` by warmup_factor + (1 - warmup_factor) i / (w - 1):
    as with mmengine's LinearLR(begin=0, end=w), the last warm-up step has the full one. Everything
    is a fraction of the training, so that a changed `train.max_iter` stretches it all.

    Args:
        epochs: length of the training.
        drops: the epochs at whose beginning it drops, ascending, each in 1..epochs - 1.
        max_iter: length of the training in steps, above `warmup_steps`.
        gamma: the factor of each drop.
        warmup_steps: length of the warm-up in steps, >= 2; 0 leaves it out.
        warmup_factor: the factor of the first step, in [0, 1].

    Raises:
        ValueError: drops that are not ascending epochs of the training, or a warm-up that does
            not fit into it.
    """
    drops = list(drops)
    if drops != sorted(set(drops)) or not all(0 < drop < epochs for drop in drops):
        raise ValueError(f"drops must be ascending epochs between 0 and {epochs}, not {drops}")
    schedule = L(MultiStepParamScheduler)(
        values=[gamma**k for k in range(len(drops) + 1)],
        # The scheduler is scale-invariant: epochs do as well as steps.
        milestones=drops,
        num_updates=epochs,
    )
    if not warmup_steps:
        return schedule
    if not 2 <= warmup_steps < max_iter:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit into {max_iter} steps")
    return L(WarmupParamScheduler)(
        scheduler=schedule,
        warmup_factor=warmup_factor,
        warmup_length=(warmup_steps - 1) / max_iter,
    )


def clip_gradients(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0
) -> torch.utils.hooks.RemovableHandle:
    """Makes every `optimizer.step()` clip the norm of all its gradients taken together.

    As MMDetection's `clip_grad`; Detectron2 clips each parameter for itself. Right under AMP too:
    the scaler removes its scale first. The norm before the clipping is logged as `grad_norm`.

    Args:
        optimizer: any torch optimizer.
        max_norm: the largest norm that is left as it is, > 0.
        norm_type: the p of the p-norm, > 0; may be inf.

    Returns:
        A handle whose `remove()` ends the clipping.

    Raises:
        ValueError: a norm that is not positive.
    """
    if not max_norm > 0 or not norm_type > 0:
        raise ValueError(
            f"clip_grad needs positive max_norm and norm_type: {max_norm}, {norm_type}"
        )

    def clip(optimizer, args, kwargs):
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
        if has_event_storage():
            get_event_storage().put_scalar("grad_norm", norm.item())

    return optimizer.register_step_pre_hook(clip)
