"""What a training does beyond Detectron2's, all of it off by default: read and checked once."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator
from omegaconf import DictConfig, OmegaConf

from d2_regnet.model_zoo.settings import key_of, setting
from d2_regnet.utils.signatures import target_of

from .writers import LOGGERS, check_installed

__all__ = ["Options", "training_options"]

_COCO = re.compile(r"(.+)/AP(50|75|s|m|l|-.+)?", re.DOTALL)  # as COCO's metrics are logged


@dataclass(frozen=True)
class Options:
    """
    Attributes:
        metric: that `model_best.pth` is the best in; empty: none is kept.
        mode: whether the metric's "max" or "min" is best.
        patience: evaluations without a gain after which the training ends; 0: it does not.
        min_delta: what the metric must gain by to count as a gain.
        ema_decay: of the average of the weights; None: there is none.
        accumulate: batches a step.
        validation_loss: whether evaluations measure the losses on the test set as well.
        loggers: names in `writers.LOGGERS`.
    """

    metric: str = ""
    mode: str = "max"
    patience: int = 0
    min_delta: float = 0.0
    ema_decay: float | None = None
    accumulate: int = 1
    validation_loss: bool = False
    loggers: tuple[str, ...] = ("tensorboard",)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _whole(least: int) -> Callable[[Any], bool]:
    return lambda value: _number(value) and isinstance(value, int) and value >= least


def _switch(value: Any) -> bool:
    return isinstance(value, bool)


# The setting -> its default, what it may be, and the words for that.
_SETTINGS = {
    "best metric": ("", lambda v: isinstance(v, str), "names a metric, such as bbox/AP"),
    "best mode": ("max", ("max", "min").__contains__, "is max or min"),
    "patience": (0, _whole(0), "is a whole number of evaluations; 0 never ends a training"),
    "min delta": (0.0, lambda v: _number(v) and v >= 0, "is a number of at least 0"),
    "ema": (False, _switch, "is true or false"),
    "ema decay": (0.9998, lambda v: _number(v) and 0 < v < 1, "is a number between 0 and 1"),
    "accumulate": (1, _whole(1), "is a whole number of batches, at least 1"),
    "validation loss": (False, _switch, "is true or false"),
    "loggers": (
        ["tensorboard"],
        lambda v: isinstance(v, list) and set(v) <= LOGGERS.keys(),
        f"lists some of {', '.join(LOGGERS)}",
    ),
}


def training_options(cfg: DictConfig | CfgNode) -> Options:
    """The options of a config of either kind.

    Raises:
        ValueError: naming the key: a value that cannot be, a metric that is never logged, patience
            without evaluations, or a logger whose library is missing.
    """
    found = {}
    for name, (default, allowed, words) in _SETTINGS.items():
        value = setting(cfg, name)
        found[name] = default if value is None else value
        if not allowed(found[name]):
            raise ValueError(f"{key_of(cfg, name)}={value!r}: it {words}")
    options = Options(
        found["best metric"],
        found["best mode"],
        found["patience"],
        found["min delta"],
        found["ema decay"] if found["ema"] else None,
        found["accumulate"],
        found["validation loss"],
        tuple(found["loggers"]),
    )
    if options.metric:
        _check_metric(cfg, options)
    elif options.patience:
        raise ValueError(
            f"{key_of(cfg, 'patience')}={options.patience} needs {key_of(cfg, 'best metric')}"
        )
    if options.patience and not setting(cfg, "evaluation"):
        raise ValueError(
            f"{key_of(cfg, 'patience')}={options.patience} counts evaluations, and "
            f"{key_of(cfg, 'evaluation')}=0 evaluates at the end only"
        )
    for name in options.loggers:
        check_installed(name, key_of(cfg, "loggers"))
    return options


def _check_metric(cfg: DictConfig | CfgNode, options: Options) -> None:
    """Refuses a metric that no evaluation of the config can log, as far as that can be known."""
    told = f"{key_of(cfg, 'best metric')}={options.metric!r} is never logged: "
    if options.metric.startswith("validation/"):
        if not options.validation_loss:
            raise ValueError(f"{told}{key_of(cfg, 'validation loss')} is false")
        return
    tasks = _coco_tasks(cfg)
    if tasks is None:  # another evaluator, which may log anything
        return
    if not tasks:
        lacks = "DATASETS.TEST" if isinstance(cfg, CfgNode) else "dataloader.evaluator"
        raise ValueError(f"{told}the config has no {lacks}")
    match = _COCO.fullmatch(options.metric)
    if not match or match[1] not in tasks:
        logged = ", ".join(f"{task}/AP" for task in tasks)
        raise ValueError(f"{told}evaluations log {logged}; AP50, AP75, APs, APm, APl, AP-CLASS")


def _coco_tasks(cfg: DictConfig | CfgNode) -> list[str] | None:
    """What COCO's evaluator will measure, behind the names of several test sets; None for another
    evaluator."""
    if isinstance(cfg, CfgNode):
        if not cfg.DATASETS.TEST:
            return []
        heads = {"segm": cfg.MODEL.MASK_ON, "keypoints": cfg.MODEL.KEYPOINT_ON}
        sets = [f"{name}/" for name in cfg.DATASETS.TEST] if len(cfg.DATASETS.TEST) > 1 else [""]
    else:
        evaluator = OmegaConf.select(cfg, "dataloader.evaluator")
        if evaluator is None:
            return []
        target = target_of(evaluator)
        if not (isinstance(target, type) and issubclass(target, COCOEvaluator)):
            return None
        if evaluator.get("tasks"):
            return list(evaluator.tasks)
        parts = {"segm": "mask_head", "keypoints": "keypoint_head"}
        heads = {
            task: OmegaConf.select(cfg, f"model.roi_heads.{part}") for task, part in parts.items()
        }
        sets = [""]
    tasks = ["bbox", *(task for task, head in heads.items() if head)]
    return [each + task for each in sets for task in tasks]
