"""Runs an exported file as its users do, and compares it with the predictor it was made from."""

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from detectron2.structures import Instances
from PIL import Image
from torchvision.ops import box_iou

from d2_regnet.data.shapes import render
from d2_regnet.inference import Predictor
from d2_regnet.inference.exported import load_exported

# What counts as the same detection, and how many must be.
BOX_IOU, MASK_IOU, SCORE = 0.99, 0.98, 1e-3
PAIRED = 0.98


@dataclass(frozen=True)
class Agreement:
    """How one image's detections in the file compare with the eager model's.

    Attributes:
        eager, exported: how many each has found.
        paired: how many are the same: class, box IoU above 0.99, score within 0.001, and mask IoU
            above 0.98, or no mask's pixel in either.
        box_iou, mask_iou: the lowest among those of the same class, box and score; 1 if there
            are none. `mask_iou` is None for a detector without masks.
        score: their largest difference of scores.
        eager_seconds, exported_seconds: medians of runs in turn, resizing and masks included.
    """

    eager: int
    exported: int
    paired: int
    box_iou: float
    mask_iou: float | None
    score: float
    eager_seconds: float
    exported_seconds: float


def agrees(results: Iterable[Agreement]) -> bool:
    """Whether `results` agree in 98 of 100 detections; False if nothing was found at all."""
    results = list(results)
    found = sum(max(each.eager, each.exported) for each in results)
    return found > 0 and sum(each.paired for each in results) >= PAIRED * found


def check(
    predictor: Predictor,
    path: str | os.PathLike,
    images: Iterable[np.ndarray],
    rounds: int = 3,
) -> Iterator[Agreement]:
    """Compares a file with the predictor that it was made from, image by image.

    Args:
        predictor: on the CPU, as the file.
        path: the file.
        images: uint8 (H, W, 3), RGB.
        rounds: how often each image is timed.
    """
    run, _ = load_exported(path)

    def eager(image):
        return predictor(image, array_format="RGB").instances

    for image in images:
        sides = {eager: [], run: []}
        answers = [side(image) for side in sides]
        for _ in range(rounds):
            for side, seconds in sides.items():
                start = time.perf_counter()
                side(image)
                seconds.append(time.perf_counter() - start)
        yield Agreement(*compare(*answers), *map(median, sides.values()))


def compare(eager: Instances, exported: dict[str, np.ndarray]) -> tuple:
    """The first six fields of `Agreement`; each detection is paired once, the nearest first."""
    names = ("boxes", "scores", "classes")
    boxes, scores, classes = (torch.from_numpy(exported[name]) for name in names)
    ious = box_iou(eager.pred_boxes.tensor, boxes)
    differences = (eager.scores[:, None] - scores).abs()
    same = (eager.pred_classes[:, None] == classes) & (ious > BOX_IOU) & (differences <= SCORE)
    paired, lowest_box, lowest_mask, largest = 0, 1.0, 1.0, 0.0
    free = torch.ones(len(scores), dtype=torch.bool)
    for i, row in enumerate(same):
        if not (row & free).any():
            continue
        j = int((ious[i] * (row & free)).argmax())
        free[j] = False
        lowest_box = min(lowest_box, float(ious[i, j]))
        largest = max(largest, float(differences[i, j]))
        mask_iou = 1.0
        if "masks" in exported:
            a, b = eager.pred_masks[i], torch.from_numpy(exported["masks"][j])
            union = int((a | b).sum())
            mask_iou = int((a & b).sum()) / union if union else 1.0
        lowest_mask = min(lowest_mask, mask_iou)
        paired += mask_iou > MASK_IOU
    lowest_mask = lowest_mask if "masks" in exported else None
    return len(eager), len(scores), paired, lowest_box, lowest_mask, largest


def built_in_images() -> dict[str, np.ndarray]:
    """Shapes of `d2_regnet.data.shapes`, as they are, enlarged, upright and small, by name."""
    sizes = {"large": (1200, 900), "upright": (300, 500), "small": (120, 90)}
    images = {"shapes": render(0, "val", 0)[0]}
    for index, (name, size) in enumerate(sizes.items(), 1):
        image = Image.fromarray(render(0, "val", index)[0])
        images[name] = np.asarray(image.resize(size))
    return images
