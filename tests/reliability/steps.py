"""Losses and gradients that are not finite, loader workers that die, another config at resuming."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import torch
from detectron2.engine import HookBase

from d2_regnet.engine.replay import load_model, read_batch, replay
from d2_regnet.engine.replay import same as same_losses

from .results import Result, Scale
from .trainings import config, final, finish, forked, same, start


def run(scale: Scale) -> Iterator[Result]:
    rng = random.Random(scale.seed)
    for number in range(scale.of(3)):
        for fault, poison in _POISONS.items():
            yield _stops(scale.folder / f"{poison.__name__}{number}", fault, poison, rng)
        yield _leaves_out(scale.folder / f"left_out{number}", rng)
    yield _too_many(scale.folder / "too_many")
    whole = config(scale.folder / "whole_steps")
    finish(whole)
    for number in range(scale.of(4)):
        yield _dead_worker(scale.folder / f"worker{number}", rng, final(whole))
    yield from _other_configs(whole)


class Poison(HookBase):
    """Makes steps not finite."""

    def __init__(self, steps, poison):
        self._steps, self._poison, self._handles = steps, poison, []

    def before_step(self):
        while self._handles:
            self._handles.pop().remove()
        if self.trainer.iter in self._steps:
            self._handles = self._poison(self.trainer.model)


def _loss(model) -> list:
    """A logit that is not finite."""
    predictor = model.roi_heads.box_predictor
    return [predictor.register_forward_hook(lambda m, i, out: (out[0] * float("inf"), out[1]))]


def _features(model) -> list:
    """A feature map that is not finite, at which Detectron2's RPN stops."""
    return [model.backbone.fpn_output3.register_forward_hook(lambda m, i, out: out * float("nan"))]


def _gradient(model) -> list:
    """A gradient that is not finite, of finite losses."""
    weight = model.roi_heads.box_predictor.cls_score.weight
    return [weight.register_hook(lambda grad: grad * float("inf"))]


_POISONS = {
    "loss not finite": _loss,
    "features not finite, at which Detectron2's RPN raises": _features,
    "gradients not finite, losses finite": _gradient,
}


def _stops(folder: Path, fault: str, poison, rng) -> Result:
    step = rng.randrange(1, 9)
    cfg = config(folder)
    child = start(cfg, hooks=[Poison([step], poison)])
    code, last = child.wait(), child.error()
    told = (f"step {step}:", "learning rate", ".png", "replay_batch.py", "finite")
    named = all(word in last for word in told) or ("Inf/NaN" in last and ".png" in last)
    saved = list((folder / "non_finite").glob("*.pth"))
    replayed = len(saved) == 1 and forked(lambda: _replays(folder, saved[0], poison))
    return Result(
        fault,
        "stops with one line that names losses, step, images and rate; the saved batch gives "
        "the very losses",
        "the steps since the last checkpoint",
        code == 1 and last.startswith("error: ") and named and replayed,
        f"{code} {last} {saved} {replayed}",
    )


def _replays(folder: Path, path: Path, poison) -> bool:
    saved = read_batch(path)
    model = load_model(str(folder / "config.yaml"), saved)
    poison(model)
    return same_losses(saved["losses"], replay(model, saved).losses)


def _leaves_out(folder: Path, rng) -> Result:
    """Two in a row, where two may be left out."""
    first = rng.randrange(1, 9)
    cfg = config(folder, "train.non_finite.skip=2")
    child = start(cfg, hooks=[Poison([first, first + 1], _loss)])
    code, printed = child.wait(), child.printed()
    weights = final(cfg)["model"].values() if code == 0 else []
    return Result(
        "losses not finite in two steps, `train.non_finite.skip=2`",
        "both are left out with a warning; training ends",
        "two steps",
        code == 0
        and printed.count("Left out (") == 2
        and f"step {first + 1}:" in printed
        and all(torch.isfinite(w).all() for w in weights),
        child.error(),
    )


def _too_many(folder: Path) -> Result:
    cfg = config(folder, "train.non_finite.skip=2", "train.non_finite.save=1")
    child = start(cfg, hooks=[Poison(range(4, 9), _loss)])
    code, printed = child.wait(), child.printed()
    saved = list((folder / "non_finite").glob("*.pth"))
    return Result(
        "losses not finite in more steps in a row than may be left out",
        "stops at the third; as many batches are saved as the setting allows",
        "the steps since the last checkpoint",
        (code, printed.count("Left out ("), len(saved)) == (1, 2, 1) and "step 6:" in child.error(),
        f"{child.error()} {saved}",
    )


class _KillWorker(HookBase):
    def __init__(self, step):
        self._step = step

    def before_step(self):
        if self.trainer.iter == self._step:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text()
            os.kill(int(children.split()[0]), signal.SIGKILL)


def _dead_worker(folder: Path, rng, expected: dict) -> Result:
    cfg = config(folder, "dataloader.train.num_workers=2")
    child = start(cfg, hooks=[_KillWorker(rng.randrange(1, 9))])
    code, last = child.wait(), child.error()
    equal = finish(cfg) == 0 and same(final(cfg), expected)
    return Result(
        "SIGKILL of a loader worker",
        "stops with one line that says so; resumed, it ends bitwise as undisturbed",
        "the steps since the last checkpoint",
        code == 1 and last.startswith("error: ") and "worker" in last and equal,
        f"{code} {last} {equal}",
    )


def _other_configs(whole) -> Iterator[Result]:
    folder = Path(whole.train.output_dir)
    for what, overrides in {
        "arch": ["model.backbone.bottom_up.arch.depth=7"],
        "number of classes": ["model.roi_heads.num_classes=7"],
        "batch size": ["dataloader.train.total_batch_size=4"],
        "model": ["model.roi_heads.mask_head.conv_dims=[8,16]"],
    }.items():
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        child = start(config(folder, *overrides))
        code, printed = child.wait(), child.printed().strip()
        untouched = before == {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        key = overrides[0].partition("=")[0] if what != "model" else "shape"
        yield Result(
            f"resuming with another {what}",
            "refused with the difference, code 2; nothing is written",
            "nothing",
            code == 2 and untouched and key.removesuffix(".depth") in printed.splitlines()[-1],
            printed,
        )
