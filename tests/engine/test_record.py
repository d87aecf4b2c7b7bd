"""What a resumed run must have in common with the one before."""

import pytest
import torch
from omegaconf import OmegaConf

from d2_regnet import model_zoo
from d2_regnet.engine import load_config
from d2_regnet.engine.record import RunRecord, check_same_shapes


@pytest.fixture
def cfg(fixtures):
    return load_config(str(fixtures / "tiny_mask_rcnn.py"))


def test_the_same_run_passes_whatever_else_changes(cfg):
    state = RunRecord(cfg).state_dict()
    cfg.train.max_iter, cfg.optimizer.lr = 99, 0.5
    cfg.dataloader.train.num_workers = 3
    RunRecord(cfg).load_state_dict(state)
    RunRecord(cfg).load_state_dict({})  # of Detectron2's own trainers
    assert state["model.backbone.bottom_up.arch"]["w_a"] == 12
    assert all(isinstance(v, int | str | list | dict) for v in state.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.backbone.bottom_up.arch.depth", 7),
        ("model.roi_heads.num_classes", 80),
        ("dataloader.train.dataset.names", "coco_2017_train"),
        ("dataloader.train.total_batch_size", 4),
    ],
)
def test_another_run_is_refused_by_the_key(cfg, key, value):
    state = RunRecord(cfg).state_dict()
    OmegaConf.update(cfg, key, value)
    with pytest.raises(ValueError, match=f"{key.removesuffix('.depth')} was .* and is .*{value}"):
        RunRecord(cfg).load_state_dict(state)


def test_the_names_of_the_classes(cfg):
    """What a data set is registered with; a file that is not read yet says nothing."""
    state = RunRecord(cfg).state_dict()
    assert state["classes"][0] == "circle"
    state["classes"] = ["cow", *state["classes"][1:]]
    with pytest.raises(ValueError, match="classes was .*cow.* and is .*circle"):
        RunRecord(cfg).load_state_dict(state)
    cfg.dataloader.train.dataset.names = "registered_nowhere"
    assert "classes" not in RunRecord(cfg).state_dict()


def test_yacs():
    cfg = model_zoo.get_config("mask_rcnn_regnetx_400mf_fpn_3x.yaml")
    state = RunRecord(cfg).state_dict()
    assert state["MODEL.REGNETS.ARCH"] == "RegNetX-400MF"
    cfg.SOLVER.MAX_ITER = 7
    RunRecord(cfg).load_state_dict(state)
    cfg.DATASETS.TRAIN = ("mine",)
    with pytest.raises(ValueError, match=r"DATASETS.TRAIN was .*coco_2017_train'. and is .'mine"):
        RunRecord(cfg).load_state_dict(state)


def test_shapes():
    model = torch.nn.Linear(2, 3)
    check_same_shapes(model.state_dict() | {"more": torch.zeros(1)}, model)
    with pytest.raises(ValueError, match=r"weight was of shape \(3, 4\) and is of \(3, 2\)"):
        check_same_shapes(torch.nn.Linear(4, 3).state_dict(), model)
    with pytest.raises(ValueError, match="bias is not in the checkpoint"):
        check_same_shapes({"weight": model.weight}, model)
