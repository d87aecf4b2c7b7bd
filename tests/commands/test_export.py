"""The command: what it writes and says, its exit codes, and what it refuses."""

import sys

import numpy as np
import onnx
import pytest
from PIL import Image

from d2_regnet.data.shapes import render
from d2_regnet.export import checking
from d2_regnet.inference.exported import load_exported


@pytest.fixture
def export(tool, tmp_path, tiny_run, monkeypatch):
    """The command in this process, in a folder of its own with an image."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(render(0, "val", 0)[0]).save("image.png")

    def run(*arguments, model=tiny_run):
        return tool.main(["--model", str(model), *map(str, arguments)])

    return run


@pytest.mark.parametrize("format, file", [("onnx", "tiny.onnx"), ("torchscript", "tiny.pt")])
def test_a_run_is_exported_and_checked(export, tmp_path, capsys, format, file):
    assert export("--format", format, "--output", file, "--check", "image.png") == 0
    out = capsys.readouterr().out
    assert "uint8 (height, width, 3), RGB" in out and "6 classes" in out
    assert "resized to 64, at most 1333 pixels" in out
    assert "image.png" in out and "ok: " in out
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image.png", file]


def test_limits_and_opset(export, tmp_path, capsys):
    options = ["--opset", 17, "--score-threshold", 0.2, "--max-detections", 3]
    arguments = ["--format", "onnx", "--output", "tiny.onnx", *options]
    assert export(*arguments, "--check", "image.png") == 0
    assert "ONNX of opset 17" in (out := capsys.readouterr().out)
    assert "scores above 0.2, at most 3 detections" in out
    model = onnx.load("tiny.onnx")
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert (facts["score_threshold"], facts["max_detections"]) == ("0.2", "3")
    assert model.opset_import[0].version == 17
    run, _ = load_exported("tiny.onnx")
    assert len(run(np.asarray(Image.open("image.png")))["scores"]) <= 3


def test_dry_run_writes_nothing(export, tmp_path, capsys):
    assert export("--format", "onnx", "--output", "tiny.onnx", "--dry-run") == 0
    assert "tiny.onnx: " in capsys.readouterr().out
    assert [each.name for each in tmp_path.iterdir()] == ["image.png"]


def test_a_file_that_differs_fails(export, capsys, monkeypatch):
    load = checking.load_exported

    def wrong(path):
        run, metadata = load(path)
        return lambda image: run(image[::-1]), metadata

    monkeypatch.setattr(checking, "load_exported", wrong)
    assert export("--format", "torchscript", "--output", "tiny.pt", "--check", "image.png") == 1
    assert "FAILED: " in capsys.readouterr().out


def test_nothing_found_is_no_agreement(export, capsys):
    limit = ["--score-threshold", 1]
    arguments = ["--format", "torchscript", "--output", "tiny.pt", *limit]
    assert export(*arguments, "--check", "image.png") == 1
    assert "nothing was detected" in capsys.readouterr().out


def test_refusals(export, tmp_path, refused, monkeypatch):
    def said(*arguments, **options):
        return refused(lambda line: export(*line, **options), *arguments)

    onnx_to = ["--format", "onnx", "--output"]
    (tmp_path / "there.onnx").touch()
    for arguments, message in (
        ([*onnx_to, "there.onnx"], "there.onnx exists; --overwrite replaces it"),
        ([*onnx_to, "no/where.onnx"], "there is no folder no"),
        ([*onnx_to, "tiny.pt"], "a file of ONNX ends in .onnx"),
        (["--format", "torchscript", "--output", "tiny.onnx"], "ends in .pt"),
        ([*onnx_to, "tiny.onnx", "--opset", 11], "opset 11: from 16 on"),
        ([*onnx_to, "tiny.onnx", "--score-threshold", 2], "from 0 to 1, not 2"),
        ([*onnx_to, "tiny.onnx", "--check", "missing.jpg"], "missing.jpg"),
        ([*onnx_to, "tiny.onnx", "--check", tmp_path], "is a folder; name images"),
        (["--format", "tflite", "--output", "x"], "invalid choice: 'tflite'"),
        ([*onnx_to, "tiny.onnx", "--weights", "missing.pth"], "missing.pth"),
    ):
        assert message in said(*arguments)
    assert "nowhere" in said(*onnx_to, "x.onnx", model="nowhere.py")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    error = said(*onnx_to, "tiny.onnx", "--check")
    assert "onnxruntime is not installed: pip install 'd2_regnet[export]'" in error
    assert sorted(each.name for each in tmp_path.iterdir()) == ["image.png", "there.onnx"]
