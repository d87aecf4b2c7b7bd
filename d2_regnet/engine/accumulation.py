"""The parts of a step's batch, one after the other, computed as if each had its own process.

k batches a step in each of W processes are k * W parts. Part j * W + r is the j-th of the process
of rank r. What the processes of a step tell one another (see `modeling.global_batch`), the parts
must know as well, though most are yet to come: so all are gone through first, without gradients.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn

from d2_regnet.modeling.global_batch import Exchange

__all__ = ["Known", "foresee"]


class _Seen(Exception):
    """What was looked for is known; the rest of the forward pass is not needed."""


@dataclass
class _Sides(Exchange):
    """Of a part, before anything is computed: the height and width that it would be padded to."""

    def reduce(self, values, op):
        if op == dist.ReduceOp.MAX:
            self.results.append(values.clone())
        raise _Seen

    def stop_together(self, rpn, args, output):
        """Not reached where there are sides."""


@dataclass
class _Counts(Exchange):
    """Of a part, with the sides of all: what it adds to the sums."""

    sides: torch.Tensor | None = None

    def reduce(self, values, op):
        if op == dist.ReduceOp.MAX:
            return self.sides.to(values)
        self.results.append(values.detach().clone())
        return values * self.processes

    def stop_together(self, rpn, args, output):
        """The parts exchange nothing before all have been gone through."""


@dataclass
class Known(Exchange):
    """Of a part, with the `results` of all."""

    place: int = 0

    def __post_init__(self):
        self.stopped = True  # no other part waits for this one

    def reduce(self, values, op):
        self.place += 1
        if self.place > len(self.results):  # where the looking ahead has stopped
            return values * self.processes if op == dist.ReduceOp.SUM else values
        return self.results[self.place - 1].to(values)

    def stop_together(self, rpn, args, output):
        """`NonFinite.left_out` tells the others, before any of them goes on."""


def foresee(
    model: nn.Module, batches: Sequence, forward: Callable[[object, Exchange], object]
) -> list[Exchange]:
    """What each part of a step must know of the others.

    To be called by all processes. Leaves the model as it is, but for its buffers.

    Args:
        model: in training mode, not wrapped for distributed training.
        batches: this process's parts.
        forward: the model's forward pass of one of them, as `global_batch` has it.

    Returns:
        One for each of the batches, in their order.
    """
    rank, processes = comm.get_rank(), comm.get_world_size()
    places = [(j * processes + rank, len(batches) * processes) for j in range(len(batches))]

    def passes(kind, **known) -> list[list[torch.Tensor]] | None:
        """The results of all this process's parts; None if one has stopped."""
        exchanges = [kind(*place, **known) for place in places]
        try:
            with torch.no_grad(), EventStorage():
                for batch, exchange in zip(batches, exchanges):
                    with suppress(_Seen):
                        forward(batch, exchange)
        except FloatingPointError:
            return None
        return [exchange.results for exchange in exchanges]

    sides = _together(passes(_Sides), dist.ReduceOp.MAX)
    counts = _together(passes(_Counts, sides=sides[0] if sides else None), dist.ReduceOp.SUM)
    return [Known(*place, results=[*sides, *counts]) for place in places]


def _together(of_parts: list[list[torch.Tensor]] | None, op: dist.ReduceOp) -> list[torch.Tensor]:
    """The largest, or the sum, over the parts of all processes; empty if one has stopped."""
    if any(comm.all_gather(of_parts is None)):
        return []
    combined = []
    for values in zip(*of_parts, strict=True):
        stacked = torch.stack(values)
        total = stacked.amax(0) if op == dist.ReduceOp.MAX else stacked.sum(0)
        if comm.get_world_size() > 1:
            dist.all_reduce(total, op)
        combined.append(total)
    return combined
