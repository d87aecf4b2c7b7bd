"""Small trainings in processes of their own, to be killed, and the comparison of their ends."""

import io
import os
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from d2_regnet.engine import check_config, load_config
from d2_regnet.engine.checkpointer import find_checkpoint
from d2_regnet.engine.hooks import exit_on_signal
from d2_regnet.engine.logs import job_logging
from d2_regnet.engine.training import run_training
from d2_regnet.utils.cli import bad_input, failure

# Small enough for a process that has everything imported to train it in a second or two.
CONFIG = Path(__file__).parents[1] / "fixtures" / "tiny_mask_rcnn.py"
STEPS = 12
PERIOD = 3
_LIMIT = 120  # seconds, for what should take a few


def config(folder: Path, *overrides: str, evaluate: bool = False):
    """The tiny training, with its output in `folder`."""
    cfg = load_config(
        str(CONFIG),
        [
            f"train.output_dir={folder}",
            f"train.max_iter={STEPS}",
            f"train.checkpointer.period={PERIOD}",
            "train.device=cpu",
            *overrides,
        ],
    )
    if not evaluate:
        cfg.dataloader.evaluator = None
    return cfg


@dataclass
class Child:
    """A forked process that trains.

    Attributes:
        pid: of the process.
        output: the file of what it prints.
    """

    pid: int
    output: Path

    def wait(self) -> int:
        """Its exit code as a shell has it: 128 + the signal where one killed it."""
        end = time.monotonic() + _LIMIT
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            time.sleep(0.02)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return -1  # hung

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def error(self) -> str:
        """The last line that it printed."""
        return (self.printed().strip().splitlines() or [""])[-1]


def start(
    cfg, *, before: Callable[[], None] = lambda: None, hooks=(), output: Path | None = None
) -> Child:
    """Trains, or goes on, as `d2-regnet train --resume` does, in a fork of this
    process, which has imported everything.

    Args:
        before: called in the new process, to arrange for a fault.
        hooks: added to the training's.
        output: the file of what it prints; by default beside the training's folder.
    """
    output = output or Path(f"{cfg.train.output_dir}.out")
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, output)
    code = 1
    try:
        with open(output, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout = io.TextIOWrapper(os.fdopen(1, "wb", closefd=False), line_buffering=True)
        sys.stderr = io.TextIOWrapper(os.fdopen(2, "wb", closefd=False), line_buffering=True)
        before()
        with exit_on_signal():
            with bad_input():
                check_config(cfg, resume=True)
            with job_logging(cfg, Namespace(eval_only=False, resume=True)), failure():
                run_training(cfg, resume=True, hooks=hooks)
        code = 0
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for_step(child: Child, cfg, step: int) -> None:
    """Waits until a training has written the metrics of a step, or has ended."""
    metrics = Path(cfg.train.output_dir, "metrics.json")
    end = time.monotonic() + _LIMIT
    while time.monotonic() < end and os.path.exists(f"/proc/{child.pid}/exe"):
        if metrics.exists() and f'"iteration": {step},' in metrics.read_text():
            return
        time.sleep(0.005)


def finish(cfg, **kwargs) -> int:
    """Resumes to the end; the exit code."""
    return start(cfg, **kwargs).wait()


def forked(check: Callable[[], bool]) -> bool:
    """`check()` in a fork of this process: once autograd has been used in a process, it cannot be
    used in forks of it, where there are GPUs."""
    if pid := os.fork():
        return os.waitpid(pid, 0)[1] == 0
    code = 1
    try:
        code = 0 if check() else 1
    finally:
        os._exit(code)


def final(cfg) -> dict:
    """All that the last checkpoint holds; empty where there is none."""
    path = Path(cfg.train.output_dir, "model_final.pth")
    return torch.load(path, weights_only=True) if path.exists() else {}


def same(one, other) -> bool:
    """Whether two states are bitwise the same."""
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[key], other[key]) for key in one)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return one == other


def steps_done(folder: Path) -> int:
    """How many steps the newest good checkpoint has."""
    path, _ = find_checkpoint(folder)
    return torch.load(path, weights_only=True)["iteration"] + 1 if path else 0
