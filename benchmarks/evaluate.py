"""`evaluate`: faster-coco-eval beside pycocotools on synthetic predictions."""

import contextlib
import io
import json
import math
import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from tqdm import tqdm

from d2_regnet.evaluation import FastCOCOEvaluator

from .timing import compared, figures, take_turns

PEERS = {"ours": FastCOCOEvaluator, "detectron2": COCOEvaluator}
_SIDE = 256
_CLASSES = 80
_OBJECTS = 7  # of an image of COCO, about
_FOUND = 20
_NAME = "d2_regnet_benchmark"


def measure(count: int, peers: list[str], args: Namespace) -> list[dict]:
    """Times `evaluate()` on boxes and masks, from gathered predictions to AP.

    `difference` is the largest of all metrics', in points of AP, from Detectron2's.
    """
    with tempfile.TemporaryDirectory() as folder, _registered(truth(count), folder):
        evaluators = {peer: PEERS[peer](_NAME) for peer in {"detectron2", *peers}}
        for evaluator in evaluators.values():
            evaluator.reset()
        for batch, answer in tqdm(predictions(count), total=count, disable=None):
            for evaluator in evaluators.values():
                evaluator.process(batch, answer)
        answers = {}
        runs = {
            peer: lambda peer=peer: answers.update({peer: _quietly(evaluators[peer])})
            for peer in [*peers, *({"detectron2"} - {*peers})]
        }
        timings = take_turns(runs, args, "evaluate")
    results = {}
    for peer in peers:
        found = figures(timings[peer], count)
        del found["images_per_second"]
        results[peer] = {"images": count, "peer": peer} | found
        results[peer] |= {
            "difference": largest_difference(answers[peer], answers["detectron2"]),
            "box_ap": answers[peer]["bbox"]["AP"],
            "mask_ap": answers[peer]["segm"]["AP"],
        }
    return compared(results)


def _quietly(evaluator) -> dict:
    # Detectron2 changes the classes of its predictions in place, from its own to the file's; here
    # the two are the same numbers.
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()


def largest_difference(ours: dict, theirs: dict) -> float:
    """Of the metrics of all tasks; infinite where only one of two is undefined."""
    differences = [0.0]
    for task, metrics in theirs.items():
        for name, value in metrics.items():
            other = ours[task][name]
            if math.isnan(value) or math.isnan(other):
                differences.append(0.0 if math.isnan(value) and math.isnan(other) else math.inf)
            else:
                differences.append(abs(value - other))
    return max(differences)


def truth(count: int) -> dict:
    """A COCO file's content: rectangles on square images, one in fifty a crowd."""
    rng = np.random.default_rng(0)
    boxes = _boxes(rng, count * _OBJECTS)
    annotations = []
    for number, (x, y, width, height) in enumerate(boxes.tolist()):
        annotations.append(
            {
                "id": number + 1,
                "image_id": number // _OBJECTS,
                "category_id": int(rng.integers(_CLASSES)),
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": int(rng.random() < 0.02),
                "segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]],
            }
        )
    images = [
        {"id": i, "width": _SIDE, "height": _SIDE, "file_name": f"{i}.png"} for i in range(count)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in range(_CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def predictions(count: int):
    """Pairs of a batch and a detector's answer: the objects moved a little, and others."""
    rng = np.random.default_rng(0)
    objects = _boxes(rng, count * _OBJECTS).reshape(count, _OBJECTS, 4)
    content = truth(count)["annotations"]
    for number in range(count):
        boxes = np.concatenate([objects[number], _boxes(rng, _FOUND - _OBJECTS)])
        boxes[:, :2] = np.clip(boxes[:, :2] + rng.integers(-4, 5, (_FOUND, 2)), 0, _SIDE - 1)
        classes = rng.integers(_CLASSES, size=_FOUND)
        own = content[number * _OBJECTS : (number + 1) * _OBJECTS]
        classes[:_OBJECTS] = [each["category_id"] for each in own]
        masks = torch.zeros(_FOUND, _SIDE, _SIDE, dtype=torch.bool)
        for mask, (x, y, width, height) in zip(masks, boxes):
            mask[y : y + height, x : x + width] = True
        found = Instances((_SIDE, _SIDE))
        boxes[:, 2:] += boxes[:, :2]
        found.pred_boxes = Boxes(torch.from_numpy(boxes).float())
        found.pred_classes = torch.from_numpy(classes)
        found.scores = torch.from_numpy(rng.random(_FOUND))
        found.pred_masks = masks
        yield [{"image_id": number}], [{"instances": found}]


def _boxes(rng: np.random.Generator, number: int) -> np.ndarray:
    """(number, 4), x, y, width and height in whole pixels."""
    sides = rng.choice([12, 40, 110], (number, 1)) + rng.integers(0, 16, (number, 2))
    corners = (rng.random((number, 2)) * (_SIDE - sides)).astype(int)
    return np.concatenate([corners, sides], 1)


@contextlib.contextmanager
def _registered(content: dict, folder: str):
    path = Path(folder, "truth.json")
    path.write_text(json.dumps(content))
    register_coco_instances(_NAME, {}, str(path), folder)
    DatasetCatalog.get(_NAME)  # fills in the metadata
    try:
        yield
    finally:
        DatasetCatalog.remove(_NAME)
        MetadataCatalog.remove(_NAME)
