"""What is wrong with a data set's images: are they there, readable, and of the annotated size?"""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from detectron2.utils.file_io import PathManager

from .checks import image_problems
from .findings import DROP, Finding, Kind
from .images import read_header, read_image

_ENDS = {b"\xff\xd8": b"\xff\xd9", b"\x89P": b"IEND"}  # of JPEG and PNG, by their first bytes
_TAIL = 1 << 16  # bytes: some cameras write more behind the end
__all__ = ["check_images", "missing_images", "refuse_unusable"]


def missing_images(images: list[dict], folder: str) -> list[str]:
    """The paths of all images that are not there, by a look into each folder; of remote ones none.

    Args:
        images: the `images` of a COCO dict, sound ones.
        folder: where they lie.
    """
    names = functools.cache(lambda parent: {*os.listdir(parent)} if os.path.isdir(parent) else {})
    paths = [os.path.join(folder, each["file_name"]) for each in images]
    return [
        path
        for path in paths
        if "://" not in path
        and os.path.basename(path) not in names(os.path.dirname(path) or ".")
        and not os.path.exists(path)
    ]


def check_images(
    images: list[dict],
    folder: str,
    *,
    decode: bool = False,
    threads: int = 8,
    progress: Callable[[Iterable], Iterable] = iter,
) -> list[Finding]:
    """Looks at the images: are they there, readable and of the annotated size?

    Args:
        images: the `images` of a COCO dict; malformed ones, which `check_annotations` finds, are
            passed over.
        folder: where they lie.
        decode: read every pixel; if not, only the headers, and the pixels of JPEG and PNG files
            whose end is missing.
        threads: how many to read at once.
        progress: wraps an iterable with one element an image, as `tqdm.tqdm` does.
    """

    def look(job):
        index, image = job
        for kind, detail in _look_at(image, folder, decode):
            return Finding(
                kind, "images", index, f"image {image['id']} ({image['file_name']}): {detail}", DROP
            )
        return None

    jobs = [(i, image) for i, image in enumerate(images) if not list(image_problems(image, {}, {}))]
    pool = ThreadPoolExecutor(threads)
    try:
        return [f for f in progress(pool.map(look, jobs)) if f is not None]
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for all images


def refuse_unusable(images: list[dict], folder: str, of: str) -> None:
    """
    Raises:
        ValueError: some of the images cannot be used: how many, and the first.
    """
    if bad := check_images(images, folder):
        raise ValueError(
            f"{of}: {len(bad)} of {len(images)} images cannot be used, the first: {bad[0].kind}: "
            f"{bad[0].detail}"
        )


def _may_be_cut(path: str) -> bool:
    """Whether a JPEG's or PNG's end is not where it should be, or not far before."""
    with PathManager.open(path, "rb") as file:
        kind = file.read(2)
        if kind not in _ENDS:
            return False
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
        return _ENDS[kind] not in file.read()


def _look_at(image: dict, folder: str, decode: bool) -> Iterator[tuple[Kind, str]]:
    path = os.path.join(folder, image["file_name"])
    annotated = image["width"], image["height"]
    try:
        if decode or _may_be_cut(path):
            height, width, _ = read_image(path, "RGB", annotated).shape
            sizes = [(width, height)]
        else:  # as read_image: annotations may be of the stored or of the displayed image
            header = read_header(path)
            sizes = [header.displayed, header.stored]
    except FileNotFoundError:
        yield Kind.IMAGE_MISSING, f"there is no {path}"
    except Exception as error:
        yield Kind.IMAGE_UNREADABLE, " ".join(f"{type(error).__name__}: {error}".split())
    else:
        if annotated not in sizes:
            (width, height), (w, h) = annotated, sizes[0]
            yield Kind.IMAGE_SIZE, f"annotated {width} x {height}, is {w} x {h}"
