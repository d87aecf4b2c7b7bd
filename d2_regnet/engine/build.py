"""Builds the parts of a training that a config describes."""

import copy
import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from detectron2.config import CfgNode, instantiate
from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from omegaconf import DictConfig

from d2_regnet.utils.dtypes import DTYPES, dtype_named

logger = logging.getLogger(__name__)


def build_on_cpu(cfg: DictConfig | CfgNode) -> torch.nn.Module:
    """The model of a config of either kind, in training mode, with random values."""
    if isinstance(cfg, DictConfig):
        return instantiate(cfg.model)
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def build_optimizer(cfg: DictConfig, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The config's optimizer over a model's parameters. The config stays as it is."""
    optimizer = copy.deepcopy(cfg.optimizer)
    optimizer.params.model = model
    return instantiate(optimizer)


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """The random numbers that `default_setup` gives a run, inside; the former ones after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all_rng(None if seed is None or seed < 0 else seed + comm.get_rank())
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def available_device(name: str) -> torch.device:
    """A device that `check_device` passes; the CPU, with a warning, if there is no GPU."""
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        logger.warning("the device is to be %s, but there is no GPU: using the CPU", name)
        return torch.device("cpu")
    return device


def amp_dtype(amp: DictConfig, device: str) -> torch.dtype | None:
    """The reduced precision of `train.amp`, None if it is off.

    float16 on a GPU as Detectron2 does it, bfloat16 elsewhere, unless `train.amp.precision` says.

    Raises:
        ValueError: another precision.
    """
    if not amp.enabled:
        return None
    name = amp.precision or ("float16" if device.startswith("cuda") else "bfloat16")
    if name == "float32" or name not in DTYPES:
        raise ValueError(f"train.amp.precision={name}: it is one of float16, bfloat16")
    return DTYPES[name]


def inference_options(node: DictConfig) -> dict | None:
    """The arguments that `train.optimize_for_inference` has for it, None if it is off.

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
