#!/usr/bin/env python
"""Draws the README's image: what a run on the built-in shapes finds in the first six test images.

python docs/readme_image.py output/more

As `d2-regnet predict --threshold 0.6` draws, on grey so that what is missed shows.
"""

import json
import sys
from pathlib import Path

import numpy as np
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2_regnet.data import register_shapes
from d2_regnet.utils import drawing

TARGET = Path(__file__).parent / "images" / "demo.png"
COLUMNS, COUNT = 3, 6
WIDTH = 1440  # pixels
GAP = 6
THRESHOLD = 0.6  # about where the demo's detector has its best F1
FONT = 13  # points: README pages show the image at about half its size


def main(folder: Path) -> None:
    cfg = LazyConfig.load(str(folder / "config.yaml"))
    name = cfg.dataloader.test.dataset.names
    register_shapes(cfg.train.seed)
    found = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    records, metadata = DatasetCatalog.get(name)[:COUNT], MetadataCatalog.get(name)
    drawn = []
    for image, _, every in drawing.truth_and_found(records, found, metadata):
        instances = every[every.scores >= THRESHOLD]
        grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8)
        drawn.append(Image.fromarray(drawing.draw_instances(grey, instances, metadata, font=FONT)))
    rows = [row(drawn[i : i + COLUMNS]) for i in range(0, COUNT, COLUMNS)]
    Image.fromarray(np.vstack(rows)[GAP:]).save(TARGET, optimize=True)


def row(drawn: list[Image.Image]) -> np.ndarray:
    """Images beside each other, all of one height, over the whole width."""
    height = (WIDTH - GAP * (len(drawn) - 1)) / sum(each.width / each.height for each in drawn)
    out = Image.new("RGB", (WIDTH, GAP + round(height)), "white")
    left = 0.0
    for each in drawn:
        width = height * each.width / each.height
        out.paste(each.resize((round(width), round(height)), Image.LANCZOS), (round(left), GAP))
        left += width + GAP
    return np.asarray(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
