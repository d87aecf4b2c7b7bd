"""A training step that computes the same however many processes share its batch.

Three things would depend on how the images are dealt out to processes, and pass through here:
the random numbers that choose an image's anchors and proposals, what losses are divided by (as
MMDetection's `reduce_mean` of its `avg_factor`), and how far images are padded. Outside a
`global_batch`, as in evaluation or in a loop that is not d2_regnet's, all is as Detectron2 does it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from detectron2.layers import cat
from detectron2.modeling import GeneralizedRCNN, PanopticFPN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn
from torch.nn import functional as F


class StoppedElsewhere(FloatingPointError):
    """The RPN of another process has found its proposals not finite."""


@dataclass
class Exchange:
    """What the processes of a step tell one another.

    Attributes:
        rank, processes: this one, and how many there are.
        results: of each exchange, in order; a replay of this process's part needs them.
        stopped: all processes know that the RPN of one has stopped.
    """

    rank: int = field(default_factory=lambda: comm.get_rank())
    processes: int = field(default_factory=lambda: comm.get_world_size())
    results: list[torch.Tensor] = field(default_factory=list)
    stopped: bool = False

    def reduce(self, values: torch.Tensor, op: dist.ReduceOp) -> torch.Tensor:
        """The sum, or the largest, of each element over all processes."""
        values = values.clone()
        dist.all_reduce(values, op)
        self.results.append(values.clone())
        return values

    def stop_together(self, rpn: nn.Module, args: tuple, output: tuple | None) -> None:
        """A hook that is called whether a module has returned or raised: raises in all processes
        where it has raised in one, which all the others would wait for.

        Raises:
            StoppedElsewhere: in all others.
        """
        stopped = torch.tensor(float(output is None), device=next(rpn.parameters()).device)
        dist.all_reduce(stopped, dist.ReduceOp.MAX)
        self.stopped = bool(stopped)
        if self.stopped and output is not None:
            raise StoppedElsewhere("the proposals of another process are not finite")


class Repeated(Exchange):
    """A former step's exchange, with the `results` that it had and without the other processes.

    With other weights there may be more; the other processes are then taken to be as this one.
    """

    def reduce(self, values, op):
        if not self.results:
            return values * self.processes if op == dist.ReduceOp.SUM else values
        return self.results.pop(0).to(values)

    def stop_together(self, rpn, args, output):
        """The others have nothing to say."""


class _Batch(NamedTuple):
    key: tuple[int, int]
    first: int  # the number in the whole batch of this process's first image
    draws: Counter  # how often each image has drawn
    exchange: Exchange


_batch: ContextVar[_Batch | None] = ContextVar("batch", default=None)


@contextmanager
def global_batch(
    model: nn.Module, seed: int, step: int, images: int, exchange: Exchange | None = None
) -> Iterator[None]:
    """Inside, `model` computes its losses as of the batch of all processes.

    All processes must enter it and run the model in training mode, each on as many images; the
    batch holds those of rank 0 first. The mean over processes of each loss, and so DDP's mean of
    the gradients, is then what one process computes of the whole batch.

    Args:
        model: a detector, which may be wrapped in DistributedDataParallel.
        seed: decides, with the step, the random numbers; neither is negative.
        step: of the training.
        images: how many this process has.
        exchange: by default with the processes that there are.

    Raises:
        StoppedElsewhere: the RPN of another process has raised; what it has raised there is passed
            on, and `exchange.stopped` is set in all.
    """
    exchange = exchange or Exchange()
    model = getattr(model, "module", model)
    # A semantic head compares its output with targets that are padded elsewhere.
    padded = isinstance(model, GeneralizedRCNN | DenseDetector) and not isinstance(
        model, PanopticFPN
    )
    hooks = []
    if exchange.processes > 1 and padded:
        hooks.append(model.backbone.register_forward_pre_hook(_pad))
    if exchange.processes > 1 and (rpn := getattr(model, "proposal_generator", None)):
        hooks.append(rpn.register_forward_hook(exchange.stop_together, always_call=True))
    token = _batch.set(_Batch((seed, step), exchange.rank * images, Counter(), exchange))
    try:
        yield
    finally:
        _batch.reset(token)
        for hook in hooks:
            hook.remove()


def _pad(backbone: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Pads (N, C, H, W) with zeros to the largest H and W of all processes, as Detectron2 pads
    to the largest of one. What lies behind an image's edge changes its features."""
    (images,) = args
    sides = torch.tensor(images.shape[-2:], device=images.device)
    height, width = _batch.get().exchange.reduce(sides, dist.ReduceOp.MAX).tolist()
    return (F.pad(images, (0, width - images.shape[-1], 0, height - images.shape[-2])),)


@contextmanager
def random_numbers_of(image: int) -> Iterator[None]:
    """torch's random numbers inside are a function of the seed, the step, the place of the `image`
    (from 0 in this process) in the whole batch, and of how often it has drawn."""
    batch = _batch.get()
    if batch is None:
        yield
        return
    place = batch.first + image
    key = np.random.SeedSequence((*batch.key, place, batch.draws[place]))
    batch.draws[place] += 1
    gpus = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(int(key.generate_state(1)[0]))
        yield


def sample_each(
    sample: Callable[[list[Instances], list[Instances]], list[Instances]],
    proposals: list[Instances],
    targets: list[Instances],
) -> list[Instances]:
    """`sample`, Detectron2's `ROIHeads.label_and_sample_proposals`, of each image with random
    numbers of its own; whatever it logs is logged as the mean over the images."""
    if _batch.get() is None:
        return sample(proposals, targets)
    sampled = []
    with EventStorage() as each:
        for image, pair in enumerate(zip(proposals, targets, strict=True)):
            with random_numbers_of(image):
                sampled += sample(*([one] for one in pair))
    for name, history in each.histories().items():
        get_event_storage().put_scalar(name, history.global_avg())
    return sampled


def mean_over_processes(values: torch.Tensor) -> torch.Tensor:
    """The mean over all processes of each element, float32, of the same shape."""
    batch, values = _batch.get(), values.float()
    if batch is None or batch.exchange.processes == 1:
        return values
    return batch.exchange.reduce(values, dist.ReduceOp.SUM) / batch.exchange.processes


def share_losses(
    losses: dict[str, torch.Tensor], sampled: list[Instances], num_classes: int
) -> dict[str, torch.Tensor]:
    """Weighs a box head's losses, and a mask head's, by this process's share of what they are
    means over: boxes, and boxes on objects.

    Args:
        losses: scalars of this process; others than `loss_cls`, `loss_box_reg` and `loss_mask`
            are left as they are.
        sampled: the boxes, with `gt_classes`.
        num_classes: the class that stands for background.
    """
    classes = cat([each.gt_classes for each in sampled])
    counts = torch.stack([torch.full_like(classes, 1).sum(), (classes < num_classes).sum()]).float()
    # Where no process has any, the losses are 0.
    boxes, objects = counts / mean_over_processes(counts).clamp(min=1e-6)
    weights = {"loss_cls": boxes, "loss_box_reg": boxes, "loss_mask": objects}
    return {name: loss * weights.get(name, 1) for name, loss in losses.items()}
