"""`data`: a model's mapper beside Detectron2's, on the same images, in one process."""

import copy
import functools
import os
import random
from argparse import Namespace

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, DatasetMapper
from detectron2.data.datasets import load_coco_json

from d2_regnet import model_zoo
from d2_regnet.archs import suggest

from .timing import compared, figures, take_turns

PEERS = {"ours": None, "detectron2": DatasetMapper}


def measure(name: str, peers: list[str], args: Namespace) -> list[dict]:
    """Times the mapping of all records for training, and for evaluation.

    One thread, as in a worker of a loader. `difference` is the largest between pixels of ours and
    of Detectron2's mapper, of 255, and `differing` the share of the values that are not equal.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(name, "train", peers, args) + _measure(name, "test", peers, args)
    finally:
        torch.set_num_threads(threads)


def _measure(name: str, part: str, peers: list[str], args: Namespace) -> list[dict]:
    records = load_records(args.dataset, args.annotations, args.images, args.count)
    node = model_zoo.get_config(name).dataloader[part].mapper
    if part == "test":
        node.image_format = model_zoo.get_config(name).dataloader.train.mapper.image_format
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
    timings = take_turns(runs, args, f"{name} {part}")
    largest, differing = _difference(mappers["ours"], mappers["detectron2"], records)
    results = {}
    for peer, timing in timings.items():
        is_ours = peer == "ours"
        found = figures(timing, len(records))
        found["seconds"] /= len(records)
        found |= {"difference": largest if is_ours else 0}
        found |= {"differing": differing if is_ours else 0.0}
        results[peer] = {"model": name, "part": part, "peer": peer} | found
    return compared(results)


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


@functools.cache
def load_records(dataset: str, annotations: str, images: str, count: int) -> list[dict]:
    """The first images of a registered data set, or of a file in COCO's format.

    Args:
        dataset: a registered name; of no effect with `annotations`.
        annotations: a JSON file, "" for none, and `images` the folder of its images.
        count: how many at most.

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
    return records[:count]
