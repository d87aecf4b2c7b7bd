"""load_config: where configs are found, what overrides do, how the batch size scales."""

import pytest
import torch
from detectron2.data import build_detection_train_loader
from detectron2.modeling import GeneralizedRCNN, StandardROIHeads
from omegaconf import OmegaConf

from d2_regnet.engine import load_config
from d2_regnet.model_zoo.loading import TRAIN_DEFAULTS, find_config
from d2_regnet.model_zoo.overrides import parameters

_ARCH = ("model.backbone.bottom_up.arch", "RegNetX-400MF")


@pytest.fixture
def tiny(fixtures):
    return str(fixtures / "tiny_mask_rcnn.py")


def test_train_group_is_completed_as_detectron2_has_it():
    from detectron2 import model_zoo

    theirs = model_zoo.get_config("common/train.py").train
    assert {key: TRAIN_DEFAULTS[key] for key in theirs if key != "amp"} == {
        key: value for key, value in theirs.items() if key != "amp"
    }
    assert TRAIN_DEFAULTS["amp"]["enabled"] == theirs.amp.enabled


def test_a_short_config_gets_the_defaults(tmp_path):
    path = tmp_path / "short.py"
    path.write_text("train = dict(max_iter=7, amp=dict(enabled=True))\nmodel = dict(a=1)\n")
    cfg = load_config(str(path), ["train.seed=5"])
    assert cfg.train.max_iter == 7 and cfg.train.seed == 5
    assert cfg.train.amp == dict(enabled=True, precision=None)
    assert cfg.train.checkpointer.period == 5000 and cfg.train.clip_grad is None


def test_configs_are_found_by_path_and_by_name(root, tmp_path, tiny):
    assert find_config(tiny) == tiny
    with pytest.raises(FileNotFoundError, match="has no config.yaml: it is not a run's"):
        find_config(str(tmp_path))
    with pytest.raises(ValueError, match="takes it as mask_rcnn_regnetx_400mf_fpn_3x$"):
        load_config("mask_rcnn_regnetx_400mf_fpn_3x.yaml")
    with pytest.raises(ValueError, match="a yacs config; .* `d2-regnet train`"):
        load_config("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    (tmp_path / "config.yaml").touch()
    assert find_config(str(tmp_path)) == str(tmp_path / "config.yaml")
    row = "mask_rcnn_regnetx_400mf_fpn_3x"
    assert find_config(row) == str(root / "configs" / f"{row}.py")
    theirs = "COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py"
    assert find_config(theirs).endswith(f"model_zoo/configs/{theirs}")
    composed = "retinanet_regnety_400mf_fpn_2x"  # it has no file
    assert find_config(composed) == ""
    assert "RetinaNet" in load_config(composed).model._target_.__name__


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("train.max_iter=9", "train.max_iter", 9),
        ("optimizer.lr=1e-3", "optimizer.lr", 1e-3),
        ("optimizer.nesterov=true", "optimizer.nesterov", True),  # unset, but SGD's
        ("+model.note=x", "model.note", "x"),
        ("+model.notes.first=x", "model.notes.first", "x"),
        ("train.clip_grad.max_norm=35", "train.clip_grad.max_norm", 35),
        ("train.clip_grad={max_norm:35,norm_type:1}", "train.clip_grad.norm_type", 1),
        ("dataloader.evaluator=null", "dataloader.evaluator", None),
        ("train.init_checkpoint=", "train.init_checkpoint", ""),
        ("train.init_checkpoint='a b.pth'", "train.init_checkpoint", "a b.pth"),
        (
            "dataloader.train.mapper.augmentations.0.short_edge_length=[32,48]",
            "dataloader.train.mapper.augmentations.0.short_edge_length",
            [32, 48],
        ),
        ("model.backbone.bottom_up.arch.depth=6", "model.backbone.bottom_up.arch.depth", 6),
        ("model.backbone.bottom_up.arch=RegNetX-400MF", *_ARCH),  # a name for its parameters
        ("model.backbone.bottom_up.norm={type:GN}", "model.backbone.bottom_up.norm.type", "GN"),
    ],
)
def test_overrides(tiny, override, key, value):
    assert OmegaConf.select(load_config(tiny, [override]), key) == value


def test_overrides_that_lead_to_other_overrides(tiny):
    cfg = load_config(tiny, ["+model.notes={}", "+model.notes.a=1", "model.notes.a=2"])
    assert cfg.model.notes == {"a": 2}
    with pytest.raises(ValueError, match=r"unknown key model.notes.a"):
        load_config(tiny, ["model.notes.a=2", "+model.notes={}"])


def test_references_follow_an_override(tmp_path):
    path = tmp_path / "refers.py"
    path.write_text("model = dict(a=1, b='${.a}')\ntrain = dict()\n")
    assert load_config(str(path), ["model.a=4"]).model.b == 4


def test_rate_and_steps_follow_the_batch_size_unless_set():
    row = "mask_rcnn_regnetx_400mf_fpn_3x"
    whole, half = load_config(row), load_config(row, ["dataloader.train.total_batch_size=8"])
    assert half.optimizer.lr == pytest.approx(whole.optimizer.lr / 2)
    assert half.train.max_iter == 2 * whole.train.max_iter
    small = load_config(
        row, ["dataloader.train.total_batch_size=2", "train.max_iter=20", "optimizer.lr=0.01"]
    )
    assert small.train.max_iter == 20 and small.optimizer.lr == 0.01
    assert small.train.eval_period == 8 * whole.train.eval_period
    fixed = load_config(
        row, ["dataloader.train.total_batch_size=2", "train.scale_to_batch_size=false"]
    )
    assert fixed.train.max_iter == whole.train.max_iter
    assert fixed.optimizer.lr == whole.optimizer.lr


def test_parameters():
    def plain(a, /, b, *, c=1):
        pass

    def any_name(**kwargs):
        pass

    assert parameters(plain) == {"b", "c"}
    assert parameters(any_name) is None
    assert parameters("torch.optim.SGD") == parameters(torch.optim.SGD)
    assert {"lr", "nesterov"} <= parameters(torch.optim.SGD)
    assert "vis_period" in parameters(GeneralizedRCNN)
    assert {"box_head", "num_classes"} <= parameters(StandardROIHeads)  # the second is its base's
    assert "num_clases" not in parameters(StandardROIHeads)
    assert parameters(build_detection_train_loader) is None  # it passes **kwargs on
