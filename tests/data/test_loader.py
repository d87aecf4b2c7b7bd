"""Batches after a restart, with any number of workers and processes, and with unusable images."""

import gc
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.data import DatasetFromList, ToIterableDataset
from detectron2.structures import BoxMode
from detectron2.utils import comm
from PIL import Image

from d2_regnet.data.loader import TooManySkipped, build_train_loader, outlasting_signals
from d2_regnet.data.mapper import RobustMapper


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """21 images of two orientations, with a box and a mask each."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.RandomState(0)
    records = []
    for i in range(21):
        width, height = (40, 30) if i % 3 else (30, 40)
        path = folder / f"{i}.png"
        Image.fromarray(rng.randint(256, size=(height, width, 3)).astype(np.uint8)).save(path)
        box = dict(bbox=[4, 5, 10, 12], bbox_mode=BoxMode.XYWH_ABS, category_id=i % 2)
        polygons = [[4, 5, 14, 5, 14, 17, 4, 17]]
        (box["segmentation"],) = mask_utils.frPyObjects(polygons, height, width)
        record = dict(file_name=str(path), width=width, height=height, image_id=i)
        records.append(record | {"annotations": [box]})
    return records


def draw_from_all(record):
    """A mapper that draws from every generator there is."""
    numbers = (random.random(), np.random.rand(), torch.rand(()).item())
    return {"image_id": record["image_id"], "numbers": numbers}


def mapper():
    return RobustMapper(
        is_train=True,
        augmentations=[
            T.RandomBrightness(0.5, 1.5),
            T.RandomCrop("relative", (0.7, 0.7)),
            T.ResizeShortestEdge((20, 50), sample_style="range"),
            T.RandomFlip(),
        ],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="bitmask",
    )


def steps(records, count, start=0, **kwargs):
    arguments = dict(mapper=mapper(), total_batch_size=4, seed=3) | kwargs
    loader = build_train_loader(records, **arguments)
    loader.batch_sampler.start_step = start
    return list(islice(loader, count))


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert [x["image_id"] for x in batch] == [x["image_id"] for x in other]
        for x, y in zip(batch, other):
            assert torch.equal(x["image"], y["image"])
            x, y = x["instances"], y["instances"]
            assert torch.equal(x.gt_boxes.tensor, y.gt_boxes.tensor)
            assert torch.equal(x.gt_classes, y.gt_classes)
            assert torch.equal(x.gt_masks.tensor, y.gt_masks.tensor)


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize(("workers", "then"), [(0, 0), (0, 2), (2, 0), (2, 1)])
def test_resumes_bitwise(records, workers, then, grouping):
    whole = steps(records, 8, num_workers=workers, aspect_ratio_grouping=grouping)
    killed = steps(records, 3, num_workers=workers, aspect_ratio_grouping=grouping)
    resumed = steps(records, 5, start=3, num_workers=then, aspect_ratio_grouping=grouping)
    assert_equal(killed + resumed, whole)
    if grouping:
        wide = [{x["width"] > x["height"] for x in batch} for batch in whole]
        assert {True} in wide and {False} in wide and {True, False} not in wide


def test_augmentations_differ_between_samples(records):
    batches = steps(records[:1], 4)
    assert len({tuple(x["image"].shape) for batch in batches for x in batch}) > 8


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_do_not_repeat_nor_touch_the_model(records, seed, workers):
    before = random.random(), np.random.rand(), torch.rand(()).item()
    seed(0)
    batches = steps(records, 8, mapper=draw_from_all, num_workers=workers)
    assert before == (random.random(), np.random.rand(), torch.rand(()).item())
    drawn = [x["numbers"] for batch in batches for x in batch]
    assert all(len(set(column)) == 32 for column in zip(*drawn))


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batch(records, monkeypatch, processes):
    whole = steps(records, 3)
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(steps(records, 3))
    assert_equal([[x for part in parts for x in part] for parts in zip(*shares)], whole)


def vanish(records, indices, tmp_path):
    """The records, of which some name a file that is not there."""
    missing = {i: {"file_name": str(tmp_path / f"gone{i}.png")} for i in indices}
    return [record | missing.get(i, {}) for i, record in enumerate(records)]


@pytest.mark.parametrize("workers", [0, 2])
def test_replaces_the_unusable(records, tmp_path, workers, caplog):
    gone = vanish(records, [4], tmp_path)
    expected = steps(records, 8, aspect_ratio_grouping=False)
    with caplog.at_level(logging.WARNING):
        got = steps(gone, 8, aspect_ratio_grouping=False, num_workers=workers)
    assert_equal(got, steps(gone[:], 8, aspect_ratio_grouping=False))
    for batch, other in zip(got, expected):
        for x, y in zip(batch, other):
            assert x["image_id"] != 4
            if y["image_id"] != 4:
                assert x["image_id"] == y["image_id"] and torch.equal(x["image"], y["image"])
    if not workers:  # a worker's log does not come back
        (message,) = {r.message for r in caplog.records if r.name == "d2_regnet.data.loader"}
        assert "gone4.png" in message and "1 of 21, at most 1" in message
        assert "FileNotFoundError" in message


def test_replaces_what_the_mapper_returns_nothing_for(records, caplog):
    batches = steps(records, 8, mapper=lambda x: None if x["image_id"] == 4 else draw_from_all(x))
    assert 4 not in {x["image_id"] for batch in batches for x in batch}
    assert "4.png: the mapper returned nothing" in caplog.text


@pytest.mark.parametrize("workers", [0, 1])
def test_stops_beyond_the_share(records, tmp_path, workers):
    gone = vanish(records, [1, 2, 3], tmp_path)
    assert len(steps(gone, 30, num_workers=workers, max_skipped=0.15)) == 30
    with pytest.raises(TooManySkipped, match=r"3 of 21, at most 2.*gone\d.png.*max_skipped"):
        steps(gone, 30, num_workers=workers, max_skipped=0.1)


def test_nothing_may_be_skipped(records, tmp_path):
    with pytest.raises(TooManySkipped, match=r"1 of 21, at most 0.*gone4.png"):
        steps(vanish(records, [4], tmp_path), 8, max_skipped=0)


def test_the_only_picture_is_unusable(records, tmp_path):
    with pytest.raises(TooManySkipped, match=r"in a row.*gone0.png"):
        steps(vanish(records[:1], [0], tmp_path), 1)


def test_a_defect_of_the_mapper_stops(records):
    def broken(record):
        raise TypeError("a defect")

    with pytest.raises(TooManySkipped, match="TypeError: a defect") as caught:
        steps(records, 1, mapper=broken)
    assert isinstance(caught.value.__cause__, TypeError)


def test_a_missing_library_stops_at_once(records):
    def incomplete(record):
        raise ModuleNotFoundError("No module named 'shapely'")

    with pytest.raises(ModuleNotFoundError, match="shapely"):
        steps(records, 1, mapper=incomplete)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(max_skipped=2), "max_skipped"),
        (dict(dataset=[]), "empty"),
        (dict(dataset=[{"file_name": "a.png"}]), "width and height"),
        (
            dict(
                dataset=ToIterableDataset(DatasetFromList([1]), torch.utils.data.RandomSampler([1]))
            ),
            "stream",
        ),
    ],
)
def test_refuses_the_impossible(records, change, message):
    with pytest.raises(ValueError, match=message):
        steps(change.pop("dataset", records), 1, **change)


def test_map_style_data_sets(records):
    assert_equal(steps(DatasetFromList(records), 4), steps(records, 4))


def started(loader):
    """The loader's iterator after a batch, and its only worker."""
    others = multiprocessing.active_children()
    batches = iter(loader)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - set(others)
    return batches, worker


def test_workers_outlast_signals(records):
    loader = build_train_loader(records, mapper=mapper(), total_batch_size=4, num_workers=1)
    batches, worker = started(loader)
    for signum in ("INT", "TERM", "USR1"):  # as a scheduler sends them, to every process
        subprocess.run(["kill", f"-{signum}", str(worker.pid)], check=True)
    assert len(list(islice(batches, 20))) == 20
    assert worker.is_alive()
    del batches
    worker.join(10)
    assert worker.exitcode == 0


def test_workers_end_with_an_iterator_that_is_garbage(records):
    """Its queue is closed before it can tell them."""
    loader = build_train_loader(records, mapper=mapper(), total_batch_size=4, num_workers=1)
    batches, worker = started(loader)
    batches.cycle = batches
    del batches
    gc.collect()
    worker.join(10)
    assert worker.exitcode == 0


def test_workers_of_any_loader_outlast_signals_and_end_with_the_block():
    with outlasting_signals(torch.utils.data.DataLoader(range(90), num_workers=1)) as loader:
        batches, worker = started(loader)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            os.kill(worker.pid, signum)
        assert len(list(islice(batches, 40))) == 40 and worker.is_alive()
    worker.join(10)
    assert worker.exitcode == 0


def test_batches_without_workers():
    with outlasting_signals([1, 2]) as batches:
        assert batches == [1, 2]


IS_KILLED = """
import multiprocessing, os, signal, sys
from d2_regnet.data.loader import build_train_loader

def large(record):
    return bytes(1 << 20)  # more than a pipe holds: it waits for the batch to be taken

records = [dict(width=1, height=2)] * 8
batches = iter(build_train_loader(records, mapper=large, total_batch_size=4, num_workers=2))
next(batches)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed(tmp_path):
    script = tmp_path / "is_killed.py"
    script.write_text(IS_KILLED)
    done = subprocess.run(
        [sys.executable, str(script)], timeout=120, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [Path(f"/proc/{pid}/cmdline") for pid in done.stdout.split()]
    assert len(workers) == 2
    end = time.monotonic() + 30
    while any(worker.is_file() and worker.read_bytes() for worker in workers):
        assert time.monotonic() < end, "a worker lives on"
        time.sleep(0.05)


LEAVES_WORKERS = """
import builtins, multiprocessing
from d2_regnet.data.loader import build_train_loader

def lose_workers():
    records = [dict(width=1, height=2)] * 8
    loader = build_train_loader(records, mapper=dict, total_batch_size=4, num_workers=2)
    builtins.batches = iter(loader)
    next(builtins.batches)

if __name__ == "__main__":
    process = multiprocessing.get_context(%r).Process(target=lose_workers)
    process.start()
    process.join()
    assert process.exitcode == 0
    lose_workers()
"""


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_processes_end_without_waiting_for_their_workers(tmp_path, method):
    script = tmp_path / "leaves_workers.py"
    script.write_text(LEAVES_WORKERS % method)
    done = subprocess.run(
        [sys.executable, str(script)], timeout=120, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
