"""What came of a fault, and tables of it."""

import logging
import platform
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe


@dataclass(frozen=True)
class Result:
    """One fault.

    Attributes:
        fault: its kind, the row of the table.
        happened: what came of it.
        lost: what was lost by it.
        good: whether that is what was promised.
        detail: for whoever looks into one that is not.
    """

    fault: str
    happened: str
    lost: str
    good: bool
    detail: str = ""


class Warnings(logging.Handler):
    """Keeps what is logged as a warning, or as worse.

    Attributes:
        texts: the messages, in order.
    """

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


@dataclass(frozen=True)
class Scale:
    """How much of it: every repeated fault `of(n)` times.

    Attributes:
        share: of the whole; above 0.
        seed: decides where and when the faults strike.
        folder: for all files.
    """

    share: float
    seed: int
    folder: Path

    def of(self, count: int) -> int:
        return max(1, round(self.share * count))


def table(results: Iterable[Result]) -> str:
    """A Markdown table: kind of fault, how often, what happened, what was lost."""
    by_fault = defaultdict(list)
    for result in results:
        by_fault[result.fault].append(result)
    lines = ["| fault | times | what happened | what was lost | not as promised |"]
    lines.append("|---|---:|---|---|---:|")
    for fault, group in by_fault.items():
        cells = (
            fault,
            len(group),
            _counted(r.happened for r in group),
            _counted(r.lost for r in group),
            sum(not r.good for r in group),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _counted(values: Iterable[str]) -> str:
    """The values, each once, with how often where there are several."""
    values = list(values)
    different = list(dict.fromkeys(values))
    if len(different) == 1:
        return different[0]
    return "; ".join(f"{value} ({values.count(value)})" for value in different)


def replace_section(text: str, name: str, content: str) -> str:
    """A document in which what is between two comments, `<!-- name -->` and `<!-- /name -->`, is
    another.

    Raises:
        ValueError: there are no such comments.
    """
    pattern = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the document has no <!-- {name} --> ... <!-- /{name} -->")
    return pattern.sub(lambda match: f"{match[1]}{content}\n{match[2]}", text)


def totals(text: str) -> tuple[int, int]:
    """How many faults the tables of a document count, and how many were not as promised."""
    rows = re.findall(r"^\|.*\| \d+ \|.*\| \d+ \|$", text, re.MULTILINE)
    rows = [row.split("|") for row in rows]
    return sum(int(row[2]) for row in rows), sum(int(row[-2]) for row in rows)


def machine() -> str:
    """What it ran on, in one line."""
    found = describe()
    return f"{found['processor']}, {platform.system()}, torch {found['torch']}"
