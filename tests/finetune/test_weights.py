"""What of a checkpoint fits."""

import pytest
import torch

from d2_regnet.engine import load_config
from d2_regnet.finetune.adapt import set_model
from d2_regnet.finetune.weights import BACKBONE, DETECTOR, SCRATCH, fit


@pytest.fixture
def cfg(tiny_run):
    return load_config(str(tiny_run / "config.yaml"))


def test_the_same_classes_keep_everything(cfg, tiny_run):
    found = fit(cfg, str(tiny_run / "model_final.pth"))
    assert found.start == DETECTOR and found.kept == found.total and found.anew == ()


def test_last_layers_of_another_number_of_classes_are_dropped(cfg, tiny_run):
    set_model(cfg, 2, masks=True)
    found = fit(cfg, str(tiny_run / "model_final.pth"))
    assert found.anew == (
        "roi_heads.box_predictor.cls_score",
        "roi_heads.box_predictor.bbox_pred",
        "roi_heads.mask_head.predictor",
    )
    assert found.total - found.kept == 6
    assert "learnt anew: roi_heads.box_predictor.cls_score" in str(found)


def test_a_body_and_nothing(cfg, tiny_run, tmp_path):
    state = torch.load(tiny_run / "model_final.pth")["model"]
    body = {name: tensor for name, tensor in state.items() if "bottom_up" in name}
    torch.save({"model": body}, tmp_path / "body.pth")
    assert fit(cfg, str(tmp_path / "body.pth")).start == BACKBONE
    assert fit(cfg, "").start == SCRATCH and str(fit(cfg, "")) == SCRATCH


def test_other_checkpoints_are_refused(cfg, tmp_path, monkeypatch):
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="nothing of this model.*convert_checkpoint"):
        fit(cfg, str(tmp_path / "other.pth"))
    monkeypatch.setenv("D2_REGNET_MIRROR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="cannot be fetched .*--weights none"):
        fit(cfg, "regnet://mmdet/mask_rcnn_regnetx_400mf_fpn_3x")
