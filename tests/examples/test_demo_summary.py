"""The demo's numbers: rounded, undefined ones kept apart, and printed."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_regnet.data.shapes import CLASSES
from examples.demo import METRICS, argument_parser, configure, summarize, table


@pytest.fixture
def cfg(tmp_path):
    """The config of a demo on eight images, tested on three."""
    options = [f"--output={tmp_path}", "--seed=3", "--train-images=8", "--val-images=3"]
    return configure(argument_parser().parse_args(options))


def test_summary_and_table(cfg):
    box = dict(zip(METRICS, (41.234, 60, 45, float("nan"), 50)))
    results = {"bbox": {**box, **{f"AP-{kind}": 40.0 for kind in CLASSES}}, "segm": {"AP": 36.06}}
    names = cfg.dataloader.test.dataset.names
    DatasetCatalog.remove(names)
    DatasetCatalog.register(names, lambda: [{}] * 3)
    summary = summarize(results, 12.34, cfg)
    DatasetCatalog.remove(names)
    assert (summary["box_ap"], summary["mask_ap"], summary["images"]) == (41.23, 36.06, 3)
    assert (summary["train_seconds"], summary["seed"], summary["box_aps"]) == (12.3, 3, None)
    json.dumps(summary, allow_nan=False)
    rows = [line.split() for line in table(summary).splitlines()]
    assert rows[1] == ["box", "41.2", "60.0", "45.0", "n/a", "50.0"]
    assert rows[-1] == ["mask"] + ["n/a"] * 6


def test_nothing_found_is_an_ap_of_zero(cfg):
    cfg.dataloader.test.dataset.names = names = "demo_nothing"
    DatasetCatalog.register(names, lambda: [{}])
    MetadataCatalog.get(names).thing_classes = ["circle"]
    nothing = {task: {"AP": float("nan"), "AP50": float("nan")} for task in ("bbox", "segm")}
    summary = summarize(nothing, 1.0, cfg)
    DatasetCatalog.remove(names)
    MetadataCatalog.remove(names)
    assert (summary["box_ap"], summary["mask_ap"], summary["box_ap50"]) == (0.0, 0.0, None)
