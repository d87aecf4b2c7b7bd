"""Faults done to a training on purpose, and what comes of each.

Every part is a generator of `Result`s; `python -m tests.reliability` runs them and writes
docs/RELIABILITY.md. A fault whose outcome is not the promised one is a `Result` that is not `good`.
"""

from .results import Result, Scale
from .sources import PARTS

__all__ = ["PARTS", "Result", "Scale"]
