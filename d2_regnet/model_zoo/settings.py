"""One name for a setting that a LazyConfig and a yacs config have under two keys."""

from typing import Any

from detectron2.config import CfgNode
from omegaconf import DictConfig, ListConfig, OmegaConf

# What it is -> its key in a LazyConfig, and in a yacs config.
_KEYS = {
    "backbone": ("model.backbone.bottom_up.arch", "MODEL.REGNETS.ARCH"),
    "weights": ("train.init_checkpoint", "MODEL.WEIGHTS"),
    "training data": ("dataloader.train.dataset.names", "DATASETS.TRAIN"),
    "test data": ("dataloader.test.dataset.names", "DATASETS.TEST"),
    "batch size": ("dataloader.train.total_batch_size", "SOLVER.IMS_PER_BATCH"),
    "steps": ("train.max_iter", "SOLVER.MAX_ITER"),
    "learning rate": ("optimizer.lr", "SOLVER.BASE_LR"),
    "evaluation": ("train.eval_period", "TEST.EVAL_PERIOD"),
    "checkpoints": ("train.checkpointer.period", "SOLVER.CHECKPOINT_PERIOD"),
    "mixed precision": ("train.amp.enabled", "SOLVER.AMP.ENABLED"),
    "device": ("train.device", "MODEL.DEVICE"),
    "output folder": ("train.output_dir", "OUTPUT_DIR"),
    "seed": ("train.seed", "SEED"),
    "best metric": ("train.keep_best.metric", "SOLVER.KEEP_BEST.METRIC"),
    "best mode": ("train.keep_best.mode", "SOLVER.KEEP_BEST.MODE"),
    "patience": ("train.early_stopping.patience", "SOLVER.EARLY_STOPPING.PATIENCE"),
    "min delta": ("train.early_stopping.min_delta", "SOLVER.EARLY_STOPPING.MIN_DELTA"),
    "ema": ("train.ema.enabled", "SOLVER.EMA.ENABLED"),
    "ema decay": ("train.ema.decay", "SOLVER.EMA.DECAY"),
    "accumulate": ("train.accumulate", "SOLVER.ACCUMULATE"),
    "validation loss": ("train.validation_loss", "TEST.VALIDATION_LOSS"),
    "loggers": ("train.loggers", "SOLVER.LOGGERS"),
}


def key_of(cfg: DictConfig | CfgNode, name: str) -> str:
    """The key of a setting in a config of this kind."""
    return _KEYS[name][isinstance(cfg, CfgNode)]


def setting(cfg: DictConfig | CfgNode, name: str) -> Any:
    """The value of a setting, as plain numbers, strings, lists and dicts; None: it has none."""
    return select(cfg, key_of(cfg, name))


def select(cfg: DictConfig | CfgNode, dotted: str) -> Any:
    """The plain value of a dotted key of either kind of config; None if there is no such key."""
    if isinstance(cfg, CfgNode):
        value: Any = cfg
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, CfgNode) else None
    else:
        value = OmegaConf.select(cfg, dotted)
        if isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
    return list(value) if isinstance(value, tuple) else value
