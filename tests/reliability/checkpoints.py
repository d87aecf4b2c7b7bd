"""Checkpoints that are cut off or altered at random places, and the file that names the newest."""

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from d2_regnet.engine.checkpointer import Checkpointer

from .results import Result, Scale, Warnings
from .trainings import same

_TIMES = 20
_STEPS = (3, 5, 7)


def run(scale: Scale) -> Iterator[Result]:
    """The newest of three checkpoints is damaged: the one before it is resumed, with a warning."""
    rng = random.Random(scale.seed)
    torch.manual_seed(scale.seed)
    source = scale.folder / "checkpoints"
    states = _write(source)
    newest = f"model_{_STEPS[-1]:07d}.pth"
    for fault, (damage, count) in _DAMAGES.items():
        for number in range(scale.of(count)):
            folder = scale.folder / f"damaged{number}"
            shutil.copytree(source, folder)
            damage(folder, newest, rng)
            yield _resumed(fault, folder, states, newest)
            shutil.rmtree(folder)
    # All of them
    folder = scale.folder / "all_damaged"
    shutil.copytree(source, folder)
    for path in folder.glob("*.pth"):
        _cut(folder, path.name, rng)
    try:
        Checkpointer(_model(), str(folder)).newest()
        text = ""
    except ValueError as error:
        text = str(error)
    good = all(path.name in text for path in folder.glob("*.pth"))
    yield Result("all checkpoints cut off", "refused, each file named", "nothing", good, text)


class _Trainer:
    """As much of a trainer as a checkpoint has."""

    def __init__(self, step: int = -1):
        self.state = {"iteration": step, "momentum": torch.randn(500)}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def _model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(40, 60), torch.nn.BatchNorm1d(60))


def _write(folder: Path) -> dict[int, dict]:
    folder.mkdir()
    states = {}
    for step in _STEPS:
        model, trainer = _model(), _Trainer(step)
        Checkpointer(model, str(folder), trainer=trainer).save(f"model_{step:07d}", iteration=step)
        states[step] = {"model": model.state_dict(), "trainer": trainer.state}
    return states


def _resumed(fault: str, folder: Path, states: dict, damaged: str) -> Result:
    """Resumes, and compares with what was written."""
    model, trainer = _model(), _Trainer()
    warnings = Warnings()
    log = logging.getLogger("d2_regnet.engine.checkpointer")
    log.addHandler(warnings)
    log.propagate, before = False, log.propagate
    try:
        Checkpointer(model, str(folder), trainer=trainer).resume_or_load("", resume=True)
    except Exception as error:
        return Result(fault, f"fails: {type(error).__name__}", "all", False, str(error))
    finally:
        log.removeHandler(warnings)
        log.propagate = before
    step = trainer.state["iteration"]
    loaded = {"model": model.state_dict(), "trainer": trainer.state}
    whole = step in states and same(loaded, states[step])
    if step == _STEPS[-1]:
        # The byte was one that says nothing about the content, or the name alone was damaged.
        return Result(fault, "the newest, undamaged in content, is resumed", "nothing", whole)
    named = any(damaged in text for text in warnings.texts)
    return Result(
        fault,
        "a warning names the file; the one before it is resumed",
        "one interval",
        whole and step == _STEPS[-2] and named,
        f"step {step}, {warnings.texts}",
    )


def _change(path: Path, change: Callable[[bytearray], bytes]) -> None:
    path.write_bytes(change(bytearray(path.read_bytes())))


def _cut(folder, name, rng):
    _change(folder / name, lambda content: content[: rng.randrange(1, len(content))])


def _flip(folder, name, rng):
    def change(content):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        return content

    _change(folder / name, change)


def _zeros(folder, name, rng):
    def change(content):
        begin = rng.randrange(len(content) - 512)
        content[begin : begin + 512] = bytes(512)
        return content

    _change(folder / name, change)


def _noise(folder, name, rng):
    _change(folder / name, lambda content: rng.randbytes(len(content)))


def _append(folder, name, rng):
    _change(folder / name, lambda content: content + rng.randbytes(100))


def _tag(content: bytes):
    return lambda folder, name, rng: (folder / "last_checkpoint").write_bytes(content)


# kind -> what does it, how often
_DAMAGES = {
    "newest checkpoint cut off at a random byte": (_cut, _TIMES),
    "one random bit of it flipped": (_flip, 2 * _TIMES),
    "512 random bytes of it zero": (_zeros, _TIMES),
    "random bytes in its place": (_noise, 3),
    "random bytes behind it": (_append, 3),
    "an empty file in its place": (lambda f, n, r: (f / n).write_bytes(b""), 1),
    "a folder in its place": (lambda f, n, r: (os.remove(f / n), (f / n).mkdir()), 1),
    "newest checkpoint vanished": (lambda f, n, r: os.remove(f / n), 1),
    "`last_checkpoint` vanished": (lambda f, n, r: os.remove(f / "last_checkpoint"), 1),
    "`last_checkpoint` empty": (_tag(b""), 1),
    "`last_checkpoint` of random bytes": (_tag(b"\x00\xff\xfe\x07model"), 1),
}
