"""Exported files answer as the eager detectors do, on images of any size."""

import json
import subprocess
import sys

import detectron2.data.transforms as T
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from d2_regnet import model_zoo
from d2_regnet.checkpoint import convert
from d2_regnet.data.shapes import CLASSES
from d2_regnet.export import Export, agrees, check, set_limits
from d2_regnet.export.exporter import limits, shortest_edge
from d2_regnet.inference import Predictor
from d2_regnet.inference.exported import load_exported
from d2_regnet.inference.optimize import optimize_for_inference

KINDS = ["retinanet", "faster_rcnn", "mask_rcnn", "cascade_mask_rcnn"]
SUFFIXES = {"onnx": "onnx", "torchscript": "pt"}
FIXTURES = {
    "faster_rcnn_regnetx_400mf_fpn_3x": "mask-rcnn_regnetx-400MF_fpn_ms-poly-3x_coco",
    "mask_rcnn_regnetx_400mf_fpn_3x": "mask-rcnn_regnetx-400MF_fpn_ms-poly-3x_coco",
    "mask_rcnn_regnetx_3.2gf_dcn_fpn_1x": "mask-rcnn_regnetx-3.2GF-mdconv-c3-c5_fpn_1x_coco",
    "retinanet_regnetx_800mf_fpn_1x": "retinanet_regnetx-800MF_fpn_1x_coco",
    "cascade_mask_rcnn_regnetx_400mf_fpn_3x": "cascade-mask-rcnn_regnetx-400MF_fpn_ms-3x_coco",
}


@pytest.fixture(scope="module")
def exported(predictor_of, tmp_path_factory):
    """`exported("mask_rcnn", "onnx")`: the path of the file, written once."""
    written = {}

    def export(kind, format):
        if (kind, format) not in written:
            path = tmp_path_factory.mktemp("exported") / f"{kind}.{SUFFIXES[format]}"
            Export(predictor_of(kind), format, name=kind).write(path)
            written[kind, format] = path
        return written[kind, format]

    return export


def assert_same(predictor, path, images):
    results = list(check(predictor, path, images, rounds=1))
    assert sum(result.eager for result in results) >= 60
    assert agrees(results), results
    assert max(result.score for result in results) < 1e-4


@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_same_detections(predictor_of, exported, images, kind, format):
    assert_same(predictor_of(kind), exported(kind, format), images)


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("kind", ["detectron2_retinanet", "detectron2_mask_rcnn"])
def test_detectron2s_own_classes(predictor_of, exported, images, kind, format):
    assert_same(predictor_of(kind), exported(kind, format), images)


@pytest.mark.parametrize("format", ["onnx", pytest.param("torchscript", marks=pytest.mark.slow)])
def test_deformable_convolution(predictor_of, exported, images, format):
    assert_same(predictor_of("deformable"), exported("deformable", format), images)


def test_deformable_convolution_is_refused_where_onnx_has_none(predictor_of):
    with pytest.raises(ValueError, match="opset 18 cannot carry .* deformable .* from opset 19"):
        Export(predictor_of("deformable"), "onnx", opset=18)


@pytest.mark.parametrize("opset", [16, pytest.param(20, marks=pytest.mark.slow)])
def test_the_opset_is_the_one_asked_for(predictor_of, images, tmp_path, opset):
    predictor = predictor_of("mask_rcnn")
    Export(predictor, "onnx", opset=opset).write(tmp_path / "model.onnx")
    (imported,) = onnx.load(tmp_path / "model.onnx").opset_import
    assert (imported.domain, imported.version) == ("", opset)
    assert_same(predictor, tmp_path / "model.onnx", images)


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
@pytest.mark.parametrize("format", SUFFIXES)
def test_no_detections(predictor_of, images, tmp_path, kind, format):
    predictor = predictor_of(kind)
    before = limits(predictor.model)
    path = tmp_path / f"model.{SUFFIXES[format]}"
    try:
        set_limits(predictor.model, score_threshold=1.0)
        Export(predictor, format).write(path)
    finally:
        set_limits(predictor.model, *before)
    run, metadata = load_exported(path)
    assert metadata["score_threshold"] == 1.0
    found = run(images[1])
    assert [found[name].shape for name in ("boxes", "scores", "classes")] == [(0, 4), (0,), (0,)]
    assert "masks" not in found or found["masks"].shape == (0, 140, 90)


@pytest.mark.parametrize("format", SUFFIXES)
def test_outputs_and_metadata(exported, images, format):
    run, metadata = load_exported(exported("mask_rcnn", format))
    found = run(images[0])
    count, (height, width) = len(found["scores"]), images[0].shape[:2]
    assert count > 10
    assert {name: (array.dtype.name, array.shape) for name, array in found.items()} == {
        "boxes": ("float32", (count, 4)),
        "scores": ("float32", (count,)),
        "classes": ("int64", (count,)),
        "masks": ("bool", (count, height, width)),
    }
    assert (np.diff(found["scores"]) <= 0).all() and found["scores"].min() > 0.05
    assert (found["boxes"] >= 0).all() and (found["boxes"] <= [width, height] * 2).all()
    assert metadata["model"] == "mask_rcnn"
    assert metadata["class_names"] == list(CLASSES)
    assert list(metadata["outputs"]) == ["boxes", "scores", "classes", "masks"]
    assert (metadata["short_edge"], metadata["max_size"]) == (96, 150)
    assert (metadata["score_threshold"], metadata["max_detections"]) == (0.05, 100)


def test_the_order_of_the_colours_is_the_models(predictor_of, exported, images):
    predictor = predictor_of("mask_rcnn")
    assert predictor.input_format == "BGR"
    run, _ = load_exported(exported("mask_rcnn", "onnx"))
    right, wrong = (run(p)["scores"] for p in (images[0], images[0][:, :, ::-1]))
    expected = predictor(images[0][:, :, ::-1], array_format="BGR").instances.scores
    np.testing.assert_allclose(right, expected, atol=1e-4)
    assert len(wrong) != len(right) or np.abs(wrong - right).max() > 1e-2


RUN = """
import json, sys
sys.modules["detectron2"] = sys.modules["d2_regnet"] = {alone}
import numpy as np
{prepare}
found = run(np.load(sys.argv[2]))
assert not any(name.split(".")[0] in ("detectron2", "d2_regnet") for name, module
               in sys.modules.items() if module is not None)
np.savez(sys.argv[3], *found)
"""
TORCHSCRIPT = """
import torch, torchvision
extra = {"metadata.json": ""}
model = torch.jit.load(sys.argv[1], _extra_files=extra)
assert json.loads(extra["metadata.json"])["class_names"][0] == "circle"
run = lambda image: [each.numpy() for each in model(torch.from_numpy(image))]
"""
ONNX = """
sys.modules["torch"] = None
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
run = lambda image: session.run(None, {"image": image})
"""


@pytest.mark.parametrize("format, prepare", [("torchscript", TORCHSCRIPT), ("onnx", ONNX)])
def test_files_run_without_detectron2(predictor_of, exported, images, tmp_path, format, prepare):
    path = exported("mask_rcnn", format)
    np.save(tmp_path / "image.npy", images[0])
    code = RUN.format(alone=None, prepare=prepare)
    arguments = [path, tmp_path / "image.npy", tmp_path / "found.npz"]
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True)
    found = [*np.load(tmp_path / "found.npz").values()]
    expected = predictor_of("mask_rcnn")(images[0], array_format="RGB").instances
    np.testing.assert_allclose(found[0], expected.pred_boxes.tensor, atol=1e-2)
    np.testing.assert_allclose(found[1], expected.scores, atol=1e-4)
    np.testing.assert_array_equal(found[2], expected.pred_classes)
    assert (found[3] == expected.pred_masks.numpy()).mean() > 0.999


def test_a_model_that_onnx_cannot_carry_leaves_no_file(predictor_of, tmp_path, monkeypatch):
    class Unknown(nn.Sequential):
        def forward(self, x):
            return {name: torch.special.erfcx(each) for name, each in self[0](x).items()}

    predictor = predictor_of("faster_rcnn")
    backbone = predictor.model.backbone
    monkeypatch.setattr(backbone, "bottom_up", Unknown(backbone.bottom_up))
    (tmp_path / "model.onnx").write_text("the old one")
    with pytest.raises(ValueError, match="ONNX cannot carry this model.*erfcx"):
        Export(predictor, "onnx").write(tmp_path / "model.onnx")
    assert [*tmp_path.iterdir()] == [tmp_path / "model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "the old one"


def test_the_predictors_model_stays_as_it_is(predictor_of, exported):
    predictor = predictor_of("mask_rcnn")
    before = {name: tensor.clone() for name, tensor in predictor.model.state_dict().items()}
    Export(predictor, "torchscript")
    after = predictor.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_bad_arguments(predictor_of, monkeypatch):
    predictor = predictor_of("mask_rcnn")
    with pytest.raises(ValueError, match="onnx or torchscript, not 'tflite'"):
        Export(predictor, "tflite")
    for opset in (15, 21):
        with pytest.raises(ValueError, match=f"opset {opset}: from 16 on"):
            Export(predictor, "onnx", opset=opset)
    with pytest.raises(ValueError, match=r"from 0 to 1, not 1\.5"):
        set_limits(predictor.model, score_threshold=1.5)
    with pytest.raises(ValueError, match="at least 1 detection, not 0"):
        set_limits(predictor.model, max_detections=0)
    monkeypatch.setattr(predictor.model.roi_heads, "keypoint_on", True)
    with pytest.raises(ValueError, match="GeneralizedRCNN with keypoints cannot be exported"):
        Export(predictor, "onnx")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'd2_regnet\[export\]'"):
        Export(predictor, "onnx")


@pytest.mark.parametrize("kind", ["mask_rcnn", "retinanet"])
def test_an_optimized_model_is_refused(predictor_of, monkeypatch, kind):
    predictor = predictor_of(kind)
    wide = torch.nn.Conv2d(256, 256, 3, padding=1)  # RetinaNet's, as wide as a published model's
    if kind == "retinanet":
        monkeypatch.setattr(predictor.model.head, "wide", wide, raising=False)
    optimized = optimize_for_inference(predictor.model)
    monkeypatch.setattr(predictor, "model", optimized)
    with pytest.raises(ValueError, match="optimize_for_inference .* give the predictor no dtype"):
        Export(predictor, "torchscript")


def test_only_resizing_that_the_file_can_do():
    assert shortest_edge([]) is None
    edge = shortest_edge([T.ResizeShortestEdge(800, 1333)])
    assert (edge.length, edge.max_size) == (800, 1333)
    for augmentations, message in (
        ([T.Resize((80, 80))], "go through Resize;"),
        ([T.ResizeShortestEdge(80), T.RandomFlip()], "go through ResizeShortestEdge, RandomFlip"),
        ([T.ResizeShortestEdge((64, 96), sample_style="choice")], "one of \\[64, 96\\]"),
    ):
        with pytest.raises(ValueError, match=message):
            shortest_edge(augmentations)


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
@pytest.mark.parametrize("model", FIXTURES)
def test_published_sizes_on_real_images(shared, load_file, tmp_path, model, format):
    """With weights made up from the tensors' names; see test_parity.py."""
    folder = shared / "fixtures"
    shapes = json.loads((folder / "mmdet" / f"{FIXTURES[model]}.json").read_text())["shapes"]
    if model.startswith("faster_rcnn"):
        shapes = {name: s for name, s in shapes.items() if "mask_head" not in name}
    weights = load_file(folder / "fill.py").fill(shapes)
    torch.save({"state_dict": weights, "meta": {}}, tmp_path / "mmdet.pth")
    convert(tmp_path / "mmdet.pth", tmp_path / "weights.pth")
    predictor = Predictor(
        model_zoo.get_config(model), str(tmp_path / "weights.pth"), device="cpu", threshold=0
    )
    path = tmp_path / f"model.{SUFFIXES[format]}"
    Export(predictor, format).write(path)
    files = sorted((shared / "data/coco/val2017").glob("*.jpg"))
    images = [Image.open(file).convert("RGB") for file in files[:3]]
    portrait = next(p for p in map(Image.open, files) if p.height > p.width).convert("RGB")
    sizes = [images[0], portrait, images[1].resize((90, 70)), images[2].resize((2000, 1500))]
    assert_same(predictor, path, [np.asarray(image) for image in sizes])
