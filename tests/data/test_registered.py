"""Data sets that are registered, or that a config describes."""

import json

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from omegaconf import OmegaConf
from PIL import Image

from d2_regnet.data import register_shapes
from d2_regnet.data.checks import check_annotations
from d2_regnet.data.registered import Uncheckable, load_registered, register_described, to_coco


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


def test_neither_a_file_nor_a_list():
    DatasetCatalog.register("a_stream", lambda: iter([]))
    try:
        with pytest.raises(Uncheckable, match="a_stream"):
            load_registered("a_stream")
    finally:
        DatasetCatalog.remove("a_stream")


def test_unknown_name():
    with pytest.raises(ValueError, match=r"'shapes_trian' is not registered.*shapes_train"):
        load_registered("shapes_trian")


@pytest.fixture
def described(tmp_path):
    """described(1) -> a config that describes a data set of one image and so many classes."""
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
