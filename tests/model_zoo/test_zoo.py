"""Rows by name."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.file_io import PathManager
from omegaconf import DictConfig

from d2_regnet import list_archs, model_zoo
from d2_regnet.model_zoo import zoo
from d2_regnet.model_zoo.recipes import DETECTORS

DATA = Path(__file__).parents[1] / "fixtures"
MMDET = {row["mmdet_config"]: row for row in json.loads((DATA / "table_rows.json").read_text())}
DETECTRON2 = {row["config"]: row for row in json.loads((DATA / "detectron2_rows.json").read_text())}
ROWS = model_zoo.list()


def test_every_published_row_is_there():
    rows = model_zoo.rows()
    assert len(ROWS) == len(set(ROWS)) == 39
    by_source = {
        source: {row["config"] for row in rows.values() if row["source"] == source}
        for source in ("mmdet", "detectron2")
    }
    assert by_source["mmdet"] == set(MMDET)
    assert by_source["detectron2"] > set(DETECTRON2)


@pytest.mark.parametrize("name", ROWS)
def test_published_facts(name):
    row = model_zoo.rows()[name]
    if row["source"] == "mmdet":
        facts = MMDET[row["config"]]
        assert row["url"] == facts["weights"]
        for key in ("box_ap", "mask_ap", "mem_gb"):
            assert row[key] == facts[key]
        assert row["params"] == facts["params_total"]
    elif row["config"] in DETECTRON2:
        facts = DETECTRON2[row["config"]]
        assert (row["box_ap"], row["mask_ap"]) == (facts["box_ap"], facts["mask_ap"])
        from detectron2.model_zoo import get_checkpoint_url

        assert row["url"] == get_checkpoint_url(row["config"])
    else:
        assert (row["box_ap"], row["mask_ap"], row["url"]) == (None, None, None)


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("mask_rcnn_regnetx_3.2gf_fpn_1x", "mask_rcnn_regnetx_3.2gf_fpn_1x"),
        ("mask_rcnn_regnetx_4gf_fpn_1x", "mask_rcnn_regnetx_4.0gf_fpn_1x"),
        ("Mask_RCNN_RegNetX-4.0GF_FPN_1x", "mask_rcnn_regnetx_4.0gf_fpn_1x"),
        ("mask-rcnn-regnetx-3200mf-fpn-1x.py", "mask_rcnn_regnetx_3.2gf_fpn_1x"),
        ("mask_rcnn_regnetx_3_2gf_fpn_1x.yaml", "mask_rcnn_regnetx_3.2gf_fpn_1x"),
        ("retinanet_regnety_12gf_fpn_3x", "retinanet_regnety_12gf_fpn_3x"),
        ("mask_rcnn_x101-32x4d_fpn_1x", "mask_rcnn_x101_32x4d_fpn_1x"),
        # MMDetection's and Detectron2's own names of rows.
        ("mask-rcnn_regnetx-3.2GF_fpn_ms-3x_coco", "mask_rcnn_regnetx_3.2gf_fpn_3x"),
        ("mask-rcnn_regnetx-400MF_fpn_ms-poly-3x_coco", "mask_rcnn_regnetx_400mf_fpn_3x"),
        ("mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ", "mask_rcnn_regnetx_4.0gf_fpn_lsj_100ep"),
        ("mask_rcnn_regnety_4gf_dds_fpn_1x", "mask_rcnn_regnety_4.0gf_dds_fpn_1x"),
    ],
)
def test_spellings(spelled, name):
    assert model_zoo.canonical_name(spelled) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mask_rcnn_regnetx_3.2gf_fpn_4x", "nearest are mask_rcnn_regnetx_3.2gf_fpn_3x"),
        ("mask_rcn_regnetx_3.2gf_fpn_1x", "nearest are mask_rcnn_regnetx_3.2gf_fpn_1x"),
        ("mask_rcnn_regnetx_5gf_fpn_1x", "unknown RegNet 'regnetx_5gf'.*nearest"),
        ("", "model_zoo.list"),
    ],
)
@pytest.mark.parametrize(
    "function",
    [model_zoo.get_config, model_zoo.get_config_file, model_zoo.get_checkpoint_url, model_zoo.get],
)
def test_unknown_names_list_the_nearest(function, name, message):
    with pytest.raises(ValueError, match=message):
        function(name)


def test_both_forms():
    lazy = model_zoo.get_config("mask_rcnn_regnetx_3.2gf_fpn_1x")
    yacs = model_zoo.get_config("mask_rcnn_regnetx_3.2gf_fpn_1x.yaml")
    assert isinstance(lazy, DictConfig) and isinstance(yacs, CfgNode)
    assert lazy.model.backbone.bottom_up.arch == yacs.MODEL.REGNETS.ARCH == "RegNetX-3.2GF"
    assert model_zoo.get_config_file("mask_rcnn_regnetx_4gf_fpn_1x.yaml").endswith(
        "configs/yaml/mask_rcnn_regnetx_4.0gf_fpn_1x.yaml"
    )


def test_trained():
    name = "retinanet_regnetx_800mf_fpn_1x"
    url = f"regnet://mmdet/{name}"
    assert model_zoo.get_checkpoint_url("RetinaNet_RegNetX-800MF_FPN_1x") == url
    assert model_zoo.get_config(name, trained=True).train.init_checkpoint == url
    assert url == model_zoo.get_config(f"{name}.yaml", trained=True).MODEL.WEIGHTS
    untrained = model_zoo.get_config(name)
    assert untrained.train.init_checkpoint == "regnet://pycls/RegNetX-800MF"


@pytest.mark.parametrize("name", ROWS)
def test_every_address_is_in_the_catalogue(name):
    init = model_zoo.get_config(name).train.init_checkpoint
    assert init == "" or PathManager.exists(init)
    if model_zoo.rows()[name]["url"]:
        assert PathManager.exists(model_zoo.get_checkpoint_url(name))


@pytest.mark.parametrize(
    "name", ["mask_rcnn_regnetx_4.0gf_dds_fpn_1x", "retinanet_regnety_1.6gf_fpn_3x"]
)
def test_no_published_weights(name):
    with pytest.raises(ValueError, match=f"no weights of {name} are published.*"):
        model_zoo.get_checkpoint_url(name)


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("schedule", ["1x", "3x"])
def test_every_arch_by_name(detector, schedule):
    for arch in list_archs():
        cfg = model_zoo.get_config(f"{detector}_{arch}_fpn_{schedule}")
        assert cfg.model.backbone.bottom_up.arch == arch
        assert cfg.train.init_checkpoint == f"regnet://pycls/{arch}"
        assert cfg.train.max_iter == {"1x": 12, "3x": 36}[schedule] * 7330


def test_composed_names_have_no_file():
    name = "mask_rcnn_regnety_1.6gf_fpn_3x"
    assert isinstance(model_zoo.get_config(f"{name}.yaml"), CfgNode)
    with pytest.raises(ValueError, match=f"{name} has no file, it is composed: use get_config"):
        model_zoo.get_config_file(name)


@pytest.mark.parametrize(
    ("name", "clip_grad"),
    [
        ("retinanet_regnetx_600mf_fpn_1x", {"max_norm": 35.0, "norm_type": 2.0}),
        ("retinanet_regnetx_600mf_fpn_lsj_100ep", None),
        ("mask_rcnn_regnetx_600mf_fpn_3x", {"max_norm": 35.0, "norm_type": 2.0}),
        ("mask_rcnn_regnetx_600mf_fpn_1x", None),
        ("faster_rcnn_regnetx_600mf_fpn_3x", None),
        ("cascade_mask_rcnn_regnetx_600mf_fpn_3x", None),
        ("retinanet_r101_fpn_1x", None),
    ],
)
def test_compositions_are_clipped_as_their_published_neighbours(name, clip_grad):
    assert model_zoo.get_config(name).train.clip_grad == clip_grad


def test_composed_variants():
    cfg = model_zoo.get_config("faster_rcnn_regnety_400mf_dcn_fpn_2x")
    assert cfg.model.backbone.bottom_up.deform_stages == ["s2", "s3", "s4"]
    cfg = model_zoo.get_config("mask_rcnn_regnety_400mf_dds_fpn_1x")
    assert cfg.model.backbone.bottom_up.norm == "FrozenBN"
    with pytest.raises(ValueError, match="Detectron2's own recipe is Mask R-CNN at 1x"):
        model_zoo.get_config("retinanet_regnety_400mf_dds_fpn_1x")


@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_get_loads_the_weights(suffix, monkeypatch, tmp_path):
    name = f"faster_rcnn_regnetx_400mf_fpn_3x{suffix}"
    monkeypatch.setattr(zoo.SafeCheckpointer, "load", lambda self, path: path)
    untouched = model_zoo.get(name, device="cpu")
    weights = {key: torch.full_like(value, 0.5) for key, value in untouched.state_dict().items()}
    monkeypatch.undo()
    torch.save({"model": weights}, tmp_path / "weights.pth")
    monkeypatch.setattr(zoo, "get_checkpoint_url", lambda name: str(tmp_path / "weights.pth"))
    model = model_zoo.get(name, trained=True, device="cpu")
    assert model.training
    assert type(model).__name__ == "GeneralizedRCNN"
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The YAML file of a RegNet that is not published, relative to the working folder."""
    (tmp_path / "My-nets").mkdir()
    (tmp_path / "My-nets/tiny.yaml").write_text(
        "depth: 5\nw_0: 8\nw_a: 8\nw_m: 2\ngroup_width: 8\n"
    )
    monkeypatch.chdir(tmp_path)
    return "My-nets/tiny.yaml"


@pytest.mark.parametrize("row", ["mask_rcnn_{}_fpn_1x", "retinanet_{}_dcn_fpn_3x"])
def test_an_arch_of_ones_own_is_composed_into_a_row(own, row):
    name = row.format(own)
    assert model_zoo.canonical_name(f"{name}.yaml") == name
    cfg = model_zoo.get_config(name)
    body = cfg.model.backbone.bottom_up
    # The parameters themselves: the config stays what it is when the file changes.
    assert body.arch == {
        "depth": 5, "w_0": 8, "w_a": 8, "w_m": 2, "group_width": 8,
        "bottleneck_ratio": 1.0, "se_ratio": 0.0, "stem_width": 32,
    }  # fmt: skip
    assert (body.norm, body.freeze_at, cfg.train.init_checkpoint) == ("BN", 0, "")
    assert list(body.deform_stages) == (["s2", "s3", "s4"] if "dcn" in row else [])
    assert ("clip_grad" in cfg.train and cfg.train.clip_grad is not None) == ("3x" in row)
    yacs = model_zoo.get_config(f"{name}.yaml")
    assert (yacs.MODEL.REGNETS.ARCH, yacs.MODEL.REGNETS.DEPTH) == ("", 5)


def test_an_arch_of_ones_own_has_no_file_and_no_weights(own):
    name = f"mask_rcnn_{own}_fpn_1x"
    with pytest.raises(ValueError, match="has no file"):
        model_zoo.get_config_file(name)
    with pytest.raises(ValueError, match="no weights"):
        model_zoo.get_checkpoint_url(name)
    with pytest.raises(FileNotFoundError, match="no file nowhere.yaml"):
        model_zoo.get_config("mask_rcnn_nowhere.yaml_fpn_1x")
