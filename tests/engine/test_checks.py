"""check_config where the tool's tests do not reach: devices, data sets made on first use."""

import os
from pathlib import Path

import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from omegaconf import OmegaConf

from d2_regnet.data import register_shapes
from d2_regnet.data.shapes import CLASSES
from d2_regnet.engine import check_config, load_config
from d2_regnet.engine.build import amp_dtype, inference_options
from d2_regnet.engine.checks import check_device
from d2_regnet.model_zoo.yacs import to_yacs


@pytest.fixture
def cfg(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    return load_config(
        str(fixtures / "tiny_mask_rcnn.py"), [f"train.output_dir={tmp_path / 'out'}"]
    )


@pytest.mark.parametrize(
    "enabled, precision, device, dtype",
    [
        (False, "bfloat16", "cuda", None),
        (True, None, "cuda", torch.float16),
        (True, None, "cuda:1", torch.float16),
        (True, None, "cpu", torch.bfloat16),
        (True, "bfloat16", "cuda", torch.bfloat16),
        (True, "float16", "cpu", torch.float16),
    ],
)
def test_amp_dtype(enabled, precision, device, dtype):
    amp = OmegaConf.create(dict(enabled=enabled, precision=precision))
    assert amp_dtype(amp, device) is dtype


def test_inference_options():
    node = OmegaConf.create(dict(enabled=False, dtype="float32", compile=False))
    assert inference_options(node) is None
    node.enabled = True
    assert inference_options(node) == {"dtype": torch.float32, "compile": False}
    node.dtype, node.compile = "bfloat16", True
    assert inference_options(node) == {"dtype": torch.bfloat16, "compile": True}
    for key, value, reason in (
        ("dtype", "int8", "inference.dtype='int8' is not a dtype: it is one of float32, bfl"),
        ("compile", 3, "inference.compile must be true or false"),
    ):
        with pytest.raises(ValueError, match=reason):
            inference_options(OmegaConf.merge(node, {key: value}))


@pytest.mark.parametrize("gpus, refused", [(0, []), (1, ["cuda:1"]), (2, [])])
def test_devices(monkeypatch, gpus, refused):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        if device in refused:
            with pytest.raises(ValueError, match=f"{device}: this machine has {gpus}"):
                check_device(device)
        else:
            check_device(device)


def test_changes_nothing(cfg, tmp_path):
    before = OmegaConf.to_container(cfg)
    check_config(cfg)
    assert OmegaConf.to_container(cfg) == before
    assert not (tmp_path / "out").exists()


def test_data_set_is_made_on_first_use(cfg, tmp_path):
    (name,) = register_shapes(11, {"train": 3})
    cfg.dataloader.train.dataset.names = name
    try:
        annotations = Path(MetadataCatalog.get(name).json_file)
        assert annotations.is_relative_to(tmp_path) and not annotations.exists()
        check_config(cfg)
        assert annotations.exists()
        annotations.unlink()
        with pytest.raises(FileNotFoundError, match="annotations.json does not exist"):
            check_config(cfg)
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_output_folder_must_be_one(cfg, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        cfg.train.output_dir = str(tmp_path / path)
        with pytest.raises(ValueError, match="file is a file"):
            check_config(cfg)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    cfg.train.output_dir = str(tmp_path / "new" / "below")
    with pytest.raises(ValueError, match="cannot be written"):
        check_config(cfg)
    assert not (tmp_path / "new").exists()


def test_processes_share_a_batch(cfg):
    check_config(cfg, processes=2)
    with pytest.raises(ValueError, match="total_batch_size=2 does not divide among 3"):
        check_config(cfg, processes=3)
    cfg.dataloader.train.total_batch_size = 0
    with pytest.raises(ValueError, match="total_batch_size=0"):
        check_config(cfg)


def test_evaluation_needs_no_optimizer(cfg, tmp_path):
    weights = tmp_path / "weights.pth"
    torch.save({"model": instantiate(cfg.model).state_dict()}, weights)
    cfg.train.init_checkpoint = str(weights)
    del cfg.optimizer, cfg.lr_multiplier, cfg.dataloader.train
    cfg.dataloader.test.mapper.image_format = "BGR"  # it referred to the training's
    check_config(cfg, eval_only=True)
    with pytest.raises(ValueError, match="no `optimizer`"):
        check_config(cfg)


def test_weights_that_leave_layers_at_random(cfg, tmp_path):
    """A training may begin with a backbone; an evaluation needs the whole model."""
    whole = instantiate(cfg.model).state_dict()
    weights = tmp_path / "weights.pth"
    cfg.train.init_checkpoint = str(weights)
    torch.save({"model": {n: t for n, t in whole.items() if "bottom_up" in n}}, weights)
    check_config(cfg)
    check_config(cfg, eval_only=True, allow_missing=True)
    with pytest.raises(ValueError, match="layers of the model, which would stay random.*fpn"):
        check_config(cfg, eval_only=True)
    torch.save({"model": {n: t for n, t in whole.items() if "bottom_up" not in n}}, weights)
    with pytest.raises(ValueError, match="layers of its backbone, which would stay random.*stem"):
        check_config(cfg)
    torch.save({"model": {"a": torch.zeros(1)}}, weights)
    with pytest.raises(ValueError, match="has nothing of this model"):
        check_config(cfg)


@pytest.mark.parametrize("kind", ["lazy", "yacs"])
def test_classes_of_the_weights_in_another_order(cfg, tmp_path, kind):
    """Or of other names, which a training may begin with."""
    weights = tmp_path / "weights.pth"
    cfg.train.init_checkpoint = str(weights)
    cfg.model.backbone.bottom_up.arch.update(w_a=12.0, w_m=2.0)  # yacs tells them from integers
    model = instantiate(cfg.model).state_dict()
    form = to_yacs(cfg) if kind == "yacs" else cfg
    for names, fails in ((CLASSES, ()), (CLASSES[::-1], (False, True)), (range(6), (True,))):
        torch.save({"model": model, "classes": list(map(str, names))}, weights)
        for eval_only in (False, True):
            if eval_only not in fails:
                check_config(form, eval_only=eval_only)
                continue
            with pytest.raises(ValueError, match="weights' classes are .*class 1 is .*'circle'"):
                check_config(form, eval_only=eval_only)
