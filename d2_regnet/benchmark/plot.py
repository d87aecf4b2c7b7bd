"""Speed against FLOPs, and against published AP, as one picture."""

import io
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from d2_regnet.report.charts import COLOURS

_MARKERS = "osD^vPX*"


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
        axes.set_yscale("log")
        if key == "gflops":
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(FuncFormatter(_short))
        axes.yaxis.set_minor_formatter(FuncFormatter(_short))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(x=0.12, y=0.12)
        axes.set_xlabel(label)
        axes.set_ylabel("pictures a second (up is better)")
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].legend(fontsize="small")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _series(result: dict) -> str:
    kind = (result.get("arch") or "").partition("-")[0]
    if kind.startswith("efficientnet"):
        return "EfficientNet, torchvision"
    return f"{kind}, {result['peer']}" if kind else result["peer"]


def _short(value: float, _) -> str:
    """A label for every other line between two powers of ten."""
    first = f"{value:e}"[0]
    return f"{value:g}" if first in "25" else ""


def _name_the_fastest(axes, results, key) -> None:
    """The names of what is compared, each at its highest point."""
    highest = {}
    for each in results:
        name = each.get("arch") or each["row"]
        if each.get(key) and (
            name not in highest
            or each["pictures_per_second"] > highest[name]["pictures_per_second"]
        ):
            highest[name] = each
    for name, each in highest.items():
        axes.annotate(
            name.removeprefix("RegNet").replace("efficientnet_", ""),
            (each[key], each["pictures_per_second"]),
            (0, -8 if "RegNetY" in name else 8),
            textcoords="offset points",
            fontsize="x-small",
            ha="center",
            va="center",
        )
