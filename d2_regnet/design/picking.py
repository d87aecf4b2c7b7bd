"""Which backbone to take for a time: measured here, with a measure of quality from elsewhere."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import torch
from tabulate import tabulate

from d2_regnet.archs import Stages

from .frontier import frontier, quality
from .timing import Timing, backbone_pass, interleaved, within_reach


@dataclass(frozen=True)
class Answer:
    """What was measured, and what follows from it.

    Attributes:
        what, where: the pass and the device, in words.
        measure, quality: the measure of quality and its value by name.
        sign: 1 where less of it is better, -1 where more is.
        timings: by name.
        left_out: names of networks far above the budget.
    """

    what: str
    where: str
    budget_ms: float
    measure: str
    quality: dict[str, float]
    sign: int
    timings: dict[str, Timing]
    left_out: list[str]

    @cached_property
    def frontier(self) -> list[str]:
        """The networks worth their time, fast ones first (see `frontier.frontier`)."""
        names = list(self.timings)
        cost = [timing.median for timing in self.timings.values()]
        return [names[i] for i in frontier(cost, [self.sign * self.quality[n] for n in names])]

    @property
    def pick(self) -> str | None:
        """The best within the budget; None if nothing is."""
        within = [n for n in self.frontier if self.timings[n].median <= self.budget_ms]
        return within[-1] if within else None

    def as_dict(self) -> dict:
        """Everything, ready for JSON."""
        return asdict(self) | {"frontier": self.frontier, "pick": self.pick}

    def text(self) -> str:
        """A table, fast ones first, and the answer in a sentence."""
        fast_first = sorted(self.timings.items(), key=lambda item: item[1].median)
        marks = dict.fromkeys(self.frontier, "yes")
        rows = [
            (name, ms.median, f"{ms.low:.1f}–{ms.high:.1f}", self.quality[name], marks.get(name))
            for name, ms in fast_first
        ]
        headers = ("", "ms, median", "middle half", self.measure, "frontier")
        lines = [f"{self.what}, {self.where}\n", tabulate(rows, headers, floatfmt=".1f")]
        if self.left_out:
            lines.append(
                "\nNot measured, the first for being far above the budget, the others for having "
                f"more FLOPs than it: {', '.join(self.left_out)}"
            )
        if self.pick:
            lines.append(f"\nWithin {self.budget_ms:g} ms: {self.pick}")
        else:
            name, ms = fast_first[0]
            lines.append(
                f"\nNothing within {self.budget_ms:g} ms: the fastest, {name}, takes "
                f"{ms.median:.1f} ms"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Measurement:
    """What is to be measured.

    Args:
        archs: the candidates by name.
        size: (height, width) of the image in pixels.
        device: cpu or cuda.
        train: a training step's forward and backward pass, else a forward pass.
        budget_ms: milliseconds for the pass, above 0.
        rounds: measurements of each candidate, at least 1.

    Raises:
        ValueError: a number out of range, or a device that is not there.
    """

    archs: Mapping[str, Stages]
    size: tuple[int, int]
    device: str
    train: bool
    budget_ms: float
    rounds: int

    def __post_init__(self):
        if not self.budget_ms > 0 or self.rounds < 1:
            raise ValueError("--budget-ms must be above 0 and --rounds at least 1")
        if not self.device.startswith(("cpu", "cuda")):
            raise ValueError(f"--device {self.device}: it is cpu or cuda")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {self.device}: this machine has no GPU")

    @property
    def names(self) -> list[str]:
        """The candidates, from few to many multiply-adds at this size."""
        return sorted(self.archs, key=lambda name: self.archs[name].complexity(self.size, 0).flops)

    @property
    def what(self) -> str:
        height, width = self.size
        kind = "training pass" if self.train else "forward pass"
        return f"{kind} of the backbone at {height}x{width}"

    @property
    def where(self) -> str:
        return f"CPU, {torch.get_num_threads()} thread(s)" if self.device == "cpu" else self.device

    def run(self, progress: Callable[[Iterable, str], Iterable]) -> Answer:
        """Measures.

        Args:
            progress: as tqdm: passed what is iterated and a word about it.
        """
        options = self.size, self.device, self.train
        candidates = (
            (name, partial(backbone_pass, self.archs[name], *options))
            for name in progress(self.names, "warming up")
        )
        passes, left_out = within_reach(candidates, self.budget_ms)
        timings = interleaved(passes, self.rounds, lambda rounds: progress(rounds, "rounds"))
        measured = quality(self.archs)
        return Answer(self.what, self.where, self.budget_ms, *measured, timings, left_out)
