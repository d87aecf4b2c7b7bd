"""Curves as PNG images, drawn large enough to be read on a phone."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
_SIZE = (4.6, 2.9)  # inches; on the page about 100 pixels each
_DPI = 180


@dataclass(frozen=True)
class Curve:
    """A line of a chart; points that are not finite leave a gap."""

    label: str
    points: tuple[Sequence[float], Sequence[float]]  # steps and values
    colour: int = 0  # an index into COLOURS, beyond which they repeat in another style
    faint: bool = False  # thin, beside the line that matters


def draw(
    title: str,
    unit: str,
    curves: Sequence[Curve],
    *,
    levels: dict[str, float] | None = None,
    legend: bool = True,
    marked: bool = False,
) -> bytes | None:
    """A chart over the steps, as PNG; None if no curve has a point.

    Args:
        title: above it.
        unit: beside the vertical axis, which begins at 0.
        levels: horizontal lines, by label.
        legend: whether to name the curves.
        marked: whether to mark each point, of curves with few.
    """
    curves = [curve for curve in curves if any(map(math.isfinite, curve.points[1]))]
    if not curves:
        return None
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        style = dict(linewidth=0.9 if curve.faint else 1.8, alpha=0.55 if curve.faint else 1)
        if marked or len(curve.points[0]) == 1:
            style |= dict(marker="o", markersize=3.5)
        if curve.colour >= len(COLOURS):
            style["linestyle"] = "--"
        xs, ys = curve.points
        ys = [y if math.isfinite(y) else math.nan for y in ys]
        colour = COLOURS[curve.colour % len(COLOURS)]
        axes.plot(xs, ys, color=colour, label=_plain(curve.label), **style)
    for index, (label, value) in enumerate((levels or {}).items()):
        style = ("--", ":", "-.")[index % 3]
        axes.axhline(value, color="#444444", linewidth=1.3, linestyle=style, label=_plain(label))
    values = sorted(y for curve in curves for y in curve.points[1] if math.isfinite(y))
    median = values[len(values) // 2]
    if values[0] > 0 and values[-1] > 100 * median:  # a spike would flatten all the rest
        axes.set_yscale("log")
    elif values[0] >= 0:
        axes.set_ylim(0, None)
    last = max(x for curve in curves for x in curve.points[0])
    axes.set_xlim(0, 1.02 * last)
    axes.locator_params(axis="x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(
        lambda x, _: f"{x / 1000:g}k" if x and last >= 10000 else f"{x:g}"
    )
    axes.set_title(_plain(title), fontsize=13, loc="left", fontweight="bold")
    axes.set_xlabel("step", fontsize=11)
    axes.set_ylabel(unit, fontsize=11)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if legend or levels:
        axes.legend(fontsize=9.5, framealpha=0.8)
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        return file.getvalue()


def _plain(text: str) -> str:
    """Text that matplotlib takes as it stands: no formulas, and no hidden entry of a legend."""
    text = text if len(text) <= 36 else f"{text[:16]} ... {text[-14:]}"
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")
