"""Builds a LazyConfig's parts, and trains or evaluates them with Detectron2's loop and hooks."""

import argparse
import functools
import io
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.engine import (
    EvalHook,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicWriter,
    SimpleTrainer,
    create_ddp_model,
    default_setup,
    default_writers,
)
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_regnet.data.sampler import TrainingBatchSampler
from d2_regnet.modeling.global_batch import global_batch
from d2_regnet.optimize import optimize_for_inference
from d2_regnet.solver import clip_gradients

from .checkpointer import Checkpointer, PeriodicCheckpointer
from .checks import amp_dtype, build_optimizer, check_config, inference_options
from .hooks import PatientWriter, StopOnSignal
from .launch import may_be_restarted
from .non_finite import NonFinite, describe_gradients, describe_losses, pictures
from .record import RunRecord

logger = logging.getLogger(__name__)
_NO_DEVICE_IDS = dict(device_ids=None)
_SMOOTHED = 20  # steps that Detectron2's writers take the median of


class Trainer(SimpleTrainer):
    """Detectron2's `SimpleTrainer`, with mixed precision on any device, that resumes bitwise.

    Detectron2's `AMPTrainer` asks for CUDA; this one does the same on a GPU and bfloat16 on a CPU.

    The random numbers of a step are a function of the run's seed, the step and the rank, and so
    are its pictures with `d2_regnet.data.build_train_loader`; the seeds are in the checkpoints.
    However many processes share a batch, d2_regnet's detectors draw and compute the same of it (see
    `d2_regnet.modeling.global_batch`).
    """

    def __init__(
        self,
        model,
        data_loader,
        optimizer,
        *,
        device: str,
        precision: torch.dtype | None,
        non_finite: NonFinite | None = None,
    ):
        """
        Args:
            model, data_loader, optimizer: as for `SimpleTrainer`.
            device: the type of the model's device, `cpu` or `cuda`.
            precision: the torch.dtype that autocast computes in; None: no autocast.
            non_finite: what happens at losses that are not finite; by default it is the end.
        """
        super().__init__(model, data_loader, optimizer)
        self.non_finite = non_finite or NonFinite()
        self._device, self._precision = device, precision
        self.seed = comm.shared_random_seed()
        self._former = {}
        sampler = getattr(data_loader, "batch_sampler", None)
        self.sampler = sampler if isinstance(sampler, TrainingBatchSampler) else None
        self.autocast = functools.partial(
            torch.autocast, device, dtype=precision, enabled=precision is not None
        )
        # float16 alone has too few exponent bits for gradients.
        self.grad_scaler = torch.amp.GradScaler(device, enabled=precision is torch.float16)

    def run_step(self):
        key = np.random.SeedSequence((self.seed, self.iter, comm.get_rank()))
        rng = int(key.generate_state(1)[0])
        seed_all_rng(rng)
        start = time.perf_counter()
        data = self._next_batch()
        data_time = time.perf_counter() - start
        seed_all_rng(rng)  # whatever the loader has drawn, so that the step can be replayed
        model = unwrapped(self.model)
        buffers = self.non_finite.buffers(model)
        losses, problem = self._forward(data)
        saved = self._saved(rng, data, losses) if problem else {}
        if self.non_finite.left_out(self.iter, problem, saved):
            restore(model, buffers)
            return
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        # Before `step`, because a fused optimizer would unscale only after the gradients' clipping.
        self.grad_scaler.unscale_(self.optimizer)
        if not self.grad_scaler.is_enabled():  # a scaler looks itself, and lowers its scale
            problem = describe_gradients(model.named_parameters())
            # Processes share their gradients, and so they find the same.
            if problem and self.non_finite.left_out(
                self.iter, self._described(problem, data), self._saved(rng, data, losses)
            ):
                restore(model, buffers)
                return
        self.non_finite.in_a_row = 0
        self.write_metrics(losses, data_time, self.iter)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _next_batch(self):
        try:
            return next(self._data_loader_iter)
        except (EOFError, ConnectionError) as error:  # of what it was about to hand over
            raise RuntimeError(
                "a worker of the data loader has died, perhaps for want of memory: go on with "
                "--resume, and with fewer workers"
            ) from error

    def _forward(self, data) -> tuple[dict[str, torch.Tensor], str | None]:
        """The losses, and what is not finite among them."""
        try:
            with self.autocast(), global_batch(self.model, self.seed, self.iter, len(data)):
                losses = self.model(data)
        except FloatingPointError as error:  # Detectron2's RPN looks at its proposals
            if comm.get_world_size() > 1:  # the others are in the middle of a step together
                raise FloatingPointError(
                    f"step {self.iter}: {self._described(str(error), data)}"
                ) from error
            return {}, self._described(str(error), data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        problem = describe_losses(losses)
        return losses, problem and self._described(problem, data)

    def _described(self, problem: str, data) -> str:
        rate = self.optimizer.param_groups[0]["lr"]
        names = ", ".join(pictures(data)) or "without names"
        return f"{problem}; learning rate {rate:.4g}; pictures {names}"

    def _saved(self, rng: int, data, losses: dict[str, torch.Tensor]) -> dict:
        """What `engine.replay` needs to run this step again."""
        return {
            "step": self.iter,
            "seed": self.seed,
            "rng": rng,
            "device": self._device,
            "precision": str(self._precision).removeprefix("torch.") if self._precision else "",
            "losses": {name: loss.item() for name, loss in losses.items()},
            "lr": self.optimizer.param_groups[0]["lr"],
            "batch": data,
            "model": unwrapped(self.model).state_dict(),
        }

    def state_dict(self):
        state = {
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.seed,
            "left_out_in_a_row": self.non_finite.in_a_row,
            "histories": self._histories(),
        }
        if self.sampler is not None:
            state["data_order"] = self.sampler.state_dict()
        return super().state_dict() | state

    def before_train(self):
        super().before_train()
        for name, values in self._former.items():
            for value, step in values:
                self.storage.histories()[name].update(value, step)

    def after_train(self):
        super().after_train()
        loader = self.data_loader
        # Ends its workers now: in a collection of garbage it would wait seconds for each.
        self.reset_data_loader(lambda: loader)

    def _histories(self) -> dict[str, list[tuple[float, int]]]:
        """What the next steps' smoothed metrics depend on; not times, which no run repeats."""
        storage = getattr(self, "storage", None)
        return {
            name: history.values()[-_SMOOTHED:]
            for name, history in (storage.histories() if storage else {}).items()
            if not name.endswith(("time", "seconds"))
        }

    def load_state_dict(self, state_dict):
        # Detectron2's DefaultTrainer keeps the optimizer one level below.
        state_dict = {**state_dict.get("_trainer", {}), **state_dict}
        configured = [dict(group) for group in self.optimizer.param_groups]
        super().load_state_dict(state_dict)
        for group, now in zip(self.optimizer.param_groups, configured):
            _take_up(group, now)
        self.non_finite.in_a_row = state_dict.get("left_out_in_a_row", 0)
        if state_dict.get("grad_scaler"):  # absent from a run without float16
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        self.seed = state_dict.get("seed", self.seed)
        self._former = state_dict.get("histories", {})
        if self.sampler is not None:
            self.sampler.start_step = self.iter + 1
        if self.sampler is not None and "data_order" in state_dict:
            self.sampler.load_state_dict(state_dict["data_order"])
        else:
            logger.warning(
                "The order of the pictures starts anew: the checkpoint or the data loader is not "
                "of d2_regnet.data.build_train_loader"
            )


def train(
    cfg: DictConfig, *, resume: bool = False, hooks: Iterable[HookBase] = (), console: bool = True
) -> dict:
    """Trains a model and evaluates it, as Detectron2's LazyConfig training does.

    Logs, metrics, checkpoints and the config go to `cfg.train.output_dir`. SIGINT, SIGTERM and
    SIGUSR1 end it after the step at hand, with a checkpoint.

    Args:
        cfg: as `load_config` returns it.
        resume: go on from the newest checkpoint in the output folder; without one, start anew.
        hooks: run after Detectron2's own, before the metrics are written.
        console: print what is logged; if not, only warnings.

    Returns:
        The last evaluation: task -> metric -> value, as Detectron2's evaluators give it; empty in
        other processes than the first, and where the config has no evaluator.

    Raises:
        ValueError, FileNotFoundError: from `check_config`, before anything is written.
        Interrupted: a signal ended the training.
    """
    check_config(cfg, resume=resume, processes=comm.get_world_size())
    with job_logging(cfg, argparse.Namespace(eval_only=False, resume=resume), console):
        return run_training(cfg, resume=resume, hooks=hooks)


def evaluate(
    cfg: DictConfig, model: torch.nn.Module | None = None, *, resume: bool = False
) -> dict:
    """Evaluates a model on `cfg.dataloader.test` with `cfg.dataloader.evaluator`.

    Args:
        cfg: as `load_config` returns it.
        model: by default it is built and given the weights of `cfg.train.init_checkpoint`.
        resume: take the newest checkpoint of the output folder instead, if there is one.

    Returns:
        As `train`.

    Raises:
        ValueError, FileNotFoundError: from `check_config`, before anything is written.
    """
    if model is not None:
        return run_evaluation(cfg, model)
    check_config(cfg, eval_only=True, resume=resume, processes=comm.get_world_size())
    with job_logging(cfg, argparse.Namespace(eval_only=True, resume=resume)):
        return run_evaluation(cfg, resume=resume)


@contextmanager
def job_logging(
    cfg: DictConfig | CfgNode, args: argparse.Namespace, console: bool = True
) -> Iterator[None]:
    """Detectron2's `default_setup`: the output folder, log.txt, config.yaml and the seed.

    The loggers are as before at the end, so that another run logs to its own folder only.
    """
    folder = cfg.OUTPUT_DIR if isinstance(cfg, CfgNode) else cfg.train.output_dir
    logs = [logging.getLogger(name) for name in ("detectron2", "fvcore", "d2_regnet")]
    before = [(log, list(log.handlers), log.propagate) for log in logs]
    out = sys.stdout
    with redirect_stdout(out if console else io.StringIO()) as stream:
        setup_logger(folder, comm.get_rank(), name="d2_regnet")
        default_setup(cfg, args)
    added = [(log, h) for log, former, _ in before for h in log.handlers if h not in former]
    for _, handler in added:
        if stream is not out and handler.stream is stream:
            handler.setStream(out)
            handler.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for log, handler in added:
            log.removeHandler(handler)
        for log, _, propagate in before:
            log.propagate = propagate
        setup_logger.cache_clear()  # else it would believe that they are still there


def run_training(cfg: DictConfig, *, resume: bool = False, hooks: Iterable[HookBase] = ()) -> dict:
    """`train` after its checks and inside its logging."""
    train, device = cfg.train, _device(cfg)
    model = instantiate(cfg.model).to(device)
    logger.info("Model:\n%s", model)
    optimizer = build_optimizer(cfg, model)
    if train.clip_grad:
        clip_gradients(optimizer, **train.clip_grad)
    # A model on the CPU has no device ids; Detectron2 would give it the GPU of its rank.
    ddp = create_ddp_model(model, **train.ddp, **({} if device.type == "cuda" else _NO_DEVICE_IDS))
    trainer = Trainer(
        ddp,
        instantiate(cfg.dataloader.train),
        optimizer,
        device=device.type,
        precision=amp_dtype(train.amp, device.type),
        non_finite=NonFinite(os.path.join(train.output_dir, "non_finite"), **train.non_finite),
    )
    return fit(
        trainer,
        Checkpointer(ddp, train.output_dir, trainer=trainer, run=RunRecord(cfg)),
        functools.partial(run_evaluation, cfg, model),
        weights=train.init_checkpoint,
        resume=resume,
        scheduler=instantiate(cfg.lr_multiplier),
        max_iter=train.max_iter,
        checkpoints=train.checkpointer,
        eval_period=train.eval_period,
        log_period=train.log_period,
        hooks=hooks,
    )


def fit(
    trainer: Trainer,
    checkpointer: Checkpointer,
    evaluate: Callable[..., dict],
    *,
    weights: str,
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
        weights: to begin with; a path or an address, empty for what the model has.
        resume: go on from the newest checkpoint of the checkpointer's folder, if there is one.
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
        try:
            results.update(evaluate(before_inference=stop.check))
        except RuntimeError:
            stop.check()  # the others have, and this process was waiting for them
            raise
        return results

    main, folder = comm.is_main_process(), checkpointer.save_dir
    writers = map(PatientWriter, default_writers(folder, max_iter)) if main else ()
    trainer.register_hooks(
        [
            IterationTimer(),
            LRScheduler(scheduler=scheduler),
            PeriodicCheckpointer(checkpointer, **checkpoints) if main else None,
            EvalHook(eval_period, test),
            *hooks,
            stop,
            PeriodicWriter(list(writers), log_period) if main else None,
        ]
    )
    checkpointer.remove_partial()
    start = 0
    newest = checkpointer.newest() if resume else ""
    if newest:
        checkpointer.load(newest)
        if not isinstance(scheduler, ParamScheduler):  # it has loaded the former rates
            scheduler.base_lrs = [group["initial_lr"] for group in trainer.optimizer.param_groups]
        start = trainer.iter + 1
    else:
        if resume:
            logger.info("No checkpoint to resume in %s: starting anew", folder)
        checkpointer.load(weights, checkpointables=[])
        if may_be_restarted():  # it must not take up what an earlier run has left in the folder
            trainer.iter = -1
            checkpointer.save("model_initial", iteration=-1)
    if start >= max_iter:
        logger.info("Training had already reached step %d: evaluating", start)
    if start == max_iter and os.path.basename(newest) != "model_final.pth":
        checkpointer.copy(newest, "model_final")  # it was killed before it wrote it
    Trainer.train(trainer, start, max_iter)  # a subclass may have a simpler one
    return results


def run_evaluation(
    cfg: DictConfig,
    model: torch.nn.Module | None = None,
    *,
    resume: bool = False,
    before_inference: Callable[[], None] | None = None,
) -> dict:
    """`evaluate` after its checks and inside its logging; calls back before each batch."""
    if "evaluator" not in cfg.dataloader or cfg.dataloader.evaluator is None:
        logger.warning("The config has no dataloader.evaluator: nothing is evaluated")
        return {}
    if model is None:
        model = instantiate(cfg.model).to(_device(cfg))
        checkpointer = Checkpointer(model, cfg.train.output_dir)
        checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    options = inference_options(cfg.train.optimize_for_inference)
    if options:
        model = optimize_for_inference(model, **options)
    results = inference_on_dataset(
        model,
        instantiate(cfg.dataloader.test),
        instantiate(cfg.dataloader.evaluator),
        callbacks={"before_inference": before_inference} if before_inference else None,
    )
    if comm.is_main_process():
        print_csv_format(results)
    return results


def _take_up(group: dict, configured: dict) -> None:
    """Gives a resumed parameter group the config's rate, momentum and the like, which may have been
    changed, where the schedule is."""
    rate = configured.get("initial_lr", configured["lr"])
    if rate != (former := group.get("initial_lr", group["lr"])):
        logger.info("The learning rate was %g and is %g, before the schedule", former, rate)
        group["lr"] *= rate / former if former else 0
    own = {"params", "lr", "initial_lr"}
    group.update({key: value for key, value in configured.items() if key not in own})
    group["initial_lr"] = rate


def unwrapped(model: nn.Module) -> nn.Module:
    """The model that DistributedDataParallel may be around."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def restore(model: nn.Module, buffers: Mapping[str, torch.Tensor]) -> None:
    """Gives buffers their former values."""
    for name, buffer in model.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])


def _device(cfg: DictConfig) -> torch.device:
    device = torch.device(cfg.train.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        logger.warning("train.device=%s, but there is no GPU: using the CPU", cfg.train.device)
        return torch.device("cpu")
    return device
