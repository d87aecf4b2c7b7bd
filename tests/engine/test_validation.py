"""The losses on the test set: the model's own, of whole images, and nothing is learnt of them."""

import copy
import json
import math

import pytest
import torch
from detectron2.config import instantiate
from detectron2.utils.events import EventStorage

from d2_regnet.engine import load_config, train
from d2_regnet.engine.validation import loss_loaders, validation_losses
from d2_regnet.model_zoo.yacs import to_yacs


@pytest.fixture
def cfg(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    overrides = [f"train.output_dir={tmp_path / 'out'}", "train.device=cpu", "train.max_iter=2"]
    overrides.append("model.backbone.bottom_up.norm=EvalBN")
    return load_config(str(fixtures / "tiny_retinanet.py"), overrides)


@pytest.fixture
def model(cfg, seed):
    return instantiate(cfg.model)


def test_means_of_the_models_own_losses(cfg, model):
    """RetinaNet draws nothing: the losses of each image alone are those that it computes."""
    expected = []
    (loader,) = loss_loaders(cfg)
    with torch.no_grad(), EventStorage():
        for batch in loader:
            assert len(batch) == 1 and len(batch[0]["instances"])
            assert min(batch[0]["image"].shape[1:]) == 64  # resized as in tests
            expected.append({name: loss.item() for name, loss in model(batch).items()})
    assert len(expected) == 4
    found = validation_losses(cfg, model)
    for name in expected[0]:
        assert found[name] == pytest.approx(sum(each[name] for each in expected) / 4, rel=1e-6)
    assert found["total_loss"] == pytest.approx(found["loss_cls"] + found["loss_box_reg"])
    model.head.bbox_pred.bias.data.fill_(float("nan"))
    found = validation_losses(cfg, model)
    assert math.isnan(found["loss_box_reg"]) and math.isfinite(found["loss_cls"])


def test_nothing_is_learnt_and_the_draws_are_the_same(fixtures, cfg, seed):
    path = str(fixtures / "tiny_mask_rcnn.py")
    cfg = load_config(path, ["model.backbone.bottom_up.norm=BN", "train.device=cpu"])
    model = instantiate(cfg.model)
    model.backbone.eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    first = validation_losses(cfg, model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    seed(7)
    assert validation_losses(cfg, model) == first
    assert {"loss_mask", "loss_rpn_cls", "loss_box_reg", "total_loss"} <= first.keys()


def test_yacs_configs_load_the_same_images(fixtures, cfg):
    floats = [f"model.backbone.bottom_up.arch.{key}" for key in ("w_a=12.0", "w_m=2.0")]
    lazy = load_config(str(fixtures / "tiny_mask_rcnn.py"), floats)
    (one,), (other,) = loss_loaders(lazy), loss_loaders(to_yacs(lazy))
    for (first,), (second,) in zip(one, other, strict=True):
        assert first["file_name"] == second["file_name"]
        assert torch.equal(first["image"], second["image"])
        objects = first["instances"], second["instances"]
        assert torch.equal(*(each.gt_boxes.tensor for each in objects))
        assert all(each.has("gt_masks") for each in objects)


def test_every_evaluation_logs_them(cfg, tmp_path):
    cfg.train.update(validation_loss=True, eval_period=1)
    cfg.train.ema.enabled = True
    results = train(cfg, console=False)
    assert "validation" not in results and "bbox" in results
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").open()]
    logged = [line for line in lines if "validation/total_loss" in line]
    assert [line["iteration"] for line in logged] == [0, 2]
    assert all("bbox/AP" in line for line in logged)
    # Of the average, which is the model of the checkpoint.
    state = torch.load(tmp_path / "out" / "model_final.pth")["model"]
    model = instantiate(cfg.model)
    model.load_state_dict(state)
    losses = validation_losses(cfg, model)
    assert losses["loss_cls"] == pytest.approx(logged[-1]["validation/loss_cls"], rel=1e-6)
