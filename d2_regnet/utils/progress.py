"""How far a command is: a bar on a terminal, elsewhere a line now and then."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

__all__ = ["progress"]

_EVERY = 30.0  # seconds


class _Lines:
    """Takes what tqdm writes over its last line, and writes lines."""

    def write(self, text: str) -> None:
        if text := text.strip("\r\n "):
            sys.stderr.write(f"{text}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def progress(iterable: Iterable | None = None, every: float = _EVERY, **options) -> tqdm:
    """tqdm's bar on stderr; if that is not a terminal, a line after each `every` seconds.

    Args:
        iterable, **options: tqdm's own, such as `desc`, `total` and `unit`.
        every: seconds; what takes less prints nothing.
    """
    if not sys.stderr.isatty():
        lines = dict(file=_Lines(), delay=every, mininterval=every, leave=False, ncols=80)
        options = lines | {"maxinterval": every} | options
    return tqdm(iterable, **options)
