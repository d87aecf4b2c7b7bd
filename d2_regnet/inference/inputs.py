"""What is predicted on: images, folders, globs, videos, cameras and addresses, frame by frame."""

import glob
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from d2_regnet.data.formats import Account
from d2_regnet.data.images import image_suffixes, open_image, read_image, to_array
from d2_regnet.utils.files import is_hidden, walk

from .addresses import (
    PATIENCE,
    VIDEO_SUFFIXES,
    download,
    is_address,
    is_stream,
    path_of,
    without_password,
)

_MOST_PIXELS = 1 << 28  # of an image from the network


@dataclass(frozen=True)
class Frame:
    """An image, or one of a video: uint8 (H, W, 3), RGB."""

    source: "Source"
    image: np.ndarray
    index: int | None = None  # in a video, from 0


@dataclass(frozen=True)
class File:
    """An image's file.

    Attributes:
        name: the input as it is reported.
        target: where the drawn one goes, below the output folder.
        entry: what a COCO file says of it, whose `width` and `height` decide about EXIF.
    """

    name: str
    target: Path
    entry: dict | None = field(default=None, compare=False)
    count = 1
    local = True

    def frames(self) -> Iterator[Frame]:
        """The image; OSError or ValueError if it cannot be read."""
        size = (self.entry["width"], self.entry["height"]) if self.entry else None
        yield Frame(self, read_image(self.name, "RGB", size))


@dataclass(frozen=True)
class Url(File):
    """An image on the network; its `name` is the address without user and password."""

    address: str = ""
    local = False

    def frames(self) -> Iterator[Frame]:
        """The image; OSError or ValueError if it does not come, is too large, or is none."""
        file = io.BytesIO(download(self.address))
        image = open_image(file, self.name)
        if image.width * image.height > _MOST_PIXELS:
            size = f"{image.width} x {image.height}"
            raise OSError(f"{self.name} has {size} pixels, which is too much")
        yield Frame(self, to_array(image, "RGB"))


class Film:
    """Frames that OpenCV reads: of a file, a stream or a camera."""

    name: str
    target: Path
    local: bool
    open: Callable[[], cv2.VideoCapture]
    entry = None
    _unread = "is not a video that OpenCV can read"

    @cached_property
    def count(self) -> int:
        """How many frames it says it has; 0 if it does not say."""
        return max(0, int(self.open().get(cv2.CAP_PROP_FRAME_COUNT)))

    @cached_property
    def fps(self) -> float:
        """Frames a second, 25 if it does not say."""
        fps = self.open().get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps < 1000 else 25.0

    def frames(self) -> Iterator[Frame]:
        """All frames; OSError if not one can be read."""
        index, _ = -1, self.fps  # which is not to be had of a stream once its end is read
        for index, image in enumerate(_read(self.open())):
            yield Frame(self, image, index)
        if index < 0:
            raise OSError(f"{self.name} {self._unread}")


@dataclass(frozen=True)
class Video(Film):
    """A video's file; attributes as `File`'s."""

    name: str
    target: Path
    local = True

    def open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(self.name)


@dataclass(frozen=True)
class Stream(Film):
    """A video on the network, which need not end.

    Attributes:
        address: with the user and the password, if there are any; `name` has none.
        target: see `File`.
    """

    address: str | int
    target: Path
    local = False
    _unread = "gave not one frame"

    @property
    def name(self) -> str:
        return without_password(str(self.address))

    def open(self) -> cv2.VideoCapture:
        """The stream, opened at the first call; OSError if it cannot be."""
        return self._capture

    @cached_property
    def _capture(self) -> cv2.VideoCapture:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        capture = self._open()
        cv2.utils.logging.setLogLevel(level)
        if not capture.isOpened():
            raise OSError(self._unopened())
        return capture

    def _open(self) -> cv2.VideoCapture:
        patience = (cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, cv2.CAP_PROP_READ_TIMEOUT_MSEC)
        options = [value for key in patience for value in (key, 1000 * PATIENCE)]
        return cv2.VideoCapture(self.address, cv2.CAP_FFMPEG, options)

    def _unopened(self) -> str:
        return f"{self.name} does not answer, or with no video that OpenCV can read"


@dataclass(frozen=True)
class Camera(Stream):
    """A webcam, which never ends; `address` is its number."""

    @cached_property
    def count(self) -> int:
        return 0

    @property
    def name(self) -> str:
        return f"camera {self.address}"

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(self.address)

    def _unopened(self) -> str:
        return (
            f"there is no camera {self.address}, or another program has it (a file of that name is "
            f"./{self.address})"
        )


Source = File | Film


def find_sources(
    inputs: Sequence[str], output: str | os.PathLike, account: Account | None = None
) -> list[Source]:
    """What the inputs name, each once, in their order; nothing is opened, but an address of http
    whose suffix does not tell an image from a video is asked.

    Each is drawn below the output folder as it lies below the folder that all files (or addresses)
    have in common, so two of one name do not meet. A JPEG or PNG keeps its name, to any other
    image's `.png` is added, to any other video's `.mp4`.

    Args:
        inputs: files, folders (at any depth), globs (`**` too), a camera's number, or addresses of
            images, videos and streams. A file that does not exist is taken for an image.
        output: the folder of the results; nothing in it is an input of a folder or a glob.
        account: counts what lies in the folders, or matches the globs, and is not taken.

    Raises:
        ValueError: no input, a folder or glob without images, an address of another kind, or two
            targets of one name.
    """
    output, account = Path(output), Account() if account is None else account
    inputs = [os.path.expanduser(each) for each in inputs]
    urls = [each for each in inputs if is_address(each)]
    cameras = [int(each) for each in inputs if _is_camera(each)]
    others = [each for each in inputs if each not in urls and not _is_camera(each)]
    files = [f for each in others for f in _files(each, output.resolve(), account)]
    files = list({os.path.abspath(file): file for file in files})
    if not (files or cameras or urls):
        raise ValueError("no input: name images, folders, videos, addresses or a camera")
    common = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    sources: list[Source] = [_of_file(f, output / os.path.relpath(f, common)) for f in files]
    sources += _of_addresses(list(dict.fromkeys(urls)), output)
    sources += [Camera(n, output / f"camera{n}.mp4") for n in dict.fromkeys(cameras)]
    return apart(sources)


def apart(sources: list[Source]) -> list[Source]:
    """The sources; ValueError if two have one target."""
    by_target = {}
    for source in sources:
        other = by_target.setdefault(source.target, source)
        if other.name != source.name:
            raise ValueError(
                f"{other.name} and {source.name} would both be drawn to {source.target}: predict "
                "them into different folders"
            )
    return sources


def _of_addresses(addresses: list[str], output: Path) -> list[Source]:
    paths = [path_of(each) for each in addresses]
    common = os.path.commonpath([path.parent for path in paths]) if paths else ""
    sources = []
    for address, path in zip(addresses, paths):
        target = output / path.relative_to(common)
        if is_stream(address):
            sources.append(Stream(address, _of_video(target)))
        else:
            sources.append(Url(without_password(address), target_of_image(target), address=address))
    return sources


def _of_video(target: Path) -> Path:
    return target if target.suffix.lower() == ".mp4" else target.with_name(f"{target.name}.mp4")


def target_of_image(target: Path) -> Path:
    """A drawn image's file: as the image is called, with another suffix if it is not a JPEG."""
    keeps = target.suffix.lower() in (".jpg", ".jpeg", ".png")
    return target if keeps else target.with_name(f"{target.name}.png")


def _of_file(file: str, target: Path) -> File | Video:
    shown = os.path.relpath(file)
    shown = file if shown.startswith("..") else shown
    if target.suffix.lower() in VIDEO_SUFFIXES:
        return Video(shown, _of_video(target))
    return File(shown, target_of_image(target))


def _is_camera(text: str) -> bool:
    return text.isdecimal() and not os.path.exists(text)


def _files(text: str, output: Path, account: Account) -> list[str]:
    """The files that one input names."""
    if os.path.isdir(text):
        found = _taken(walk(text), output, account, Path(text))
        nothing = f"the folder {text} has no images or videos"
    elif not os.path.exists(text) and glob.has_magic(text):
        found = _taken(map(Path, glob.glob(text, recursive=True)), output, account)
        nothing = f"nothing matches {text}, or no images or videos"
    else:
        return [text]
    if not found:
        raise ValueError("; ".join([nothing, *account.lines()]))
    return found


def _taken(
    paths: Iterable[Path], output: Path, account: Account, folder: Path | None = None
) -> list[str]:
    """The images and videos among them; the others are counted."""
    taken, known = [], image_suffixes() | VIDEO_SUFFIXES
    for path in paths:
        suffix, reason = path.suffix.lower(), None
        if path.is_dir():
            reason = "a folder: name it, or match with ** what lies in it"
        elif folder and is_hidden(path, folder):
            reason = "hidden"
        elif output in path.resolve().parents:
            reason = "in the output folder"
        elif suffix not in known or (suffix == ".ts" and _is_text(path)):
            reason = f"{suffix or 'no suffix'}, which is not an image's or video's"
        if reason:
            account.leave_out("files", reason, str(path))
        else:
            account.use("files")
            taken.append(str(path))
    return sorted(taken)


def _is_text(path: Path) -> bool:
    """Whether a .ts file is TypeScript: MPEG's transport streams begin with this byte."""
    with open(path, "rb") as file:
        return file.read(1) != b"G"


def _read(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    try:
        while True:
            there, image = capture.read()
            if not there:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()
