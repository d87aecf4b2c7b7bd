"""Times of competitors that take turns, so that all of them meet the same state of the machine."""

from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial

import torch
from tqdm import tqdm

from d2_regnet.design.timing import Timing, interleaved


def take_turns(
    runs: Mapping[str, Callable[[], object]], args: Namespace, title: str = ""
) -> dict[str, Timing]:
    """Times each run once a round.

    Args:
        runs: what to call, by name.
        args: with `rounds`, how many times each is timed; `discard`, how many rounds come before
            that, untimed, in which caches and allocators fill; `device`, where they compute: a GPU
            is waited for after each run.
        title: of the progress bar, which only a terminal shows.
    """
    wait = torch.cuda.synchronize if torch.device(args.device).type == "cuda" else lambda: None

    def waited(run):
        def once():
            run()
            wait()

        return once

    passes = {name: waited(run) for name, run in runs.items()}
    for _ in range(args.discard):
        for once in passes.values():
            once()
    return interleaved(passes, args.rounds, partial(tqdm, desc=title, disable=None, leave=False))


def figures(
    timing: Timing, batch: int, flops: float | None = None, done: float | None = None
) -> dict[str, float]:
    """The part of a result that follows from the times.

    Args:
        timing: of runs.
        batch: images in a run.
        flops: multiply-adds of an image, computed plainly; None if they are not counted.
        done: those that were carried out, where they are counted apart.

    Returns:
        With `spread`: the distance of the first quartile from the third, as a share of the median.
    """
    seconds = timing.median / 1000
    spread = (timing.high - timing.low) / timing.median
    found = {"seconds": seconds, "spread": spread, "images_per_second": batch / seconds}
    if flops is not None:
        found["gflops"] = flops / 1e9
        if done is not None:
            found["gflops_done"] = done / 1e9
        carried_out = flops if done is None else done
        found["gflops_per_second"] = batch * carried_out / seconds / 1e9
    return found


def compared(
    by_peer: Mapping[str, dict], key: str = "seconds", reference: str = "detectron2"
) -> list[dict]:
    """The results of one comparison, by peer; where there are two, each with its `ratio`: its `key`
    over that of the reference peer, or of the last one where it did not take part."""
    results = [*by_peer.values()]
    if len(results) > 1:
        base = by_peer.get(reference, results[-1])[key]
        for result in results:
            result["ratio"] = result[key] / base
    return results
