"""`d2-regnet evaluate` against pycocotools called directly."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_regnet.commands import evaluate
from d2_regnet.data import register_shapes
from d2_regnet.data.shapes import CLASSES
from d2_regnet.engine import load_config


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """(folder of images, annotation file) of four images with masks."""
    (name,) = register_shapes(5, {"val": 4})
    DatasetCatalog.get(name)
    meta = MetadataCatalog.get(name)
    return meta.image_root, meta.json_file


class Model(torch.nn.Module):
    """Finds the annotated boxes, shifted and wrong here and there, whatever it sees."""

    def __init__(self, annotations: str):
        super().__init__()
        self.coco = COCO(annotations)

    def forward(self, inputs):
        answers = []
        for each in inputs:
            found = self.coco.imgToAnns[each["image_id"]]
            draw = np.random.default_rng(each["image_id"])
            boxes = np.array([a["bbox"] for a in found]) + draw.uniform(-4, 4, (len(found), 4))
            boxes[:, 2:] += boxes[:, :2]
            kinds = [a["category_id"] - 1 for a in found]
            kinds[0] = (kinds[0] + 1) % len(CLASSES)
            answers.append(
                Instances(
                    (each["height"], each["width"]),
                    pred_boxes=Boxes(torch.as_tensor(boxes)),
                    scores=torch.as_tensor(draw.uniform(0.1, 1, len(found))),
                    pred_classes=torch.tensor(kinds),
                )
            )
        return [{"instances": answer} for answer in answers]


@pytest.fixture
def pretended(monkeypatch, shapes):
    """The command with that model in the place of any other."""
    predictor = SimpleNamespace(
        model=Model(shapes[1]), classes=list(CLASSES), augmentations=[], input_format="BGR"
    )
    found = (lambda **options: predictor), None, "weights.pth"
    monkeypatch.setattr(evaluate, "find_predictor", lambda model, weights: found)


def by_pycocotools(annotations, results, task="bbox") -> dict:
    """What the command is to print, from its predictions: names -> percent."""
    truth = COCO(str(annotations))
    compared = COCOeval(truth, truth.loadRes(str(results)), task)
    compared.evaluate()
    compared.accumulate()
    compared.summarize()
    metrics = dict(zip(evaluate._METRICS, compared.stats))
    precision = compared.eval["precision"][..., 0, -1]  # IoU, recall, class: all areas, 100 boxes
    for index, category in enumerate(truth.loadCats(truth.getCatIds())):
        known = precision[:, :, index]
        metrics[f"AP-{category['name']}"] = known[known > -1].mean() if (known > -1).any() else -1
    return {name: None if value < 0 else 100 * value for name, value in metrics.items()}


def with_other_categories(file, tmp_path):
    """The same annotations, the classes in reverse and with ids of their own."""
    coco = json.loads(Path(file).read_text())
    new = {each["id"]: 90 - each["id"] for each in coco["categories"]}
    for each in coco["categories"]:
        each["id"] = new[each["id"]]
    for each in coco["annotations"]:
        each["category_id"] = new[each["category_id"]]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(coco))
    return path


def test_your_own_data(pretended, shapes, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--model", "any", "--data", *shapes, "--output", str(out)]
    assert evaluate.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((out / evaluate.METRICS).read_text())
    assert (told["model"], told["weights"], told["images"]) == ("any", "weights.pth", 4)
    want = by_pycocotools(shapes[1], out / evaluate.RESULTS)
    assert told["results"] == {"bbox": pytest.approx(want, abs=1e-9)}
    assert 20 < want["AP"] < 80  # neither nothing nor everything
    capsys.readouterr()
    assert evaluate.main([*words, "--overwrite"]) == 0
    text = capsys.readouterr().out
    assert f"{want['AP']:.1f}" in text and f"{want['AP-star']:.1f}" in text


def test_classes_are_known_by_name(pretended, shapes, tmp_path, capsys):
    other = with_other_categories(shapes[1], tmp_path)
    results = []
    for number, file in enumerate((shapes[1], other)):
        out = tmp_path / str(number)
        words = ["--model", "any", "--data", shapes[0], str(file), "--output", str(out)]
        evaluate.main([*words, "--json"])
        results.append(json.loads(capsys.readouterr().out)["results"])
    assert results[0] == {"bbox": pytest.approx(results[1]["bbox"])}
    # The predictions go with the annotations that are written beside them.
    beside = by_pycocotools(out / evaluate.ANNOTATIONS, out / evaluate.RESULTS)
    assert results[1] == {"bbox": pytest.approx(beside)}


def test_a_class_of_which_there_is_nothing_has_no_ap(pretended, shapes, tmp_path, capsys):
    coco = json.loads(Path(shapes[1]).read_text())
    (star,) = [each["id"] for each in coco["categories"] if each["name"] == "star"]
    coco["categories"] = [each for each in coco["categories"] if each["id"] != star]
    coco["annotations"] = [a for a in coco["annotations"] if a["category_id"] != star]
    (tmp_path / "some.json").write_text(json.dumps(coco))
    words = ["--model", "any", "--data", shapes[0], str(tmp_path / "some.json"), "--json"]
    assert evaluate.main(words) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["results"]["bbox"]["AP-star"] is None
    assert "it does not have star" in err


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda c: c["categories"][0].update(name="dog"), "1 of its 6 classes .* 'dog'.* circle"),
        (lambda c: c["categories"][0].update(name="star"), "two of its classes have the same name"),
        (lambda c: c["annotations"][0].update(category_id=99), "1 error"),
        (lambda c: c["images"][0].update(file_name="gone.png"), "1 of 4 images .*gone.png"),
    ],
)
def test_what_does_not_go_with_the_model(pretended, shapes, tmp_path, refused, change, told):
    coco = json.loads(Path(shapes[1]).read_text())
    change(coco)
    (tmp_path / "bad.json").write_text(json.dumps(coco))
    words = ["--model", "any", "--data", shapes[0], tmp_path / "bad.json"]
    error = refused(evaluate.main, *words, "--output", tmp_path / "out")
    assert re.search(told, error), error
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(pretended, shapes, tmp_path, refused):
    (tmp_path / evaluate.METRICS).write_text("mine")
    words = ["--model", "any", "--data", *shapes, "--output", tmp_path]
    assert "--overwrite" in refused(evaluate.main, *words)
    assert (tmp_path / evaluate.METRICS).read_text() == "mine"


def test_a_run_on_its_own_test_data(tiny_run, shapes, tmp_path, capsys):
    out = tmp_path / "out"
    words = ["--model", str(tiny_run), "--device", "cpu", "--output", str(out)]
    assert evaluate.main([*words, "--dry-run"]) == 0
    assert not out.exists()
    assert evaluate.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["data"] == "shapes_seed5_val4"
    for task, metrics in told["results"].items():
        want = by_pycocotools(shapes[1], out / evaluate.RESULTS, task)
        assert metrics == pytest.approx(want, abs=1e-9)
    assert set(told["results"]) == {"bbox", "segm"}


def test_a_config_without_test_data_asks_for_some():
    for names in ([], ["of_nobody"]):
        cfg = OmegaConf.create({"dataloader": {"test": {"dataset": {"names": names}}}})
        with pytest.raises(ValueError, match="--data IMAGES ANN"):
            evaluate.own_data(cfg)


def test_own_test_data_are_checked_as_those_of_data(tiny_run, tmp_path, refused):
    """Ids that stand for several objects would end Detectron2's loading."""
    image = {"id": 1, "file_name": "a.png", "width": 9, "height": 9}
    box = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    categories = [{"id": i, "name": f"kind {i}"} for i in range(1, 7)]
    coco = {"images": [image], "categories": categories, "annotations": [box | {"id": 0}] * 2}
    coco["annotations"][1] = box | {"id": 0, "bbox": [2, 2, 5, 5]}
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "val.json").write_text(json.dumps(coco))
    cfg = load_config(str(tiny_run / "config.yaml"))
    cfg.datasets = {
        "own_val": {"json_file": str(tmp_path / "val.json"), "image_root": str(tmp_path)}
    }
    cfg.dataloader.test.dataset.names = "own_val"
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    words = ["--model", tmp_path / "config.yaml", "--weights", tiny_run / "model_final.pth"]
    assert "own_val has 1 error(s), the first: duplicate annotation id" in refused(
        evaluate.main, *words, "--device", "cpu"
    )
