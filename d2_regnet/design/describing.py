"""What a network is made of and what it costs, as numbers and as text."""

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
from tabulate import tabulate

from d2_regnet.archs import Complexity, RegNetArch, Stages


def facts(arch: Stages, size: int | tuple[int, int] = 224, num_classes: int = 1000) -> dict:
    """Parameters, stages and costs, ready for JSON.

    Args:
        arch: the network.
        size: side, or (height, width), of the image in pixels.
        num_classes: outputs of the classifier; 0 leaves it out.

    Returns:
        `parameters` (the arch's own), `family`, `total` and `stages`: the stem, every stage and the
        classifier, each with flops (multiply-adds), params and acts (numbers).
    """
    stages = [{"stage": "stem", "width": arch.stem_width, "depth": 1}]
    numbers = zip(
        arch.stage_widths, arch.stage_depths, arch.stage_group_widths, arch.stage_bottleneck_ratios
    )
    for i, (width, depth, group_width, ratio) in enumerate(numbers, 1):
        groups = round(width * ratio) // group_width
        stage = {"stage": f"s{i}", "width": width, "depth": depth, "group_width": group_width}
        stages.append(stage | {"groups": groups, "stride": 2 ** (i + 1)})
    stages.append({"stage": "head", "width": num_classes, "depth": 1})
    costs = arch.stage_complexity(size, num_classes)
    return {
        "parameters": asdict(arch),
        "family": arch.family,
        "total": asdict(sum(costs, Complexity())),
        "stages": [stage | asdict(cost) for stage, cost in zip(stages, costs)],
    }


def text(name: str, arch: Stages, size: int | tuple[int, int] = 224) -> str:
    """`facts(arch, size)` as a table titled `name`: what each stage has, and its share of costs."""
    found = facts(arch, size)
    total = found["total"]
    parameters = ", ".join(f"{key} {_short(value)}" for key, value in found["parameters"].items())
    height, width = (size, size) if isinstance(size, int) else size
    lines = [
        [each["stage"], *(each.get(key, "") for key in ("width", "depth", "group_width", "stride"))]
        + [f"{each[key] / 1e6:,.2f} ({each[key] / total[key]:.0%})" for key in total]
        for each in [*found["stages"], {"stage": "all", **total}]
    ]
    headers = ("", "width", "blocks", "group width", "stride", "MFLOPs", "M params", "M acts")
    table = tabulate(lines, headers, stralign="right", disable_numparse=True)
    return f"{name}: RegNet{arch.family}, {parameters}\nAt {height}x{width}:\n\n{table}"


def fit_error(arch: RegNetArch) -> float:
    """How far the widths of `arch`, quantized and fitted to groups, are from u_j = w_0 + w_a j.

    The mean over blocks of |log(width / u_j)|: 0.1 is a tenth. The paper's e_fit (section 3.3) is
    the mean log-ratio of a fitted line to the widths of a given network.
    """
    line = arch.w_0 + arch.w_a * np.arange(arch.depth)
    return float(np.abs(np.log(block_widths(arch) / line)).mean())


def block_widths(arch: Stages) -> np.ndarray:
    """The width of every block of `arch`, in order: int, (blocks,)."""
    return np.repeat(arch.stage_widths, arch.stage_depths)


def summary(archs: Sequence[Stages]) -> list[dict]:
    """Least, median and largest of what the sampled `archs` have and cost."""
    costs = [arch.complexity() for arch in archs]
    columns = {
        "FLOPs (G)": [cost.flops / 1e9 for cost in costs],
        "parameters (M)": [cost.params / 1e6 for cost in costs],
        "activations (M)": [cost.acts / 1e6 for cost in costs],
        "activations (M) / sqrt(FLOPs (G))": [c.acts / 1e6 / (c.flops / 1e9) ** 0.5 for c in costs],
        "depth": [sum(arch.stage_depths) for arch in archs],
        "width of the last stage": [arch.stage_widths[-1] for arch in archs],
    }
    if all(isinstance(arch, RegNetArch) for arch in archs):
        for name in ("w_0", "w_a", "w_m", "group_width"):
            columns[name] = [getattr(arch, name) for arch in archs]
        columns["widths from the line, mean |log|"] = [fit_error(arch) for arch in archs]
    titles = ("least", "median", "largest")
    return [
        {"of": name, **dict(zip(titles, np.quantile(values, [0, 0.5, 1])))}
        for name, values in columns.items()
    ]


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
