"""Runs every script under examples/, each with the command that its docstring gives.

But for the demo, which trains for minutes: tests/examples/test_demo.py.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted({*(ROOT / "examples").glob("*.py")} - {ROOT / "examples" / "demo.py"})


def write_detector(path: Path) -> None:
    """A file as d2-regnet export writes it, of a detector that always finds the same object."""
    outputs = {
        "boxes": np.array([[8, 8, 40, 32]], np.float32),
        "scores": np.array([0.9], np.float32),
        "classes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value, name))
        for name, value in outputs.items()
    ]
    shape = ["height", "width", 3]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for name, v in outputs.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    helper.set_model_props(model, {"class_names": '["cat", "dog"]'})
    onnx.save(model, path)


@pytest.fixture
def folder(tmp_path, tiny_run) -> Path:
    """What the examples' commands name."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    write_detector(tmp_path / "detector.onnx")
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "mine").symlink_to(tiny_run)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    (tmp_path / "images").mkdir()
    for name in ("image.jpg", "images/one.jpg", "images/two.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    (tmp_path / "my_regnet.yaml").write_text("depth: 6\nw_0: 8\nw_a: 8\nw_m: 2\ngroup_width: 8\n")
    return tmp_path


def command(example: Path) -> list[str]:
    """The first `python EXAMPLE ...` of its docstring, as words."""
    pattern = rf"^\s*(?:\$ )?python (?:examples/)?{example.name}.*$"
    lines = re.findall(pattern, example.read_text(), re.M)
    assert lines, f"{example.name}: its docstring gives no command"
    return shlex.split(lines[0].strip().removeprefix("$ "), comments=True)[2:]


def test_there_are_examples():
    assert EXAMPLES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_it_runs(example, folder):
    before = set(folder.rglob("*"))
    done = subprocess.run(
        [sys.executable, str(example), *command(example)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "D2_REGNET_CACHE": str(folder / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or set(folder.rglob("*")) > before
