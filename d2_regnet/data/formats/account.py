"""What a reader has used, and what it has left out and why."""

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Account", "Tally", "printable"]

_EXAMPLES = 3


@dataclass
class Tally:
    """How many, and the first of them."""

    count: int = 0
    examples: list[str] = field(default_factory=list)


class Account:
    """Everything that a reader came across: used, or left out for a reason.

    Things are named in the plural: images, label files, objects, classes, files. What was used
    and is worth knowing all the same is a remark.

    Attributes:
        used: thing -> how many.
        left_out: (thing, reason) -> `Tally`. Used and left out add up to what was written.
        remarks: (thing, remark) -> `Tally`; of things that were used.
        rewritten: whether the COCO dict is another than a file holds.
    """

    def __init__(self):
        self.used: Counter[str] = Counter()
        self.left_out: dict[tuple[str, str], Tally] = {}
        self.remarks: dict[tuple[str, str], Tally] = {}
        self.rewritten = True

    def use(self, thing: str, count: int = 1) -> None:
        self.used[thing] += count

    def leave_out(self, thing: str, reason: str, example: str, count: int = 1) -> None:
        if count:
            _add(self.left_out, (thing, reason), example, count)

    def remark(self, thing: str, remark: str, example: str) -> None:
        _add(self.remarks, (thing, remark), example, 1)

    def total(self, thing: str) -> int:
        """Used and left out."""
        return self.used[thing] + sum(
            t.count for (it, _), t in self.left_out.items() if it == thing
        )

    def lines(self) -> list[str]:
        """For people: what was left out, then the remarks; nothing where all was plainly used."""
        left_out = [
            f"{tally.count} of {self.total(thing)} {thing} left out: {reason} "
            f"(first: {tally.examples[0]})"
            for (thing, reason), tally in self.left_out.items()
        ]
        remarks = [
            f"{tally.count} of {self.used[thing]} {thing}: {remark} (first: {tally.examples[0]})"
            for (thing, remark), tally in self.remarks.items()
        ]
        return left_out + remarks


def _add(tallies: dict, key: tuple[str, str], example: str, count: int) -> None:
    tally = tallies.setdefault(key, Tally())
    tally.count += count
    if len(tally.examples) < _EXAMPLES:
        tally.examples.append(printable(example))


def printable(text: object) -> str:
    """Text without what a terminal cannot show: names of files need not be UTF-8."""
    return " ".join(str(text).encode("utf-8", "backslashreplace").decode().split())
