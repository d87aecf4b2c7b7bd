"""Results as a table for people and as JSON for programs."""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

from tabulate import tabulate

# What the columns of operations mean, for the screen, the JSON and --help.
COUNTED = """\
GFLOPs are 1e9 multiply-adds of the convolutions and linear layers, computed plainly, for an image
(`layers`: for one call); a training step counts as three forward passes. "done", where it is shown,
are those carried out: Winograd's convolutions need fewer. GFLOP/s and "of peak" count what is
carried out. The peak is the fastest of ten large matrix products and ten dense 3x3 convolutions,
half of them before and half after the rest; a share above 100 % says that the machine was slower
then, or that a layer suits it better than these do."""


def _number(digits: int, scale: float = 1.0) -> Callable[[float], str]:
    return lambda value: f"{value * scale:,.{digits}f}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f} %"


# What a result may hold, with its heading and how it is written, in the order of the columns.
COLUMNS = {
    "arch": ("arch", str),
    "model": ("model", str),
    "size": ("images", str),
    "layer": ("layer", str),
    "on": ("on", str),
    "times": ("times", str),
    "share": ("of all", _percent),
    "part": ("images for", {"train": "training", "test": "evaluation"}.get),
    "images": ("images", str),
    "peer": ("by", str),
    "seconds": ("median, ms", _number(1, 1e3)),
    "spread": ("spread", _percent),
    "images_per_second": ("images/s", _number(2)),
    "gflops": ("GFLOPs", _number(1)),
    "gflops_done": ("done", _number(1)),
    "gflops_per_second": ("GFLOP/s", _number(0)),
    "share_of_peak": ("of peak", _percent),
    "moved": ("MB", _number(1, 1e-6)),
    "seconds_of_operations": ("operations, ms", _number(1, 1e3)),
    "seconds_of_bytes": ("bytes, ms", _number(1, 1e3)),
    "saved_bytes": ("saved, MiB", _number(0, 2**-20)),
    "bytes": ("memory, GB", _number(2, 1e-9)),
    "published": ("published, GB", _number(1)),
    "ratio": ("ratio", _number(2)),
    "difference": ("difference", "{:.1e}".format),
    "differing": ("values that differ", lambda value: f"{100 * value:.3f} %"),
    "same": ("same detections", _percent),
    "box_ap": ("box AP", _number(2)),
    "mask_ap": ("mask AP", _number(2)),
}


def table(results: Sequence[dict]) -> str:
    """Markdown; columns that no result has are left out, and so are values that one has not."""
    there = [key for key in COLUMNS if any(key in result for result in results)]
    rows = [
        ["" if result.get(key) is None else COLUMNS[key][1](result[key]) for key in there]
        for result in results
    ]
    left = {"arch", "model", "layer", "on", "size", "part", "peer"}
    align = ["left" if key in left else "right" for key in there]
    headings = [COLUMNS[key][0] for key in there]
    return tabulate(rows, headings, tablefmt="pipe", colalign=align, disable_numparse=True)


def about(machine: dict) -> str:
    """One line: the machine, and the most that it was measured to do."""
    where = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} thread(s)"
    peaks = ", ".join(f"{value:,.0f} GFLOP/s {name}" for name, value in machine["peak"].items())
    return (
        f"{where} of {machine['cores']} core(s), torch {machine['torch']}; "
        f"peak {peaks}, {machine['bandwidth']:,.0f} GB/s"
    )


def as_json(args: Namespace, machine: dict, skipped: list, results: list) -> bytes:
    """The whole run. Seconds, bytes, and 1e9 multiply-adds; shares and ratios from 0."""
    arguments = {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(args).items()
        if key != "run"
    }
    content = {
        "command": args.command,
        "arguments": arguments,
        "machine": machine,
        "counted": " ".join(COUNTED.split()),
        "skipped": skipped,
        "results": results,
    }
    return json.dumps(content, indent=1).encode() + b"\n"
