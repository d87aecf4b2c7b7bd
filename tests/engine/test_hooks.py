"""The hooks, in a training loop that does nothing else."""

import os
import signal
import threading

import pytest
import torch
from detectron2.engine import HookBase, TrainerBase
from detectron2.utils.events import EventWriter

from d2_regnet.engine import Interrupted, ProgressLine
from d2_regnet.engine.checkpointer import Checkpointer
from d2_regnet.engine.hooks import SIGNALS, PatientWriter, StopOnSignal, exit_on_signal


class Loop(TrainerBase):
    """Counts its steps, and reports a loss and a rate at each."""

    steps = 0

    def run_step(self):
        self.steps += 1
        self.storage.put_scalars(total_loss=10.0 - self.iter, lr=0.02)


class Signal(HookBase):
    """Sends this process a signal in the middle of a step."""

    def __init__(self, signum, step):
        self.signum, self.step = signum, step

    def before_step(self):
        if self.trainer.iter == self.step:
            signal.raise_signal(self.signum)  # to this thread: two in a row are two


@pytest.fixture
def checkpointer(tmp_path):
    return Checkpointer(torch.nn.Linear(1, 1), str(tmp_path))


@pytest.mark.parametrize("signum", SIGNALS)
def test_stops_after_the_step_with_a_checkpoint(checkpointer, tmp_path, signum):
    before = signal.getsignal(signum)
    loop = Loop()
    loop.register_hooks([Signal(signum, step=2), StopOnSignal(checkpointer)])
    with pytest.raises(Interrupted) as stop:
        loop.train(0, 10)
    assert stop.value.signum == signum
    assert loop.steps == 3
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"
    assert torch.load(tmp_path / "model_0000002.pth")["iteration"] == 2
    assert signal.getsignal(signum) is before


def test_a_signal_in_the_last_step_lets_the_training_end(checkpointer, tmp_path):
    loop = Loop()
    loop.register_hooks([Signal(signal.SIGINT, step=4), StopOnSignal(checkpointer)])
    loop.train(0, 5)
    assert loop.steps == 5 and not list(tmp_path.iterdir())


def test_a_second_signal_stops_at_once(checkpointer, tmp_path):
    loop = Loop()
    twice = [Signal(signal.SIGINT, step=1), Signal(signal.SIGINT, step=1)]
    loop.register_hooks([*twice, StopOnSignal(checkpointer)])
    with pytest.raises(KeyboardInterrupt) as stop:
        loop.train(0, 5)
    assert not isinstance(stop.value, Interrupted)
    assert loop.steps == 1 and not list(tmp_path.iterdir())


def test_a_second_signal_counts_where_signals_were_ignored(checkpointer):
    """As in a shell's background."""
    seen = []

    class Look(HookBase):
        def after_step(self):
            seen.append(signal.getsignal(signal.SIGUSR1))

    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        loop = Loop()
        loop.register_hooks([Signal(signal.SIGUSR1, step=0), Look(), StopOnSignal(checkpointer)])
        with pytest.raises(Interrupted):
            loop.train(0, 5)
        assert seen == [signal.SIG_DFL] and signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("step", [2, 4])
def test_a_signal_stops_what_takes_long_between_steps(checkpointer, tmp_path, step):
    stop = StopOnSignal(checkpointer)

    class Evaluation(HookBase):
        checked = 0

        def run(self):
            for picture in range(5):
                if picture == 3:
                    os.kill(os.getpid(), signal.SIGTERM)
                stop.check()
                self.checked += 1

        def after_step(self):
            if self.trainer.iter == step == 2:
                self.run()

        def after_train(self):
            if self.trainer.iter == self.trainer.max_iter:
                self.run()

    loop, evaluation = Loop(), Evaluation()
    loop.register_hooks([evaluation, stop])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        loop.train(0, 5)
    assert evaluation.checked == 3
    # After the last step the final checkpoint has been written, by another hook.
    names = {2: {"last_checkpoint", "model_0000002.pth"}, 4: set()}
    assert {path.name for path in tmp_path.iterdir()} == names[step]
    assert signal.getsignal(signal.SIGTERM) is before


def test_does_nothing_outside_the_main_thread(checkpointer):
    loop = Loop()
    loop.register_hooks([StopOnSignal(checkpointer)])
    thread = threading.Thread(target=loop.train, args=(0, 3))
    thread.start()
    thread.join()
    assert loop.steps == 3


def test_progress_line(capsys):
    loop = Loop()
    loop.register_hooks([ProgressLine(period=2)])
    loop.train(0, 5)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["2/5", "4/5", "5/5"]
    assert "loss 8.000" in lines[-1]  # the median of 10, 9, 8, 7, 6
    assert "lr 0.02" in lines[-1] and lines[-1].endswith("0:00 left")


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (Interrupted(15), 143), (Interrupted(10), 138)]
)
def test_exit_code_of_a_signal(error, code):
    with pytest.raises(SystemExit) as end, exit_on_signal():
        raise error
    assert end.value.code == code


def test_a_full_disk_is_no_end_for_metrics(caplog):
    class Full(EventWriter):
        tries = written = 0

        def write(self):
            self.tries += 1
            if self.tries < 3:
                raise OSError(28, "No space left on device")
            self.written += 1

        def close(self):
            raise OSError(28, "No space left on device")

    full = Full()
    writer = PatientWriter(full)
    for _ in range(4):
        writer.write()
    writer.close()
    assert full.written == 2
    assert [r.getMessage() for r in caplog.records] == [
        "Full cannot write metrics: [Errno 28] No space left on device"
    ] * 2
