"""An exported file answers as the predictor that it was made from, in Python and in commands."""

import json

import numpy as np
import pytest
import torch
from detectron2.data.catalog import Metadata
from PIL import Image

from d2_regnet.commands import evaluate, predict
from d2_regnet.data.shapes import build_shapes, render
from d2_regnet.export import Export
from d2_regnet.inference import ExportedPredictor, Predictor, find_model, load_predictor

FORMATS = {"onnx": "tiny.onnx", "torchscript": "tiny.pt"}


@pytest.fixture(scope="module")
def folder(tiny_run, tmp_path_factory):
    """The tiny run's detector in both formats, with its own limits; eight images of shapes."""
    folder = tmp_path_factory.mktemp("exported")
    predictor = Predictor(*find_model(str(tiny_run)), threshold=0, device="cpu")
    for format, name in FORMATS.items():
        Export(predictor, format, name="tiny").write(folder / name)
    build_shapes(folder / "shapes", 3, "val", 8)
    return folder


@pytest.fixture(params=FORMATS.values())
def file(request, folder):
    return str(folder / request.param)


def test_predictions_are_the_predictors(file, tiny_run, tmp_path):
    images = [render(0, "val", i)[0] for i in range(2)]
    Image.fromarray(images[1]).save(tmp_path / "1.png")
    eager = Predictor(*find_model(str(tiny_run)), threshold=0.1, device="cpu")
    exported = load_predictor(file, threshold=0.1)
    assert isinstance(exported, ExportedPredictor)
    assert exported.classes == eager.classes and exported.threshold == 0.1
    ours = exported([images[0][:, :, ::-1], images[1][:, :, ::-1]], array_format="BGR")
    ours.append(exported(str(tmp_path / "1.png")))
    theirs = eager([*images, images[1]], array_format="RGB")
    for image, found, wanted in zip([*images, images[1]], ours, theirs):
        assert len(found) == len(wanted) > 0 and found.names == wanted.names
        for a, b in zip(found.to_coco(7), wanted.to_coco(7)):
            assert a["category_id"] == b["category_id"]
            assert a["score"] == pytest.approx(b["score"], abs=1e-4)
            assert a["bbox"] == pytest.approx(b["bbox"], abs=1e-2)
        masks = found.instances.pred_masks, wanted.instances.pred_masks
        assert (masks[0] != masks[1]).float().mean() < 1e-3
        assert found.draw(image).dtype == np.uint8


def test_classes_and_thresholds_filter(file):
    image = render(0, "val", 0)[0]
    everything = load_predictor(file, threshold=0)(image, array_format="RGB")
    name = everything.names[0]
    some = load_predictor(file, threshold=0.2, classes=[name])(image, array_format="RGB")
    wanted = [
        score
        for score, each in zip(everything.instances.scores.tolist(), everything.names)
        if each == name and score >= 0.2
    ]
    assert some.instances.scores.tolist() == wanted and set(some.names) == {name}


def test_category_ids_are_the_data_sets(tiny_run, tmp_path):
    predictor = Predictor(*find_model(str(tiny_run)), threshold=0, device="cpu")
    ids = {10 * i + 4: i for i in range(6)}
    predictor.metadata = Metadata(
        thing_classes=predictor.classes, thing_dataset_id_to_contiguous_id=ids
    )
    Export(predictor, "torchscript").write(tmp_path / "a.pt")
    exported = load_predictor(str(tmp_path / "a.pt"), threshold=0)
    assert exported.metadata.thing_dataset_id_to_contiguous_id == ids
    found = exported(render(0, "val", 0)[0], array_format="RGB").to_coco()
    assert {each["category_id"] for each in found} <= set(ids)


def test_commands_take_a_file(file, folder, tiny_run, tmp_path, capsys):
    shapes = folder / "shapes"
    for model, output in ((file, "file"), (str(tiny_run), "run")):
        arguments = ["--model", model, str(shapes / "000001.png"), "--threshold", "0.2"]
        assert predict.main([*arguments, "--output", str(tmp_path / output)]) == 0
    files, runs = (
        json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("file", "run")
    )
    assert len(files["annotations"]) == len(runs["annotations"]) > 0
    capsys.readouterr()
    found = []
    for model in (file, str(tiny_run)):
        data = [str(shapes), str(shapes / "annotations.json")]
        assert evaluate.main(["--model", model, "--data", *data, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["results"])
    for task in ("bbox", "segm"):
        for name, value in found[1][task].items():
            assert found[0][task][name] == pytest.approx(value, abs=0.2), name


def test_refusals(file, folder, tmp_path, capsys):
    with pytest.raises(ValueError, match="runs on the CPU, in its own precision"):
        load_predictor(file, device="cuda")
    with pytest.raises(ValueError, match="runs on the CPU, in its own precision"):
        load_predictor(file, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="--weights: .* holds its own"):
        load_predictor(file, "model_final.pth")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: there is no such file"):
        load_predictor(str(tmp_path / "none.onnx"))
    with pytest.raises(ValueError, match="no class 'dog'"):
        load_predictor(file, classes=["dog"])
    with pytest.raises(SystemExit, match="2"):
        evaluate.main(["--model", file])
    assert "names no test data" in capsys.readouterr().err
    for suffix in (".onnx", ".pt"):
        (tmp_path / f"broken{suffix}").write_bytes(b"not a model")
        with pytest.raises(ValueError, match=f"broken\\{suffix} cannot be read as a file of"):
            load_predictor(str(tmp_path / f"broken{suffix}"))
    torch.save({"model": {}}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"checkpoint\.pt cannot be read as a file of"):
        load_predictor(str(tmp_path / "checkpoint.pt"))
