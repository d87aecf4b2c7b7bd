"""Everything that can be known to be wrong with a config before anything is built or written."""

import contextlib
import copy
import logging
import os
from collections.abc import Iterator

import torch
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.evaluation import COCOEvaluator
from detectron2.utils.registry import locate
from fvcore.common.param_scheduler import ParamScheduler
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from d2_regnet import data  # noqa: F401  registers the shapes
from d2_regnet.archs import suggest
from d2_regnet.checkpoint import (
    catalog,  # noqa: F401  teaches PathManager regnet://
    load_fitting,
)
from d2_regnet.checkpoint import read as read_checkpoint
from d2_regnet.data.before_training import check_before_training
from d2_regnet.evaluation import FastCOCOEvaluator
from d2_regnet.model_zoo.loading import nearest
from d2_regnet.model_zoo.overrides import parameters
from d2_regnet.utils.dtypes import dtype_named

from .checkpointer import find_checkpoint
from .memory import check_memory
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
_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
# What Detectron2's metadata calls the files and folders of a data set.
_FILES = ("json_file", "panoptic_json", "image_root", "panoptic_root", "sem_seg_root", "gt_dir")


def check_config(
    cfg: DictConfig,
    *,
    eval_only: bool = False,
    resume: bool = False,
    processes: int = 1,
    allow_missing: bool = False,
) -> None:
    """Makes sure that a config can be trained, or evaluated; changes and writes nothing.

    Made-on-first-use data sets are made, remote weights are fetched into iopath's cache, and the
    model is built once, so that what they object to is known before a run leaves traces.

    Args:
        cfg: as `load_config` returns it.
        eval_only: the weights of `train.init_checkpoint` are to be evaluated, not trained.
        resume: the newest checkpoint of `train.output_dir`, if any, is to be gone on with.
        processes: how many processes will share the work.
        allow_missing: the weights may leave parts of the model at random (see `Fit.check`).

    Raises:
        ValueError: naming the key and what to do.
        FileNotFoundError: a data set's or checkpoint's file is missing.
    """
    for key in _TO_EVALUATE if eval_only else _TO_TRAIN:
        if OmegaConf.select(cfg, key) is None:
            raise ValueError(f"the config has no `{key}`; Detectron2's LazyConfigs define it")
    _check_train(cfg.train)
    _check_calls(cfg)
    check_device(cfg.train.device)
    batch = OmegaConf.select(cfg, "dataloader.train.total_batch_size")
    if not eval_only and batch is not None and (batch < 1 or batch % processes):
        raise ValueError(
            f"dataloader.train.total_batch_size={batch} does not divide among {processes} "
            "process(es); choose a multiple"
        )
    newest = find_checkpoint(cfg.train.output_dir)[0] if resume else ""
    if newest and not eval_only:
        weights, state = "", resumable_state(newest, RunRecord(cfg))
    else:
        weights, state = newest or _weights(cfg.train, eval_only), None
    _check_datasets(cfg.dataloader.test if eval_only else cfg.dataloader)
    check_before_training(cfg, eval_only=eval_only)
    if not eval_only:
        check_memory(cfg, cfg.train.device, processes)
    model = _check_built(cfg, eval_only)
    if state:
        check_same_shapes(state, model)
    elif weights:
        check_fit(model, weights, eval_only, allow_missing)  # the last, as it may take long


def amp_dtype(amp: DictConfig, device: str) -> torch.dtype | None:
    """The reduced precision of `train.amp`, None where it is off.

    float16 on a GPU as Detectron2 does it, bfloat16 elsewhere, unless `train.amp.precision` says.

    Raises:
        ValueError: another precision.
    """
    if not amp.enabled:
        return None
    name = amp.precision or ("float16" if device.startswith("cuda") else "bfloat16")
    if name not in _PRECISIONS:
        raise ValueError(f"train.amp.precision={name}: it is one of {', '.join(_PRECISIONS)}")
    return _PRECISIONS[name]


def inference_options(node: DictConfig) -> dict | None:
    """The arguments that `train.optimize_for_inference` has for it, None where it is off.

    Raises:
        ValueError: naming the key.
    """
    try:
        dtype = dtype_named(node.dtype)
    except ValueError as error:
        raise ValueError(f"train.optimize_for_inference.dtype={error}") from error
    for key in ("enabled", "compile"):
        if not isinstance(node[key], bool):
            raise ValueError(f"train.optimize_for_inference.{key} must be true or false")
    return {"dtype": dtype, "compile": node.compile} if node.enabled else None


def check_device(name: str) -> None:
    """Refuses a device that torch does not know or this machine's GPUs do not reach.

    A CUDA device passes where there is no GPU at all: training falls back to the CPU there.

    Raises:
        ValueError: naming the device.
    """
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"train.device={name} is not a device: cpu, cuda or cuda:N") from error
    gpus = torch.cuda.device_count()
    if device.type == "cuda":
        if gpus and (device.index or 0) >= gpus:
            raise ValueError(f"train.device={name}: this machine has {gpus} GPU(s), from cuda:0")
    elif device.type != "cpu":
        raise ValueError(f"train.device={name}: only cpu and cuda are supported")


def available_device(name: str) -> torch.device:
    """A device that `check_device` passes; the CPU, with a warning, where there is no GPU."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        logging.getLogger(__name__).warning(
            "train.device=%s, but there is no GPU: using the CPU", name
        )
        return torch.device("cpu")
    return device


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
    if not isinstance(train.device, str):
        raise ValueError(f"train.device={train.device} is not a device: cpu, cuda or cuda:N")
    amp_dtype(train.amp, train.device)
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


def _target(node: DictConfig):
    target = node.get("_target_")
    return locate(target) if isinstance(target, str) else target


def _check_calls(cfg: DictConfig) -> None:
    """Every L(f)(...) of the config names only parameters that f has."""
    for path, node in _nodes(cfg):
        if "_target_" not in node:
            continue
        target = _target(node)
        accepted = parameters(target)
        unknown = set(map(str, node)) - {"_target_"} - (accepted or set())
        if accepted is not None and unknown:
            name = min(unknown)
            called = getattr(target, "__qualname__", target)
            raise ValueError(
                f"{path}.{name}: {called} has no such parameter; {suggest(name, accepted)}"
            )


def _weights(train: DictConfig, eval_only: bool) -> str:
    """The path or address of the weights to start from; empty to start from random ones."""
    if eval_only and not train.init_checkpoint:
        raise ValueError("--eval-only needs weights: add train.init_checkpoint=FILE")
    return check_weights(train.init_checkpoint, "train.init_checkpoint")


def check_weights(path: str, key: str) -> str:
    """The path or address of a checkpoint, which may end in Detectron2's query,
    `?matching_heuristics=True`; a file of it exists.

    Args:
        path: empty for none.
        key: of the config, that has it.

    Raises:
        FileNotFoundError: naming the key.
    """
    file = path.split("?")[0]
    if file and "://" not in file and not os.path.isfile(file):
        raise FileNotFoundError(f"{key}={path}: there is no such file")
    return path


def check_fit(model: torch.nn.Module, weights: str, eval_only: bool, allow_missing: bool) -> None:
    """Loads weights into a model that was built to be checked, and says what of them is taken.

    Raises:
        ValueError, FileNotFoundError: of `load_fitting` and `Fit.check`.
    """
    fit = load_fitting(model, weights)
    fit.check(weights, whole=eval_only, allow_missing=allow_missing)
    logger.info("Weights of %s: %s", weights, fit)
    for contradiction in fit.contradictions:
        logger.warning("%s: %s", weights, contradiction)


def resumable_state(path: str, record: RunRecord) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint, after making sure that it is of the same training.

    Raises:
        ValueError: naming the difference.
    """
    checkpoint = read_checkpoint(path)
    if "trainer" not in checkpoint.meta:
        raise ValueError(
            f"{path} holds weights and no training to go on with: start anew from them, "
            "without --resume, in another folder"
        )
    record.load_state_dict(checkpoint.meta.get("run", {}))
    return checkpoint.state


def _check_datasets(dataloader: DictConfig) -> None:
    names = {}
    for path, node in _nodes(dataloader, "dataloader"):
        if "_target_" not in node:
            continue
        target = _target(node)
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
    """Says what is missing of a data set, as far as its metadata tell; empty where nothing is."""
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


def _check_built(cfg: DictConfig, eval_only: bool) -> torch.nn.Module:
    """Builds the model and, to train, what updates it: they check their own parameters best."""
    log = logging.getLogger(instantiate.__module__)
    disabled, log.disabled = log.disabled, True  # it would announce what is raised below
    try:
        part = "model"
        model = instantiate(cfg.model)
        if not eval_only:
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


def build_optimizer(cfg: DictConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The config's optimizer over a model's parameters. The config stays as it is."""
    optimizer = copy.deepcopy(cfg.optimizer)
    optimizer.params.model = model
    return instantiate(optimizer)
