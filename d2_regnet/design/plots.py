"""The design space in images, as PNG bytes."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from d2_regnet.archs import RegNetArch, Stages, get_arch, list_archs
from d2_regnet.utils.charts import COLOURS

from . import edf
from .describing import block_widths
from .picking import Answer

_COLUMNS = 4


def widths(archs: Mapping[str, Stages]) -> bytes:
    """Block width against block index, a panel for each network, as in figures 15 and 16.

    Solid and dotted the widths of the blocks; dashed the line u_j = w_0 + w_a j that they are
    quantized from, which a logarithmic axis bends.
    """
    columns = min(_COLUMNS, len(archs))
    rows = math.ceil(len(archs) / columns)
    figure = _figure(3.1 * columns + 0.3, 2.75 * rows + 0.1)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(archs) :]:
        axes.axis("off")
    for i, (axes, (name, arch)) in enumerate(zip(grid.flat, archs.items())):
        colour, title = COLOURS["XY".index(arch.family)], name
        style = dict(color=colour, markersize=3, linewidth=1.2, label="quantized")
        axes.plot(block_widths(arch), "-o", **style)
        if isinstance(arch, RegNetArch):
            line = arch.w_0 + arch.w_a * np.arange(arch.depth)
            axes.plot(line, "--", color="black", linewidth=1, label="$w_0 + w_a j$")
            title += (
                f"\n$d$={arch.depth}, $w_a$={arch.w_a:g}, $w_0$={arch.w_0}, "
                f"$w_m$={arch.w_m:g}, $g$={arch.group_width}"
            )
        axes.set_title(title, fontsize=8.5)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(_number)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3, which="both")
        if i >= len(archs) - columns:
            axes.set_xlabel("block $j$", fontsize=8.5)
        if i % columns == 0:
            axes.set_ylabel("width", fontsize=8.5)
        if i == 0:
            axes.legend(fontsize=7.5)
    return _png(figure)


def sampled(archs: Sequence[Stages]) -> bytes:
    """Activations and parameters against multiply-adds: a sample beside the published networks."""
    figure = _figure(9.5, 3.9)
    family = archs[0].family
    published = [arch for arch in map(get_arch, list_archs()) if arch.family == family]
    groups = {
        f"{len(archs)} sampled": (archs, dict(s=9, alpha=0.5, color=COLOURS[0])),
        f"published RegNet{family}": (published, dict(s=34, marker="*", color=COLOURS[1])),
    }
    limits = {
        "acts": ("activations", lambda g: 6.5 * np.sqrt(g), "6.5 √F, figure 12's limit"),
        "params": ("parameters", lambda g: 3 + 5.5 * g, "3 + 5.5 F, figure 12's limit"),
    }
    for axes, (key, (title, limit, label)) in zip(figure.subplots(1, 2), limits.items()):
        for name, (group, style) in groups.items():
            costs = [arch.complexity() for arch in group]
            flops = [cost.flops / 1e9 for cost in costs]
            axes.scatter(flops, [getattr(cost, key) / 1e6 for cost in costs], label=name, **style)
        g = np.geomspace(0.15, 40)
        axes.plot(g, limit(g), ":", color="black", linewidth=1, label=label)
        axes.set(xscale="log", xlabel="GFLOPs (multiply-adds) at 224x224", title=f"{title} (M)")
        axes.set_yscale("log")
        _logarithmic(axes.xaxis, axes.yaxis)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return _png(figure)


def frontier(answer: Answer) -> bytes:
    """Milliseconds, with their middle half, against the measure of quality; those on the
    frontier are named and joined."""
    figure = _figure(8, 5)
    axes = figure.subplots()
    named = dict(fmt="o", color=COLOURS[0])
    others = dict(fmt=".", color=COLOURS[6], alpha=0.6)
    for name, ms in answer.timings.items():
        best, quality = name in answer.frontier, answer.quality[name]
        half = [[ms.median - ms.low], [ms.high - ms.median]]
        axes.errorbar(ms.median, quality, xerr=half, **(named if best else others))
        if best:
            place = dict(xytext=(5, 4), textcoords="offset points", fontsize=7.5)
            axes.annotate(name, (ms.median, quality), **place)
    x = [answer.timings[name].median for name in answer.frontier]
    y = [answer.quality[name] for name in answer.frontier]
    axes.step(x, y, where="post", color=COLOURS[0], linewidth=1)
    label = f"budget {answer.budget_ms:g} ms"
    axes.axvline(answer.budget_ms, color=COLOURS[1], linestyle="--", label=label)
    axes.set(xscale="log", xlabel="ms", ylabel=answer.measure)
    axes.set_title(f"{answer.what}, {answer.where}")
    _logarithmic(axes.xaxis)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper right")
    return _png(figure)


def distributions(results: Mapping[str, Sequence[Mapping]], titles: Mapping[str, str]) -> bytes:
    """Left the EDFs of several spaces with their 95% bootstrap bands, right error against depth
    with bars where the best depth is likely to lie (the shaded ranges of figures 2 and 11)."""
    figure = _figure(11, 4.4)
    left, right = figure.subplots(1, 2)
    every = [each["error"] for networks in results.values() for each in networks]
    margin = 0.03 * (max(every) - min(every)) + 1e-9
    grid = np.linspace(min(every) - margin, max(every) + margin, 400)
    for i, (colour, (space, networks)) in enumerate(zip(COLOURS, results.items()), 1):
        errors = [each["error"] for each in networks]
        depths = [each["depth"] for each in networks]
        label = f"[{np.mean(errors):.1f} | {min(errors):.1f}] {titles[space]}"
        left.step(grid, edf.value_at(errors, grid), where="post", color=colour, label=label)
        right.scatter(depths, errors, s=16, color=colour, label=titles[space])
        if len(errors) >= edf.ENOUGH:
            left.fill_between(grid, *edf.band(errors, grid), step="post", color=colour, alpha=0.15)
            _, low, high = edf.likely_best(depths, errors)
            right.plot([low, high], [min(every) - 2 * i * margin] * 2, color=colour, linewidth=5)
    left.set(xlabel="error (%)", ylabel="share of networks below")
    left.set_title("EDF; [mean | least] error")
    right.set(xlabel="depth", ylabel="error (%)", title="bars: where the best depth likely lies")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return _png(figure)


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=130, layout="constrained")


def _number(value: float, _) -> str:
    return f"{value:g}"


def _logarithmic(*all_axis) -> None:
    """1, 2, 5, 10, 20, ... along logarithmic axes."""
    for axis in all_axis:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(_number)
        axis.set_minor_formatter(NullFormatter())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
