"""Valid COCO files, mutated at random: each object is used or named by a finding, and perfect
predictions of what is used have an AP of 100; or one line says why the file is refused."""

import json
import os
import random
import tempfile
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from d2_regnet.data.checks import check_annotations
from d2_regnet.data.cleaning import mended
from d2_regnet.data.formats import read_dataset
from d2_regnet.data.image_checks import check_images
from d2_regnet.data.objects import objects_of
from d2_regnet.evaluation import FastCOCOEvaluator

SIZE = (64, 48)
IMAGES = ("0.png", "1.png", "sub/2.png", "sub/3.png")
VALUES = ("", "x", None, -1, 0, 0.5, "7", 1e9, True, [], {}, "é", 10**400)


def valid(rng):
    """Three classes; up to four objects an image, with rectangles as masks."""
    coco = {
        "images": [
            {"id": i, "file_name": name, "width": SIZE[0], "height": SIZE[1]}
            for i, name in enumerate(IMAGES, 1)
        ],
        "annotations": [],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("cap", "dog", "egg"), 1)],
    }
    for image in coco["images"]:
        for _ in range(rng.randint(1, 4)):
            x, y, w, h = (rng.randint(*ends) for ends in ((0, 40), (0, 30), (3, 24), (3, 18)))
            coco["annotations"].append(
                {
                    "id": len(coco["annotations"]) + 1,
                    "image_id": image["id"],
                    "category_id": rng.randint(1, 3),
                    "bbox": [x, y, w, h],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                    "area": w * h,
                    "iscrowd": int(rng.random() < 0.1),
                }
            )
    return coco


def retype(rng, coco):
    entry = rng.choice(coco[rng.choice(list(coco))])
    entry[rng.choice(list(entry))] = rng.choice(VALUES)


def write_otherwise(rng, coco):
    """A number, or all of its kind, as a text or a fraction."""
    section = rng.choice(list(coco))
    key, kind = rng.choice(list(coco[section][0])), rng.choice([str, float])
    for entry in coco[section] if rng.random() < 0.5 else [rng.choice(coco[section])]:
        if isinstance(entry.get(key), int):
            entry[key] = kind(entry[key])
        elif key == "bbox" and isinstance(entry.get(key), list):
            entry[key] = [*map(kind, entry[key])]


def drop(rng, coco):
    entry = rng.choice(coco[rng.choice(list(coco))])
    entry.pop(rng.choice(list(entry)))


def remove(rng, coco):
    entries = coco[rng.choice(list(coco))]
    if len(entries) > 1:
        entries.pop(rng.randrange(len(entries)))


def repeat(rng, coco):
    entries = coco[rng.choice(list(coco))]
    entries.append(dict(rng.choice(entries)))


def renumber(rng, coco):
    """Other ids, everywhere alike."""
    new = rng.choice(
        [lambda i: -i, lambda i: i << 60, lambda i: i << 100, lambda i: i - 1, lambda i: f"im{i}"]
    )
    key, section = rng.choice([("image_id", "images"), ("id", "annotations")])
    for entry in coco[section]:
        if isinstance(entry.get("id"), int):
            entry["id"] = new(entry["id"])
    if section == "images":
        for entry in coco["annotations"]:
            if isinstance(entry.get(key), int):
                entry[key] = new(entry[key])


def reorder(rng, coco):
    for entries in coco.values():
        rng.shuffle(entries)


def scale(rng, coco):
    """Boxes alone, or masks with them."""
    factor = rng.choice([0.5, 2, 1 / 64, 1000, -1, 0])
    masks = rng.random() < 0.5
    for entry in coco["annotations"]:
        if isinstance(entry.get("bbox"), list):
            entry["bbox"] = [factor * value for value in entry["bbox"] if type(value) is int]
        if masks and isinstance(entry.get("segmentation"), list):
            entry["segmentation"] = [
                [factor * value for value in polygon] for polygon in entry["segmentation"]
            ]


def rename(rng, coco):
    """Files, as other machines write them."""
    change = rng.choice(
        [str.upper, "data/{}".format, "C:\\a\\{}".format, "{}?x=1".format, " {}".format]
    )
    for entry in coco["images"] if rng.random() < 0.5 else [rng.choice(coco["images"])]:
        if isinstance(entry.get("file_name"), str):
            entry["file_name"] = change(entry["file_name"])


MUTATIONS = (*(retype, write_otherwise, drop, remove, repeat, renumber, reorder, scale, rename),)
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "utf-16")


@pytest.fixture(scope="module")
def folder():
    """Four images, made once."""
    with tempfile.TemporaryDirectory() as folder:
        for name in IMAGES:
            path = Path(folder, "images", name)
            path.parent.mkdir(exist_ok=True, parents=True)
            Image.new("RGB", SIZE, "gray").save(path)
        yield Path(folder)


def ap_of_perfect_predictions(coco, images, file):
    """Box AP of each object's own box, by the evaluation that commands use."""
    file.write_text(json.dumps(coco))
    name = f"mutated {os.getpid()}"
    register_coco_instances(name, {}, str(file), str(images))
    try:
        records = DatasetCatalog.get(name)
        ids = MetadataCatalog.get(name).thing_dataset_id_to_contiguous_id
        evaluator = FastCOCOEvaluator(name, tasks=("bbox",))
        evaluator.reset()
        for record in records:
            own = [each for each in objects_of(coco) if each["image_id"] == record["image_id"]]
            found = Instances((record["height"], record["width"]))
            boxes = torch.tensor([each["bbox"] for each in own], dtype=torch.float64)
            boxes = boxes.reshape(-1, 4)
            found.pred_boxes = Boxes(torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1))
            found.pred_classes = torch.tensor([ids[each["category_id"]] for each in own]).long()
            found.scores = torch.ones(len(own))
            evaluator.process([{"image_id": record["image_id"]}], [{"instances": found}])
        return evaluator.evaluate()["bbox"]["AP"]
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def check(seed, folder):
    rng = random.Random(seed)
    written = valid(rng)
    for _ in range(rng.randint(0, 3)):
        rng.choice(MUTATIONS)(rng, written)
    file = folder / "mutated.json"
    file.write_bytes(json.dumps(written).encode(rng.choice(ENCODINGS)))
    try:
        coco, _ = read_dataset(folder / "images", file, "coco")
    except (ValueError, OSError) as error:
        assert "\n" not in str(error) and len(str(error)) < 1200
        assert "mutated.json" in str(error) or str(folder) in str(error)
        return
    named = {each.index for each in check_annotations(coco) if each.section == "annotations"}
    better, left, lines = mended(coco)
    assert all("\n" not in line for line in lines)
    if any(each.level == "error" for each in left) or check_images(
        better["images"], folder / "images"
    ):
        return  # refused
    objects = objects_of(better)
    crowds = {i for i, each in enumerate(coco["annotations"]) if each.get("iscrowd")}
    assert len(coco["annotations"]) == len(written["annotations"])
    assert len(objects) >= len(written["annotations"]) - len(named | crowds)
    if objects:
        ap = ap_of_perfect_predictions(better, folder / "images", file)
        assert ap == pytest.approx(100, abs=1e-6)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_every_object_is_used_or_named(seed, folder):
    check(seed, folder)


@pytest.mark.slow
@settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_of_many_more(seed, folder):
    check(seed, folder)


def test_what_is_not_mutated_is_used_whole(folder):
    """So that the tests above cannot pass by refusing all."""
    written = valid(random.Random(0))
    file = folder / "valid.json"
    file.write_text(json.dumps(written))
    coco, account = read_dataset(folder / "images", file, "coco")
    better, left, _ = mended(coco)
    crowds = sum(each["iscrowd"] for each in written["annotations"])
    assert not [each for each in left if each.level == "error"]
    assert (
        account.used["objects"] == len(written["annotations"]) == len(objects_of(better)) + crowds
    )
