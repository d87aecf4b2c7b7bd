"""The training loop's parts: load a config, check it, train, evaluate."""

from d2_regnet.model_zoo.loading import load_config

from .checks import check_config
from .evaluating import evaluate
from .hooks import Interrupted, ProgressLine
from .training import train

__all__ = ["Interrupted", "ProgressLine", "check_config", "evaluate", "load_config", "train"]
