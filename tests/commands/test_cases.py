"""Data sets as annotation tools write them, through the commands: a member of each kind of fault.

An image shows a white rectangle for each cat and a red one for each dog, on black, so that what is
right for a reader, a check or an evaluation is known without the annotations.
"""

import copy
import functools
import json
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_regnet.commands import check_dataset, evaluate
from d2_regnet.data.images import read_image
from d2_regnet.finetune.datasets import read_datasets

WIDTH, HEIGHT = 160, 120
COLOURS = [(255, 255, 255), (255, 0, 0)]  # of cat and dog


def boxes_of(number: int) -> list[list[int]]:
    """x, y, width, height of a cat on the left, and of a dog on the right."""
    rng = np.random.default_rng(number)
    return [
        [int(x + rng.integers(2, 20)), *rng.integers(2, 60, 1).tolist(), *sides]
        for x, sides in zip((0, 80), rng.integers(20, 55, (2, 2)).tolist())
    ]


def write_image(path: Path, boxes=(), **options) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for (x, y, w, h), colour in zip(boxes, COLOURS):
        pixels[y : y + h, x : x + w] = colour
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """(folder of images, COCO dict) of twelve images of a cat and a dog, valid in every respect."""
    folder, images, annotations = tmp_path_factory.mktemp("coco"), [], []
    for i in range(1, 13):
        write_image(folder / f"{i}.png", boxes_of(i))
        images.append({"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT})
        for category, (x, y, w, h) in enumerate(boxes_of(i), 1):
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": category, "area": w * h}
                | {"iscrowd": 0, "bbox": [x, y, w, h], "segmentation": [polygon]}
            )
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    coco = {"images": images, "annotations": annotations, "categories": categories}
    return folder, coco


@pytest.fixture
def variant(base, tmp_path):
    """variant(change of each annotation, change of the dict): its images and its file."""

    def write(each=lambda a: None, whole=lambda c: None, encoding="utf-8"):
        coco = copy.deepcopy(base[1])
        whole(coco)
        for annotation in coco["annotations"]:
            each(annotation)
        (tmp_path / "ann.json").write_text(json.dumps(coco), encoding=encoding)
        return str(base[0]), str(tmp_path / "ann.json")

    return write


class Model(torch.nn.Module):
    """Finds what is white and what is red, a little beside its place."""

    def forward(self, inputs):
        return [{"instances": self.found(each)} for each in inputs]

    def found(self, each):
        blue, _, red = (each["image"] > 128).numpy()
        rng, boxes = np.random.default_rng(sum(map(ord, Path(each["file_name"]).stem))), []
        for mask in (red & blue, red & ~blue):
            (_, (x, y, w, h, _)) = cv2.connectedComponentsWithStats(mask.astype(np.uint8))[2]
            boxes.append(np.array([x, y, x + w, y + h]) + rng.uniform(-4, 4, 4))
        instances = Instances((each["height"], each["width"]))
        instances.pred_boxes = Boxes(torch.as_tensor(np.stack(boxes)))
        instances.scores, instances.pred_classes = torch.tensor([0.9, 0.8]), torch.tensor([0, 1])
        each_box = instances.pred_boxes.tensor.round().int().clip(0).tolist()
        instances.pred_masks = torch.zeros(2, each["height"], each["width"], dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, each_box):
            mask[y0:y1, x0:x1] = True
        return instances


@pytest.fixture
def metrics(monkeypatch, capsys):
    """metrics(images, annotations): what `d2-regnet evaluate` says of that model."""
    predictor = SimpleNamespace(
        model=Model(), classes=["cat", "dog"], augmentations=[], input_format="BGR"
    )
    found = (lambda **options: predictor), None, "w.pth"
    monkeypatch.setattr(evaluate, "find_predictor", lambda *args: found)

    def run(images, annotations):
        capsys.readouterr()
        assert evaluate.main(["--model", "x", "--json", "--data", images, annotations]) == 0
        return json.loads(capsys.readouterr().out)["results"]

    return run


@pytest.fixture
def expected(base, metrics, tmp_path):
    (tmp_path / "base.json").write_text(json.dumps(base[1]))
    found = metrics(str(base[0]), str(tmp_path / "base.json"))
    assert 20 < found["bbox"]["AP"] < 90 and found["bbox"]["APs"] != found["bbox"]["APm"]
    return found


def other_ids(make):
    return lambda annotation: annotation.update(id=make(annotation["id"]))


def dog_first(coco):
    coco["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
    for each in coco["annotations"]:
        each["category_id"] = 3 - each["category_id"]


def sizes_as_floats(coco):
    for each in coco["images"]:
        each |= {"width": float(WIDTH), "height": float(HEIGHT)}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"each": other_ids(lambda i: (i << 40) + 2**63 + i)},
        {"each": other_ids(lambda i: (i << 80) + 2**120 + i)},
        {"each": other_ids(lambda i: -i)},
        {"each": other_ids(lambda i: i - 1)},
        {"each": other_ids(str)},
        {"each": other_ids(float)},
        {"encoding": "utf-8-sig"},
        {"encoding": "utf-16"},
        {"whole": sizes_as_floats},
        {"each": lambda annotation: annotation.pop("area")},
        {"each": lambda annotation: annotation.update(area=0)},
        {"each": lambda annotation: annotation.update(area=annotation["area"] / WIDTH / HEIGHT)},
        {"whole": dog_first},
    ],
)
def test_what_evaluates_to_the_last_digit(variant, metrics, expected, tmp_path, change):
    named = variant(**change)
    assert metrics(*named) == expected
    learnt, tested, _ = read_datasets((named[0], str(tmp_path / "base.json")), named)
    assert learnt.objects == tested.objects == learnt.masks.count(None) + 24 == 24
    assert learnt.categories == tested.categories


def empty_polygon(annotation):
    annotation["segmentation"] = [[]]


def test_a_sound_box_outlasts_its_empty_polygon(variant, tmp_path, capsys):
    named = variant(empty_polygon)
    learnt, _, notes = read_datasets(named, None)
    assert not any(learnt.masks) and "24 of: polygon of under three points" in notes[0]
    assert learnt.objects == 2 * len(learnt.coco["images"])
    fixed = tmp_path / "fixed.json"
    check_dataset.main(["--json", named[1], "--images", named[0], "--fix-to", str(fixed)])
    kept = json.loads(fixed.read_text())["annotations"]
    assert [each["bbox"] for each in kept] == [box for i in range(1, 13) for box in boxes_of(i)]
    assert len(Path(f"{fixed}.changes.txt").read_text().splitlines()) == 24


def corners(annotation):
    x, y, w, h = annotation["bbox"]
    annotation["bbox"] = [x, y, x + w, y + h]


def fractions(annotation):
    x, y, w, h = annotation["bbox"]
    box = [x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT]
    annotation.update(bbox=box, segmentation=[])


@pytest.mark.parametrize(
    ("each", "said"),
    [
        (lambda a: a.update(iscrowd=1), "all 24 annotations are crowd regions"),
        (fractions, "as fractions of the image, which they probably are"),
        (corners, "fit their masks .* as corners .x0, y0, x1, y1. in pixels, which they probably"),
    ],
)
def test_what_is_refused_with_its_reason(variant, tmp_path, capsys, each, said):
    named = variant(each)
    with pytest.raises(ValueError, match=said):
        read_datasets(named, None)
    if each in (fractions, corners):
        line = ["--json", named[1], "--images", named[0], "--fix-to", str(tmp_path / "new.json")]
        with pytest.raises(SystemExit):
            check_dataset.main(line)
        assert "which they probably are: convert them" in capsys.readouterr().err
        assert not (tmp_path / "new.json").exists()


CAP = {"label": "cap", "points": [[10, 10], [50, 12], [48, 60], [12, 55]], "shape_type": "polygon"}
CIRCLE = {"label": "cap", "points": [[100, 60], [120, 60]], "shape_type": "circle"}
UNTYPED = {"label": "cap", "points": [[80, 40], [120, 40], [120, 70], [80, 70]]}
THIN = CAP | {"points": [[100.2, 40.1], [130.3, 40.2], [115.0, 40.4]]}


@pytest.mark.parametrize(
    ("second", "objects", "masks"),
    [
        (lambda i: [CIRCLE], 20, 20),
        (lambda i: [UNTYPED], 20, 20),
        (lambda i: [THIN] if i == 7 else [], 11, 10),
    ],
)
def test_labelme(tmp_path, second, objects, masks):
    for i in range(10):
        write_image(tmp_path / "img" / f"{i}.png")
        content = {"shapes": [CAP, *second(i)], "imagePath": f"{i}.png"}
        content |= {"imageWidth": WIDTH, "imageHeight": HEIGHT}
        (tmp_path / f"{i}.json").write_text(json.dumps(content))
    named = str(tmp_path / "img"), str(tmp_path)
    learnt, _, notes = read_datasets(named, named)
    assert learnt.objects == objects and sum(map(bool, learnt.masks)) == masks
    assert any("covers no pixel" in note and "7.json" in note for note in notes) == (masks == 10)
    if second(0) == [CIRCLE]:
        circle = learnt.coco["annotations"][1]
        assert circle["bbox"] == pytest.approx([80, 40, 40, 40])
        assert circle["area"] == pytest.approx(np.pi * 20**2, rel=0.02)


def voc(path: Path, name: str, boxes, label="cap") -> None:
    path.parent.mkdir(exist_ok=True)
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
        f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h in boxes
    )
    path.write_text(f"<annotation><filename>{name}</filename>{size}{objects}</annotation>")


def test_boxes_of_pixels_that_exif_turns(tmp_path):
    turned = Image.Exif()
    turned[274] = 6
    for i in range(10):
        write_image(tmp_path / "img" / f"{i}.jpg", boxes_of(i)[:1], exif=turned)
        voc(tmp_path / "ann" / f"{i}.xml", f"{i}.jpg", boxes_of(i)[:1])
    named = str(tmp_path / "img"), str(tmp_path / "ann")
    learnt, _, _ = read_datasets(named, named)
    for record, annotation in zip(learnt.coco["images"], learnt.coco["annotations"]):
        size = record["width"], record["height"]
        pixels = read_image(f"{learnt.folder}/{record['file_name']}", "RGB", size)
        x, y, w, h = map(int, annotation["bbox"])
        assert size == (WIDTH, HEIGHT) and pixels[y : y + h, x : x + w].mean() > 240


def test_suffixes_and_images_that_nobody_has_labelled(tmp_path):
    for i, name in enumerate([*(f"a{i}.jpg" for i in range(6)), "b.ppm"]):
        write_image(tmp_path / "img" / name, boxes_of(i)[:1])
        path = tmp_path / "ann" / f"{Path(name).stem}.xml"
        voc(path, name, boxes_of(i)[:1], "rare" if name == "b.ppm" else "cap")
    for i in range(5):
        write_image(tmp_path / "img" / f"unlabelled{i}.jpg")
    named = str(tmp_path / "img"), str(tmp_path / "ann")
    learnt, _, notes = read_datasets(named, named)
    assert learnt.objects == 7 and learnt.classes == ["cap", "rare"]
    assert "5 of 12 images left out: no .xml file, so nobody has labelled them" in notes[0]


def test_nested_folders_of_yolo(tmp_path):
    for i in range(40):
        folder = "cam1" if i >= 10 else "."
        write_image(tmp_path / "images" / folder / f"{i}.jpg")
        label = tmp_path / "labels" / folder / f"{i}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("names: ['cap']\n")
    read = functools.partial(read_datasets, (str(tmp_path / "images"), str(tmp_path / "labels")))
    learnt, tested, _ = read(None)
    assert len(learnt.coco["images"] + tested.coco["images"]) == 40
    assert learnt.objects + tested.objects == 40
