"""Sizes are Detectron2's and pixels are Pillow's, exactly, in PyTorch and in ONNX Runtime."""

import io

import numpy as np
import onnxruntime
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from PIL import Image

from d2_regnet.export.resizing import ShortestEdge, resize

SIZES = [
    ((40, 60), (80, 91)),
    ((60, 40), (60, 40)),
    ((48, 64), (80, 107)),
    ((150, 201), (64, 128)),
    ((200, 110), (33, 19)),
    ((7, 3), (200, 90)),
    ((1, 1), (5, 7)),
    ((130, 500), (65, 250)),
]


@pytest.mark.parametrize("length, max_size", [(800, 1333), (64, 100), (600, 600), (640, 641)])
def test_output_size(length, max_size):
    edge = ShortestEdge(length, max_size)
    for height, width in np.random.RandomState(0).randint(1, 5000, (500, 2)).tolist():
        expected = ResizeShortestEdge.get_output_shape(height, width, length, max_size)
        assert tuple(edge.output_size(torch.tensor([height, width])).tolist()) == expected


class Resize(torch.nn.Module):
    def forward(self, image, size):
        return resize(image, size)


@pytest.fixture(scope="module")
def runners():
    """Resizing in PyTorch, traced, and in ONNX Runtime; traced at one size for all."""
    example = (torch.zeros((40, 60, 3), dtype=torch.uint8), torch.tensor([80, 91]))
    traced = torch.jit.trace(Resize(), example)
    file = io.BytesIO()
    torch.onnx.export(
        Resize(),
        example,
        file,
        dynamo=False,
        opset_version=16,
        input_names=["image", "size"],
        dynamic_axes={"image": {0: "height", 1: "width"}},
    )
    session = onnxruntime.InferenceSession(file.getvalue())
    return {
        "eager": lambda image, size: resize(torch.tensor(image), torch.tensor(size)).numpy(),
        "traced": lambda image, size: traced(torch.tensor(image), torch.tensor(size)).numpy(),
        "onnx": lambda image, size: session.run(None, {"image": image, "size": np.array(size)})[0],
    }


def pillow(image, size):
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


@pytest.mark.parametrize("runner", ["eager", "traced", "onnx"])
@pytest.mark.parametrize("source, target", SIZES)
def test_pixels(runners, runner, source, target):
    image = np.random.RandomState(0).randint(0, 256, (*source, 3)).astype(np.uint8)
    np.testing.assert_array_equal(runners[runner](image, target), pillow(image, target))


def test_pixels_of_a_tall_image(runners):
    """Of which Pillow 13 takes the rows first."""
    image = np.random.RandomState(0).randint(0, 256, (300, 100, 3)).astype(np.uint8)
    np.testing.assert_allclose(runners["onnx"](image, (90, 30)), pillow(image, (90, 30)), atol=1)
