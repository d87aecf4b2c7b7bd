"""The signals that ask a training to stop, at random times, and once more; in an evaluation."""

import os
import random
import signal
import time
from collections.abc import Iterator

from detectron2.engine import HookBase

from d2_regnet.engine.checkpointer import find_checkpoint

from .results import Result, Scale
from .trainings import config, final, finish, same, start, steps_done, wait_for_step

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


def run(scale: Scale) -> Iterator[Result]:
    rng = random.Random(scale.seed)
    whole = config(scale.folder / "whole_signals")
    finish(whole)
    for signum in _SIGNALS:
        for number in range(scale.of(3)):
            name = f"{signum.name}{number}"
            cfg = config(scale.folder / name, f"dataloader.train.num_workers={number % 2}")
            yield _once(cfg, signum, rng.randrange(1, 6), final(whole))
        yield _twice(config(scale.folder / f"{signum.name}_twice"), signum)
    yield _in_evaluation(scale)


def _once(cfg, signum, step: int, expected: dict) -> Result:
    child = start(cfg)
    wait_for_step(child, cfg, step)
    os.kill(child.pid, signum)
    code = child.wait()
    path, problems = find_checkpoint(cfg.train.output_dir)
    kept = steps_done(cfg.train.output_dir)
    equal = finish(cfg) == 0 and same(final(cfg), expected)
    return Result(
        f"{signum.name} at a random step",
        f"finishes the step, writes a checkpoint, exits with {128 + signum}; resumed, it ends "
        "bitwise as undisturbed",
        "nothing",
        code == 128 + signum and kept > step and not problems and equal,
        f"{code} {path} {kept} after {step}, {equal}: {child.error()}",
    )


def _wait_for_words(child, words: str) -> None:
    end = time.monotonic() + 60
    while words not in child.printed() and time.monotonic() < end:
        time.sleep(0.02)


class _Slow(HookBase):
    """Makes each step take a minute, so that the first signal cannot be what ends it."""

    def before_step(self):
        if self.trainer.iter == 2:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                time.sleep(0.05)


def _twice(cfg, signum) -> Result:
    child = start(cfg, hooks=[_Slow()])
    wait_for_step(child, cfg, 1)
    time.sleep(0.3)
    os.kill(child.pid, signum)
    _wait_for_words(child, "once more: at once")  # two at a time would be one
    began = time.monotonic()
    os.kill(child.pid, signum)
    code = child.wait()
    seconds = time.monotonic() - began
    return Result(
        f"{signum.name}, and again within the step",
        f"exits at once with {128 + signum}",
        "the steps since the last checkpoint",
        code == 128 + signum and seconds < 10,
        f"{code} after {seconds:.1f} s: {child.error()}",
    )


def _in_evaluation(scale) -> Result:
    cfg = config(
        scale.folder / "evaluation", "train.eval_period=6", "train.max_iter=8", evaluate=True
    )
    child = start(cfg, before=_slow_evaluation)
    wait_for_step(child, cfg, 4)
    _wait_for_words(child, "evaluating")
    began = time.monotonic()
    os.kill(child.pid, signal.SIGTERM)
    code = child.wait()
    seconds = time.monotonic() - began
    kept = steps_done(cfg.train.output_dir)
    return Result(
        "SIGTERM in an evaluation",
        "leaves the evaluation, writes a checkpoint, exits with 143",
        "nothing",
        code == 143 and kept == 6 and seconds < 20,
        f"{code} after {seconds:.1f} s, {kept} steps: {child.error()}",
    )


def _slow_evaluation() -> None:
    """Has each image of an evaluation take 10 seconds."""
    from d2_regnet.engine import evaluating

    inference = evaluating.inference_on_dataset

    def slow(model, loader, evaluator, callbacks):
        def before():
            print("evaluating", flush=True)
            end = time.monotonic() + 10
            while time.monotonic() < end:
                time.sleep(0.05)
                callbacks["before_inference"]()

        return inference(model, loader, evaluator, callbacks={"before_inference": before})

    evaluating.inference_on_dataset = slow
