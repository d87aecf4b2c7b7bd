"""A sample of networks as files."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from d2_regnet.archs import RegNetArch
from d2_regnet.utils.files import whole_file

from . import plots


def write_sample(folder: Path, stem: str, archs: Sequence[RegNetArch]) -> None:
    """Writes samples.csv, samples.json, samples.png, and archs/STEM_0001.yaml, ..., of which each
    stands for an arch wherever one is named.

    Args:
        folder: made if need be.
        stem: what the networks' names begin with.
        archs: at least one.
    """
    (folder / "archs").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, arch in enumerate(archs, 1):
        name = f"{stem}_{i:04d}"
        parameters = asdict(arch)
        text = yaml.safe_dump(parameters, sort_keys=False)
        write(folder / "archs" / f"{name}.yaml", text.encode())
        rows.append({"name": name, **parameters, **asdict(arch.complexity())})
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write(folder / "samples.csv", table.getvalue().encode())
    write(folder / "samples.json", json.dumps(rows, indent=1).encode())
    write(folder / "samples.png", plots.sampled(archs))


def write(path: Path, content: bytes) -> None:
    """Writes a file whole."""
    with whole_file(path) as file:
        file.write(content)
