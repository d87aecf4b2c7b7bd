"""`data`: a row's mapper beside Detectron2's, on the same images, in one process."""

import copy
import os
import random

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.datasets import load_coco_json

from d2_regnet import model_zoo
from d2_regnet.archs import suggest

from .timing import compared, take_turns

PEERS = {"ours": None, "detectron2": DatasetMapper}


def measure(
    row: str, peers: list[str], *, records: list[dict], rounds: int, discard: int
) -> list[dict]:
    """Times the mapping of all records for training, and for evaluation.

    One thread, as in a worker of a loader. `difference` is the largest between pixels of ours and
    of Detectron2's mapper, of 255, and `differing` the share of the values that are not equal.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            result
            for part in ("train", "test")
            for result in _measure(row, part, peers, records, rounds, discard)
        ]
    finally:
        torch.set_num_threads(threads)


def _measure(row, part, peers, records, rounds, discard) -> list[dict]:
    node = model_zoo.get_config(row).dataloader[part].mapper
    if part == "test":
        node.image_format = model_zoo.get_config(row).dataloader.train.mapper.image_format
    mappers = {}
    for peer in {"ours", "detectron2", *peers}:
        own = copy.deepcopy(node)
        if PEERS[peer]:
            own._target_ = PEERS[peer]
        mappers[peer] = instantiate(own)
    runs = {
        peer: lambda mapper=mappers[peer]: [_mapped(mapper, record, 0) for record in records]
        for peer in peers
    }
    timings = take_turns(runs, rounds=rounds, discard=discard, title=f"{row} {part}")
    largest, differing = _difference(mappers["ours"], mappers["detectron2"], records)
    results = [
        {
            "row": row,
            "part": part,
            "peer": peer,
            "seconds": timing.median / len(records),
            "spread": timing.spread,
            "pictures_per_second": len(records) / timing.median,
            "difference": largest if peer == "ours" else 0,
            "differing": differing if peer == "ours" else 0.0,
        }
        for peer, timing in timings.items()
    ]
    compared(results)
    return results


def _mapped(mapper, record: dict, seed: int) -> dict:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return mapper(record)


def _difference(ours, theirs, records) -> tuple[int, float]:
    largest = unequal = values = 0
    for number, record in enumerate(records):
        a, b = (_mapped(mapper, record, number)["image"].int() for mapper in (ours, theirs))
        difference = (a - b).abs()
        largest = max(largest, int(difference.max()))
        unequal += int(difference.count_nonzero())
        values += difference.numel()
    return largest, unequal / values


def load_records(dataset: str, annotations: str, images: str, pictures: int) -> list[dict]:
    """The first images of a registered data set, or of a file in COCO's format.

    Args:
        dataset: a registered name; of no effect with `annotations`.
        annotations: a JSON file, "" for none, and `images` the folder of its images.
        images: how many at most.

    Raises:
        ValueError: no such data set, or it has no images.
        FileNotFoundError: files are missing.
    """
    for path in filter(None, (annotations, images)):
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path} does not exist")
    if annotations:
        records = load_coco_json(annotations, images)
    elif dataset in DatasetCatalog:
        records = DatasetCatalog.get(dataset)
    else:
        raise ValueError(f"unknown data set {dataset!r}: {suggest(dataset, DatasetCatalog.list())}")
    if not records:
        raise ValueError(f"{annotations or dataset} has no images")
    return records[:pictures]
