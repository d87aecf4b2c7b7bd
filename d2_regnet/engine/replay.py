"""Runs one saved batch again: the same weights, images and random numbers, and, of one of many
processes, what it had heard from the others.

A file of `engine.non_finite` holds Python objects: open only your own.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from detectron2.layers import NaiveSyncBatchNorm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from d2_regnet.checkpoint import read as read_checkpoint
from d2_regnet.model_zoo.loading import load_any
from d2_regnet.modeling.global_batch import Repeated, global_batch

from .build import build_on_cpu
from .trainer import scripted_alike

__all__ = ["Replay", "inexact", "load_model", "read_batch", "replay", "same"]

_KEYS = {
    *("step", "seed", "rng", "rank", "processes", "threads", "exchanged", "normalizer"),
    *("precision", "device", "losses", "lr", "batch", "model"),
}


@dataclass(frozen=True)
class Replay:
    """What a batch gives.

    Attributes:
        losses: their values by name; empty if the model stopped.
        error: what it stopped with, if it did.
        gradients: the norm of each parameter's gradient, by name; empty without gradients. They
            are of this process's part; training took their mean over the processes.
        module: the first module whose output is not finite although what it was given is, or the
            first at all; None if all outputs are finite.
    """

    losses: dict[str, float]
    error: str
    gradients: dict[str, float]
    module: str | None


def read_batch(path: str | os.PathLike) -> dict:
    """A file of `engine.non_finite`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a saved batch.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such file")
    try:
        saved = torch.load(path, map_location="cpu", weights_only=False)
        missing = _KEYS - saved.keys()
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{path} is damaged or not a saved batch: {error}") from error
    if missing:
        raise ValueError(f"{path} is not a saved batch: it has no {', '.join(sorted(missing))}")
    return saved


def load_model(config: str, saved: dict, weights: str = "") -> nn.Module:
    """The model of a config with the weights of a saved batch, or of another checkpoint.

    Args:
        config: of either kind, as a path or a model's name.
        saved: from `read_batch`.
        weights: a checkpoint file.

    Raises:
        FileNotFoundError, ValueError: the config or the checkpoint cannot be read, or they do not
            fit together.
    """
    model = build_on_cpu(load_any(config))
    state = read_checkpoint(weights).state if weights else saved["model"]
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{config} is not the config of {weights or 'the batch'}: {error}"
        ) from error
    return model.train()


def replay(model: nn.Module, saved: dict) -> Replay:
    """One forward and one backward pass of a saved batch; nothing is updated.

    On the CPU with as many threads as in training, because sums depend on it.

    Args:
        model: in training mode, on the CPU.
        saved: from `read_batch`.
    """
    device = saved["device"] if torch.cuda.is_available() else "cpu"
    model = model.to(device)
    precision = getattr(torch, saved["precision"]) if saved["precision"] else None
    autocast = torch.autocast(device, dtype=precision, enabled=precision is not None)
    losses, error, gradients = {}, "", {}
    model.zero_grad()
    vars(model).update(saved["normalizer"])
    batch = saved["batch"]
    exchange = Repeated(saved["rank"], saved["processes"], list(saved["exchanged"]))
    step = global_batch(model, saved["seed"], saved["step"], len(batch), exchange)
    storage = EventStorage(saved["step"])  # models log to it
    with _first_non_finite(model) as found, _threads(saved["threads"]), storage:
        seed_all_rng(saved["rng"])
        try:
            with autocast, step, scripted_alike(device):
                losses = model(batch)
        except FloatingPointError as raised:
            error = str(raised)
    if isinstance(losses, torch.Tensor):
        losses = {"total_loss": losses}
    if losses:
        sum(losses.values()).backward()
        gradients = {
            name: p.grad.norm().item() for name, p in model.named_parameters() if p.grad is not None
        }
    values = {name: value.item() for name, value in losses.items()}
    return Replay(values, error, gradients, found[0] if found else None)


def inexact(model: nn.Module, saved: dict) -> str:
    """Why `replay` cannot give the very losses of the training, where it cannot; else empty."""
    kinds = nn.SyncBatchNorm, NaiveSyncBatchNorm
    shared = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    if saved["processes"] == 1 or not shared:
        return ""
    return (
        f"{len(shared)} layers of SyncBN, such as {shared[0]}, took their statistics from the "
        f"images of all {saved['processes']} processes, of which these are one's"
    )


def same(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether losses are exactly the same, NaN being the same as NaN."""
    return one.keys() == other.keys() and all(
        a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one.values(), other.values())
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """torch computes with so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _first_non_finite(model: nn.Module) -> Iterator[list[str]]:
    """Yields a list that gets the names of modules with an output that is not finite, in the order
    in which they end, innermost first."""
    found, handles = [], []
    for name, module in model.named_modules():

        def note(module, inputs, output, name=name):
            if not _finite(output):
                was = "" if _finite(inputs) else ", as are its inputs"
                found.append(f"{name or 'the model'} ({type(module).__name__}){was}")

        handles.append(module.register_forward_hook(note))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _finite(value) -> bool:
    if isinstance(value, torch.Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    return _finite(value.tensor) if hasattr(value, "tensor") else True
