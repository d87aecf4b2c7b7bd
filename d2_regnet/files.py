"""Files that appear under their name only when they are complete."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for writing; it takes the place of `path` when the block ends without an error.

    Until then it is a hidden one beside it, which an error removes, so that whoever opens `path`
    finds the old file or the new one, each of them whole, and so does a machine after a crash.

    Args:
        path: the file, in a folder that exists.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
