"""Hooks that Detectron2 does not have."""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventWriter

__all__ = [
    "SIGNALS",
    "Interrupted",
    "PatientWriter",
    "ProgressLine",
    "StopOnSignal",
    "exit_on_signal",
]

# SLURM sends SIGUSR1 before the time limit, where `sbatch --signal=USR1@60` says so.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """Training ended at a signal, after a whole step and with a checkpoint.

    Attributes:
        signum: the signal; a program that ends because of it exits with 128 + signum.
    """

    def __init__(self, signum: int):
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@contextmanager
def exit_on_signal() -> Iterator[None]:
    """Ends the program with 128 + the signal's number where one has ended the work inside."""
    try:
        yield
    except KeyboardInterrupt as stop:  # also `Interrupted`, which knows its signal
        sys.exit(128 + getattr(stop, "signum", signal.SIGINT))


class StopOnSignal(HookBase):
    """At SIGINT, SIGTERM or SIGUSR1: finishes the step, writes a checkpoint, raises `Interrupted`.

    What takes long between two steps, an evaluation, calls `check` now and then to be stopped as
    well. A second signal has its usual effect, at once. All processes stop after the same step.
    Outside the main thread, where Python cannot handle signals, the hook does nothing.

    Place it after the other hooks, so that they have seen the step, but before `PeriodicWriter`,
    which writes at the end anyhow and cannot write the same step twice.
    """

    def __init__(self, checkpointer: DetectionCheckpointer):
        self._checkpointer = checkpointer
        self._previous = {}
        self._caught = 0

    def before_train(self):
        self._pid = os.getpid()
        for signum in SIGNALS:
            try:
                self._previous[signum] = signal.signal(signum, self._catch)
            except ValueError:  # not the main thread
                return

    def _catch(self, signum, frame):
        if os.getpid() != self._pid:
            return  # a loader worker that inherited the handler; its parent ends it
        self._caught = signum
        for each, previous in self._previous.items():
            if previous is signal.SIG_IGN:  # as a shell has it in its background
                interrupt = each == signal.SIGINT
                previous = signal.default_int_handler if interrupt else signal.SIG_DFL
            signal.signal(each, previous)
        logging.getLogger(__name__).warning(
            "%s: stopping after this step (once more: at once)", signal.Signals(signum).name
        )

    def _restore(self):
        while self._previous:
            signal.signal(*self._previous.popitem())

    def after_step(self):
        signum = max(comm.all_gather(self._caught))
        if signum and self.trainer.iter + 1 < self.trainer.max_iter:
            self._save()
            comm.synchronize()  # where one process ends, its launcher ends the others
            raise Interrupted(signum)

    def check(self):
        """Stops this process between two steps, if a signal has come to it; to all, as launchers
        send it."""
        if self._caught:
            self._save()
            raise Interrupted(self._caught)

    def _save(self):
        step = self.trainer.iter
        if step < self.trainer.max_iter:  # after the last, the final checkpoint is there
            self._checkpointer.save(f"model_{step:07d}", iteration=step)

    def after_train(self):
        self._restore()


class PatientWriter(EventWriter):
    """Another writer of metrics, whose errors (a full disk) are a warning and not the end.

    What could not be written, it tries to write the next time, as far as the writer keeps it.
    """

    def __init__(self, writer: EventWriter, errors: type[Exception] = OSError):
        self._writer, self._errors = writer, errors
        self._warned = False

    def write(self, **kwargs):
        self._try(self._writer.write, **kwargs)

    def close(self):
        self._try(self._writer.close)

    def _try(self, function, **kwargs):
        try:
            function(**kwargs)
        except self._errors as error:
            if not self._warned:
                name = type(self._writer).__name__
                logging.getLogger(__name__).warning("%s cannot write metrics: %s", name, error)
            self._warned = True
        else:
            self._warned = False


class ProgressLine(HookBase):
    """Prints one short line every `period` steps: step, loss, learning rate, speed, time left."""

    def __init__(self, period: int = 20, stream: TextIO | None = None):
        """
        Args:
            period: in steps.
            stream: where to print; by default what is `sys.stdout` at the time.
        """
        self._period = period
        self._stream = stream

    def before_train(self):
        self._start = time.perf_counter()

    def after_step(self):
        done, total = self.trainer.iter + 1, self.trainer.max_iter
        if (done % self._period and done != total) or not comm.is_main_process():
            return
        storage = self.trainer.storage
        if "total_loss" not in storage.histories():
            return  # all steps so far were left out
        pace = (time.perf_counter() - self._start) / (done - self.trainer.start_iter)
        left = round(pace * (total - done))
        print(
            f"step {done}/{total}  loss {storage.history('total_loss').median(20):.3f}  "
            f"lr {storage.history('lr').latest():.2g}  {pace:.2f} s/step  "
            f"{left // 60}:{left % 60:02d} left",
            file=self._stream,
            flush=True,
        )
