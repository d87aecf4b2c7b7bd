"""The demo as its users run it: what it leaves behind, how it stops, goes on and refuses."""

import importlib.util
import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from d2_regnet.data.shapes import CLASSES, render
from d2_regnet.drawing import zoom


@pytest.fixture
def demo(root, tmp_path):
    """demo("--seed", "1") starts it on a few pictures, with its output in `folder`."""

    def start(*arguments):
        return subprocess.Popen(
            [
                sys.executable,
                str(root / "tools" / "demo.py"),
                f"--output={tmp_path / 'out'}",
                "--train-images=8",
                "--val-images=3",
                *arguments,
            ],
            env={**os.environ, "PYTHONPATH": str(root), "D2_REGNET_CACHE": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finish(process):
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def tool(root):
    """tools/demo.py as a module, for what needs no process of its own."""
    spec = importlib.util.spec_from_file_location("demo_tool", root / "tools" / "demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--seed=3"], "holds a run with seed 4, not 3: choose another folder with --output"),
        (["--seed=4"], "holds a run with steps 9, not"),
        (["--seed=4", "--steps=9"], "holds a run with data"),
        (["--seed=-3"], "the seed must be a whole number"),
        (["--val-images=0"], "split 'val' must have a whole number of pictures"),
    ],
)
def test_settings_that_cannot_be_met_end_in_one_line(tool, tmp_path, capsys, arguments, said):
    (tmp_path / "config.yaml").write_text(
        "train: {seed: 4, max_iter: 9}\n"
        "dataloader: {train: {dataset: {names: a}}, test: {dataset: {names: b}}}\n"
    )
    with pytest.raises(SystemExit) as stop:
        tool.main([f"--output={tmp_path}", *arguments])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_summary_and_table(tool):
    cfg = tool.configure(
        tool.argument_parser().parse_args(["--seed=3", "--val-images=3", "--train-images=8"])
    )
    box = dict(zip(tool.METRICS, (41.234, 60, 45, float("nan"), 50)))
    results = {"bbox": {**box, **{f"AP-{kind}": 40.0 for kind in CLASSES}}, "segm": {"AP": 36.06}}
    names = cfg.dataloader.test.dataset.names
    DatasetCatalog.remove(names)
    DatasetCatalog.register(names, lambda: [{}] * 3)
    summary = tool.summarize(results, 12.34, cfg)
    DatasetCatalog.remove(names)
    assert (summary["box_ap"], summary["mask_ap"], summary["images"]) == (41.23, 36.06, 3)
    assert (summary["train_seconds"], summary["seed"], summary["box_aps"]) == (12.3, 3, None)
    json.dumps(summary, allow_nan=False)
    rows = [line.split() for line in tool.table(summary).splitlines()]
    assert rows[1] == ["box", "41.2", "60.0", "45.0", "n/a", "50.0"]
    assert rows[-1] == ["mask"] + ["n/a"] * 6


def test_nothing_found_is_an_ap_of_zero(tool):
    cfg = tool.configure(tool.argument_parser().parse_args([]))
    cfg.dataloader.test.dataset.names = names = "demo_nothing"
    DatasetCatalog.register(names, lambda: [{}])
    MetadataCatalog.get(names).thing_classes = ["circle"]
    nothing = {task: {"AP": float("nan"), "AP50": float("nan")} for task in ("bbox", "segm")}
    summary = tool.summarize(nothing, 1.0, cfg)
    DatasetCatalog.remove(names)
    MetadataCatalog.remove(names)
    assert (summary["box_ap"], summary["mask_ap"], summary["box_ap50"]) == (0.0, 0.0, None)


def test_instances_are_drawn_where_they_are(tool):
    """A ring's hole stays as it is; outside the box nothing changes."""
    image, kinds, seen = render(0, "val", 0)
    k = kinds.index("ring") + 1
    mask = seen == k
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    instances = Instances(
        mask.shape,
        pred_boxes=Boxes(torch.tensor([box])),
        pred_classes=torch.tensor([CLASSES.index("ring")]),
        pred_masks=torch.as_tensor(mask)[None],
        scores=torch.tensor([0.9]),
    )
    metadata = MetadataCatalog.get("shapes_val")
    drawn = tool.draw_instances(image, instances, metadata).astype(int)
    plain = tool.draw_instances(image, instances[:0], metadata).astype(int)
    times = zoom(*mask.shape)
    assert drawn.shape == (times * image.shape[0], times * image.shape[1], 3)
    assert (plain[..., 0] == plain[..., 2]).all()  # grey
    changed = np.abs(drawn - plain).sum(axis=2)[1::times, 1::times] > 30
    assert changed[mask].mean() > 0.95
    far = np.ones_like(mask)
    far[max(0, box[1] - 9) : box[3] + 3, max(0, box[0] - 3) : box[2] + 30] = False
    assert not changed[far].any()


@pytest.mark.slow
def test_stops_goes_on_and_finishes(demo, tmp_path):
    folder = tmp_path / "out"
    first = demo("--seed=3", "--steps=8")
    said = iter(first.stdout.readline, "")
    assert any("evaluated after 2 steps" in line for line in said)
    first.send_signal(signal.SIGINT)
    code, out, err = finish(first)
    assert code == 130 and "goes on from here" in out and "Traceback" not in err
    assert (folder / "last_checkpoint").exists() and not (folder / "summary.json").exists()

    code, out, err = finish(demo("--seed=3", "--steps=8"))
    assert code == 0, err
    assert "Going on" in out and "evaluated after 4 steps" in out and "after 2" not in out
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["seed"], summary["images"], summary["steps"]) == (3, 3, 8)
    assert 0 <= summary["box_ap"] <= 100 and 0 <= summary["mask_ap"] <= 100
    assert summary["train_seconds"] > 0 and set(summary["per_class"]) == set(CLASSES)
    lines = (folder / "metrics.json").read_text().splitlines()
    assert max(json.loads(line)["iteration"] for line in lines) >= 7
    pictures = sorted((folder / "pictures").iterdir())
    assert [file.name for file in pictures] == ["000000.png", "000001.png", "000002.png"]
    for file in (*pictures, folder / "predictions.png", folder / "curves.png"):
        assert min(cv2.imread(str(file)).shape[:2]) >= 300

    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    code, out, _ = finish(demo("--seed=3", "--steps=8"))
    assert code == 0 and "is complete" in out and "COCO AP" in out
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == times
    code, _, err = finish(demo("--seed=4", "--steps=8"))
    assert code == 2 and "holds a run with seed 3, not 4" in err
    code, out, _ = finish(demo("--seed=4", "--steps=1", "--restart"))
    assert code == 0 and "Going on" not in out
    assert json.loads((folder / "summary.json").read_text())["seed"] == 4


def test_dry_run_says_what_it_would_do(tool, tmp_path, capsys):
    tool.main([f"--output={tmp_path / 'out'}", "--steps=8", "--dry-run"])
    out = capsys.readouterr().out
    assert "Would train in" in out and "8 steps of 4" in out
    assert not (tmp_path / "out").exists()
