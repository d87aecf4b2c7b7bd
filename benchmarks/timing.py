"""Times of competitors that take turns, so that all of them meet the same state of the machine."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from tqdm import tqdm


@dataclass(frozen=True)
class Timing:
    """The times of equal runs.

    Attributes:
        seconds: of each run, in order.
    """

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one, in seconds."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> float:
        """The distance of the first quartile from the third, as a share of the median."""
        if len(self.seconds) < 2:
            return 0.0
        first, _, third = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return (third - first) / self.median

    def figures(
        self, batch: int, flops: float | None = None, done: float | None = None
    ) -> dict[str, float]:
        """The part of a result that follows from the times.

        Args:
            batch: images in a run.
            flops: multiply-adds of an image, computed plainly; None where they are not counted.
            done: those that were carried out, where they are counted apart.
        """
        found = {
            "seconds": self.median,
            "spread": self.spread,
            "pictures_per_second": batch / self.median,
        }
        if flops is not None:
            found["gflops"] = flops / 1e9
            if done is not None:
                found["gflops_done"] = done / 1e9
            carried_out = flops if done is None else done
            found["gflops_per_second"] = batch * carried_out / self.median / 1e9
        return found


def take_turns(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 5,
    discard: int = 1,
    device: str = "cpu",
    title: str = "",
) -> dict[str, Timing]:
    """Times each run once a round.

    Args:
        runs: what to call, by name.
        rounds: how many times each is timed.
        discard: how many rounds come before that, untimed: caches and allocators fill in them.
        device: where they compute; a GPU is waited for before and after each run.
        title: of the progress bar, which only a terminal shows.
    """
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    seconds = {name: [] for name in runs}
    with tqdm(total=(rounds + discard) * len(runs), desc=title, disable=None, leave=False) as bar:
        for number in range(rounds + discard):
            for name, run in runs.items():
                wait()
                start = time.perf_counter()
                run()
                wait()
                if number >= discard:
                    seconds[name].append(time.perf_counter() - start)
                bar.update()
    return {name: Timing(tuple(each)) for name, each in seconds.items()}


def compared(results: list[dict], key: str = "seconds", reference: str = "detectron2") -> None:
    """Adds `ratio` to the results of one comparison, if there are two: their `key` over that of the
    reference peer, or of the last one where it did not take part."""
    if len(results) < 2:
        return
    by_peer = {result["peer"]: result for result in results}
    base = by_peer.get(reference, results[-1])[key]
    for result in results:
        result["ratio"] = result[key] / base
