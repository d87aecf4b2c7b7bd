"""Rows made configs for other data: they build, and have its classes."""

from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import pytest
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from omegaconf import OmegaConf

from d2_regnet import model_zoo
from d2_regnet.engine import load_config
from d2_regnet.finetune import adapt
from d2_regnet.finetune.datasets import DataSet

ROWS = {
    "mask_rcnn": "mask_rcnn_regnetx_400mf_fpn_3x",
    "cascade": "cascade_mask_rcnn_regnetx_400mf_fpn_3x",
    "retinanet": "retinanet_regnetx_800mf_fpn_1x",
}


def dataset(width=640, height=480, segmentation=None):
    return DataSet(
        "/pictures",
        {
            "images": [{"id": 1, "file_name": "a", "width": width, "height": height}],
            "categories": [{"id": 4, "name": "dog"}, {"id": 2, "name": "cat"}],
            "annotations": [
                {"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9], "segmentation": segmentation}
            ],
        },
        None,
        "mine",
    )


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("masks", [True, False])
def test_heads_of_another_size(row, masks):
    cfg = model_zoo.get_config(ROWS[row])
    cfg.model.backbone.bottom_up.arch = "RegNetX-200MF"
    adapt.set_model(cfg, 3, masks)
    assert adapt.has_masks(cfg) == (masks and row != "retinanet")
    model = instantiate(cfg.model)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if row == "retinanet":
        assert shapes["head.cls_score.weight"][0] == 9 * 3
        return
    scores = [s for name, s in shapes.items() if name.endswith("cls_score.weight")]
    assert {each[0] for each in scores} == {4}
    predicted = [
        s for name, s in shapes.items() if name.endswith("predictor.weight") and "mask" in name
    ]
    assert {each[0] for each in predicted} == ({3} if masks else set())


def test_the_data_are_in_the_config():
    cfg = load_config(ROWS["mask_rcnn"])
    rle = {"size": [480, 640], "counts": [640 * 480]}
    short = adapt.set_data(
        cfg, "mine", dataset(segmentation=rle), dataset(), folder=Path("/out/data"), short_edge=None
    )
    assert short == 800
    assert cfg.dataloader.train.dataset.names == "mine_train"
    assert cfg.dataloader.evaluator.dataset_name == "mine_val"
    assert cfg.datasets.mine_val.json_file == "/out/data/val.json"
    assert cfg.datasets.mine_train.image_root == "/pictures"
    assert [each.name for each in cfg.datasets.mine_train.categories] == ["cat", "dog"]
    assert cfg.dataloader.train.mapper.instance_mask_format == "bitmask"
    assert cfg.dataloader.train.mapper.use_instance_mask


@pytest.mark.parametrize(
    ("side", "asked", "expected"), [(480, None, 800), (150, None, 320), (480, 400, 400)]
)
def test_sizes_follow_the_pictures(side, asked, expected):
    cfg = load_config(ROWS["mask_rcnn"])
    data = dataset(2 * side, side)
    found = adapt.set_data(cfg, "mine", data, data, folder=Path("/out"), short_edge=asked)
    train, test = (cfg.dataloader[part].mapper.augmentations[0] for part in ("train", "test"))
    assert found == expected
    assert test.short_edge_length == expected
    assert list(train.short_edge_length) == [round(640 * expected / 800), expected]
    assert test.max_size == train.max_size == round(1333 * expected / 800)


def test_a_config_without_resizing(root):
    """It stays without, or resizes where that is asked for; what else it does is left alone."""
    cfg = load_config(str(root / "configs" / "mask_rcnn_regnetx_200mf_fpn_shapes.py"))
    mine, mappers = dataset(), (cfg.dataloader.train.mapper, cfg.dataloader.test.mapper)
    assert adapt.set_data(cfg, "m", mine, mine, folder=Path("x"), short_edge=None) is None
    assert [len(mapper.augmentations) for mapper in mappers] == [1, 0]
    assert adapt.set_data(cfg, "m", mine, mine, folder=Path("x"), short_edge=320) == 320
    resize, flip = instantiate(mappers[0].augmentations)
    assert isinstance(flip, T.RandomFlip) and isinstance(resize, T.ResizeShortestEdge)
    (test,) = instantiate(mappers[1].augmentations)
    for each in (resize, test):
        transform = each.get_transform(np.zeros((100, 200, 3)))
        assert (transform.new_h, transform.new_w) == (267, 533)
    mappers[1].augmentations = [L(T.Resize)(shape=(80, 80))]
    with pytest.raises(ValueError, match="resizes in another way"):
        adapt.set_data(cfg, "m", mine, mine, folder=Path("x"), short_edge=400)


def test_from_scratch_nothing_is_frozen():
    cfg = load_config(ROWS["mask_rcnn"])
    assert adapt.from_scratch(cfg) and not adapt.from_scratch(cfg)
    model = instantiate(cfg.model.backbone.bottom_up)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("row", "key"),
    [
        ("mask_rcnn_regnetx_400mf_fpn_3x", "roi_heads.box_predictor.test_topk_per_image"),
        (
            "cascade_mask_rcnn_regnetx_400mf_fpn_3x",
            "roi_heads.box_predictors[2].test_topk_per_image",
        ),
        ("retinanet_regnetx_800mf_fpn_1x", "max_detections_per_image"),
    ],
)
def test_as_many_detections_as_objects(row, key):
    cfg = load_config(row)
    assert adapt.set_detections(cfg, 100) is None
    assert adapt.set_detections(cfg, 301) == 400
    assert OmegaConf.select(cfg.model, key) == 400
    assert list(cfg.dataloader.evaluator.max_dets_per_image) == [1, 10, 400]
