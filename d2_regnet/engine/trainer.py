"""Builds a LazyConfig's parts, and trains or evaluates them with Detectron2's loop and hooks."""

import argparse
import functools
import io
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.engine import (
    EvalHook,
    HookBase,
    IterationTimer,
    LRScheduler,
    PeriodicCheckpointer,
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
from omegaconf import DictConfig

from d2_regnet.data.sampler import TrainingBatchSampler
from d2_regnet.modeling.global_batch import global_batch
from d2_regnet.optimize import optimize_for_inference
from d2_regnet.solver import clip_gradients

from .checkpointer import Checkpointer
from .checks import amp_dtype, build_optimizer, check_config, inference_options
from .hooks import StopOnSignal

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
        self, model, data_loader, optimizer, *, device: str, precision: torch.dtype | None
    ):
        """
        Args:
            model, data_loader, optimizer: as for `SimpleTrainer`.
            device: the type of the model's device, `cpu` or `cuda`.
            precision: the torch.dtype that autocast computes in; None: no autocast.
        """
        super().__init__(model, data_loader, optimizer)
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
        seed_all_rng(int(key.generate_state(1)[0]))
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with self.autocast(), global_batch(self.model, self.seed, self.iter, len(data)):
            losses = self.model(data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        self.optimizer.zero_grad()
        self.grad_scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self.write_metrics(losses, data_time, self.iter)  # raises where a loss is not finite
        # Before `step`, because a fused optimizer would unscale only after the gradients' clipping.
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self):
        state = {
            "grad_scaler": self.grad_scaler.state_dict(),
            "seed": self.seed,
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

    def _histories(self) -> dict[str, list[tuple[float, int]]]:
        """What the next steps' smoothed metrics depend on; not times, which no run repeats."""
        storage = getattr(self, "storage", None)
        return {
            name: history.values()[-_SMOOTHED:]
            for name, history in (storage.histories() if storage else {}).items()
            if not name.endswith(("time", "seconds"))
        }

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
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

    Logs, metrics, checkpoints and the config go to `cfg.train.output_dir`. SIGINT and SIGTERM end
    it after the step at hand, with a checkpoint.

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
def job_logging(cfg: DictConfig, args: argparse.Namespace, console: bool = True) -> Iterator[None]:
    """Detectron2's `default_setup`: the output folder, log.txt, config.yaml and the seed.

    The loggers are as before at the end, so that another run logs to its own folder only.
    """
    logs = [logging.getLogger(name) for name in ("detectron2", "fvcore", "d2_regnet")]
    before = [(log, list(log.handlers), log.propagate) for log in logs]
    out = sys.stdout
    with redirect_stdout(out if console else io.StringIO()) as stream:
        setup_logger(cfg.train.output_dir, comm.get_rank(), name="d2_regnet")
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
    )
    checkpointer = Checkpointer(ddp, train.output_dir, trainer=trainer)
    stop = StopOnSignal(checkpointer)
    results = OrderedDict()

    def test():
        results.clear()
        results.update(run_evaluation(cfg, model, before_inference=stop.check))
        return results

    main = comm.is_main_process()
    trainer.register_hooks(
        [
            IterationTimer(),
            LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            PeriodicCheckpointer(checkpointer, **train.checkpointer) if main else None,
            EvalHook(train.eval_period, test),
            *hooks,
            stop,
            PeriodicWriter(default_writers(train.output_dir, train.max_iter), train.log_period)
            if main
            else None,
        ]
    )
    trainer.train(_start(cfg, trainer, checkpointer, resume), train.max_iter)
    return results


def _start(cfg: DictConfig, trainer: Trainer, checkpointer: Checkpointer, resume: bool) -> int:
    """Loads the weights, or the whole state to resume; the step to begin with."""
    resuming = resume and checkpointer.has_checkpoint()
    if resume and not resuming:
        logger.info("No checkpoint to resume in %s: starting anew", cfg.train.output_dir)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resuming)
    if not resuming:
        return 0
    if trainer.iter + 1 >= cfg.train.max_iter:
        logger.info("Training had already reached step %d: evaluating", trainer.iter + 1)
    return trainer.iter + 1


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


def _device(cfg: DictConfig) -> torch.device:
    device = torch.device(cfg.train.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        logger.warning("train.device=%s, but there is no GPU: using the CPU", cfg.train.device)
        return torch.device("cpu")
    return device
