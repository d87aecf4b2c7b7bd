"""Yacs configs: read, and checked before anything is written."""

import os
import re
from collections.abc import Sequence

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from omegaconf import DictConfig

from d2_regnet import model_zoo
from d2_regnet.config import add_regnet_config
from d2_regnet.data.before_training import check_before_training
from d2_regnet.optimize import yacs_options

from .checkpointer import find_checkpoint
from .checks import check_weights, resumable_state
from .config import find_config, load_config
from .record import RunRecord, check_same_shapes

__all__ = ["check_yaml", "find_yaml", "load_either", "load_yaml"]


def check_yaml(
    cfg: CfgNode, *, eval_only: bool = False, resume: bool = False, processes: int = 1
) -> None:
    """Makes sure that a run can be begun, or gone on with; writes nothing.

    Args:
        cfg: as `load_yaml` returns it.
        eval_only, resume, processes: as for `engine.check_config`.

    Raises:
        ValueError: the batch does not divide among the processes, a data set is at fault (see
            `check_before_training`), no checkpoint is good, or the newest is of another training.
        FileNotFoundError: a data set's or checkpoint's file is missing.
    """
    batch = cfg.SOLVER.IMS_PER_BATCH
    # Detectron2 adapts the batch to the processes where there is a size of reference.
    if not eval_only and not cfg.SOLVER.REFERENCE_WORLD_SIZE and (batch < 1 or batch % processes):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {batch} does not divide among {processes} process(es); choose "
            "a multiple"
        )
    newest = find_checkpoint(cfg.OUTPUT_DIR)[0] if resume else ""
    if not newest:
        check_weights(cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    state = resumable_state(newest, RunRecord(cfg)) if newest and not eval_only else None
    check_before_training(cfg, eval_only=eval_only)
    if state:
        on_cpu = cfg.clone()
        on_cpu.defrost()
        on_cpu.MODEL.DEVICE = "cpu"
        check_same_shapes(state, build_model(on_cpu))


def load_either(config: str, overrides: Sequence[str] = ()) -> DictConfig | CfgNode:
    """A LazyConfig as `load_config` reads it, or a yacs config as `load_yaml` does.

    Args:
        config: a path, a run's folder, or a row's name; with .yaml behind it, its YAML form.
        overrides: as the config's kind takes them.

    Raises:
        FileNotFoundError, ValueError: as of the two.
    """
    name = config.endswith(".yaml") and not os.path.dirname(config) and not os.path.exists(config)
    path = find_yaml(config) if name else find_config(config)
    return load_yaml(path, overrides) if _is_yacs(path) else load_config(config, overrides)


def _is_yacs(path: str) -> bool:
    """Whether a file is a yacs config; a run's config.yaml may be of either kind."""
    if not path.endswith((".yaml", ".yml")):
        return False
    with open(path) as file:
        return re.search("^(MODEL|_BASE_):", file.read(), re.MULTILINE) is not None


def find_yaml(path_or_name: str) -> str:
    """The path of a YAML config given by its path, or by a row's name with .yaml behind it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a name that is no row's; lists the nearest.
    """
    if os.path.isfile(path_or_name):
        return path_or_name
    if os.path.dirname(path_or_name) or not path_or_name.endswith(".yaml"):
        raise FileNotFoundError(f"config file {path_or_name!r} does not exist; give a YAML file")
    return model_zoo.get_config_file(path_or_name)


def load_yaml(path: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Reads a YAML config on top of Detectron2's defaults and `add_regnet_config`; frozen.

    Args:
        path: a file.
        overrides: KEY VALUE KEY VALUE ..., as Detectron2 takes them.

    Raises:
        ValueError: an unknown key, or a value of the wrong kind.
    """
    cfg = get_cfg()
    add_regnet_config(cfg)
    try:
        cfg.merge_from_file(path)
        cfg.merge_from_list(list(overrides))
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(f"{path}: {error.args[0] if error.args else error}") from error
    except (yaml.YAMLError, AttributeError) as error:  # a text, or a single value
        raise ValueError(f"{path} is no YAML config: {error}") from error
    yacs_options(cfg)
    cfg.freeze()
    return cfg
