"""The example runs on numpy, Pillow and onnxruntime alone, and draws what the model finds."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from d2_regnet.data.shapes import render
from d2_regnet.export import Export
from d2_regnet.inference import Predictor, find_model

WITHOUT = """
import runpy, sys
for name in ("torch", "torchvision", "detectron2", "d2_regnet", "cv2", "onnx"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def files(tiny_run, tmp_path_factory):
    """A folder with tiny.onnx and image.png, and what the eager model finds in it."""
    folder = tmp_path_factory.mktemp("example")
    predictor = Predictor(*find_model(str(tiny_run)), device="cpu", threshold=0)
    Export(predictor, "onnx").write(folder / "tiny.onnx")
    image = render(0, "val", 1)[0]
    Image.fromarray(image).save(folder / "image.png")
    return folder, predictor(image, array_format="RGB")


def run(root, folder, *arguments):
    script = str(root / "examples" / "onnx_predict.py")
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
    )


def test_it_prints_and_draws_what_the_model_finds(root, files):
    folder, expected = files
    done = run(root, folder, "tiny.onnx", "image.png", "predicted.png", "0.1")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    keep = expected.instances.scores >= 0.1
    assert len(lines) == keep.sum() > 0
    assert [line[0] for line in lines] == [n for n, k in zip(expected.names, keep) if k]
    numbers = np.array([line[1:] for line in lines], float)
    np.testing.assert_allclose(numbers[:, 0], expected.instances.scores[keep], atol=2e-3)
    boxes = expected.instances.pred_boxes.tensor[keep]
    np.testing.assert_allclose(numbers[:, 1:], boxes, atol=0.11)
    before, after = (np.asarray(Image.open(folder / f"{n}.png")) for n in ("image", "predicted"))
    assert before.shape == after.shape and (before != after).any()


def test_without_arguments_it_says_how(root, files):
    done = run(root, files[0])
    assert done.returncode == 1 and "detector.onnx image.jpg predicted.png" in done.stderr


def test_it_is_short(root):
    assert len((root / "examples" / "onnx_predict.py").read_text().splitlines()) <= 40
