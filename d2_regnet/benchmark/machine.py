"""What a figure was measured on, and the most that it computes and copies."""

import os
import platform
from pathlib import Path

import torch

from .timing import take_turns

_SIDE = {"cpu": 2048, "cuda": 8192}
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


def peak(device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Multiply-adds a second of a product of large square matrices, the median of five."""
    side = _SIDE[torch.device(device).type]
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    timing = take_turns({"product": lambda: a @ b}, device=device)["product"]
    return side**3 / timing.median


def bandwidth(device: str = "cpu") -> float:
    """Bytes read and written a second by a large copy, the median of five."""
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = take_turns({"copy": lambda: target.copy_(source)}, device=device)["copy"]
    return 2 * _COPIED / timing.median


def measured(device: str, dtypes: list[str]) -> dict:
    """`describe`, and both peaks: in units of 1e9 multiply-adds a second by dtype, and GB/s."""
    peaks = {name: round(peak(device, getattr(torch, name)) / 1e9, 1) for name in dtypes}
    return describe(device) | {"peak": peaks, "bandwidth": round(bandwidth(device) / 1e9, 1)}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
