"""tools/train_net.py: the YAML form of a row from the command line."""

import json
import subprocess
import sys

import pytest


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


def test_bad_input_ends_in_one_line(root):
    result = run(root, "--config-file", "mask_rcnn_r50_fpn_1x.yaml", "MODEL.NONE", "1")
    assert result.returncode == 2, result.stderr
    (line,) = (line for line in result.stderr.splitlines() if "No CUDA runtime" not in line)
    assert line.startswith("error: ") and "MODEL.NONE" in line


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
