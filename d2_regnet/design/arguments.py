"""What the command line says, as values."""

import re
from collections.abc import Iterable
from pathlib import Path

from d2_regnet.archs import Stages, arch_name, get_arch, is_arch_file, list_archs

_FLOPS = re.compile(r"(\d+(?:\.\d+)?)([mg])f?", re.IGNORECASE)
_SIZE = re.compile(r"(\d+)(?:x(\d+))?", re.IGNORECASE)


def flops(text: str) -> float:
    """Multiply-adds of a text such as 400MF or 1.6GF; ValueError if it is none."""
    match = _FLOPS.fullmatch(text.strip())
    if not match or not float(match[1]):
        raise ValueError(f"{text!r} is not a number of multiply-adds: write 400MF or 1.6GF")
    return float(match[1]) * {"m": 1e6, "g": 1e9}[match[2].lower()]


def size(text: str) -> tuple[int, int]:
    """(height, width) of a text such as 800x1216, or 224 for a square; ValueError if it is none,
    or a side is below 32 pixels, the stride of a backbone."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size: write HEIGHTxWIDTH in pixels, such as 800x1216")
    height, width = int(match[1]), int(match[2] or match[1])
    if min(height, width) < 32:
        raise ValueError(f"an image of {height}x{width} is too small: 32 pixels at least")
    return height, width


def archs(given: Iterable[str]) -> dict[str, Stages]:
    """Networks by name, of published names, YAML files, and folders of such files.

    Args:
        given: at least one; with none, the 24 published ones are meant.

    Raises:
        ValueError, FileNotFoundError: as `archs.get_arch`, or a folder without YAML files.
    """
    found = {}
    for each in list(given) or list_archs():
        if Path(each).is_dir():
            of_folder = {file.stem: get_arch(file) for file in sorted(Path(each).glob("*.yaml"))}
            if not of_folder:
                raise ValueError(f"the folder {each} holds no .yaml file")
            found |= of_folder
        elif is_arch_file(each):
            found[Path(each).stem] = get_arch(each)
        else:
            found[arch_name(each)] = get_arch(each)
    return found
