"""From a config's path or name, and overrides, to one complete config of either kind."""

import dataclasses
import importlib.resources
import os
import re
import traceback
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import yaml
from detectron2.config import CfgNode, LazyConfig, get_cfg
from omegaconf import DictConfig, OmegaConf

from d2_regnet import model_zoo
from d2_regnet.archs import get_arch, is_arch_file, suggest
from d2_regnet.config import add_regnet_config, yacs_options
from d2_regnet.data.registered import register_described

from .overrides import apply
from .parts import TRAIN_DEFAULTS
from .recipes import scale_to_batch_size

BEST_WEIGHTS = "model_best.pth"  # of a training with `train.keep_best`


def load_config(path_or_name: str, overrides: Iterable[str] = ()) -> DictConfig:
    """Reads a LazyConfig, completes its `train` group, applies overrides, scales to the batch size,
    and registers the data sets that it describes under `datasets` (see `register_described`).

    A recipe's learning rate and steps follow a changed `dataloader.train.total_batch_size` (see
    `recipes.scale_to_batch_size`), except for those that are overridden themselves.

    Args:
        path_or_name: a LazyConfig file (.py, or the config.yaml of an earlier run), the run's
            folder, or a name of d2_regnet's or of Detectron2's model zoo.
        overrides: `key=value` in hydra's grammar, as Detectron2 takes them. A key must exist in the
            config or be a parameter of the callable it goes to; `+key=value` adds any other.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: the config fails to run, or an override is malformed, names an unknown key or
            has a value of the wrong kind.
    """
    path = find_config(path_or_name)
    if path_or_name.removesuffix(".yaml") in model_zoo.rows() and path_or_name.endswith(".yaml"):
        raise ValueError(
            f"{path_or_name} is a model's yacs form, for d2-regnet train; this tool takes it "
            f"as {path_or_name.removesuffix('.yaml')}"
        )
    cfg = _run_config(path) if path else model_zoo.get_config(path_or_name)
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"{path or path_or_name}: not a LazyConfig: it holds no named groups")
    if "MODEL" in cfg:
        raise ValueError(
            f"{path}: a yacs config; a LazyConfig (.py) is needed here. Train it with "
            "`d2-regnet train`"
        )
    cfg.train = OmegaConf.merge(OmegaConf.create(TRAIN_DEFAULTS), cfg.get("train") or {})
    own = {key for override in overrides for key in apply(cfg, override)}
    scale_to_batch_size(cfg, fixed=own)
    _read_arch(cfg)
    register_described(cfg)
    return cfg


def find_config(path_or_name: str) -> str:
    """The path of a config, for its path, its run's folder, or its name in a model zoo
    (`path_or_name`); empty for a name of d2_regnet's that is composed and has no file.

    Raises:
        FileNotFoundError: there is no such file; the message names the nearest.
        ValueError: there is no such model; the message names the nearest.
    """
    if not path_or_name:
        raise FileNotFoundError("no config: name one with --config-file")
    for path in (path_or_name, os.path.join(path_or_name, "config.yaml")):
        if os.path.isfile(path):
            return path
    zoo = importlib.resources.files("detectron2") / "model_zoo" / "configs" / path_or_name
    if zoo.is_file():
        return str(zoo)
    if model_zoo.has_own_arch(path_or_name):
        return ""
    folder = os.path.dirname(path_or_name)
    if os.path.isdir(path_or_name) and path_or_name not in model_zoo.rows():
        raise FileNotFoundError(
            f"the folder {path_or_name} has no config.yaml: it is not a run's folder"
        )
    if folder or path_or_name.endswith((".py", ".yml")):
        here = sorted(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else []
        suffix = os.path.splitext(path_or_name)[1] or ".py"
        hint = nearest(os.path.basename(path_or_name), [f for f in here if f.endswith(suffix)])
        raise FileNotFoundError(f"config file {path_or_name} does not exist: {hint}")
    if model_zoo.canonical_name(path_or_name) not in model_zoo.rows():
        return ""
    return model_zoo.get_config_file(path_or_name)


def _run_config(path: str) -> DictConfig:
    """Loads a config file; what goes wrong inside it becomes one line with file and line number."""
    try:
        return LazyConfig.load(path)
    except SyntaxError as error:
        cause = error.__cause__ if isinstance(error.__cause__, SyntaxError) else error
        raise ValueError(f"{error.msg}, line {cause.lineno}: {cause.msg}") from error
    except Exception as error:
        # A config is code at module level; the innermost such frame is the user's line.
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name == "<module>"]
        place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else path
        raise ValueError(f"{place}: {type(error).__name__}: {error}") from error


def _read_arch(cfg: DictConfig) -> None:
    """Puts a RegNet's parameters in place of their file: a run's config.yaml then holds all."""
    node = OmegaConf.select(cfg, "model.backbone.bottom_up")
    if isinstance(node, DictConfig) and is_arch_file(node.get("arch")):
        node.arch = dataclasses.asdict(get_arch(node.arch))


def nearest(name: str, known: Collection[str]) -> str:
    """`suggest` a `known` name for `name`; of many unlike ones only their number."""
    hint = suggest(name, known)
    if hint.startswith("the nearest") or 0 < len(known) <= 10:
        return hint
    return f"there are {len(known)} there, none like it" if known else "there is none like it"


def load_any(path_or_name: str, overrides: Sequence[str] = ()) -> DictConfig | CfgNode:
    """A LazyConfig as `load_config` reads it, or a yacs config as `load_yaml` does, from the same
    `path_or_name` and `overrides`."""
    path = find_config(path_or_name)
    yacs = _is_yacs(path) if path else path_or_name.endswith(".yaml")
    return (load_yaml if yacs else load_config)(path_or_name, overrides)


def _is_yacs(path: str) -> bool:
    """Whether a file is a yacs config; a run's config.yaml may be of either kind."""
    if not path.endswith((".yaml", ".yml")):
        return False
    with open(path) as file:
        return re.search("^(MODEL|_BASE_):", file.read(), re.MULTILINE) is not None


def load_yaml(path_or_name: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Reads a yacs config on top of Detectron2's defaults and `add_regnet_config`; frozen.

    Args:
        path_or_name: a file, a run's folder, or a model's name with .yaml behind it.
        overrides: KEY VALUE KEY VALUE ..., as Detectron2 takes them.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: an unknown key, or a value of the wrong kind.
    """
    path = find_config(path_or_name)
    cfg = get_cfg() if path else model_zoo.get_config(path_or_name)
    try:
        if path:
            add_regnet_config(cfg)
            cfg.merge_from_file(path)
        cfg.merge_from_list(list(overrides))
    except (KeyError, AssertionError, ValueError) as error:
        raise ValueError(f"{path_or_name}: {error.args[0] if error.args else error}") from error
    except (yaml.YAMLError, AttributeError) as error:  # a text, or a single value
        raise ValueError(f"{path_or_name} is not a YAML config: {error}") from error
    yacs_options(cfg)
    cfg.freeze()
    return cfg


def run_weights(folder: str | os.PathLike) -> str:
    """The weights that a run is used with: its best, where it has kept them, else its newest.

    Returns:
        A path, of a file that may be gone; empty if the folder has no checkpoint.
    """
    best, last = Path(folder, BEST_WEIGHTS), Path(folder, "last_checkpoint")
    if best.is_file():
        return str(best)
    return str(last.with_name(last.read_text().strip())) if last.is_file() else ""


def trained_weights(path_or_name: str) -> str:
    """The weights of a trained detector that belong to a config: its run's (see `run_weights`), or
    the published ones of a model of the zoo; empty for any other. `path_or_name` is that of
    `find_config`.

    Raises:
        ValueError: a model of the zoo without published weights.
    """
    path = find_config(path_or_name)
    if not path:
        return model_zoo.get_checkpoint_url(path_or_name)
    if weights := run_weights(Path(path).parent):
        return weights
    name = Path(path).name
    try:
        own = os.path.samefile(model_zoo.get_config_file(name), path)
    except (ValueError, FileNotFoundError):
        return ""
    return model_zoo.get_checkpoint_url(name) if own else ""
