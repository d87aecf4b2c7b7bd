"""Faults done to a training on purpose, and what comes of each.

Every part is a generator of `Result`s; `python -m tests.reliability` runs them and writes
docs/results/reliability.md. A fault whose outcome is not the promised one is a `Result` that is
not `good`.
"""

from . import checkpoints, data, disk, kills, signals, steps
from .results import Result, Scale

__all__ = ["PARTS", "Result", "Scale"]

PARTS = {
    part.__name__.rpartition(".")[2]: part.run
    for part in (kills, checkpoints, disk, signals, steps, data)
}
