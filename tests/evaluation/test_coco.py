"""FastCOCOEvaluator against Detectron2's COCOEvaluator, which compares with pycocotools."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from d2_regnet import model_zoo
from d2_regnet.evaluation import FastCOCOEvaluator, coco

SIDE = 96


def square(x, y, side):
    x1, y1 = x + side, y + side
    return {
        "bbox": [x, y, side, side],
        "area": side * side,
        "segmentation": [[x, y, x1, y, x1, y1, x, y1]],
    }


@pytest.fixture(scope="module")
def truth():
    """A COCO file's content: 40 images, the last two without objects, every tenth a crowd."""
    rng = np.random.RandomState(0)
    annotations = []
    for number in range(200):
        side = int(rng.choice([6, 20, 70]))
        x, y = rng.randint(0, SIDE - side, 2).tolist()
        annotations.append(
            square(x, y, side)
            | dict(id=number + 1, image_id=3 * (number % 38) + 1, iscrowd=int(number % 10 == 0))
            # The category 7 has no object at all.
            | dict(category_id=int(rng.choice([2, 5, 9])))
        )
    images = [dict(id=3 * i + 1, width=SIDE, height=SIDE, file_name=f"{i}.png") for i in range(40)]
    categories = [dict(id=i, name=f"c{i}") for i in (2, 5, 7, 9)]
    return dict(images=images, annotations=annotations, categories=categories)


@pytest.fixture
def registered(tmp_path):
    """Registers COCO contents, and forgets them afterwards."""
    names = []

    def register(content):
        names.append(f"evaluation_{len(names)}")
        path = tmp_path / f"{names[-1]}.json"
        path.write_text(json.dumps(content))
        register_coco_instances(names[-1], {}, str(path), str(tmp_path))
        DatasetCatalog.get(names[-1])  # fills in the metadata
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def predictions(truth, masks=True, seed=0):
    """The objects, moved, doubled, left out and mistaken; scores with one digit, so many tie."""
    rng = np.random.RandomState(seed)
    contiguous = {each["id"]: i for i, each in enumerate(truth["categories"])}
    for image in truth["images"]:
        boxes, classes, bits = [], [], []
        for each in truth["annotations"]:
            for _ in range(rng.randint(3) if each["image_id"] == image["id"] else 0):
                x, y, side, _ = each["bbox"]
                x, y = np.clip(np.array([x, y]) + rng.randint(-3, 4, 2), 0, SIDE - 1)
                boxes.append([x, y, x + side, y + side])
                classes.append(rng.choice([contiguous[each["category_id"]], rng.randint(4)]))
                bits.append(np.zeros((SIDE, SIDE), bool))
                bits[-1][y : y + side, x : x + side] = True
        found = Instances((SIDE, SIDE))
        found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
        found.pred_classes = torch.tensor(np.array(classes, int))
        found.scores = torch.from_numpy(rng.rand(len(boxes)).round(1))
        if masks:
            found.pred_masks = torch.from_numpy(np.array(bits, bool).reshape(-1, SIDE, SIDE))
        yield {"image_id": image["id"]}, {"instances": found}


def evaluate(kind, name, found, img_ids=None, **options):
    evaluator = kind(name, **options)
    evaluator.reset()
    for given, answer in found:
        evaluator.process([given], [answer])
    return evaluator.evaluate(img_ids)


def assert_same(ours, theirs, exactly=False):
    assert list(ours) == list(theirs)
    for task in theirs:
        assert list(ours[task]) == list(theirs[task])
        for metric, value in theirs[task].items():
            same = math.isnan(value) and math.isnan(ours[task][metric])
            limit = 0 if exactly else 1e-6
            assert same or abs(ours[task][metric] - value) <= limit, (task, metric)


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"max_dets_per_image": 3}, {"img_ids": [1, 7, 10]}, {"tasks": ("bbox",)}]
)
def test_the_same_numbers(registered, truth, masks, options):
    name = registered(truth)
    theirs = evaluate(COCOEvaluator, name, predictions(truth, masks), **options)
    ours = evaluate(FastCOCOEvaluator, name, predictions(truth, masks), **options)
    assert_same(ours, theirs)
    assert 5 < ours["bbox"]["AP"] < 95 and math.isnan(ours["bbox"]["AP-c7"])
    assert ("segm" in ours) == (masks and "tasks" not in options)


def test_the_same_numbers_on_coco(shared, registered):
    truth = json.loads((shared / "data/coco/annotations/instances_val2017.json").read_text())
    name = registered(truth)
    rng = np.random.RandomState(0)
    found = []
    to_contiguous = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
    for image in truth["images"]:
        own = [each for each in truth["annotations"] if each["image_id"] == image["id"]]
        boxes = np.array([each["bbox"] for each in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes += rng.normal(size=boxes.shape) * 4
        instances = Instances((image["height"], image["width"]))
        instances.pred_boxes = Boxes(torch.from_numpy(boxes))
        instances.pred_classes = torch.tensor([to_contiguous[x["category_id"]] for x in own])
        instances.scores = torch.from_numpy(rng.rand(len(own)))
        found.append(({"image_id": image["id"]}, {"instances": instances}))
    ours, theirs = (evaluate(kind, name, found) for kind in (FastCOCOEvaluator, COCOEvaluator))
    assert_same(ours, theirs)
    assert 10 < ours["bbox"]["AP"] < 90


def test_files_are_the_same(registered, truth, tmp_path):
    name = registered(truth)
    for kind in (COCOEvaluator, FastCOCOEvaluator):
        evaluate(kind, name, predictions(truth), output_dir=str(tmp_path / kind.__name__))
    ours, theirs = (
        json.loads((tmp_path / kind.__name__ / "coco_instances_results.json").read_text())
        for kind in (FastCOCOEvaluator, COCOEvaluator)
    )
    assert ours == theirs and len(ours) > 100
    assert (tmp_path / "FastCOCOEvaluator" / "instances_predictions.pth").stat().st_size


@pytest.mark.parametrize("empty", ["no predictions", "nothing found"])
def test_nothing_found(registered, truth, empty):
    name = registered(truth)
    found = []
    if empty == "nothing found":
        found = [
            (given, {"instances": answer["instances"][:0]}) for given, answer in predictions(truth)
        ]
    ours = evaluate(FastCOCOEvaluator, name, found)
    assert_same(ours, evaluate(COCOEvaluator, name, found))
    assert empty == "no predictions" or math.isnan(ours["bbox"]["AP"])


def large(number):
    """64 bits, of which doubles keep 53."""
    return (0x7A5B << 48) + number


CHANGES = {
    "annotation 0": {"id": lambda n: n - 1},
    "annotations of 64 bits": {"id": large},
    "annotations of 128 bits": {"id": lambda n: (1 << 127) + n},
    "negative annotations": {"id": lambda n: -n},
    "annotations in another order": {"id": lambda n: 7 * n % 1009},
    "annotations named by words": {"id": lambda n: f"a{n}"},
    "images of 64 bits": {"image_id": large},
    "negative images": {"image_id": lambda n: n - 1000},
    "image 0 and -1": {"image_id": lambda n: n - 4},
    "images named by words": {"image_id": lambda n: f"{n:04d}"},
    "categories of 64 bits": {"category_id": large},
    "negative categories": {"category_id": lambda n: n - 100},
    "category 0": {"category_id": lambda n: n - 2},
}


def changed_ids(truth, changes):
    def changed(entries, field, key):
        change = changes.get(key, lambda n: n)
        return [each | {field: change(each[field])} for each in entries]

    annotations = changed(truth["annotations"], "id", "id")
    for key in ("image_id", "category_id"):
        annotations = changed(annotations, key, key)
    return {
        "images": changed(truth["images"], "id", "image_id"),
        "categories": changed(truth["categories"], "id", "category_id"),
        "annotations": annotations,
    }


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", CHANGES)
def test_ids_of_other_kinds(registered, truth, kind, fast):
    """All metrics are those of the same data with small ids, by pycocotools, to the last digit."""
    expected = evaluate(COCOEvaluator, registered(truth), predictions(truth))
    changed = changed_ids(truth, CHANGES[kind])
    ours = evaluate(
        FastCOCOEvaluator, registered(changed), predictions(changed), use_fast_impl=fast
    )
    assert_same(ours, expected, exactly=not fast)
    assert ours["bbox"]["AP"] > 5


@pytest.mark.parametrize("kind", ["base", *CHANGES])
def test_perfect_predictions_are_perfect(registered, truth, kind):
    changed = changed_ids(truth, CHANGES.get(kind, {}))
    contiguous = {each["id"]: i for i, each in enumerate(changed["categories"])}
    found = []
    for image in changed["images"]:
        own = [a for a in changed["annotations"] if a["image_id"] == image["id"]]
        instances = Instances((SIDE, SIDE))
        boxes = torch.tensor([a["bbox"] for a in own], dtype=torch.float32).reshape(-1, 4)
        instances.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
        instances.pred_classes = torch.tensor([contiguous[a["category_id"]] for a in own])
        instances.scores = torch.ones(len(own))
        found.append(({"image_id": image["id"]}, {"instances": instances}))
    name = registered(changed)
    assert evaluate(FastCOCOEvaluator, name, found)["bbox"]["AP"] == pytest.approx(100)


@pytest.mark.parametrize("missing", [None, "", 0, -3, float("nan"), "absent"])
@pytest.mark.parametrize("masks", [True, False])
def test_area_and_crowd_where_missing(registered, truth, missing, masks):
    """APs, APm and APl are those of the annotated areas: polygons', or the boxes'."""

    def without(annotation):
        annotation = {k: v for k, v in annotation.items() if masks or k != "segmentation"}
        if not annotation["iscrowd"]:
            del annotation["iscrowd"]
        if missing == "absent":
            return {k: v for k, v in annotation.items() if k != "area"}
        return annotation | {"area": missing}

    expected = evaluate(COCOEvaluator, registered(truth), predictions(truth, masks))
    changed = truth | {"annotations": [without(each) for each in truth["annotations"]]}
    found = predictions(truth, masks)
    assert_same(evaluate(FastCOCOEvaluator, registered(changed), found), expected)
    assert len({expected["bbox"][each] for each in ("APs", "APm", "AP")}) == 3


def test_sizes_as_floats(registered, truth):
    images = [each | {"width": float(SIDE), "height": float(SIDE)} for each in truth["images"]]
    expected = evaluate(COCOEvaluator, registered(truth), predictions(truth))
    ours = evaluate(FastCOCOEvaluator, registered(truth | {"images": images}), predictions(truth))
    assert_same(ours, expected)


def test_ids_of_two_images_are_refused(registered, truth):
    name = registered(truth | {"images": [*truth["images"], truth["images"][0]]})
    with pytest.raises(ValueError, match="the image id 1 stands for 2"):
        evaluate(FastCOCOEvaluator, name, predictions(truth))


def test_results_without_annotations(registered, truth, tmp_path):
    """As of COCO's test2017: the files are written, and nothing is compared."""
    name = registered({**truth, "annotations": []})
    content = {key: value for key, value in truth.items() if key != "annotations"}
    Path(MetadataCatalog.get(name).json_file).write_text(json.dumps(content))
    found = list(predictions(truth))
    assert evaluate(FastCOCOEvaluator, name, found, output_dir=str(tmp_path / "out")) == {}
    assert (tmp_path / "out" / "coco_instances_results.json").is_file()


def test_what_is_printed(registered, truth, capsys):
    name = registered(truth)
    evaluate(COCOEvaluator, name, predictions(truth))
    theirs = [line for line in capsys.readouterr().out.splitlines() if "Average" in line]
    evaluate(FastCOCOEvaluator, name, predictions(truth))
    ours = [line for line in capsys.readouterr().out.splitlines() if "Average" in line]
    assert len(ours) == 24 and ours == theirs


def test_fallback(registered, truth, monkeypatch, caplog):
    name = registered(truth)
    expected = evaluate(COCOEvaluator, name, predictions(truth))
    assert_same(
        evaluate(FastCOCOEvaluator, name, predictions(truth), use_fast_impl=False), expected
    )
    assert "d2_regnet.evaluation" not in {record.name for record in caplog.records}
    monkeypatch.setattr(coco, "COCOeval_faster", None)
    with caplog.at_level(logging.WARNING):
        assert_same(evaluate(FastCOCOEvaluator, name, predictions(truth)), expected)
    assert "pycocotools evaluates" in caplog.text


def test_recipes_use_it():
    for name in ("mask_rcnn_regnetx_400mf_fpn_3x", "mask_rcnn_regnety_4.0gf_fpn_lsj_100ep"):
        target = model_zoo.get_config(name).dataloader.evaluator._target_
        assert target in (FastCOCOEvaluator, "d2_regnet.evaluation.FastCOCOEvaluator")
