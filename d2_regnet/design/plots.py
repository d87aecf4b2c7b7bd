"""The design space in images, as PNG bytes."""

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from d2_regnet.archs import RegNetArch, Stages, get_arch, list_archs
from d2_regnet.utils.charts import COLOURS

from . import edf
from .describing import block_widths
from .picking import Answer

_DPI = 130
_COLUMNS = 4
_NUMBERS = FuncFormatter(lambda value, _: f"{value:g}")


def widths(archs: Mapping[str, Stages]) -> bytes:
    """Block width against block index, a panel for each network, as in figures 15 and 16.

    Solid and dotted the widths of the blocks; dashed the line u_j = w_0 + w_a j that they are
    quantized from, which a logarithmic axis bends.
    """
    columns = min(_COLUMNS, len(archs))
    rows = math.ceil(len(archs) / columns)
    figure = Figure(
        figsize=(3.1 * columns + 0.3, 2.75 * rows + 0.1), dpi=_DPI, layout="constrained"
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(archs) :]:
        axes.axis("off")
    for i, (axes, (name, arch)) in enumerate(zip(grid.flat, archs.items())):
        blocks = block_widths(arch)
        colour = COLOURS[0] if arch.family == "X" else COLOURS[1]
        axes.plot(blocks, "-o", color=colour, markersize=3, linewidth=1.2, label="quantized")
        title = name
        if isinstance(arch, RegNetArch):
            line = arch.w_0 + arch.w_a * np.arange(arch.depth)
            axes.plot(line, "--", color="black", linewidth=1, label="$w_0 + w_a j$")
            title += (
                f"\n$d$={arch.depth}, $w_a$={arch.w_a:g}, $w_0$={arch.w_0}, "
                f"$w_m$={arch.w_m:g}, $g$={arch.group_width}"
            )
        axes.set_title(title, fontsize=8.5)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(_NUMBERS)
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
    figure = Figure(figsize=(9.5, 3.9), dpi=_DPI, layout="constrained")
    family = archs[0].family
    published = {n: get_arch(n) for n in list_archs() if get_arch(n).family == family}
    limits = {
        "acts": ("activations", lambda g: 6.5 * np.sqrt(g), "6.5 √F, figure 12's limit"),
        "params": ("parameters", lambda g: 3 + 5.5 * g, "3 + 5.5 F, figure 12's limit"),
    }
    for axes, (key, (title, limit, label)) in zip(figure.subplots(1, 2), limits.items()):
        for group, style, named in (
            (archs, dict(s=9, alpha=0.5, color=COLOURS[0]), f"{len(archs)} sampled"),
            (
                published.values(),
                dict(s=34, marker="*", color=COLOURS[1]),
                f"published RegNet{family}",
            ),
        ):
            costs = [arch.complexity() for arch in group]
            axes.scatter(
                [cost.flops / 1e9 for cost in costs],
                [getattr(cost, key) / 1e6 for cost in costs],
                label=named,
                **style,
            )
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
    figure = Figure(figsize=(8, 5), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    for name, timing in answer.timings.items():
        best = name in answer.frontier
        axes.errorbar(
            timing.median,
            answer.quality[name],
            xerr=[[timing.median - timing.low], [timing.high - timing.median]],
            fmt="o" if best else ".",
            color=COLOURS[0] if best else COLOURS[6],
            alpha=1 if best else 0.6,
        )
        if best:
            axes.annotate(
                name,
                (timing.median, answer.quality[name]),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7.5,
            )
    axes.step(
        [answer.timings[name].median for name in answer.frontier],
        [answer.quality[name] for name in answer.frontier],
        where="post",
        color=COLOURS[0],
        linewidth=1,
    )
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
    figure = Figure(figsize=(11, 4.4), dpi=_DPI, layout="constrained")
    left, right = figure.subplots(1, 2)
    every = [row["error"] for rows in results.values() for row in rows]
    margin = 0.03 * (max(every) - min(every)) + 1e-9
    grid = np.linspace(min(every) - margin, max(every) + margin, 400)
    for i, (colour, (space, rows)) in enumerate(zip(COLOURS, results.items()), 1):
        errors = [row["error"] for row in rows]
        depths = [row["depth"] for row in rows]
        label = f"[{np.mean(errors):.1f} | {min(errors):.1f}] {titles[space]}"
        left.step(grid, edf.value_at(errors, grid), where="post", color=colour, label=label)
        if len(errors) >= edf.ENOUGH:
            left.fill_between(grid, *edf.band(errors, grid), step="post", color=colour, alpha=0.15)
        right.scatter(depths, errors, s=16, color=colour, label=titles[space])
        if len(errors) >= edf.ENOUGH:
            _, low, high = edf.likely_best(depths, errors)
            right.plot([low, high], [min(every) - 2 * i * margin] * 2, color=colour, linewidth=5)
    left.set(
        xlabel="error (%)", ylabel="share of networks below", title="EDF; [mean | least] error"
    )
    right.set(xlabel="depth", ylabel="error (%)", title="bars: where the best depth likely lies")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return _png(figure)


def _logarithmic(*all_axis) -> None:
    """1, 2, 5, 10, 20, ... along logarithmic axes."""
    for axis in all_axis:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(_NUMBERS)
        axis.set_minor_formatter(NullFormatter())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
