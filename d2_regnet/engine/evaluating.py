"""Evaluates a LazyConfig's model."""

import argparse
import logging
from collections.abc import Callable

import torch
from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig

from d2_regnet.data.loader import outlasting_signals
from d2_regnet.inference.optimize import optimize_for_inference

from .build import available_device, inference_options
from .checkpointer import Checkpointer
from .checks import Checked, check_config
from .logs import job_logging

__all__ = ["evaluate", "load_weights", "run_evaluation"]

logger = logging.getLogger(__name__)


def evaluate(
    cfg: DictConfig,
    model: torch.nn.Module | None = None,
    *,
    resume: bool = False,
    allow_missing: bool = False,
) -> dict:
    """Evaluates a model on `cfg.dataloader.test` with `cfg.dataloader.evaluator`.

    Args:
        cfg: as `load_config` returns it.
        model: by default it is built and given the weights of `cfg.train.init_checkpoint`.
        resume: take the newest checkpoint of the output folder instead, if there is one.
        allow_missing: as for `check_config`.

    Returns:
        As `train`.

    Raises:
        ValueError, FileNotFoundError: from `check_config`, before anything is written.
    """
    if model is not None:
        return run_evaluation(cfg, model)
    checked = check_config(
        cfg,
        eval_only=True,
        resume=resume,
        processes=comm.get_world_size(),
        allow_missing=allow_missing,
    )
    with job_logging(cfg, argparse.Namespace(eval_only=True, resume=resume)):
        return run_evaluation(cfg, load_weights(cfg, checked, resume=resume))


def load_weights(
    cfg: DictConfig, checked: Checked | None = None, *, resume: bool = False
) -> torch.nn.Module:
    """A model with the config's weights, or with the newest of the output folder, on its device."""
    device = available_device(cfg.train.device)
    if checked is not None:
        logger.info("The model has %s", checked.weights)
        return checked.model.to(device)
    model = instantiate(cfg.model).to(device)
    checkpointer = Checkpointer(model, cfg.train.output_dir)
    checkpointer.resume_or_load(cfg.train.init_checkpoint, resume=resume)
    return model


def run_evaluation(
    cfg: DictConfig,
    model: torch.nn.Module,
    *,
    before_inference: Callable[[], None] | None = None,
) -> dict:
    """`evaluate` after its checks and inside its logging; calls back before each batch."""
    if "evaluator" not in cfg.dataloader or cfg.dataloader.evaluator is None:
        logger.warning("The config has no dataloader.evaluator: nothing is evaluated")
        return {}
    options = inference_options(cfg.train.optimize_for_inference)
    if options:
        model = optimize_for_inference(model, **options)
    with outlasting_signals(instantiate(cfg.dataloader.test)) as loader:
        results = inference_on_dataset(
            model,
            loader,
            instantiate(cfg.dataloader.evaluator),
            callbacks={"before_inference": before_inference} if before_inference else None,
        )
    if comm.is_main_process():
        print_csv_format(results)
    return results
