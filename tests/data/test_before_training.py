"""The checks at the start, on custom data sets: each trains, or is refused clearly."""

import json
import logging

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


def no_areas(content):
    for each in content["annotations"]:
        each |= {"bbox": [8, 8, 0, 5], "segmentation": []}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(boxes=0), "unlabelled has no annotations, so nothing to learn from or to evaluate"),
        (dict(change=no_areas), "unlabelled has no object: of 6 annotations, 0 are crowd"),
    ],
)
@pytest.mark.parametrize("kind", ["lazy", "yacs"])
def test_validation_without_objects(register, configured, kind, kwargs, message):
    cfg = configured(register("custom", [1]), register("unlabelled", [1], **kwargs), 1)
    cfg = to_yacs(cfg) if kind == "yacs" else cfg
    for eval_only in (False, True):
        with pytest.raises(ValueError, match=message):
            check_before_training(cfg, eval_only=eval_only)


def test_a_test_set_to_be_predicted_alone(register, configured):
    """As COCO's test2017, whose file has no list of annotations: there is no AP of it."""
    unknown = register("unlabelled", [1], change=lambda content: content.pop("annotations"))
    assert check_before_training(configured(register("custom", [1]), unknown, 1)) == ["class 1"]


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
        (
            dict(change=all_crowd),
            2,
            "custom: all . annotations are crowd regions.*--crowd-as-objects",
        ),
        (dict(masks=False), 2, "custom has no masks: .*faster_rcnn"),
        (
            dict(change=as_rle),
            2,
            "as RLE: set .*mapper.instance_mask_format to bitmask",
        ),
        (dict(), 1, "custom has 2 classes, but model.roi_heads.num_classes is 1: set"),
        (dict(), 3, "valid has 2 classes, but model.roi_heads.num_classes is 3: set"),
        (dict(categories=[1]), 1, r"custom has 3 error\(s\), the first: unknown category id"),
        (dict(change=same_id), 2, "duplicate annotation id.*check-dataset --dataset custom"),
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


def renamed(*names):
    def change(content):
        for each, name in zip(content["categories"], names):
            each["name"] = name

    return change


@pytest.mark.parametrize("kind", ["lazy", "yacs"])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dog", "cat"), "valid has the classes of custom in another order: class 1 is 'dog', and"),
        (("cat", "cow"), "valid has the classes of custom not: class 2 is 'cow', and 'dog' there"),
    ],
)
def test_other_names_of_classes(register, configured, kind, names, message):
    cfg = configured(
        register("custom", [1, 2], change=renamed("cat", "dog")),
        register("valid", [11, 12], change=renamed(*names)),
        2,
    )
    with pytest.raises(ValueError, match=message):
        check_before_training(to_yacs(cfg) if kind == "yacs" else cfg)


def test_names_that_the_training_data_are_registered_with(register, configured):
    """An evaluation alone compares with what is known of the training data without their file."""
    cfg = configured("learnt", register("valid", [1, 2], change=renamed("dog", "cat")), 2)
    register_coco_instances("learnt", {"thing_classes": ["cat", "dog"]}, "gone.json", "gone")
    try:
        with pytest.raises(ValueError, match="valid has the classes of learnt in another order"):
            check_before_training(cfg, eval_only=True)
    finally:
        DatasetCatalog.remove("learnt")
        MetadataCatalog.remove("learnt")


def remove_images(*numbers):
    def change(content):
        for image in content["images"]:
            if image["id"] in numbers:
                image["file_name"] = f"gone/{image['id']}.png"

    return change


def test_images_that_would_end_the_run_at_its_first_evaluation(register, configured, caplog):
    one_missing = remove_images(1)
    cfg = configured(register("custom", [1]), register("valid", [1], change=one_missing), 1)
    with pytest.raises(ValueError, match="valid: of 3 images looked at, 1 cannot.*gone/1.png"):
        check_before_training(cfg)
    cfg = configured(register("train", [1], change=one_missing), "custom", 1)
    with caplog.at_level(logging.WARNING):
        check_before_training(cfg)  # one is always skipped
    assert "of 3 images looked at, 1 cannot be used" in caplog.text
    cfg = configured(register("two", [1], change=remove_images(0, 1)), "custom", 1)
    with pytest.raises(ValueError, match="two: of 3 images looked at, 2 cannot.*at most 1 may be"):
        check_before_training(cfg)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_encodings_that_detectron2_does_not_read(register, configured, encoding, tmp_path):
    name = register("custom", [1])
    path = tmp_path / "custom" / "annotations.json"
    path.write_text(path.read_text(), encoding=encoding)
    with pytest.raises(ValueError, match="custom: .*is not in UTF-8.*--fix-to NEW.json"):
        check_before_training(configured(name, name, 1))


def test_sizes_as_floats_train_and_evaluate(register, configured):
    def change(content):
        for image in content["images"]:
            image.update(width=64.0, height=48.0)

    name = register("custom", [1], change=change)
    cfg = configured(name, name, 1)
    check_before_training(cfg)
    assert set(train(cfg, console=False)) == {"bbox", "segm"}


def test_some_objects_without_masks_take_a_head_that_leaves_them_out(register, configured):
    def change(content):
        for annotation in content["annotations"][::2]:
            del annotation["segmentation"]

    name = register("custom", [1], change=change)
    cfg = configured(name, name, 1)
    with pytest.raises(ValueError, match="3 objects without a mask.*or with PartialMaskHead"):
        check_before_training(cfg)
    cfg.model.roi_heads.mask_head._target_ = "d2_regnet.modeling.PartialMaskHead"
    check_before_training(cfg)
    results = train(cfg, console=False)
    assert set(results) == {"bbox", "segm"}
