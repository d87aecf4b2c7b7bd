"""The checks at the start, on custom data sets: each trains, or is refused clearly."""

import json
import logging
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from omegaconf import OmegaConf
from PIL import Image

from d2_regnet.data.before_training import check_before_training, dataset_names
from d2_regnet.data.registered import Uncheckable, load_registered
from d2_regnet.engine import load_config, train
from d2_regnet.model_zoo.yacs import to_yacs

SQUARE = [[8, 8, 40, 8, 40, 40, 8, 40]]


def make(folder, category_ids, images=3, boxes=2, masks=True, categories=None):
    """Images of 64 x 48 with `boxes` boxes each, whose categories follow one another."""
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
def configured(fixtures, tmp_path, monkeypatch):
    """The smallest Mask R-CNN, to be trained for two steps and evaluated."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))

    def configured(train_name, test_name, classes, *overrides):
        return load_config(
            str(fixtures / "tiny_mask_rcnn.py"),
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
        (
            dict(change=as_rle),
            2,
            "as RLE: set .*mapper.instance_mask_format to bitmask",
        ),
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


@pytest.fixture
def yacs(fixtures):
    """yacs(train, test, key, value, ...): the YAML form of the smallest Mask R-CNN."""
    floats = [f"model.backbone.bottom_up.arch.{key}" for key in ("w_a=12.0", "w_m=2.0")]
    cfg = to_yacs(load_config(str(fixtures / "tiny_mask_rcnn.py"), floats))

    def yacs(train_name, test_name, *overrides):
        names = ["DATASETS.TRAIN", (train_name,), "DATASETS.TEST", (test_name,)]
        cfg.merge_from_list([*names, "MODEL.ROI_HEADS.NUM_CLASSES", 2, *overrides])
        return cfg

    return yacs


def test_yacs_configs(register, yacs, caplog):
    whole, one = register("custom", [1, 2]), register("one", [1])
    assert dataset_names(yacs(whole, one)) == {"train": [whole], "test": [one]}
    with pytest.raises(
        ValueError, match="one has 1 classes, but MODEL.ROI_HEADS.NUM_CLASSES is 2: set it to 1"
    ):
        check_before_training(yacs(whole, one))
    check_before_training(yacs(one, whole))
    assert "one has 1 classes, MODEL.ROI_HEADS.NUM_CLASSES is 2" in caplog.text

    rle = register("rle", [1, 2], change=as_rle)
    with pytest.raises(ValueError, match="masks as RLE: set INPUT.MASK_FORMAT to bitmask"):
        check_before_training(yacs(rle, whole, "INPUT.MASK_FORMAT", "polygon"))
    check_before_training(yacs(rle, whole, "INPUT.MASK_FORMAT", "bitmask"))
    check_before_training(yacs(rle, whole, "INPUT.MASK_FORMAT", "polygon"), eval_only=True)

    boxes = register("boxes", [1, 2], masks=False)
    with pytest.raises(ValueError, match="boxes has no masks"):
        check_before_training(yacs(boxes, whole))
    check_before_training(yacs(boxes, whole, "MODEL.MASK_ON", False))
    retinanet = ("MODEL.META_ARCHITECTURE", "MMDetRetinaNet", "MODEL.RETINANET.NUM_CLASSES", 1)
    with pytest.raises(ValueError, match="but MODEL.RETINANET.NUM_CLASSES is 1: set it to 2"):
        check_before_training(yacs(boxes, whole, *retinanet))


def test_dataset_names():
    cfg = OmegaConf.create({"dataloader": {"train": {"dataset": {"names": "a"}}}})
    assert dataset_names(cfg) == {"train": ["a"], "test": []}
    cfg.dataloader.test = {"dataset": {"names": ["b", "c"]}}
    assert dataset_names(cfg) == {"train": ["a"], "test": ["b", "c"]}


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
