"""Speed against FLOPs, and against published AP, as one image."""

import io
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from d2_regnet.utils.charts import COLOURS

_MARKERS = "osD^vPX*"
_WIDE = 5  # the largest over the smallest value from which on an axis is logarithmic
# Where the name of a point stands: its offset in typographic points, and its alignment.
_PLACES = [
    ((4, 4), "left", "bottom"),
    ((-4, -4), "right", "top"),
    ((4, -4), "left", "top"),
    ((-4, 4), "right", "bottom"),
]
_NAMES = {
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "retinanet": "RetinaNet",
}


def draw(results: Sequence[dict], title: str) -> bytes:
    """A PNG: images a second of every peer over GFLOPs, and over AP where it is published.

    Args:
        results: with `peer`, `gflops`, `images_per_second`, `ap` (or None), `arch` or `model`.
        title: above both; a new line begins at each semicolon.
    """
    buffer = io.BytesIO()
    _figure(results, title).savefig(buffer, format="png")
    return buffer.getvalue()


def _figure(results: Sequence[dict], title: str) -> Figure:
    panels = [("gflops", "GFLOPs of an image (multiply-adds)")]
    published = [result["ap"] for result in results if result.get("ap")]
    if len(set(published)) > 1 and 2 * len(published) >= len(results):
        panels.append(("ap", "box AP on COCO val2017, published"))
    figure = Figure(figsize=(6.4 * len(panels), 4.6), dpi=130, layout="constrained")
    figure.suptitle(title.replace("; ", "\n"), fontsize="medium")
    peers = [*dict.fromkeys(_series(result) for result in results)]
    for axes, (key, label) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        for number, peer in enumerate(peers):
            own = sorted(
                (each for each in results if _series(each) == peer and each.get(key)),
                key=lambda each: each[key],
            )
            axes.plot(
                [each[key] for each in own],
                [each["images_per_second"] for each in own],
                color=COLOURS[number % len(COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                linewidth=1.6,
                label=peer,
            )
        axes.margins(x=0.15, y=0.12)
        _scale(axes, "x", [each[key] for each in results if each.get(key)])
        if not _scale(axes, "y", [each["images_per_second"] for each in results]):
            axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("images a second (up is better)")
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].legend(fontsize="small")
    figure.draw_without_rendering()  # from here on it is known where everything lies
    for axes, (key, _) in zip(figure.axes, panels):
        _name_the_fastest(axes, results, key)
    return figure


def _scale(axes, name: str, values: list[float]) -> bool:
    """Makes an axis logarithmic where the values ask for it, and says whether they do."""
    if max(values) < _WIDE * min(values):
        return False
    getattr(axes, f"set_{name}scale")("log")
    axis = getattr(axes, f"{name}axis")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(_short))
    return True


def _parts(result: dict) -> tuple[str, str]:
    """What a line stands for, and the name of a point on it."""
    if "arch" in result:
        family, _, size = result["arch"].partition("-")
        if family.startswith("efficientnet"):
            return "EfficientNet", result["arch"].removeprefix("efficientnet_").upper()
        return family, f"{family[-1]}-{size}"
    head, _, schedule = result["model"].rpartition("_fpn_")
    kind = next(kind for kind in _NAMES if head.startswith(kind))
    name = head.removeprefix(f"{kind}_").removeprefix("regnet").replace("_", "-").upper()
    return f"{_NAMES[kind]} {schedule}", name


def _series(result: dict) -> str:
    peer = result["peer"].replace("detectron2", "Detectron2")
    return f"{_parts(result)[0]}, {peer}"


def _short(value: float, _) -> str:
    """A label for every other line between two powers of ten."""
    first = f"{value:e}"[0]
    return f"{value:g}" if first in "25" else ""


def _name_the_fastest(axes, results, key) -> None:
    """The names of what is compared, each at its highest point, where it covers nothing."""
    highest = {}
    for each in results:
        name = _parts(each)
        if each.get(key) and (
            name not in highest or each["images_per_second"] > highest[name]["images_per_second"]
        ):
            highest[name] = each
    legend = axes.get_legend()
    boxes = [legend.get_window_extent()] if legend else []
    drawn = _drawn(axes)
    for (_, name), each in sorted(
        highest.items(), key=lambda item: item[1]["images_per_second"], reverse=True
    ):
        for place in _PLACES:
            offset, ha, va = place
            text = axes.annotate(
                name,
                (each[key], each["images_per_second"]),
                offset,
                textcoords="offset points",
                fontsize="small",
                ha=ha,
                va=va,
            )
            box = text.get_window_extent()
            covers = box.count_overlaps(boxes) or box.count_contains(drawn)
            if not covers or place is _PLACES[-1]:
                break
            text.remove()
        boxes.append(box)


def _drawn(axes) -> np.ndarray:
    """Points all along the lines, in pixels: (N, 2)."""
    ends = [axes.transData.transform(line.get_xydata()) for line in axes.lines]
    return np.concatenate(
        [ends[0][:0]] + [np.linspace(a, b, 50) for each in ends for a, b in pairwise(each)]
    )
