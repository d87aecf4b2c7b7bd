"""Yacs configs: found, read, told from LazyConfigs, and checked."""

import pytest
from detectron2.config import CfgNode, LazyConfig
from omegaconf import DictConfig

from d2_regnet.data import register_shapes
from d2_regnet.engine import check_config, load_config
from d2_regnet.model_zoo.loading import find_config, load_any, load_yaml

ROW = "mask_rcnn_regnetx_400mf_fpn_3x"


def test_configs_by_path_and_by_name(root):
    path = str(root / "configs" / "yaml" / "mask_rcnn_regnetx_4.0gf_fpn_1x.yaml")
    assert find_config(path) == path
    assert find_config("mask_rcnn_regnetx_4gf_fpn_1x.yaml") == path
    cfg = load_yaml(path, ["SOLVER.MAX_ITER", "7"])
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.REGNETS.ARCH) == (7, "RegNetX-4.0GF")
    assert cfg.is_frozen()


def test_missing_configs_are_refused():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yml does not exist"):
        find_config("nowhere.yml")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_config("configs/nowhere.yaml")
    with pytest.raises(ValueError, match="unknown RegNet 'regnetx_5gf'.*nearest"):
        find_config("mask_rcnn_regnetx_5gf_fpn_1x.yaml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.NONE", "1"], "MODEL.NONE"),
        (["SOLVER.MAX_ITER", "many"], "(?i)mismatch"),
        (["SOLVER.MAX_ITER"], "odd length"),
        (["MODEL.OPTIMIZED.DTYPE", "int8"], "MODEL.OPTIMIZED.DTYPE: 'int8' is not a dtype"),
    ],
)
def test_bad_overrides_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message):
        load_yaml("mask_rcnn_r50_fpn_1x.yaml", overrides)


@pytest.mark.parametrize("text", ["a: [", "nothing but words"])
def test_a_file_that_is_no_yaml_config(tmp_path, text):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ValueError, match="file.yaml is not a YAML config"):
        load_yaml(str(tmp_path / "file.yaml"))


def test_either_kind(root, tmp_path):
    yaml = load_any(f"{ROW}.yaml", ["SOLVER.MAX_ITER", "7"])
    assert isinstance(yaml, CfgNode) and yaml.SOLVER.MAX_ITER == 7
    assert isinstance(load_any(str(root / "configs" / "yaml" / f"{ROW}.yaml")), CfgNode)
    lazy = load_any(ROW, ["train.max_iter=7"])
    assert isinstance(lazy, DictConfig) and lazy.train.max_iter == 7
    with pytest.raises(ValueError, match="unknown RegNet 'regnetx_5gf'.*nearest"):
        load_any("mask_rcnn_regnetx_5gf_fpn_1x.yaml")

    run = tmp_path / "run"  # whose config.yaml may be of either kind
    run.mkdir()
    LazyConfig.save(lazy, str(run / "config.yaml"))
    assert isinstance(load_any(str(run)), DictConfig)
    (run / "config.yaml").write_text(yaml.dump())
    assert load_any(str(run)).SOLVER.MAX_ITER == 7
    (tmp_path / "based.yaml").write_text("_BASE_: run/config.yaml")
    assert load_any(str(tmp_path / "based.yaml")).SOLVER.MAX_ITER == 7


@pytest.mark.parametrize(
    ("overrides", "options", "message"),
    [
        (["SOLVER.IMS_PER_BATCH", 3], {"processes": 2}, "SOLVER.IMS_PER_BATCH=3 does not divide"),
        (["MODEL.WEIGHTS", "no.pth?x=1"], {}, "MODEL.WEIGHTS=no.pth.x=1: there is no such file"),
        (["MODEL.WEIGHTS", "no.pth"], {"eval_only": True}, "MODEL.WEIGHTS=no.pth"),
        (["DATASETS.TRAIN", ("shapes_trian",)], {}, "'shapes_trian' is not registered"),
        (["DATASETS.TEST", ("shapes_va",)], {"eval_only": True}, "'shapes_va' is not registered"),
    ],
)
def test_refused(tmp_path, monkeypatch, overrides, options, message):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path))
    names = register_shapes(5, {"val": 4})
    defaults = ["MODEL.WEIGHTS", "", "DATASETS.TRAIN", tuple(names), "DATASETS.TEST", ()]
    defaults += ["OUTPUT_DIR", str(tmp_path / "out"), "MODEL.ROI_HEADS.NUM_CLASSES", 6]
    defaults += ["INPUT.MASK_FORMAT", "bitmask"]
    check_config(load_yaml(f"{ROW}.yaml", defaults))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_config(load_yaml(f"{ROW}.yaml", [*defaults, *overrides]), **options)
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_needs_no_first_weights(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path))
    settings = ["MODEL.WEIGHTS", "gone.pth", "OUTPUT_DIR", str(tiny_run), "DATASETS.TEST", ()]
    cfg = load_yaml(f"{ROW}.yaml", settings)
    check_config(cfg, eval_only=True, resume=True, allow_missing=True)
    with pytest.raises(ValueError, match="would stay random"):  # the run is another model's
        check_config(cfg, eval_only=True, resume=True)
    with pytest.raises(ValueError, match="holds weights and no training to resume"):
        check_config(cfg, resume=True)
    assert isinstance(load_any(str(tiny_run)), type(load_config(ROW)))
