"""COCO's masks, polygons and run lengths: what is wrong with them, and what they measure."""

import math
from collections.abc import Sequence

import numpy as np

from .findings import Kind, is_id, is_number

__all__ = ["FAR", "area", "extent", "plausible_area", "polygon_problem", "run_lengths"]

FAR = 10  # times the image's size: pycocotools takes memory for all between, until it crashes


def polygon_problem(polygon, size: Sequence[float] = (math.inf,)) -> Kind | None:
    """A kind of finding; None if there is nothing wrong with it.

    Args:
        size: of the image, in pixels; unknown by default.
    """
    try:
        # The sum shows what is no number, and is not finite where any number is not.
        if len(polygon) % 2 or not math.isfinite(sum(polygon)):
            return Kind.POLYGON
    except (TypeError, OverflowError):
        return Kind.POLYGON
    if len(polygon) < 6:
        return Kind.POLYGON_SHORT
    far = FAR * max(size)
    return Kind.POLYGON_FAR if max(polygon) > far or min(polygon) < -far else None


def run_lengths(counts) -> list[int] | None:
    """The run lengths of COCO's RLE, plain or compressed; None if they are neither.

    Compressed as in cocoapi's maskApi.c, rleFrString: groups of 5 bits, least first, with a
    continuation bit, from "0"; from the fourth on, differences to the last but one.
    """
    if isinstance(counts, list):
        good = all(is_id(count) and count >= 0 for count in counts)
        return counts if good else None
    if not isinstance(counts, str) or not counts or not counts.isascii():
        return None
    codes = np.frombuffer(counts.encode(), np.uint8).astype(np.int64) - 48
    if codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero(codes & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values.tolist() if values.min() >= 0 else None


def area(box: list, segmentation) -> float:
    """The mask's area in pixels; that of the box if there is no sound mask."""
    if isinstance(segmentation, dict):
        counts = run_lengths(segmentation.get("counts"))
        if counts is not None:
            return float(sum(counts[1::2]))
    elif isinstance(segmentation, list):
        polygons = [p for p in segmentation if not polygon_problem(p)]
        if polygons:
            return float(sum(map(_polygon_area, polygons)))
    return float(box[2] * box[3])


def _polygon_area(polygon: list) -> float:
    x, y = np.array(polygon[::2], float), np.array(polygon[1::2], float)
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def extent(segmentation) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 of a sound mask in pixels; None if it is empty."""
    if isinstance(segmentation, list):
        sound = [each for each in segmentation if not polygon_problem(each)]
        if not sound:
            return None
        x, y = (np.concatenate([np.array(each[i::2], float) for each in sound]) for i in (0, 1))
        return x.min(), y.min(), x.max(), y.max()
    counts = run_lengths(segmentation.get("counts")) if isinstance(segmentation, dict) else None
    size = segmentation.get("size") if counts else None
    if not counts or not sum(counts[1::2]) or not isinstance(size, list) or len(size) != 2:
        return None
    if not is_id(size[0]) or size[0] < 1:
        return None
    ends = np.cumsum(counts)
    starts, ends = ends[:-1:2], ends[1::2] - 1  # of the runs inside, column by column
    height, filled = size[0], np.array(counts[1::2]) > 0
    starts, ends = starts[filled], ends[filled]
    whole = starts // height < ends // height  # a run that goes on in the next column
    top = 0 if whole.any() else (starts % height).min()
    bottom = height if whole.any() else (ends % height).max() + 1
    return starts.min() // height, top, ends.max() // height + 1, bottom


def plausible_area(value, box: list, segmentation) -> bool:
    """Whether `area` can be that of an object, and is not 0, or a fraction of the image's.

    Args:
        value: the annotation's `area`.
        box: x, y, width, height in pixels; a mask covers from a thousandth of it to all.
        segmentation: its mask, which is looked at if the box contradicts.
    """
    if not is_number(value) or value < 0:
        return False
    product = box[2] * box[3]
    if 0 < product / 1000 <= value <= 1.1 * product:
        return True
    real = area(box, segmentation)
    return real <= 0 or real / 10 <= value <= 10 * real
