"""How long backbones take on this machine, measured side by side."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

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


def body_pass(arch: Stages, size: tuple[int, int], device: str, train: bool) -> Callable[[], None]:
    """One pass of a backbone as detectors use it, for one random image; returns when it is done.

    Args:
        arch: the network; its weights are random.
        size: (height, width) in pixels.
        device: cpu or cuda.
        train: forward and backward with the stem and s1 frozen and norms as EvalBN, as the
            recipes train; else forward alone.
    """
    body = build_regnet(arch, norm="EvalBN", freeze_at=2).to(device).train(train)
    picture = torch.rand(1, 3, *size, device=device)

    def once():
        with torch.set_grad_enabled(train):
            features = body(picture)
            if train:
                body.zero_grad()
                sum(feature.sum() for feature in features.values()).backward()
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    return once


def interleaved(
    passes: Mapping[str, Callable[[], None]],
    rounds: int,
    progress: Callable[[Iterable], Iterable] = iter,
) -> dict[str, Timing]:
    """Times all passes in turn, round by round, so that a slow moment of the machine hits all.

    Args:
        passes: by name; each was run before.
        rounds: measurements of each, at least 1.
        progress: passed the rounds, as tqdm is.
    """
    seconds = {name: [] for name in passes}
    for _ in progress(range(rounds)):
        for name, once in passes.items():
            seconds[name].append(stopwatch(once))
    return {name: _timing(each) for name, each in seconds.items()}


def within_reach(
    passes: Iterable[tuple[str, Callable[[], Callable[[], None]]]], budget_ms: float
) -> tuple[dict[str, Callable[[], None]], list[str]]:
    """Builds and warms up passes, cheap ones first, until one is far above the budget.

    Args:
        passes: names and what makes their pass, from little to much work.
        budget_ms: milliseconds.

    Returns:
        The passes that are worth measuring, and the names of the others: from the first on that
        took `HOPELESS` budgets, though never one of the first `AT_LEAST`.
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
    ms = [1000 * each for each in seconds]
    if len(ms) == 1:
        return Timing(*ms * 3)
    low, median, high = statistics.quantiles(ms, n=4, method="inclusive")
    return Timing(median, low, high)
