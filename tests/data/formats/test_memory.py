"""Polygons stay polygons: a mask of 1920 x 1080 pixels would take 2 MB for each."""

import tracemalloc

import numpy as np
from PIL import Image

from d2_regnet.data.formats import read_dataset

IMAGES, POLYGONS, CORNERS = 40, 10, 40


def test_polygons_are_never_drawn(maker):
    Image.new("L", (1920, 1080)).save(maker.images / "0.png")
    for index in range(1, IMAGES):
        (maker.images / f"{index}.png").symlink_to(maker.images / "0.png")
    turns = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([0.5 + 0.3 * np.cos(turns), 0.5 + 0.4 * np.sin(turns)], 1).ravel()
    lines = [f"0 {' '.join(f'{v + i / 1000:.6f}' for v in circle)}" for i in range(POLYGONS)]
    for index in range(IMAGES):
        maker.yolo(f"{index}.txt", "\n".join(lines), "names: [cap]")
    tracemalloc.start()
    coco, _ = read_dataset(maker.images, maker.labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(coco["annotations"]) == IMAGES * POLYGONS
    assert all(len(each["segmentation"][0]) == 2 * CORNERS for each in coco["annotations"])
    assert peak < 20 * 2**20  # a thousand images: under 500 MB; as masks, 40 are 800 MB
