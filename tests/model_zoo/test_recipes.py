"""Every published row against the facts about it, and Detectron2's recipes against Detectron2's."""

import copy
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import LazyConfig, instantiate
from omegaconf import OmegaConf

from d2_regnet import RegNetArch, list_archs, model_zoo
from d2_regnet.model_zoo.recipes import DETECTORS, recipe, scale_to_batch_size

FACTS = {
    row["mmdet_config"]: row
    for row in json.loads((Path(__file__).parents[1] / "fixtures" / "table_rows.json").read_text())
}
PUBLISHED = [name for name, row in model_zoo.rows().items() if row["source"] == "mmdet"]


@pytest.fixture(scope="module", params=PUBLISHED)
def row(request):
    """(config, facts) of one of the 31 published rows."""
    facts = FACTS[model_zoo.rows()[request.param]["config"]]
    return model_zoo.get_config(request.param), facts


@pytest.fixture(scope="module")
def model(row):
    """The row's model, its shapes alone."""
    with torch.device("meta"):
        return instantiate(row[0].model)


def test_all_rows_are_there():
    assert len(PUBLISHED) == len(FACTS) == 31
    assert {model_zoo.rows()[name]["config"] for name in PUBLISHED} == set(FACTS)


def test_pixels(row):
    cfg, facts = row
    assert cfg.model.input_format == facts["input_format"]
    assert cfg.dataloader.train.mapper.image_format == facts["input_format"]
    assert cfg.dataloader.test.mapper.image_format == facts["input_format"]
    assert cfg.model.pixel_mean == facts["pixel_mean"]
    assert cfg.model.pixel_std == facts["pixel_std"]


def test_data(row):
    cfg, facts = row
    loader = cfg.dataloader.train
    resize, flip = instantiate(loader.mapper).augmentations.augs
    assert resize.is_range == (facts["resize_kind"] == "range")
    assert list(resize.short_edge_length) == facts["short_edge"]
    assert resize.max_size == facts["max_long_edge"] == 1333
    assert (flip.prob, flip.horizontal, flip.vertical) == (0.5, True, False)
    assert loader.dataset.filter_empty is True
    assert loader.aspect_ratio_grouping is True
    assert loader.total_batch_size == 16
    assert loader.mapper.use_instance_mask == (facts["mask_format"] is not None)
    if facts["mask_format"]:
        assert loader.mapper.instance_mask_format == facts["mask_format"]
    (resize,) = instantiate(cfg.dataloader.test.mapper).augmentations.augs
    assert (list(resize.short_edge_length), resize.max_size) == ([800, 800], 1333)
    assert cfg.dataloader.test.dataset.filter_empty is False


@pytest.fixture(scope="module")
def multipliers():
    """What our scheduler gives at every step; computed once, since rows share schedules."""
    known = {}

    def of(node, steps):
        key = (LazyConfig.to_py(node), steps)
        if key not in known:
            # Plain lists: looking into omegaconf's at every step takes most of the time.
            multiplier = instantiate(OmegaConf.to_container(node))
            known[key] = np.array([multiplier(step / steps) for step in range(steps)])
        return known[key]

    return of


def test_learning_rate_at_every_step(row, multipliers):
    cfg, facts = row
    assert cfg.train.max_iter == facts["epochs"] * 7330
    assert (facts["warmup_iters"], facts["warmup_start_factor"]) == (500, 0.001)
    step = np.arange(cfg.train.max_iter)
    wanted = facts["lr"] * np.where(step < 500, 0.001 + 0.999 * step / 499, 1.0)
    for epoch in facts["milestones_epochs"]:
        wanted[epoch * 7330 :] *= facts["gamma"]
    found = cfg.optimizer.lr * multipliers(cfg.lr_multiplier, len(step))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9)


def test_optimizer(row, model):
    cfg, facts = row
    node = copy.deepcopy(cfg.optimizer)
    node.params.model = model
    optimizer = instantiate(node)
    assert type(optimizer).__name__ == facts["optimizer"]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimized = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in optimized} == {id(p) for p in trained}
    assert len(optimized) == len(trained)
    assert facts["weight_decay_on_norm"]
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"]) == (facts["lr"], facts["momentum"])
        assert group["weight_decay"] == facts["weight_decay"]
    assert cfg.train.clip_grad == facts["clip_grad"]


def test_parameters(row, model):
    facts = row[1]
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    assert sum(p.numel() for p in parameters) == facts["params_total"]
    assert sum(p.numel() for p in trained) == facts["params_trainable"]
    assert len(trained) == facts["tensors_trainable"]
    body = [p for p in model.backbone.bottom_up.parameters() if p.requires_grad]
    assert sum(p.numel() for p in body) == facts["backbone_params_trainable"]


def test_what_is_frozen(row, model):
    """The stem and the first stage, whole; nowhere else anything, and statistics everywhere."""
    facts = row[1]
    assert (facts["frozen_stages"], facts["norm_eval"], facts["norm_affine_trainable"]) == (1, 1, 1)
    frozen = ("backbone.bottom_up.stem.", "backbone.bottom_up.s1.", "backbone.bottom_up.res2.")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen), name
    norms = {type(m).__name__ for m in model.modules() if hasattr(m, "running_mean")}
    assert norms == {"EvalBN"}
    deformable = {
        name.split(".")[2] for name, _ in model.named_parameters() if "conv_offset" in name
    }
    assert sorted(deformable) == facts["dcn_stages"]


def test_detector_settings(row):
    """Those that the facts name; the detectors' arithmetic has tests of its own."""
    cfg, facts = row
    model = cfg.model
    if facts["detector"] == "RetinaNet":
        assert model.anchor_matcher.min_low_quality_iou == facts["assigner_min_pos_iou"]
        return
    rpn = model.proposal_generator
    assert rpn.anchor_matcher.min_low_quality_iou == facts["assigner_min_pos_iou"]
    assert rpn.anchor_boundary_thresh == facts["rpn_allowed_border"]
    assert rpn.post_nms_topk[0] == facts["rpn_post_nms_train"]
    assert rpn.smooth_l1_beta == facts["rpn_loss_bbox"].get("beta", 0.0)
    assert ("mask_in_features" in model.roi_heads) == (facts["mask_ap"] is not None)


# --- Compositions ---------------------------------------------------------------------------


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("schedule", ["1x", "2x", "3x", "lsj_100ep", "lsj_200ep", "lsj_400ep"])
def test_compositions_build(detector, schedule):
    cfg = recipe(detector, "RegNetY-400MF", schedule)
    assert set(cfg) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.backbone.bottom_up.arch.se_ratio == 0.25
    instantiate(cfg.lr_multiplier)
    instantiate(cfg.dataloader.train.mapper)


@pytest.mark.parametrize("detector", DETECTORS)
def test_every_arch(detector):
    for arch in list_archs():
        with torch.device("meta"):
            backbone = instantiate(recipe(detector, arch, "1x").model.backbone).bottom_up
        channels = [shape.channels for shape in backbone.output_shape().values()]
        assert channels == list(backbone.arch.stage_widths[-len(channels) :])


def test_custom_arch_is_trained_whole():
    """It has no published weights, so that nothing of it may be frozen."""
    cfg = recipe("mask_rcnn", RegNetArch(8, 16, 20.0, 2.0, 8), "1x")
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert all(p.requires_grad for p in model.parameters())
    assert model.backbone.bottom_up.stem.bn.track_running_stats
    assert cfg.train.init_checkpoint == ""
    as_mapping = recipe("mask_rcnn", dict(depth=8, w_0=16, w_a=20.0, w_m=2.0, group_width=8), "1x")
    assert as_mapping == cfg


def test_options():
    cfg = recipe(
        "mask_rcnn",
        "regnetx_200mf",
        "2x",
        input_format="rgb",
        resize="choice",
        mask_format="polygon",
        drops=[10, 20, 22],
        lr=0.04,
        clip_grad=10.0,
        deform_stages=["s3"],
    )
    assert cfg.model.input_format == "RGB"
    assert cfg.dataloader.train.mapper.augmentations[0].sample_style == "choice"
    assert cfg.lr_multiplier.scheduler.milestones == [10, 20, 22]
    assert cfg.train.clip_grad == {"max_norm": 10.0, "norm_type": 2.0}
    assert cfg.optimizer.params.weight_decay_norm == 5e-5
    cfg.optimizer.weight_decay = 1e-3
    assert cfg.optimizer.params.weight_decay_norm == 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mask_rnn", "regnetx_200mf", "1x"), "unknown detector 'mask_rnn'.*mask_rcnn"),
        (("mask_rcnn", "regnetx_5gf", "1x"), "unknown RegNet 'regnetx_5gf'.*nearest"),
        (("mask_rcnn", "regnetx_200mf", "4x"), "unknown schedule '4x'"),
        (("mask_rcnn", "r50", "1x", {"deform_stages": ["s4"]}), "deform_stages is for RegNets"),
        (("mask_rcnn", "r50", "lsj_100ep", {"lr": 1.0}), "lsj_100ep is Detectron2's recipe"),
        (
            ("mask_rcnn", "RegNetX-4.0GF", "lsj_100ep", {"mask_format": "bitmask"}),
            "instead of mask_format",
        ),
        (("mask_rcnn", "r50", "1x", {"drops": [11, 8]}), "drops must be ascending"),
        (("mask_rcnn", "r50", "1x", {"input_format": "HSV"}), "unknown input_format 'HSV'"),
        (("mask_rcnn", "r50", "1x", {"resize": "big"}), "unknown resize 'big'"),
        (("mask_rcnn", "r50", "1x", {"mask_format": "rle"}), "unknown mask_format 'rle'"),
        (("mask_rcnn", "r50", "1x", {"total_batch_size": 0}), "total_batch_size must be at least"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    options = arguments[-1] if isinstance(arguments[-1], dict) else {}
    with pytest.raises(ValueError, match=message):
        recipe(*arguments[:3], **options)


def test_a_saved_recipe_is_the_recipe(tmp_path):
    cfg = recipe("cascade_mask_rcnn", "regnetx_400mf", "3x")
    LazyConfig.save(cfg, str(tmp_path / "config.yaml"))
    again = LazyConfig.load(str(tmp_path / "config.yaml"))
    with torch.device("meta"):
        first, second = instantiate(cfg.model), instantiate(again.model)
    assert repr(second) == repr(first)
    assert again.train == cfg.train


# --- Batch size -----------------------------------------------------------------------------


def test_half_the_batch_halves_the_rate_and_doubles_the_steps():
    cfg = recipe("mask_rcnn", "regnetx_400mf", "1x")
    scaled = recipe("mask_rcnn", "regnetx_400mf", "1x", total_batch_size=8)
    assert scaled.dataloader.train.total_batch_size == 8
    assert scaled.optimizer.lr == cfg.optimizer.lr / 2 == 0.01
    assert scaled.train.max_iter == 2 * cfg.train.max_iter
    assert scaled.train.eval_period == 2 * cfg.train.eval_period
    assert scaled.train.checkpointer.period == 2 * cfg.train.checkpointer.period
    before, after = instantiate(cfg.lr_multiplier), instantiate(scaled.lr_multiplier)
    steps = cfg.train.max_iter
    for step in range(0, steps, 499):
        assert after(2 * step / (2 * steps)) == before(step / steps)


def test_scaling_is_done_once():
    cfg = recipe("retinanet", "regnetx_400mf", "1x")
    cfg.dataloader.train.total_batch_size = 64
    scale_to_batch_size(cfg)
    once = copy.deepcopy(cfg)
    assert (cfg.optimizer.lr, cfg.train.max_iter) == (0.08, 21990)
    scale_to_batch_size(cfg)
    assert cfg == once


def test_scaling_can_be_turned_off():
    cfg = recipe("mask_rcnn", "regnetx_400mf", "1x")
    cfg.dataloader.train.total_batch_size = 8
    cfg.train.scale_to_batch_size = False
    before = copy.deepcopy(cfg)
    scale_to_batch_size(cfg)
    assert cfg == before


def test_other_configs_are_left_alone():
    cfg = detectron2_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py")
    before = copy.deepcopy(cfg)
    scale_to_batch_size(cfg)
    assert cfg == before


# --- Detectron2's own recipes -----------------------------------------------------------------

DETECTRON2 = [name for name, row in model_zoo.rows().items() if row["source"] == "detectron2"]


@pytest.fixture(scope="module", params=DETECTRON2)
def pair(request):
    """(ours, Detectron2's) config of one of Detectron2's RegNet rows."""
    theirs = model_zoo.rows()[request.param]["config"]
    return model_zoo.get_config(request.param), detectron2_zoo.get_config(f"{theirs}.py")


def call(node):
    """A lazy call with the defaults of what it calls, so that saying them is no difference."""
    if OmegaConf.is_list(node):
        return [call(each) for each in node]
    if not OmegaConf.is_dict(node):
        return node
    said = {key: call(value) for key, value in node.items()}
    target = said.get("_target_")
    if target is None:
        return said
    # A class may pass its bases' arguments on.
    functions = (
        [vars(c)["__init__"] for c in reversed(target.__mro__) if "__init__" in vars(c)]
        if (inspect.isclass(target))
        else [target]
    )
    parameters = [p for f in functions for p in inspect.signature(f).parameters.values()]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {**defaults, **said}


def test_detectron2_model(pair, settings_of):
    ours, theirs = pair
    with torch.device("meta"):
        ours, theirs = instantiate(ours.model), instantiate(theirs.model)
    ours_settings, theirs_settings = settings_of(ours), settings_of(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    body = "backbone.bottom_up"
    for name, setting in theirs_settings.items():
        if not name.startswith(body):
            assert ours_settings[name] == setting, name
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (one.shape, one.requires_grad) == (other.shape, other.requires_grad), name
    norms = [
        [type(m) for m in each.backbone.bottom_up.modules() if hasattr(m, "running_mean")]
        for each in (ours, theirs)
    ]
    assert norms[0] == norms[1]
    assert ours.backbone.bottom_up.output_shape() == theirs.backbone.bottom_up.output_shape()


def test_detectron2_optimizer(pair):
    ours, theirs = pair
    assert call(ours.optimizer) == call(theirs.optimizer)


def test_detectron2_schedule(pair):
    ours, theirs = pair
    assert ours.train.max_iter == theirs.train.max_iter
    one, other = (
        instantiate(OmegaConf.to_container(each.lr_multiplier, resolve=True)) for each in pair
    )
    steps = ours.train.max_iter
    for step in [*range(0, 5000, 7), *range(5000, steps, 1009)]:
        assert one(step / steps) == pytest.approx(other(step / steps), abs=1e-12), step
    for milestone in ours.lr_multiplier.scheduler.milestones:
        for step in range(milestone - 3, milestone + 3):
            assert one(step / steps) == pytest.approx(other(step / steps), abs=1e-12), step


def test_detectron2_data(pair):
    """Every argument of theirs is one of ours; loading and reading may be our own, with more."""

    def compare(ours, theirs, key):
        if isinstance(theirs, dict):
            for each, value in theirs.items():
                if each == "_target_":
                    assert ours[each] is value or key in ("train", "mapper", "evaluator"), key
                elif value is not None or each in ours:
                    compare(ours[each], value, each)
        elif isinstance(theirs, list):
            assert len(ours) == len(theirs), key
            for one, other in zip(ours, theirs):
                compare(one, other, key)
        else:
            assert ours == theirs, key

    ours, theirs = pair
    compare(call(ours.dataloader), call(theirs.dataloader), "dataloader")


def test_detectron2_training(pair):
    ours, theirs = pair
    for key, value in theirs.train.items():
        if key != "init_checkpoint":
            assert ours.train[key] == value, key
    address = theirs.train.init_checkpoint
    arch = "RegNetX-4.0GF" if "RegNetX" in address else "RegNetY-4.0GF"
    assert ours.train.init_checkpoint == (f"regnet://pycls/{arch}" if address else "")
