"""A sample of networks as files."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml

from d2_regnet.archs import RegNetArch
from d2_regnet.utils.files import write_file

from . import plots


def write_sample(folder: Path, stem: str, archs: Sequence[RegNetArch]) -> None:
    """Writes samples.csv, samples.json, samples.png, and archs/STEM_0001.yaml, ..., of which each
    stands for an arch wherever one is named. The folder is made if need be."""
    (folder / "archs").mkdir(parents=True, exist_ok=True)
    rows = []
    for i, arch in enumerate(archs, 1):
        name, parameters = f"{stem}_{i:04d}", asdict(arch)
        write_file(folder / f"archs/{name}.yaml", yaml.safe_dump(parameters, sort_keys=False))
        rows.append({"name": name, **parameters, **asdict(arch.complexity())})
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    write_file(folder / "samples.csv", table.getvalue())
    write_file(folder / "samples.json", json.dumps(rows, indent=1))
    write_file(folder / "samples.png", plots.sampled(archs))
