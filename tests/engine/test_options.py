"""What may be asked of a training, in a config of either kind, and what is refused by its key."""

import pytest
from omegaconf import OmegaConf

from d2_regnet.engine import check_config, load_config
from d2_regnet.engine.options import Options, training_options
from d2_regnet.engine.writers import LOGGERS
from d2_regnet.model_zoo.loading import load_yaml

ROW = "mask_rcnn_regnetx_400mf_fpn_3x"


def lazy(*overrides):
    return load_config(ROW, overrides)


def yacs(*settings):
    return load_yaml(f"{ROW}.yaml", settings)


def test_all_are_off_in_the_zoos_configs():
    assert training_options(lazy()) == training_options(yacs()) == Options()


def test_both_kinds_of_configs_say_the_same():
    options = Options("segm/AP50", "max", 4, 0.1, 0.99, 3, True, ())
    assert options == training_options(
        lazy(
            *("train.keep_best.metric=segm/AP50", "train.early_stopping.patience=4"),
            *("train.early_stopping.min_delta=0.1", "train.ema.enabled=true", "train.loggers=[]"),
            *("train.ema.decay=0.99", "train.accumulate=3", "train.validation_loss=true"),
        )
    )
    assert options == training_options(
        yacs(
            *("SOLVER.KEEP_BEST.METRIC", "segm/AP50", "SOLVER.EARLY_STOPPING.PATIENCE", 4),
            *("SOLVER.EARLY_STOPPING.MIN_DELTA", 0.1, "SOLVER.EMA.ENABLED", True),
            *("SOLVER.EMA.DECAY", 0.99, "SOLVER.ACCUMULATE", 3, "TEST.VALIDATION_LOSS", True),
            *("SOLVER.LOGGERS", [], "TEST.EVAL_PERIOD", 10),
        )
    )


@pytest.mark.parametrize(
    "overrides, error",
    [
        (["train.keep_best.metric=bbox/ap"], "keep_best.metric='bbox/ap' is never logged.*bbox/AP"),
        (["train.keep_best.metric=keypoints/AP"], "never logged: evaluations log bbox/AP, segm/AP"),
        (
            ["train.keep_best.metric=bbox/AP", "dataloader.evaluator=null"],
            "the config has no dataloader.evaluator",
        ),
        (["train.keep_best.metric=validation/loss_cls"], "train.validation_loss is false"),
        (["train.keep_best.mode=best"], "train.keep_best.mode='best': it is max or min"),
        (["train.early_stopping.patience=3"], "patience=3 needs train.keep_best.metric"),
        (["train.early_stopping.patience=-1"], "train.early_stopping.patience=-1: it is a whole"),
        (
            [
                *("train.keep_best.metric=bbox/AP", "train.early_stopping.patience=3"),
                "train.eval_period=0",
            ],
            "counts evaluations, and train.eval_period=0 evaluates at the end only",
        ),
        (["train.early_stopping.min_delta=-1.0"], "min_delta=-1.0: it is a number of at least 0"),
        (["train.ema.decay=1.5"], "train.ema.decay=1.5: it is a number between 0 and 1"),
        (["train.accumulate=0"], "train.accumulate=0: it is a whole number of batches, at least 1"),
        (
            ["train.loggers=[comet]"],
            r"train.loggers=\['comet'\]: it lists some of tensorboard, wan",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(overrides, error):
    with pytest.raises(ValueError, match=error):
        check_config(lazy(*overrides))


def test_yacs_keys_are_named():
    with pytest.raises(ValueError, match=r"SOLVER.EMA.DECAY=1.5: it is a number between 0 and 1"):
        check_config(yacs("SOLVER.EMA.DECAY", 1.5))
    both = ("DATASETS.TEST", ("coco_2017_val", "coco_2017_val_100"), "SOLVER.KEEP_BEST.METRIC")
    assert training_options(yacs(*both, "coco_2017_val/segm/AP")).metric
    with pytest.raises(ValueError, match=r"evaluations log coco_2017_val/bbox/AP, "):
        training_options(yacs(*both, "bbox/AP"))
    with pytest.raises(ValueError, match=r"the config has no DATASETS.TEST"):
        check_config(yacs("SOLVER.KEEP_BEST.METRIC", "bbox/AP", "DATASETS.TEST", ()))


def test_a_folder_of_its_name_is_not_the_library(tmp_path, monkeypatch):
    (tmp_path / "comet_ml").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LOGGERS, "comet", (None, "comet_ml"))
    with pytest.raises(ValueError, match="train.loggers: comet is not installed"):
        training_options(OmegaConf.create({"train": {"loggers": ["comet"]}}))


def test_a_missing_library_is_said_before_the_training(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="train.loggers: wandb is not installed: pip install wand"):
        training_options(OmegaConf.create({"train": {"loggers": ["wandb"]}}))
