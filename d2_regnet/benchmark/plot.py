"""Speed against FLOPs, and against published AP, as one picture."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from d2_regnet.report.charts import COLOURS

_MARKERS = "osD^vPX*"
_WIDE = 5  # the largest over the smallest value from which on an axis is logarithmic
_NAMES = {
    "faster_rcnn": "Faster R-CNN",
    "mask_rcnn": "Mask R-CNN",
    "cascade_mask_rcnn": "Cascade Mask R-CNN",
    "retinanet": "RetinaNet",
}


def draw(results: Sequence[dict], title: str) -> bytes:
    """A PNG: pictures a second of every peer over GFLOPs, and over AP where it is published.

    Args:
        results: with `peer`, `gflops`, `pictures_per_second`, `ap` (or None), `arch` or `row`.
        title: above both; a new line begins at each semicolon.
    """
    panels = [("gflops", "GFLOPs of a picture (multiply-adds)")]
    if len({result["ap"] for result in results if result.get("ap")}) > 1:
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
                [each["pictures_per_second"] for each in own],
                color=COLOURS[number % len(COLOURS)],
                marker=_MARKERS[number % len(_MARKERS)],
                linewidth=1.6,
                label=peer,
            )
        _name_the_fastest(axes, results, key)
        axes.margins(x=0.15, y=0.12)
        _scale(axes, "x", [each[key] for each in results if each.get(key)])
        if not _scale(axes, "y", [each["pictures_per_second"] for each in results]):
            axes.set_ylim(bottom=0)
        axes.set_xlabel(label)
        axes.set_ylabel("pictures a second (up is better)")
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


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
    head, _, schedule = result["row"].rpartition("_fpn_")
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
    """The names of what is compared, each at its highest point, where no falling line passes."""
    highest = {}
    for each in results:
        name = _parts(each)
        if each.get(key) and (
            name not in highest
            or each["pictures_per_second"] > highest[name]["pictures_per_second"]
        ):
            highest[name] = each
    for (family, name), each in highest.items():
        below = family == "RegNetY"  # RegNetX of as many FLOPs lies just above
        axes.annotate(
            name,
            (each[key], each["pictures_per_second"]),
            (-4, -4) if below else (4, 4),
            textcoords="offset points",
            fontsize="small",
            ha="right" if below else "left",
            va="top" if below else "bottom",
        )
