"""One training step, and all that it takes to go on after one as if nothing had happened."""

import functools
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2_regnet.data.sampler import TrainingBatchSampler
from d2_regnet.modeling.global_batch import Exchange, StoppedElsewhere, global_batch

from .accumulation import foresee
from .ema import Average
from .non_finite import NonFinite, describe_gradients, describe_losses, pictures

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)
_SMOOTHED = 20  # steps that Detectron2's writers take the median of
# A running mean of Detectron2's RetinaNet and FCOS, in no buffer; absent before the first step.
_NORMALIZER = "loss_normalizer"


class Trainer(SimpleTrainer):
    """Detectron2's `SimpleTrainer`, with mixed precision on any device, that resumes bitwise.

    Detectron2's `AMPTrainer` asks for CUDA; this one does the same on a GPU and bfloat16 on a CPU.

    The random numbers of a step are a function of the run's seed, the step and the rank, and so
    are its images with `d2_regnet.data.build_train_loader`; the seeds are in the checkpoints.
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
        accumulate: int = 1,
        average: Average | None = None,
    ):
        """
        Args:
            model, data_loader, optimizer: as for `SimpleTrainer`.
            device: the type of the model's device, `cpu` or `cuda`.
            precision: the torch.dtype that autocast computes in; None: no autocast.
            non_finite: what happens at losses that are not finite; default: the training stops.
            accumulate: batches a step, which count as one of so many times the size.
            average: takes the model after each step.
        """
        super().__init__(model, data_loader, optimizer)
        self.non_finite = non_finite or NonFinite()
        self.accumulate, self.average = accumulate, average
        self._device, self._precision = device, precision
        self.seed = comm.shared_random_seed()
        self._former = {}
        sampler = getattr(data_loader, "batch_sampler", None)
        self.sampler = sampler if isinstance(sampler, TrainingBatchSampler) else None
        if self.sampler is not None:
            self.sampler.accumulate = accumulate
        self.autocast = functools.partial(
            torch.autocast, device, dtype=precision, enabled=precision is not None
        )
        # float16 alone has too few exponent bits for gradients.
        self.grad_scaler = torch.amp.GradScaler(device, enabled=precision is torch.float16)

    def run_step(self):
        seed_all_rng(self._seed_of(comm.get_rank()))
        start = time.perf_counter()
        batches = [self._next_batch() for _ in range(self.accumulate)]
        data_time = time.perf_counter() - start
        model = unwrapped(self.model)
        buffers, normalizer = self._buffers(model), running_normalizer(model)
        exchanges = [Exchange()]
        if self.accumulate > 1:
            exchanges = foresee(model, batches, functools.partial(self._run, model))
            restore(model, buffers, normalizer)
        losses = []
        for data, exchange in zip(batches, exchanges):
            # Whatever was drawn before, so that the part can be replayed.
            seed_all_rng(self._seed_of(exchange.rank))
            with self._shared(last=exchange is exchanges[-1]):
                found, problem = self._forward(data, exchange)
                saved = functools.partial(self._saved, data, exchange, normalizer, found)
                if self.non_finite.left_out(self.iter, problem, saved() if problem else {}):
                    restore(model, buffers, normalizer)
                    return
                if not losses:
                    self.optimizer.zero_grad()
                self.grad_scaler.scale(sum(found.values()) / self.accumulate).backward()
            losses.append({name: loss.detach() for name, loss in found.items()})
        self.after_backward()
        # Before `step`, because a fused optimizer would unscale only after the gradients' clipping.
        self.grad_scaler.unscale_(self.optimizer)
        if not self.grad_scaler.is_enabled():  # a scaler looks itself, and lowers its scale
            problem = describe_gradients(model.named_parameters())
            # Processes share their gradients, and so they find the same.
            if problem and self.non_finite.left_out(
                self.iter, self._described(problem, data), saved()
            ):
                restore(model, buffers, normalizer)
                return
        self.non_finite.in_a_row = 0
        mean = {name: sum(each[name] for each in losses) / len(losses) for name in losses[0]}
        self.write_metrics(mean, data_time, self.iter)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        if self.average:
            self.average.update()

    def _seed_of(self, part: int) -> int:
        """Of all random numbers of a process's part of this step."""
        key = np.random.SeedSequence((self.seed, self.iter, part))
        return int(key.generate_state(1)[0])

    def _buffers(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """Copies of what a forward pass changes, batch statistics, if it may have to be undone."""
        undone = self.non_finite.skip or self.accumulate > 1
        return {name: b.clone() for name, b in model.named_buffers()} if undone else {}

    def _shared(self, last: bool) -> AbstractContextManager:
        """Processes share the gradients of a step with those of its last part."""
        alone = isinstance(self.model, DistributedDataParallel) and not last
        return self.model.no_sync() if alone else nullcontext()

    def _next_batch(self):
        try:
            return next(self._data_loader_iter)
        except (EOFError, ConnectionError) as error:  # of what it was about to hand over
            raise RuntimeError(
                "a worker of the data loader has died, perhaps for want of memory: continue with "
                "--resume, and with fewer workers"
            ) from error

    def _forward(self, data, exchange: Exchange) -> tuple[dict[str, torch.Tensor], str | None]:
        """The losses, and what is not finite among them."""
        try:
            losses = self._run(self.model, data, exchange)
        except StoppedElsewhere:
            return {}, None
        except FloatingPointError as error:  # Detectron2's RPN looks at its proposals
            if exchange.processes > 1 and not exchange.stopped:  # the others wait for this one
                raise FloatingPointError(
                    f"step {self.iter}: {self._described(str(error), data)}"
                ) from error
            return {}, self._described(str(error), data)
        if isinstance(losses, torch.Tensor):
            losses = {"total_loss": losses}
        problem = describe_losses(losses)
        return losses, problem and self._described(problem, data)

    def _run(self, model: nn.Module, data, exchange: Exchange):
        batch = global_batch(model, self.seed, self.iter, len(data), exchange)
        with self.autocast(), batch, scripted_alike(self._device):
            return model(data)

    def _described(self, problem: str, data) -> str:
        rate = self.optimizer.param_groups[0]["lr"]
        names = ", ".join(pictures(data)) or "without names"
        return f"{problem}; learning rate {rate:.4g}; images {names}"

    def _saved(self, data, exchange: Exchange, normalizer: dict, losses: dict) -> dict:
        """What `engine.replay` needs to run this step again."""
        return {
            "step": self.iter,
            "seed": self.seed,
            "rng": self._seed_of(exchange.rank),
            "rank": exchange.rank,
            "processes": exchange.processes,
            "threads": torch.get_num_threads(),
            "exchanged": exchange.results,
            "normalizer": normalizer,
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
            **running_normalizer(unwrapped(self.model)),
        }
        if self.sampler is not None:
            state["data_order"] = self.sampler.state_dict()
        return super().state_dict() | state

    def before_train(self):
        for name, values in self._former.items():
            for value, step in values:
                self.storage.histories()[name].update(value, step)
        super().before_train()  # which may evaluate

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
        if _NORMALIZER in state_dict:
            setattr(unwrapped(self.model), _NORMALIZER, state_dict[_NORMALIZER])
        if self.sampler is not None:
            self.sampler.start_step = self.iter + 1
        if self.sampler is not None and "data_order" in state_dict:
            self.sampler.load_state_dict(state_dict["data_order"])
        else:
            logger.warning(
                "The order of the images starts anew: the checkpoint or the data loader is not "
                "of d2_regnet.data.build_train_loader"
            )


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


def scripted_alike(device: str) -> AbstractContextManager[None]:
    """Inside, scripted functions, such as the focal loss, compute on the CPU as they are written.

    TorchScript rewrites them after their first runs in a process, which changes the last bit: a
    training that went on in another process would not be the same.
    """
    return torch.jit.optimized_execution(device != "cpu")


def running_normalizer(model: nn.Module) -> dict[str, float]:
    """What Detectron2's RetinaNet and FCOS divide their losses by, if the model is one."""
    return {name: value for name, value in vars(model).items() if name == _NORMALIZER}


def restore(
    model: nn.Module, buffers: Mapping[str, torch.Tensor], normalizer: Mapping[str, float]
) -> None:
    """Gives buffers, and the `running_normalizer`, their former values."""
    for name, buffer in model.named_buffers():
        if name in buffers:
            buffer.copy_(buffers[name])
    vars(model).pop(_NORMALIZER, None)
    vars(model).update(normalizer)
