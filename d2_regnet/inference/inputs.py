"""What is predicted on: images, folders, globs, videos and cameras, one frame after the other."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from d2_regnet.data.images import read_image

__all__ = ["Camera", "File", "Frame", "Source", "Video", "find_sources"]

_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
_VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}


@dataclass(frozen=True)
class Frame:
    """An image, or one of a video.

    Attributes:
        source: where it is from.
        image: uint8 (H, W, 3), RGB.
        index: its number in a video, from 0; None for an image.
    """

    source: "Source"
    image: np.ndarray
    index: int | None = None


@dataclass(frozen=True)
class File:
    """An image's file.

    Attributes:
        name: the input as it is reported.
        target: where the drawn one goes, below the output folder.
    """

    name: str
    target: Path
    count = 1

    def frames(self) -> Iterator[Frame]:
        """
        Raises:
            OSError, ValueError: it cannot be read.
        """
        yield Frame(self, read_image(self.name, "RGB"))


@dataclass(frozen=True)
class Video:
    """A video's file; attributes as `File`'s."""

    name: str
    target: Path

    @cached_property
    def count(self) -> int:
        """How many frames it says it has; 0 where it does not say."""
        return max(0, int(_asked(self.name, cv2.CAP_PROP_FRAME_COUNT)))

    @property
    def fps(self) -> float:
        """Frames a second, 25 where the video does not say."""
        return _fps(_asked(self.name, cv2.CAP_PROP_FPS))

    def frames(self) -> Iterator[Frame]:
        """
        Raises:
            OSError: not one frame can be read.
        """
        index = -1
        for index, image in enumerate(_read(cv2.VideoCapture(self.name))):
            yield Frame(self, image, index)
        if index < 0:
            raise OSError(f"{self.name} is no video that OpenCV can read")


@dataclass(frozen=True)
class Camera:
    """A webcam, of which there is no end."""

    number: int
    target: Path
    count = 0

    @property
    def name(self) -> str:
        return f"camera {self.number}"

    @cached_property
    def capture(self) -> cv2.VideoCapture:
        """
        Raises:
            OSError: there is no such camera.
        """
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        capture = cv2.VideoCapture(self.number)
        cv2.utils.logging.setLogLevel(level)
        if not capture.isOpened():
            raise OSError(
                f"there is no camera {self.number}, or another program has it (a file of that "
                f"name is ./{self.number})"
            )
        return capture

    @property
    def fps(self) -> float:
        return _fps(self.capture.get(cv2.CAP_PROP_FPS))

    def frames(self) -> Iterator[Frame]:
        for index, image in enumerate(_read(self.capture)):
            yield Frame(self, image, index)


Source = File | Video | Camera


def find_sources(inputs: Sequence[str], output: str | os.PathLike) -> list[Source]:
    """What the inputs name, each once, in their order; nothing is opened.

    Where it is drawn follows from where it lies: below the output folder as below the folder that
    all inputs have in common, so two files of one name do not meet. A JPEG or PNG keeps its name,
    to any other image's `.png` is added, to any other video's `.mp4`.

    Args:
        inputs: files, folders (all their images and videos, at any depth), globs (`**` too), or
            the number of a camera. A file that does not exist is taken for an image.
        output: the folder of the results. What lies in it is no input of a folder's or a glob's.

    Raises:
        ValueError: no input, a folder or glob without images, or two targets of one name.
    """
    output = Path(output)
    cameras = [int(each) for each in inputs if _is_camera(each)]
    files = [f for each in inputs if not _is_camera(each) for f in _files(each, output.resolve())]
    files = list({os.path.abspath(file): file for file in files})
    if not files and not cameras:
        raise ValueError("no input: name images, folders, videos or a camera")
    common = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    sources: list[Source] = [_of_file(f, output / os.path.relpath(f, common)) for f in files]
    sources += [Camera(n, output / f"camera{n}.mp4") for n in dict.fromkeys(cameras)]
    by_target = {}
    for source in sources:
        other = by_target.setdefault(source.target, source)
        if other is not source:
            raise ValueError(
                f"{other.name} and {source.name} would both be drawn to {source.target}: predict "
                "them into different folders"
            )
    return sources


def _of_file(file: str, target: Path) -> File | Video:
    shown = os.path.relpath(file)
    shown = file if shown.startswith("..") else shown
    if target.suffix.lower() in _VIDEOS:
        keeps = target.suffix.lower() == ".mp4"
        return Video(shown, target if keeps else target.with_name(f"{target.name}.mp4"))
    keeps = target.suffix.lower() in (".jpg", ".jpeg", ".png")
    return File(shown, target if keeps else target.with_name(f"{target.name}.png"))


def _is_camera(text: str) -> bool:
    return text.isdecimal() and not os.path.exists(text)


def _files(text: str, output: Path) -> list[str]:
    """The files that one input names."""
    if os.path.isdir(text):
        found = _readable(Path(text).rglob("*"), output)
        if not found:
            raise ValueError(f"the folder {text} has no images or videos")
    elif not os.path.exists(text) and glob.has_magic(text):
        found = _readable(map(Path, glob.glob(text, recursive=True)), output)
        if not found:
            raise ValueError(f"nothing matches {text}, or no images or videos")
    else:
        found = [text]
    return found


def _readable(paths: Iterable[Path], output: Path) -> list[str]:
    return sorted(
        str(path)
        for path in paths
        if path.suffix.lower() in _PICTURES | _VIDEOS
        and not any(part.startswith(".") for part in path.parts if part not in (".", ".."))
        and path.is_file()
        and output not in path.resolve().parents
    )


def _read(capture: cv2.VideoCapture) -> Iterator[np.ndarray]:
    try:
        while True:
            there, image = capture.read()
            if not there:
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        capture.release()


def _asked(name: str, what: int) -> float:
    capture = cv2.VideoCapture(name)
    value = capture.get(what)
    capture.release()
    return value


def _fps(value: float) -> float:
    return value if 0 < value < 1000 else 25.0
