"""SIGKILL at random times, and at chosen points of a checkpoint's writing."""

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from d2_regnet.engine import checkpointer
from d2_regnet.utils import files

from .results import Result, Scale
from .trainings import config, final, finish, same, start, steps_done

_TIMES = 16
_WRITES = 16
_EACH = 4  # kills of one training before it may end
# What makes checkpoints hold more than usual: in one half of the trainings.
_OPTIONS = (
    *("train.accumulate=2", "train.ema.enabled=true", "train.eval_period=2"),
    *("train.validation_loss=true", "train.keep_best.metric=validation/total_loss"),
    *("train.keep_best.mode=min", "train.early_stopping.patience=9"),
    "train.scale_to_batch_size=false",
)


def run(scale: Scale) -> Iterator[Result]:
    """Trainings that are killed again and again, and then end as one that was not."""
    rng = random.Random(scale.seed)
    kinds, expected = (_OPTIONS, ()), []
    began = time.monotonic()
    for kind, options in enumerate(kinds):
        whole = config(scale.folder / f"whole{kind}", *options)
        if finish(whole):
            raise RuntimeError(f"an undisturbed training failed, see {whole.train.output_dir}.out")
        expected.append((final(whole), _best(whole)))
    duration = (time.monotonic() - began) / len(kinds)

    def by_clock():
        delay = rng.uniform(0.2, 0.9) * duration
        return "SIGKILL at a random time", lambda: None, delay

    def in_write():
        where = rng.choice(["before", "within", "within", "renaming", "tagging"])
        nth = rng.randrange(1, 3)
        size = rng.randrange(os.path.getsize(scale.folder / "whole1" / "model_final.pth"))
        fault = {
            "before": "SIGKILL as a checkpoint's file is opened",
            "within": "SIGKILL at a random byte of a checkpoint",
            "renaming": "SIGKILL before a checkpoint gets its name",
            "tagging": "SIGKILL between a checkpoint and `last_checkpoint`",
        }[where]
        return fault, lambda: _die_in_write(where, nth, size), None

    for number, (draw, count) in enumerate(((by_clock, _TIMES), (in_write, _WRITES))):
        left, training = scale.of(count), 0
        while left > 0:
            folder = scale.folder / f"killed{number}_{training}"
            kind, workers = training // 2 % 2, training % 2
            cfg = config(folder, f"dataloader.train.num_workers={workers}", *kinds[kind])
            struck = []
            for _ in range(min(left, _EACH)):
                fault, before, delay = draw()
                done = steps_done(folder)
                child = start(cfg, before=before)
                if delay is not None:
                    time.sleep(delay)
                    os.kill(child.pid, signal.SIGKILL)  # a zombie, if it has ended
                if (code := child.wait()) == 0:
                    break  # it was faster
                struck.append((fault, code == 137 and steps_done(folder) >= done, child.error()))
            code = finish(cfg)
            equal = code == 0 and same((final(cfg), _best(cfg)), expected[kind])
            for fault, good, detail in struck:
                yield Result(
                    fault,
                    "resumed; ends bitwise as undisturbed" if equal else "ends otherwise",
                    "the steps since the last checkpoint",
                    good and equal,
                    detail,
                )
            left -= len(struck)
            training += 1


def _best(cfg) -> dict:
    """What the best checkpoint holds; empty where there is none."""
    path = Path(cfg.train.output_dir, "model_best.pth")
    return torch.load(path, weights_only=True) if path.exists() else {}


def _die_in_write(where: str, nth: int, size: int) -> None:
    """Has this process kill itself at a point of the `nth` write of a checkpoint."""
    writes = {"pth": 0, "tag": 0}
    whole_file = checkpointer.whole_file

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def fatal(path):
        kind = "pth" if str(path).endswith(".pth") else "tag"
        writes[kind] += 1
        if writes[kind] != nth or (where == "tagging") != (kind == "tag"):
            with whole_file(path) as file:
                yield file
            return
        if where in ("before", "tagging"):
            die()
        if where == "renaming":
            files.os.replace = lambda *_: die()
        with whole_file(path) as file:
            yield _Fuse(file, size, die) if where == "within" else file

    checkpointer.whole_file = fatal


class _Fuse:
    """A file that is the end of whoever writes more than `size` bytes."""

    def __init__(self, file, size, die):
        self._file, self._left, self._die = file, size, die

    def write(self, data) -> int:
        if len(data) > self._left:
            self._file.write(bytes(data)[: self._left])
            self._file.flush()
            self._die()
        self._left -= len(data)
        return self._file.write(data)

    def __getattr__(self, name):
        return getattr(self._file, name)
