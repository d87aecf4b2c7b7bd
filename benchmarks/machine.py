"""What a figure was measured on, and the most that it computes and copies."""

import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from d2_regnet.design.timing import stopwatch

_SIDE = {"cpu": 2048, "cuda": 8192}
_FEATURES = {"cpu": (1, 256, 100, 152), "cuda": (16, 256, 200, 304)}
_COPIED = 2**28  # bytes, more than a cache holds


def describe(device: str = "cpu") -> dict[str, str | int]:
    """Names and versions: processor or GPU, cores, threads, PyTorch."""
    found = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def rates(device: str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, float]:
    """Multiply-adds a second, the best of five runs each, of two dense computations.

    `matrix product` is of large square matrices, `convolution` one of 3x3 from 256 to 256 channels,
    channels-last, computed directly: which of them a machine does better differs.
    """
    kind = torch.device(device).type
    side, shape = _SIDE[kind], _FEATURES[kind]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    channels = shape[1]
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False, device=device, dtype=dtype)
    conv.to(memory_format=torch.channels_last)
    x = torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)
    runs = {"matrix product": lambda: a @ b, "convolution": lambda: conv(x)}
    work = {"matrix product": side**3, "convolution": x.numel() * conv.weight[0].numel()}
    with torch.no_grad():
        return {name: work[name] / min(_seconds(run, device)) for name, run in runs.items()}


def bandwidth(device: str = "cpu") -> float:
    """Bytes read and written a second by a large copy, the median of five."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPIED / statistics.median(_seconds(lambda: target.copy_(source), device))


def _seconds(run: Callable[[], object], device: str) -> list[float]:
    """Of five runs, after one that fills caches."""

    def once():
        run()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    once()
    return [stopwatch(once) for _ in range(5)]


def measured(device: str, dtypes: list[str]) -> dict:
    """`describe`; in units of 1e9 multiply-adds a second the `rates` and their maximum, the `peak`,
    by dtype; and the `bandwidth` in GB/s."""
    found = {}
    for name in dtypes:
        own = rates(device, getattr(torch, name))
        found[name] = {kind: round(rate / 1e9, 1) for kind, rate in own.items()}
    return describe(device) | {
        "rates": found,
        "peak": {name: max(own.values()) for name, own in found.items()},
        "bandwidth": round(bandwidth(device) / 1e9, 1),
    }


def fastest(before: dict, after: dict) -> dict:
    """Of two answers of `measured`, the higher of each rate: a machine that others share is now
    faster, now slower."""
    rates = {
        name: {kind: max(rate, after["rates"][name][kind]) for kind, rate in own.items()}
        for name, own in before["rates"].items()
    }
    return before | {
        "rates": rates,
        "peak": {name: max(own.values()) for name, own in rates.items()},
        "bandwidth": max(before["bandwidth"], after["bandwidth"]),
    }


def against_peaks(result: dict, found: dict) -> dict:
    """What follows for a result from the machine's peaks, as `measured` gives them.

    `share_of_peak` is of the rate in multiply-adds. Where a result tells the bytes `moved`,
    `seconds_of_operations` and `seconds_of_bytes` are what either takes at the peak: no less time
    is possible than the larger of them.
    """
    if "gflops_per_second" not in result:
        return {}
    peak = found["peak"][result["dtype"]]
    shares = {"share_of_peak": result["gflops_per_second"] / peak}
    if "moved" in result:
        shares["seconds_of_operations"] = result["gflops_done"] / peak
        shares["seconds_of_bytes"] = result["moved"] / 1e9 / found["bandwidth"]
    return shares


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
