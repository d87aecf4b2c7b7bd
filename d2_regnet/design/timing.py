"""How long backbones take on this machine, measured side by side."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from d2_regnet.archs import Stages
from d2_regnet.modeling import build_regnet

# A network whose first pass takes this many budgets is out; those before it in order were not.
HOPELESS = 3.0
# Measured whatever they take, so that there is an answer where the budget is out of reach.
AT_LEAST = 3


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a pass: the median, and the middle half of the measurements."""

    median: float
    low: float
    high: float


def backbone_pass(
    arch: Stages, size: tuple[int, int], device: str, train: bool
) -> Callable[[], None]:
    """A function that runs a backbone of random weights on a random image, and returns when done.

    Args:
        size: (height, width) in pixels.
        device: cpu or cuda.
        train: forward and backward with the stem and s1 frozen and norms as EvalBN, as the
            recipes train; else forward alone.
    """
    backbone = build_regnet(arch, norm="EvalBN", freeze_at=2).to(device).train(train)
    image = torch.rand(1, 3, *size, device=device)

    def once():
        with torch.set_grad_enabled(train):
            features = backbone(image)
            if train:
                backbone.zero_grad()
                sum(feature.sum() for feature in features.values()).backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return once


def interleaved(
    passes: Mapping[str, Callable[[], None]],
    rounds: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Timing]:
    """Times all passes, each run before, in turn: a slow moment of the machine hits all.

    Args:
        rounds: measurements of each, at least 1.
        progress: as tqdm: passed the rounds.
    """
    seconds = {name: [] for name in passes}
    for _ in progress(range(rounds)):
        for name, once in passes.items():
            seconds[name].append(stopwatch(once))
    return {name: _timing(each) for name, each in seconds.items()}


def within_reach(
    passes: Iterable[tuple[str, Callable[[], Callable[[], None]]]], budget_ms: float
) -> tuple[dict[str, Callable[[], None]], list[str]]:
    """Builds and warms up passes until one is far above the budget.

    Args:
        passes: names and what makes their pass, from little to much work.

    Returns:
        The passes worth measuring, and the names of the others: from the first on that took
        `HOPELESS` budgets, though never one of the first `AT_LEAST`.
    """
    kept, left_out = {}, []
    for name, make in passes:
        if left_out:
            left_out.append(name)
            continue
        once = make()
        once()  # the first pass of all allocates
        if len(kept) >= AT_LEAST and 1000 * stopwatch(once) > HOPELESS * budget_ms:
            left_out.append(name)
        else:
            kept[name] = once
    return kept, left_out


def stopwatch(once: Callable[[], None]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    once()
    return time.perf_counter() - start


def _timing(seconds: list[float]) -> Timing:
    low, median, high = np.quantile(1000 * np.array(seconds), [0.25, 0.5, 0.75]).tolist()
    return Timing(median, low, high)
