"""Everything that can be known to be wrong with a config before anything is built or written."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2_regnet.archs import suggest
from d2_regnet.checkpoint import load_fitting
from d2_regnet.checkpoint import read as read_checkpoint
from d2_regnet.checkpoint.loading import local_file
from d2_regnet.data.before_training import check_before_training
from d2_regnet.evaluation import FastCOCOEvaluator
from d2_regnet.model_zoo.loading import nearest
from d2_regnet.model_zoo.settings import key_of, setting
from d2_regnet.utils.signatures import parameters, target_of

from .build import amp_dtype, build_on_cpu, build_optimizer, inference_options, seeded
from .checkpointer import find_checkpoint
from .memory import check_memory
from .options import training_options
from .record import RunRecord, check_same_shapes

logger = logging.getLogger(__name__)
_TO_TRAIN = ("model", "optimizer", "lr_multiplier", "dataloader.train")
_TO_EVALUATE = ("model", "dataloader.test")
# What takes the names of data sets, and as which parameter.
_DATASET_KEYS = {
    get_detection_dataset_dicts: "names",
    COCOEvaluator: "dataset_name",
    FastCOCOEvaluator: "dataset_name",
}
# What Detectron2's metadata calls the files and folders of a data set.
_FILES = ("json_file", "panoptic_json", "image_root", "panoptic_root", "sem_seg_root", "gt_dir")


class Checked(NamedTuple):
    """What `check_config` has built, for one training or evaluation of its config.

    Attributes:
        model: on the CPU, with the random values of the config's seed and, over them, the weights.
        weights: what it has of them, for the log; None if a run is to be resumed instead.
    """

    model: torch.nn.Module
    weights: str | None


def check_config(
    cfg: DictConfig | CfgNode,
    *,
    eval_only: bool = False,
    resume: bool = False,
    processes: int = 1,
    allow_missing: bool = False,
) -> Checked:
    """Makes sure that a config can be trained, or evaluated; changes and writes nothing.

    Made-on-first-use data sets are made, remote weights are fetched into iopath's cache, and the
    model is built, so that what they object to is known before a run leaves traces.

    Args:
        cfg: as `load_config` or `load_yaml` returns it.
        eval_only: the weights of the config are to be evaluated, not trained.
        resume: the newest checkpoint of the output folder, if any, is to be resumed.
        processes: how many processes will share the work.
        allow_missing: the weights may leave parts of the model at random (see `Fit.check`).

    Returns:
        The model, with its weights.

    Raises:
        ValueError: naming the key and what to do.
        FileNotFoundError: a data set's or checkpoint's file is missing.
    """
    lazy = isinstance(cfg, DictConfig)
    if lazy:
        _check_lazy(cfg, eval_only)
    check_device(setting(cfg, "device"), key_of(cfg, "device"))
    if not eval_only:
        training_options(cfg)
        _check_batch(cfg, processes)
    newest = find_checkpoint(setting(cfg, "output folder"))[0] if resume else ""
    state = resumable_state(newest, RunRecord(cfg)) if newest and not eval_only else None
    if lazy:
        _check_datasets(cfg.dataloader.test if eval_only else cfg.dataloader)
    classes = check_before_training(cfg, eval_only=eval_only)
    weights = newest or _weights(cfg, eval_only)
    if lazy and not eval_only:
        check_memory(cfg, cfg.train.device, processes)
    model = _built(cfg, eval_only)
    if state:
        check_same_shapes(state, model)
        return Checked(model, None)
    # The last, as it may take long.
    return Checked(model, _check_fit(model, weights, eval_only, allow_missing, classes))


def _check_lazy(cfg: DictConfig, eval_only: bool) -> None:
    for part in _TO_EVALUATE if eval_only else _TO_TRAIN:
        if OmegaConf.select(cfg, part) is None:
            raise ValueError(f"the config has no `{part}`; Detectron2's LazyConfigs define it")
    _check_train(cfg.train)
    _check_calls(cfg)


def _check_batch(cfg: DictConfig | CfgNode, processes: int) -> None:
    batch = setting(cfg, "batch size")
    # Detectron2 adapts the batch to the processes where there is a size of reference.
    if batch is None or (isinstance(cfg, CfgNode) and cfg.SOLVER.REFERENCE_WORLD_SIZE):
        return
    if batch < 1 or batch % processes:
        raise ValueError(
            f"{key_of(cfg, 'batch size')}={batch} does not divide among {processes} process(es); "
            "choose a multiple"
        )


def check_device(name: str, key: str = "train.device") -> None:
    """Refuses a device that torch does not know or this machine's GPUs do not reach.

    A CUDA device passes if there is no GPU at all: training falls back to the CPU there.

    Args:
        name: of the device.
        key: the config's key for it.

    Raises:
        ValueError: naming the device.
    """
    try:
        device = torch.device(str(name))
    except RuntimeError as error:
        raise ValueError(f"{key}={name} is not a device: cpu, cuda or cuda:N") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda":
        if gpus and (device.index or 0) >= gpus:
            raise ValueError(f"{key}={name}: this machine has {gpus} GPU(s), from cuda:0")
    elif device.type != "cpu":
        raise ValueError(f"{key}={name}: only cpu and cuda are supported")


def _check_train(train: DictConfig) -> None:
    for key, least in (
        ("max_iter", 1),
        ("checkpointer.period", 1),
        ("eval_period", 0),
        ("log_period", 1),
        ("non_finite.skip", 0),
        ("non_finite.save", 0),
    ):
        value = OmegaConf.select(train, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"train.{key} must be a whole number of at least {least}: {value!r}")
    if not isinstance(train.output_dir, str) or not train.output_dir:
        raise ValueError("train.output_dir must name a folder")
    folder = os.path.abspath(train.output_dir)
    while not os.path.exists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise ValueError(f"train.output_dir={train.output_dir}: {folder} is a file; name a folder")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"train.output_dir={train.output_dir}: {folder} cannot be written to")
    amp_dtype(train.amp, str(train.device))
    inference_options(train.optimize_for_inference)
    if train.clip_grad is not None:
        unknown = set(train.clip_grad) - {"max_norm", "norm_type"}
        if unknown or "max_norm" not in train.clip_grad:
            raise ValueError("train.clip_grad takes max_norm and, optionally, norm_type")
        if not all(isinstance(v, int | float) and v > 0 for v in train.clip_grad.values()):
            raise ValueError(f"train.clip_grad needs positive numbers: {train.clip_grad}")


def _nodes(node, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every group of keys below `node`, with its dotted path. What is missing is passed over."""
    if isinstance(node, DictConfig):
        yield path, node
        keys = list(node)
    elif isinstance(node, ListConfig):
        keys = range(len(node))
    else:
        return
    for key in keys:
        with contextlib.suppress(OmegaConfBaseException):
            yield from _nodes(node[key], f"{path}.{key}" if path else str(key))


def _check_calls(cfg: DictConfig) -> None:
    """Every L(f)(...) of the config names only parameters that f has."""
    for path, node in _nodes(cfg):
        if "_target_" not in node:
            continue
        target = target_of(node)
        accepted = parameters(target)
        unknown = set(map(str, node)) - {"_target_"} - (accepted or set())
        if accepted is not None and unknown:
            name = min(unknown)
            called = getattr(target, "__qualname__", target)
            raise ValueError(
                f"{path}.{name}: {called} has no such parameter; {suggest(name, accepted)}"
            )


def _weights(cfg: DictConfig | CfgNode, eval_only: bool) -> str:
    """The path or address of the weights to start from; empty to start from random ones."""
    weights, name = setting(cfg, "weights"), key_of(cfg, "weights")
    if eval_only and not weights:
        raise ValueError(f"--eval-only needs weights: add {name}=FILE")
    if weights and "://" not in weights:
        local_file(weights, name)
    return weights


def _check_fit(
    model: torch.nn.Module,
    weights: str,
    eval_only: bool,
    allow_missing: bool,
    classes: Sequence[str],
) -> str:
    """Loads weights into the model, and returns what of them is taken.

    Raises:
        ValueError, FileNotFoundError: of `load_fitting` and `Fit.check`.
    """
    fit = load_fitting(model, weights)
    said = fit.check(weights, whole=eval_only, allow_missing=allow_missing, classes=classes)
    for difference in said:
        logger.warning("%s: %s", weights, difference)
    return f"{weights}: {fit}" if weights else str(fit)


def resumable_state(path: str, record: RunRecord) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, after making sure that it is of the same training.

    Raises:
        ValueError: naming the difference.
    """
    checkpoint = read_checkpoint(path)
    if "trainer" not in checkpoint.meta:
        raise ValueError(
            f"{path} holds weights and no training to resume: start from them, "
            "without --resume, in another folder"
        )
    record.load_state_dict(checkpoint.meta.get("run", {}))
    return checkpoint.state


def _check_datasets(dataloader: DictConfig) -> None:
    names = {}
    for path, node in _nodes(dataloader, "dataloader"):
        if "_target_" not in node:
            continue
        target = target_of(node)
        key = _DATASET_KEYS.get(target)
        if key in node:
            found = node[key]
            for name in [found] if isinstance(found, str) else found:
                names.setdefault(name, f"{path}.{key}")
    for name, key in names.items():
        if name not in DatasetCatalog:
            raise ValueError(
                f"{key}: the data set {name!r} is not registered; "
                f"{nearest(name, DatasetCatalog.list())}"
            )
        _check_files(name)


def _check_files(name: str) -> None:
    """Makes sure that a data set's files exist, having it make them where it can."""
    missing = _missing_file(name)
    if missing:
        with contextlib.suppress(Exception):  # reported below, in the user's terms
            DatasetCatalog.get(name)
        missing = _missing_file(name)
    if missing:
        raise FileNotFoundError(
            f"data set {name}: {missing}; the environment variable DETECTRON2_DATASETS names the "
            f"folder of Detectron2's built-in data sets (now {_datasets_root()})"
        )


def _missing_file(name: str) -> str:
    """Says what is missing of a data set, as far as its metadata tell; empty if nothing is."""
    metadata = MetadataCatalog.get(name).as_dict()
    for path in (metadata[key] for key in _FILES if metadata.get(key)):
        if "://" in path:
            continue
        if not os.path.exists(path):
            return f"{path} does not exist"
        if os.path.isdir(path) and not any(os.scandir(path)):
            return f"{path} is empty"
    return ""


def _datasets_root() -> str:
    return os.environ.get("DETECTRON2_DATASETS") or "not set: ./datasets"


def _built(cfg: DictConfig | CfgNode, eval_only: bool) -> torch.nn.Module:
    """Builds the model and, to train, what updates it: they check their own parameters best."""
    log = logging.getLogger(instantiate.__module__)
    disabled, log.disabled = log.disabled, True  # it would announce what is raised below
    part = "model"
    try:
        with seeded(setting(cfg, "seed")):
            model = build_on_cpu(cfg)
        if isinstance(cfg, DictConfig) and not eval_only:
            part = "optimizer"
            build_optimizer(cfg, model)
            part = "lr_multiplier"
            scheduler = instantiate(cfg.lr_multiplier)
            if not isinstance(scheduler, ParamScheduler):
                raise TypeError(f"a fvcore ParamScheduler is needed, not {type(scheduler)}")
    except Exception as error:
        raise ValueError(f"{part} cannot be built: {type(error).__name__}: {error}") from error
    finally:
        log.disabled = disabled
    return model
