"""Folders of images and of label files, and which belong to each other."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from d2_regnet.data.images import image_suffixes
from d2_regnet.utils.files import is_hidden, walk

from .account import Account

__all__ = ["Pairs", "find_images", "slashes"]

# Of the folders that tools make for the images and for their labels; both lead to one key.
_PARALLEL = {"images", "labels", "JPEGImages", "Annotations"}


def find_images(folder: Path, account: Account, labels: Iterable[Path] = ()) -> list[Path]:
    """The images below a folder; what else lies there, other than `labels`, is left out."""
    images, labels = [], set(labels)
    for path in walk(folder):
        suffix, name = path.suffix.lower(), str(path.relative_to(folder))
        if suffix not in image_suffixes():
            if path not in labels and not is_hidden(path, folder):
                reason = f"{suffix or 'no suffix'}, which is not an image's"
                account.leave_out("files", reason, name)
                account.use("files", 0)
        elif is_hidden(path, folder):
            account.leave_out("images", "hidden", name)
        else:
            images.append(path)
    return images


def slashes(name: str) -> str:
    """A file's name as written on Windows or elsewhere, with `/` between its parts."""
    return PureWindowsPath(name).as_posix()


class Pairs:
    """Which images a label file describes.

    It describes the one at its own place: of the same folders below the two that were named, and
    of the same name but for the suffix. Else the one that it names itself; else the only one
    anywhere of its name, or the one that has most of the folders above in common with it.
    """

    def __init__(self, images: list[Path], folder: Path):
        self._folder = folder
        self._images = set(images)
        self._by_key, self._by_stem, self._by_name = (defaultdict(list) for _ in range(3))
        self._by_whole = defaultdict(list)
        for image in images:
            self._by_key[_key(image, folder)].append(image)
            self._by_whole[(*_key(image, folder)[:-1], _text(image.name))].append(image)
            self._by_stem[_text(image.stem)].append(image)
            self._by_name[_text(image.name)].append(image)

    def at(self, label: Path, folder: Path) -> list[Path]:
        """The images at the label file's own place, which are several if but the suffix differs."""
        key = _key(label, folder)  # and of a.png.txt, a.png, if there is no image a.png.png
        return self._by_key.get(key) or self._by_whole.get(key, [])

    def named(self, label: Path, name: str) -> list[Path]:
        """The images that the label file itself may mean by a name."""
        parts = slashes(name)
        for base in (label.parent, self._folder):
            path = Path(os.path.normpath(base / parts))
            if path in self._images:
                return [path]
        return self._by_name.get(_text(parts.rsplit("/", 1)[-1]), [])

    def elsewhere(self, label: Path, taken: set[Path]) -> list[Path]:
        """The images of the label file's name at other places, those nearest to it alone."""
        same = [each for each in self._by_stem.get(_text(label.stem), []) if each not in taken]
        near = [_common_tail(each, label) for each in same]
        return [each for each, common in zip(same, near) if common == max(near)]


def _common_tail(one: Path, other: Path) -> int:
    parts = [_text(part) for part in reversed(one.parent.absolute().parts)]
    others = [_text(part) for part in reversed(other.parent.absolute().parts)]
    return next((i for i, (a, b) in enumerate(zip(parts, others)) if a != b), len(parts))


def _key(path: Path, folder: Path) -> tuple[str, ...]:
    parts = path.relative_to(folder).with_suffix("").parts
    return tuple(_text(part) for part in parts if part not in _PARALLEL)


def _text(name: str) -> str:
    """One form of the names that look alike: macOS writes accents as characters of their own."""
    return unicodedata.normalize("NFC", name)
