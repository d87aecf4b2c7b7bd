"""The checks before training, on custom data sets: each trains, or is refused clearly."""

import json
import logging
import math

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from omegaconf import OmegaConf
from PIL import Image

from d2_regnet.data import register_shapes
from d2_regnet.data.checks import check_annotations
from d2_regnet.data.registered import (
    Uncheckable,
    check_before_training,
    dataset_names,
    load_registered,
    register_described,
    to_coco,
)
from d2_regnet.engine import load_config, train

SQUARE = [[8, 8, 40, 8, 40, 40, 8, 40]]


def make(folder, category_ids, images=3, boxes=2, masks=True, categories=None):
    """Pictures of 64 x 48 with `boxes` boxes each, whose categories follow one another."""
    folder.mkdir()
    content = dict(images=[], annotations=[])
    content["categories"] = [
        dict(id=i, name=f"class {i}") for i in (category_ids if categories is None else categories)
    ]
    rng = np.random.RandomState(0)
    for i in range(images):
        pixels = rng.randint(256, size=(48, 64, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        content["images"].append(dict(id=i, file_name=f"{i}.png", width=64, height=48))
        for _ in range(boxes):
            number = len(content["annotations"]) + 1
            annotation = dict(id=number, image_id=i, bbox=[8, 8, 32, 32], area=1024, iscrowd=0)
            annotation["category_id"] = category_ids[number % len(category_ids)]
            if masks:
                annotation["segmentation"] = SQUARE
            content["annotations"].append(annotation)
    return content


@pytest.fixture
def register(tmp_path):
    names = []

    def register(name, category_ids, change=None, **kwargs):
        content = make(tmp_path / name, category_ids, **kwargs)
        if change is not None:
            change(content)
        path = tmp_path / name / "annotations.json"
        path.write_text(json.dumps(content))
        register_coco_instances(name, {}, str(path), str(path.parent))
        names.append(name)
        return name

    yield register
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def configured(data, tmp_path, monkeypatch):
    """The smallest Mask R-CNN, to be trained for two steps and evaluated."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))

    def configured(train_name, test_name, classes, *overrides):
        return load_config(
            str(data / "tiny_mask_rcnn.py"),
            [
                f"dataloader.train.dataset.names={train_name}",
                f"dataloader.test.dataset.names={test_name}",
                f"model.roi_heads.num_classes={classes}",
                f"train.output_dir={tmp_path / 'out'}",
                "train.device=cpu",
                "train.max_iter=2",
                *overrides,
            ],
        )

    return configured


@pytest.mark.parametrize(
    "category_ids", [[1, 2, 3], [1], [5], [3, 17, 90], list(range(1, 10_001))], ids=len
)
def test_trains_and_evaluates(register, configured, category_ids):
    name = register("custom", category_ids)
    cfg = configured(name, name, len(category_ids))
    check_before_training(cfg)
    results = train(cfg, console=False)
    assert set(results) >= {"bbox"}


def test_validation_without_annotations(register, configured):
    cfg = configured(register("custom", [1]), register("unlabelled", [1], boxes=0), 1)
    check_before_training(cfg)
    results = train(cfg, console=False)
    assert all(math.isnan(v) or v == -1 for v in results["bbox"].values())


def clear_images(content):
    content.update(images=[], annotations=[])


def clear_categories(content):
    content.update(categories=[], annotations=[])


def all_crowd(content):
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1


def as_rle(content):
    for annotation in content["annotations"]:
        annotation["segmentation"] = {"size": [48, 64], "counts": [0, 1024, 2048]}


def same_id(content):
    content["annotations"][1]["id"] = 1
    content["annotations"][1]["bbox"] = [0, 0, 5, 5]


def other_pictures(content):
    for image in content["images"]:
        image["file_name"] = f"no_{image['file_name']}"


@pytest.mark.parametrize(
    ("kwargs", "classes", "message"),
    [
        (dict(change=clear_images), 2, "custom.*empty: its list of images"),
        (dict(change=clear_categories), 2, "custom.*empty: its list of categories"),
        (dict(boxes=0), 2, "custom has no annotations"),
        (dict(change=all_crowd), 2, "custom has no annotations"),
        (dict(masks=False), 2, "custom has no masks: .*faster_rcnn"),
        (dict(change=as_rle), 2, "instance_mask_format=bitmask"),
        (dict(), 1, "custom has 2 classes, but model.roi_heads.num_classes is 1: set"),
        (dict(), 3, "valid has 2 classes, but model.roi_heads.num_classes is 3: set"),
        (dict(categories=[1]), 1, r"custom has 3 error\(s\), the first: unknown category id"),
        (dict(change=same_id), 2, "duplicate annotation id.*check_dataset.py --dataset custom"),
        (dict(change=other_pictures), 2, "of 3 images looked at, none can be used.*missing image"),
    ],
)
def test_refused(register, configured, kwargs, classes, message):
    cfg = configured(
        register("custom", [1, 2], **kwargs),
        register("valid", [1, 2]),
        classes,
        "dataloader.train.mapper.instance_mask_format=polygon",
    )
    with pytest.raises(ValueError, match=message):
        check_before_training(cfg)
    if "valid" not in message:  # what is only trained on does not matter to an evaluation
        classes = 2
        cfg.model.roi_heads.num_classes = classes
        check_before_training(cfg, eval_only=True)


def test_an_empty_validation_set(register, configured):
    cfg = configured(register("custom", [1]), register("none", [1], images=0), 1)
    with pytest.raises(ValueError, match=r"none.annotations.json: the data set is empty"):
        check_before_training(cfg)


def test_warnings(register, configured, caplog):
    def change(content):
        content["annotations"][0]["bbox"] = [1, 1, 0, 5]
        content["annotations"][2]["bbox"] = [1, 1, 0, 5]
        content["images"][2]["file_name"] = "gone.png"

    cfg = configured(register("custom", [1, 2], change=change), register("valid", [1, 2, 3]), 3)
    with caplog.at_level(logging.WARNING):
        check_before_training(cfg)
    assert "custom: 2 x empty box, such as annotation 1 of image 0" in caplog.text
    assert "of 3 images looked at, 1 cannot be used, such as missing image: image 2" in caplog.text
    assert "custom has 2 classes, model.roi_heads.num_classes is 3" in caplog.text


def test_dataset_names():
    cfg = OmegaConf.create({"dataloader": {"train": {"dataset": {"names": "a"}}}})
    assert dataset_names(cfg) == {"train": ["a"], "test": []}
    cfg.dataloader.test = {"dataset": {"names": ["b", "c"]}}
    assert dataset_names(cfg) == {"train": ["a"], "test": ["b", "c"]}


def test_built_in_data_sets_are_sound(tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path))
    (name,) = register_shapes(11, {"val": 3})
    coco, folder, path = load_registered(name)
    assert path.startswith(folder) and len(coco["images"]) == 3
    assert {f.level for f in check_annotations(coco)} <= {"note"}


def test_dataset_dicts_as_coco():
    box = dict(category_id=1, bbox=[2, 3, 10, 20], bbox_mode=BoxMode.XYXY_ABS)
    rle = mask_utils.encode(np.asfortranarray(np.ones((30, 40), np.uint8)))
    annotations = [
        box | {"segmentation": [np.array([2.0, 3, 10, 3, 10, 20])]},
        box | {"segmentation": rle, "iscrowd": 1},
        {"category_id": 1},
    ]
    record = dict(file_name="/a.png", width=40, height=30, annotations=annotations)
    coco = to_coco([record], ["cat", "dog"])
    assert coco["images"] == [dict(id=0, file_name="/a.png", width=40, height=30)]
    first, second, third = coco["annotations"]
    assert first["bbox"] == [2, 3, 8, 17] and first["category_id"] == 1
    assert first["segmentation"] == [[2, 3, 10, 3, 10, 20]]
    assert second["segmentation"]["counts"] == rle["counts"].decode() and second["iscrowd"] == 1
    kinds = [f.kind for f in check_annotations(coco) if f.level == "error"]
    assert third["bbox"] is None and kinds == ["malformed entry"]
    assert len(to_coco([record, record], ["cat"])["images"]) == 2


def test_dataset_dicts_without_class_names():
    annotations = [{"category_id": 4, "bbox": [0, 0, 9, 9], "bbox_mode": BoxMode.XYXY_ABS}]
    record = dict(file_name="/a.png", width=40, height=30, annotations=annotations)
    coco = to_coco([record], None)
    assert len(coco["categories"]) == 5
    assert {f.level for f in check_annotations(coco)} == {"note"}


def test_a_torch_data_set_is_left_alone(register, configured):
    class Pictures(torch.utils.data.Dataset):
        pass

    cfg = configured(register("custom", [1]), "torch_pictures", 1)
    DatasetCatalog.register("torch_pictures", Pictures)
    try:
        check_before_training(cfg)
        with pytest.raises(Uncheckable, match="torch_pictures"):
            load_registered("torch_pictures")
    finally:
        DatasetCatalog.remove("torch_pictures")


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'shapes_trian' is not registered.*shapes_train"):
        load_registered("shapes_trian")


@pytest.fixture
def described(tmp_path):
    """described(1) -> a config that describes a data set of one picture and so many classes."""
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")

    def config(classes):
        file = tmp_path / f"{classes}.json"
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
            "categories": [{"id": 9 - i, "name": f"c{i}"} for i in range(classes)],
            "annotations": [],
        }
        file.write_text(json.dumps(content))
        node = {"json_file": str(file), "image_root": str(tmp_path)}
        node["categories"] = content["categories"]
        return OmegaConf.create({"datasets": {"described_by_test": node}})

    yield config
    DatasetCatalog.pop("described_by_test", None)
    MetadataCatalog.pop("described_by_test", None)


def test_a_config_registers_its_data_sets(described):
    register_described(OmegaConf.create({}))
    register_described(described(2))
    metadata = MetadataCatalog.get("described_by_test")
    assert metadata.thing_classes == ["c1", "c0"]  # by id
    assert metadata.thing_dataset_id_to_contiguous_id == {8: 0, 9: 1}
    assert len(DatasetCatalog.get("described_by_test")) == 1  # which checks the names again
    register_described(described(1))
    assert MetadataCatalog.get("described_by_test").thing_classes == ["c0"]
    assert load_registered("described_by_test")[2].endswith("1.json")


def test_a_described_data_set_is_whole_and_of_a_new_name(described):
    cfg = described(1)
    cfg.datasets["coco_2017_val"] = cfg.datasets.described_by_test
    with pytest.raises(ValueError, match=r"datasets\.coco_2017_val"):
        register_described(cfg)
    del cfg.datasets["coco_2017_val"]
    del cfg.datasets.described_by_test.image_root
    with pytest.raises(ValueError, match="described_by_test has no image_root"):
        register_described(cfg)
