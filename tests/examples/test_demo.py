"""The demo as its users run it: what it leaves behind, how it stops, continues and refuses."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from d2_regnet.commands import finetune, predict
from d2_regnet.data.shapes import CLASSES
from d2_regnet.inference import find_model
from examples.demo import main


@pytest.fixture
def demo(root, tmp_path):
    """demo("--seed", "1") starts it on a few images, with its output in `folder`."""

    def start(*arguments):
        return subprocess.Popen(
            [
                sys.executable,
                "-m",
                "examples.demo",
                f"--output={tmp_path / 'out'}",
                "--train-images=8",
                "--val-images=3",
                *arguments,
            ],
            env={**os.environ, "PYTHONPATH": str(root), "D2_REGNET_CACHE": str(tmp_path / "cache")},
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def finish(process):
    out, err = process.communicate(timeout=500)
    return process.returncode, out, err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--seed=3"], "holds a run with seed 4, not 3: choose another folder with --output"),
        (["--seed=4"], "holds a run with steps 9, not"),
        (["--seed=4", "--steps=9"], "holds a run with data"),
        (["--seed=-3"], "the seed must be a whole number"),
        (["--steps=0"], "--steps must be at least 1, not 0"),
        (["--val-images=0"], "split 'val' must have a whole number of images"),
    ],
)
def test_settings_that_cannot_be_met_end_in_one_line(tmp_path, capsys, arguments, said):
    (tmp_path / "config.yaml").write_text(
        "train: {seed: 4, max_iter: 9}\n"
        "dataloader: {train: {dataset: {names: a}}, test: {dataset: {names: b}}}\n"
    )
    with pytest.raises(SystemExit) as end:
        main([f"--output={tmp_path}", *arguments])
    err = capsys.readouterr().err
    assert end.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1
    assert said in err
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.slow
def test_stops_continues_and_finishes(demo, tmp_path):
    folder = tmp_path / "out"
    first = demo("--seed=3", "--steps=8")
    said = iter(first.stdout.readline, "")
    assert any("evaluated after 2 steps" in line for line in said)
    first.send_signal(signal.SIGINT)
    code, out, err = finish(first)
    assert code == 130 and "continues from here" in out and "Traceback" not in err
    assert (folder / "last_checkpoint").exists() and not (folder / "summary.json").exists()

    code, out, err = finish(demo("--seed=3", "--steps=8"))
    assert code == 0, err
    assert "Continuing" in out and "evaluated after 4 steps" in out and "after 2" not in out
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["seed"], summary["images"], summary["steps"]) == (3, 3, 8)
    assert 0 <= summary["box_ap"] <= 100 and 0 <= summary["mask_ap"] <= 100
    assert summary["train_seconds"] > 0 and set(summary["per_class"]) == set(CLASSES)
    lines = (folder / "metrics.json").read_text().splitlines()
    assert max(json.loads(line)["iteration"] for line in lines) >= 7
    page = (folder / "report" / "report.html").read_text()
    assert all(name in page for name in ("01_000000.jpg", "02_000001.jpg", "03_000002.jpg"))
    curves = [folder / "report" / f"{name}.png" for name in ("total_loss", "box_ap", "mask_ap")]
    for file in (*curves, folder / "demo.png"):
        assert min(cv2.imread(str(file)).shape[:2]) >= 300

    times = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    code, out, _ = finish(demo("--seed=3", "--steps=8"))
    assert code == 0 and "is complete" in out and "COCO AP" in out
    to_predict, to_finetune = (shlex.split(line)[2:] for line in out.splitlines()[-2:])
    parsed = predict.argument_parser().parse_args(to_predict)
    assert find_model(parsed.model, parsed.weights)[1] == str(folder / "model_final.pth")
    assert len(list(Path(parsed.inputs[0]).glob("*.png"))) == 3
    assert finetune.argument_parser().parse_args(to_finetune).model == str(folder)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == times
    code, _, err = finish(demo("--seed=4", "--steps=8"))
    assert code == 2 and "holds a run with seed 3, not 4" in err
    code, out, _ = finish(demo("--seed=4", "--steps=1", "--restart"))
    assert code == 0 and "Continuing" not in out
    assert json.loads((folder / "summary.json").read_text())["seed"] == 4


def test_dry_run_says_what_it_would_do(tmp_path, capsys):
    main([f"--output={tmp_path / 'out'}", "--steps=8", "--dry-run"])
    out = capsys.readouterr().out
    assert "Would train in" in out and "8 steps of 4" in out
    assert not (tmp_path / "out").exists()
