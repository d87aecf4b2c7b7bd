"""Files that appear under their name only when they are complete; folders, and what is in them."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def check_folder(folder: str | os.PathLike, flag: str = "--output") -> None:
    """Makes sure, before any work, that files can be written to a folder, which need not exist.

    Args:
        flag: what the user gave it as.

    Raises:
        ValueError: it, or one above it, is a file.
        PermissionError: nothing may be written there.
    """
    folder = Path(folder).absolute()
    there = next(each for each in [folder, *folder.parents] if each.exists())
    if not there.is_dir():
        raise ValueError(f"{flag}: {there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{flag}: nothing may be written to {there}; choose another folder")


def check_file(path: str | os.PathLike, flag: str = "--output", *, overwrite: bool = False) -> None:
    """Makes sure, before any work, that a file can be written and that none is lost by it.

    Raises:
        FileNotFoundError: there is no folder to write it to.
        FileExistsError: it exists, and not `overwrite`.
        ValueError, PermissionError: it is a folder, or nothing may be written there.
    """
    path = Path(path)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{flag}: there is no folder {path.parent}")
    if path.is_dir():
        raise ValueError(f"{flag}: {path} is a folder")
    check_folder(path.absolute().parent, flag)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{flag}: {path} exists; --overwrite replaces it")


@contextmanager
def whole_file(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file for writing; it takes the place of `path` when the block ends without an error.

    Until then it is a hidden one beside it, which an error removes, so that whoever opens `path`
    finds the old file or the new one, each of them whole, and so does a machine after a crash.

    Raises:
        OSError: it cannot be written, or there is no such folder; `path` is as it was.
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


def write_file(path: str | os.PathLike, content: bytes | str) -> None:
    """Writes a file that appears whole, as `whole_file`'s; text as UTF-8."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def walk(folder: str | os.PathLike) -> Iterator[Path]:
    """All files below a folder, in order; folders that links lead to as well, each once."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(here, name) for name in sorted(files))


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether its name, or that of a folder on its way from `folder`, begins with a dot."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)
