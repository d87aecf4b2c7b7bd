"""The YAML form of every row, against its LazyConfig: the same model, schedule and data."""

import copy
import json

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.solver import build_lr_scheduler, build_optimizer
from omegaconf import OmegaConf

from d2_regnet import RegNetArch, model_zoo
from d2_regnet.engine.yacs_trainer import train_mapper
from d2_regnet.model_zoo.recipes import recipe
from d2_regnet.model_zoo.yacs import to_yacs

ROWS = model_zoo.list()


@pytest.fixture(params=ROWS, scope="module")
def both(request):
    """(LazyConfig, yacs config) of a row, each read from its file."""
    return model_zoo.get_config(request.param), model_zoo.get_config(f"{request.param}.yaml")


@pytest.fixture
def settings(settings_of):
    """`settings_of` without what nothing reads, and yacs configs have another default for."""

    def of(model):
        found = settings_of(model)
        for name, module in model.named_modules():
            if getattr(module, "use_fed_loss", None) is False:
                own = found[name][1]
                del own["fed_loss_num_classes"]
                # A loss without a weight counts once.
                own["loss_weight"] = {"loss_cls": 1.0, **own["loss_weight"]}
        return found

    return of


def models(lazy, yacs, device="meta"):
    yacs = yacs.clone()
    yacs.MODEL.DEVICE = device
    with torch.device(device):
        return instantiate(lazy.model), build_model(yacs)


def test_the_model_is_the_same(both, settings):
    from_lazy, from_yacs = map(settings, models(*both))

    assert list(from_yacs) == list(from_lazy)
    for name, setting in from_lazy.items():
        assert from_yacs[name] == setting, name


@pytest.mark.parametrize(
    "name",
    [
        "mask_rcnn_regnetx_400mf_fpn_3x",
        "cascade_mask_rcnn_regnetx_400mf_fpn_3x",
        "retinanet_regnetx_800mf_fpn_1x",
        "faster_rcnn_r50_fpn_1x",
    ],
)
def test_constants_are_the_same(name, settings):
    """As above with real numbers: anchors, pixel statistics, thresholds held in tensors."""
    from_lazy, from_yacs = models(
        model_zoo.get_config(name), model_zoo.get_config(f"{name}.yaml"), device="cpu"
    )
    assert settings(from_yacs) == settings(from_lazy)


def test_the_schedule_is_the_same(both, monkeypatch):
    lazy, yacs = both
    captured = {}
    monkeypatch.setattr("detectron2.solver.build.LRMultiplier", lambda *_, **k: captured.update(k))
    build_lr_scheduler(yacs, torch.optim.SGD([torch.zeros(1)], lr=1.0))

    steps = lazy.train.max_iter
    assert captured["max_iter"] == steps
    of_lazy, of_yacs = (
        instantiate(OmegaConf.to_container(lazy.lr_multiplier)),
        captured["multiplier"],
    )
    near = [step + i for step in (500, 1000, *yacs.SOLVER.STEPS) for i in (-2, -1, 0, 1)]
    for step in [*range(0, 600), *near, *range(600, steps, 997), steps - 1]:
        assert of_yacs(step / steps) == pytest.approx(of_lazy(step / steps), abs=1e-12), step
    assert lazy.train.checkpointer.period == yacs.SOLVER.CHECKPOINT_PERIOD
    assert lazy.train.eval_period == yacs.TEST.EVAL_PERIOD


def test_the_optimizer_is_the_same(both):
    lazy, yacs = both
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    lazy, yacs = copy.deepcopy(lazy.optimizer), yacs.clone()
    lazy.params.model = model
    yacs.SOLVER.CLIP_GRADIENTS.ENABLED = False

    settings = []
    for optimizer in (instantiate(lazy), build_optimizer(yacs, model)):
        settings.append(
            {
                parameter: [group[k] for k in ("lr", "momentum", "weight_decay", "nesterov")]
                for group in optimizer.param_groups
                for parameter in group["params"]
            }
        )
    assert settings[0] == settings[1]


def test_the_data_is_the_same(both):
    lazy, yacs = both

    def look(mapper):
        settings = dict(vars(mapper))
        augmentations = settings.pop("augmentations").augs
        return settings, [(type(each), plain(vars(each))) for each in augmentations]

    def plain(settings):
        return {k: list(v) if hasattr(v, "__len__") else v for k, v in settings.items()}

    loader = lazy.dataloader.train
    assert look(train_mapper(yacs)) == look(instantiate(loader.mapper))
    of_yacs = DatasetMapper(yacs, is_train=False)
    of_lazy = instantiate(lazy.dataloader.test.mapper)
    assert of_yacs.image_format == of_lazy.image_format
    resized = [
        repr(mapper.augmentations(T.AugInput(np.zeros((48, 64, 3), np.uint8))))
        for mapper in (of_yacs, of_lazy)
    ]
    assert resized[0] == resized[1]
    assert loader.total_batch_size == yacs.SOLVER.IMS_PER_BATCH
    assert list(yacs.DATASETS.TRAIN) == [loader.dataset.names]
    assert list(yacs.DATASETS.TEST) == [lazy.dataloader.test.dataset.names]
    assert loader.dataset.filter_empty == yacs.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    assert loader.aspect_ratio_grouping == yacs.DATALOADER.ASPECT_RATIO_GROUPING
    assert lazy.train.amp.enabled == yacs.SOLVER.AMP.ENABLED
    assert lazy.train.init_checkpoint == yacs.MODEL.WEIGHTS


def test_clipping_is_said_as_whole_model(both):
    lazy, yacs = both
    clip = yacs.SOLVER.CLIP_GRADIENTS
    if lazy.train.clip_grad is None:
        assert not clip.ENABLED
    else:
        assert (clip.ENABLED, clip.FULL_MODEL, clip.CLIP_TYPE) == (True, True, "norm")
        assert (clip.CLIP_VALUE, clip.NORM_TYPE) == (35.0, 2.0)


def test_custom_arch(settings):
    arch = RegNetArch(depth=8, w_0=16, w_a=20.0, w_m=2.0, group_width=8, se_ratio=0.25)
    lazy = recipe("faster_rcnn", arch, "1x", deform_stages=["s4"])
    from_lazy, from_yacs = models(lazy, to_yacs(lazy))
    assert settings(from_yacs) == settings(from_lazy)
    json.dumps(settings(from_lazy))  # nothing in it compares by identity


def test_changed_keys_are_taken_over():
    lazy = recipe("mask_rcnn", "RegNetX-200MF", "1x")
    lazy.model.roi_heads.num_classes = 3
    lazy.optimizer.lr = 0.125
    lazy.model.backbone.bottom_up.activation_checkpoint = ["s3"]
    yacs = to_yacs(lazy)
    assert yacs.MODEL.ROI_HEADS.NUM_CLASSES == 3
    assert yacs.SOLVER.BASE_LR == 0.125
    assert yacs.MODEL.REGNETS.ACTIVATION_CHECKPOINT == ["s3"]


def test_unknown_augmentations_are_refused():
    lazy = recipe("mask_rcnn", "RegNetX-200MF", "1x")
    del lazy.dataloader.train.mapper.augmentations[1]
    with pytest.raises(ValueError, match="no yacs keys for the augmentations ResizeShortestEdge"):
        to_yacs(lazy)
