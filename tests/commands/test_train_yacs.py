"""d2-regnet train: the YAML form of a row from the command line."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from d2_regnet.engine import load_config
from d2_regnet.model_zoo.yacs import to_yacs


def run(root, *arguments):
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore",
            str(root / "tools" / "train_net.py"),
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
    )


def test_bad_input_ends_in_one_line(run_script):
    result = run_script(
        "tools/train_net.py", "--config-file", "mask_rcnn_r50_fpn_1x.yaml", "MODEL.NONE", "1"
    )
    assert result.returncode == 2, result.stderr
    (line,) = (line for line in result.stderr.splitlines() if "No CUDA runtime" not in line)
    assert line.startswith("error: ") and "MODEL.NONE" in line


@pytest.fixture
def tool(fixtures, tmp_path, monkeypatch):
    """tool(*arguments): `d2-regnet train` in this process, with a tiny Mask R-CNN."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    floats = [f"model.backbone.bottom_up.arch.{key}" for key in ("w_a=12.0", "w_m=2.0")]
    cfg = to_yacs(load_config(str(fixtures / "tiny_mask_rcnn.py"), floats))
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cpu", str(tmp_path / "out")
    cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS, cfg.DATASETS.TEST = (), 0, ()
    (tmp_path / "tiny.yaml").write_text(cfg.dump())
    from d2_regnet.commands.train import main

    return lambda *more: main(["--config-file", str(tmp_path / "tiny.yaml"), *more])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["DATASETS.TRAIN", "('nowhere',)"], "'nowhere' is not registered"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "2"], "set it to 6"),
        (["--num-gpus", "3"], "SOLVER.IMS_PER_BATCH=2 does not divide among 3 process(es)"),
    ],
)
def test_data_and_batch_are_checked_before_anything_is_written(
    tool, refused, tmp_path, arguments, message
):
    assert message in refused(lambda argv: tool(*argv), *arguments)
    assert not (tmp_path / "out").exists()


def test_stops_at_a_signal_and_goes_on_with_the_same_training_only(tool, tmp_path, capfd):
    out = tmp_path / "out"

    def when_it_trains():
        while not (out / "metrics.json").exists() or not (out / "metrics.json").stat().st_size:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)

    threading.Thread(target=when_it_trains, daemon=True).start()
    with pytest.raises(SystemExit) as end:
        tool("SOLVER.MAX_ITER", "100000")
    assert end.value.code == 128 + signal.SIGUSR1
    step = torch.load(out / (out / "last_checkpoint").read_text())["iteration"]

    capfd.readouterr()
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(SystemExit) as end:
        tool("--resume", "MODEL.ROI_HEADS.NUM_CLASSES", "7")
    assert end.value.code == 2
    assert "MODEL.ROI_HEADS.NUM_CLASSES was 6 and is 7" in capfd.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in out.iterdir()}

    tool("--resume", "SOLVER.MAX_ITER", str(step + 2))
    assert torch.load(out / "model_final.pth")["iteration"] == step + 1


@pytest.mark.slow
def test_trains_resumes_and_evaluates(root, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared / "data"))
    settings = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "DATALOADER.NUM_WORKERS": 0,
        "INPUT.MIN_SIZE_TRAIN": "(96,128)",
        "INPUT.MIN_SIZE_TEST": 96,
        "SOLVER.IMS_PER_BATCH": 1,
        "SOLVER.STEPS": "()",
        "SOLVER.WARMUP_ITERS": 0,
        "TEST.EVAL_PERIOD": 0,
        "OUTPUT_DIR": tmp_path,
    }
    settings = [each for setting in settings.items() for each in setting]
    config = ["--config-file", "faster_rcnn_regnetx_400mf_fpn_3x.yaml"]
    for steps in (2, 3):
        result = run(root, *config, "--resume", *settings, "SOLVER.MAX_ITER", steps)
        assert result.returncode == 0, result.stderr
    assert "Starting training from iteration 2" in (tmp_path / "log.txt").read_text()
    last = (tmp_path / "metrics.json").read_text().splitlines()[-1]
    assert "bbox/AP" in json.loads(last)
    weights = ["MODEL.WEIGHTS", tmp_path / "model_final.pth"]
    result = run(root, *config, "--eval-only", *settings, *weights)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "inference" / "coco_instances_results.json").is_file()
