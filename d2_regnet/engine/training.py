"""Builds a LazyConfig's parts, and trains them with Detectron2's loop and hooks."""

import argparse
import functools
import logging
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.engine import (
    EvalHook,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicWriter,
    create_ddp_model,
)
from detectron2.utils import comm
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig

from d2_regnet.model_zoo.loading import BEST_WEIGHTS
from d2_regnet.solver import clip_gradients

from .best import Best, StoppedEarly
from .build import amp_dtype, available_device, build_optimizer
from .checkpointer import Checkpointer, PeriodicCheckpointer
from .checks import Checked, check_config
from .ema import Average
from .evaluating import run_evaluation
from .hooks import StopOnSignal
from .launch import may_be_restarted
from .logs import job_logging
from .non_finite import NonFinite
from .options import Options, training_options
from .record import RunRecord
from .trainer import Trainer, unwrapped
from .validation import validation_losses
from .writers import RUN_FILES, build_writers

__all__ = ["fit", "run_training", "train"]

logger = logging.getLogger(__name__)


def train(
    cfg: DictConfig,
    *,
    checked: Checked | None = None,
    resume: bool = False,
    hooks: Iterable[HookBase] = (),
    console: bool = True,
    allow_missing: bool = False,
) -> dict:
    """Trains a model and evaluates it, as Detectron2's LazyConfig training does.

    Logs, metrics, checkpoints and the config go to `cfg.train.output_dir`. SIGINT, SIGTERM and
    SIGUSR1 end it after the step at hand, with a checkpoint.

    Args:
        cfg: as `load_config` returns it.
        checked: of a `check_config` for this training, which is then not done again.
        resume: continue from the newest checkpoint in the output folder; without one, start anew.
        hooks: run after Detectron2's own, before the metrics are written.
        console: print what is logged; if not, only warnings.
        allow_missing: as for `check_config`.

    Returns:
        The last evaluation: task -> metric -> value, as Detectron2's evaluators give it; empty in
        other processes than the first, and where the config has no evaluator.

    Raises:
        ValueError, FileNotFoundError: from `check_config`, before anything is written.
        Interrupted: a signal ended the training.
    """
    if checked is None:
        processes = comm.get_world_size()
        checked = check_config(cfg, resume=resume, processes=processes, allow_missing=allow_missing)
    with job_logging(cfg, argparse.Namespace(eval_only=False, resume=resume), console):
        return run_training(cfg, checked, resume=resume, hooks=hooks)


def run_training(
    cfg: DictConfig,
    checked: Checked | None = None,
    *,
    resume: bool = False,
    hooks: Iterable[HookBase] = (),
) -> dict:
    """`train` after its checks and inside its logging; builds the model unless it is given."""
    checked = checked or Checked(instantiate(cfg.model), None)
    train, device = cfg.train, available_device(cfg.train.device)
    options = training_options(cfg)
    model = checked.model.to(device)
    logger.info("Model:\n%s", model)
    average = Average(model, options.ema_decay) if options.ema_decay else None
    evaluated = average.module if average else model
    optimizer = build_optimizer(cfg, model)
    if train.clip_grad:
        clip_gradients(optimizer, **train.clip_grad)
    ddp = distributed(model, device, **train.ddp)
    trainer = Trainer(
        ddp,
        instantiate(cfg.dataloader.train),
        optimizer,
        device=device.type,
        precision=amp_dtype(train.amp, device.type),
        non_finite=NonFinite(os.path.join(train.output_dir, "non_finite"), **train.non_finite),
        accumulate=options.accumulate,
        average=average,
    )
    return fit(
        trainer,
        Checkpointer(ddp, train.output_dir, **checkpointables(cfg, trainer)),
        functools.partial(run_evaluation, cfg, evaluated),
        losses=functools.partial(validation_losses, cfg, evaluated),
        options=options,
        weights=train.init_checkpoint,
        loaded=checked.weights,
        resume=resume,
        scheduler=instantiate(cfg.lr_multiplier),
        max_iter=train.max_iter,
        checkpoints=train.checkpointer,
        eval_period=train.eval_period,
        log_period=train.log_period,
        hooks=hooks,
    )


def checkpointables(cfg: DictConfig | CfgNode, trainer: Trainer) -> dict:
    """What a checkpoint holds beside the model."""
    average = {"average": trainer.average} if trainer.average else {}
    return {"trainer": weakref.proxy(trainer), "run": RunRecord(cfg), **average}


def distributed(model: torch.nn.Module, device: torch.device, **options) -> torch.nn.Module:
    """Detectron2's `create_ddp_model` on any device: a model on the CPU has no device ids, where
    Detectron2 would give it the GPU of its rank."""
    return create_ddp_model(
        model, **options, **({} if device.type == "cuda" else {"device_ids": None})
    )


def fit(
    trainer: Trainer,
    checkpointer: Checkpointer,
    evaluate: Callable[..., dict],
    *,
    losses: Callable[..., dict],
    options: Options,
    weights: str,
    loaded: str | None,
    resume: bool,
    scheduler: ParamScheduler | torch.optim.lr_scheduler.LRScheduler,
    max_iter: int,
    checkpoints: Mapping,
    eval_period: int,
    log_period: int,
    hooks: Iterable[HookBase] = (),
) -> dict:
    """Trains to the end with Detectron2's hooks, from the beginning or from where a run stopped.

    Args:
        trainer, checkpointer: of one model.
        evaluate: called with `before_inference`, which it calls before each batch.
        losses: called alike for the `validation_losses`, if the options ask for them.
        options: see `Options`.
        weights: to begin with, a path or an address, unless `loaded` (see `Checked.weights`).
        resume: continue from the newest checkpoint of the checkpointer's folder, if there is one.
        scheduler: of the learning rate, fvcore's or torch's.
        max_iter, eval_period, log_period: in steps.
        checkpoints: `period`, in steps, and optionally `max_to_keep`.
        hooks: run after Detectron2's own, before the metrics are written.

    Returns:
        The last evaluation.
    """
    stop = StopOnSignal(checkpointer)
    results = OrderedDict()

    def test():
        results.clear()
        results.update(_stoppable(evaluate, stop))
        found = _stoppable(losses, stop) if options.validation_loss else {}
        found = {f"validation/{name}": value for name, value in found.items()}
        trainer.storage.put_scalars(**found, smoothing_hint=False)
        if best:
            best.see(results | found)
        return results

    evaluation = EvalHook(eval_period, test)
    best = Best(checkpointer, evaluation, options) if options.metric else None
    trainer.register_hooks([IterationTimer(), LRScheduler(scheduler=scheduler)])
    if main := comm.is_main_process():
        trainer.register_hooks([PeriodicCheckpointer(checkpointer, **checkpoints)])
    trainer.register_hooks([evaluation, *hooks, stop, best])
    if main:
        writers = build_writers(checkpointer.save_dir, max_iter, options.loggers)
        trainer.register_hooks([PeriodicWriter(writers, log_period)])
    checkpointer.remove_partial()
    start = _begin(trainer, checkpointer, scheduler, weights, loaded, resume)
    _run(trainer, checkpointer, start, start if best and best.exhausted else max_iter)
    return results


def _run(trainer: Trainer, checkpointer: Checkpointer, start: int, max_iter: int) -> None:
    if start >= max_iter:
        logger.info("Training had already reached step %d: evaluating", start)
    if start == max_iter:
        checkpointer.finish()
    with suppress(StoppedEarly):
        Trainer.train(trainer, start, max_iter)  # a subclass may have a simpler one


def _stoppable(measure: Callable[..., dict], stop: StopOnSignal) -> dict:
    """What it measures, unless a signal ends it."""
    try:
        return measure(before_inference=stop.check)
    except RuntimeError:
        stop.check()  # the others have, and this process was waiting for them
        raise


def _begin(
    trainer: Trainer,
    checkpointer: Checkpointer,
    scheduler,
    weights: str,
    loaded: str | None,
    resume: bool,
) -> int:
    """Loads the weights, or all of the newest checkpoint; returns the step to begin with."""
    start, folder = 0, checkpointer.save_dir
    newest = checkpointer.newest() if resume else ""
    if newest:
        left = checkpointer.load(newest)
        if "average" in left:  # the run had one, and has none now
            unwrapped(trainer.model).load_state_dict(left["average"]["plain"])
        if not isinstance(scheduler, ParamScheduler):  # it has loaded the former rates
            scheduler.base_lrs = [group["initial_lr"] for group in trainer.optimizer.param_groups]
        start = trainer.iter + 1
    else:
        if resume:
            logger.info("No checkpoint to resume in %s: starting anew", folder)
        checkpointer.forget(BEST_WEIGHTS, *RUN_FILES)
        if loaded is None:
            checkpointer.load(weights, checkpointables=[])
        else:
            logger.info("The model begins with %s", loaded)
        if may_be_restarted():  # it must not take up what an earlier run has left in the folder
            trainer.iter = -1
            checkpointer.save("model_initial", iteration=-1)
    return start
