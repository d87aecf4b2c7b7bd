"""The best model is kept over restarts; a training without gain ends as a finished one."""

import math

import pytest
import torch
from detectron2.engine import EvalHook, PeriodicWriter, TrainerBase
from detectron2.utils.events import EventWriter

from d2_regnet.engine.best import Best, StoppedEarly, is_gain
from d2_regnet.engine.checkpointer import Checkpointer, PeriodicCheckpointer, find_checkpoint
from d2_regnet.engine.options import Options


def test_gains():
    assert is_gain(1, None, "max") and is_gain(2, 1, "max") and is_gain(1, 2, "min")
    assert not is_gain(1, 1, "max") and not is_gain(1, 2, "max") and not is_gain(2, 1, "min")
    assert is_gain(2, 1, "max", 0.9) and not is_gain(2, 1, "max", 1)
    assert not is_gain(math.nan, None, "max") and not is_gain(math.inf, None, "min")


class Killed(Exception):
    pass


class Loop(TrainerBase):
    """The metric after step i is `values[i]`; dies in the evaluation of the step `dies_in`."""

    def __init__(self, folder, values, options, *, checkpoints=1, dies_in=None):
        super().__init__()
        self.model = torch.nn.Linear(1, 1, bias=False)
        self.values, self.evaluated = values, []
        folder.mkdir(exist_ok=True)
        checkpointer = Checkpointer(self.model, str(folder), trainer=self)

        def evaluate():
            if self.iter == dies_in:
                raise Killed
            step = min(self.iter, self.max_iter - 1)
            self.evaluated.append(step)
            results = {"bbox": {"AP": values[step]}} if values[step] is not None else {"bbox": {}}
            self.best.see(results)
            return results

        evaluation = EvalHook(1, evaluate)
        self.best = Best(checkpointer, evaluation, options)
        self.register_hooks(
            [PeriodicCheckpointer(checkpointer, checkpoints), evaluation, self.best]
        )
        newest = checkpointer.newest()
        self.start = checkpointer.load(newest)["iteration"] + 1 if newest else 0
        self.ended_early = False

    def run_step(self):
        self.model.weight.data.fill_(self.iter)

    def run(self):
        try:
            self.train(self.start, len(self.values))
        except StoppedEarly:
            self.ended_early = True
        return self


def kept(folder):
    saved = torch.load(folder / "model_best.pth")
    assert saved["model"]["weight"].item() == saved["iteration"]
    return saved["iteration"], saved["best"]["bbox/AP"]


@pytest.mark.parametrize(
    "values, mode, best",
    [([1, 3, 2, 3], "max", 1), ([4, 2, 1, 3], "min", 2), ([1, 2, 3, 4], "max", 3)],
)
def test_the_best_is_kept(tmp_path, values, mode, best):
    loop = Loop(tmp_path, [*map(float, values)], Options("bbox/AP", mode)).run()
    assert kept(tmp_path) == (best, values[best]) and loop.evaluated == [0, 1, 2, 3]
    # Nothing resumes from it, though it may be all that is left.
    assert (tmp_path / "last_checkpoint").read_text() == "model_final.pth"
    for path in [*tmp_path.glob("model_0*"), tmp_path / "model_final.pth"]:
        path.unlink()
    (tmp_path / "last_checkpoint").unlink()
    assert find_checkpoint(tmp_path) == ("", [])


@pytest.mark.parametrize("checkpoints", [1, 2])
@pytest.mark.parametrize("dies_in", range(5))
def test_killed_in_an_evaluation(tmp_path, dies_in, checkpoints):
    """What was best is known, what was not evaluated is, and patience ends where it would have."""
    values = [5.0, 7.0, 6.0, math.nan, 6.5, 9.0, 9.0, 9.0]
    options = Options("bbox/AP", patience=3)
    whole = Loop(tmp_path / "whole", values, options, checkpoints=checkpoints)
    assert whole.run().ended_early and whole.evaluated == [0, 1, 2, 3, 4]
    folder = tmp_path / "killed"
    first = Loop(folder, values, options, checkpoints=checkpoints, dies_in=dies_in)
    with pytest.raises(Killed):
        first.run()
    again = Loop(folder, values, options, checkpoints=checkpoints).run()
    assert again.ended_early and again.iter == 4
    assert set(first.evaluated) | set(again.evaluated) == {0, 1, 2, 3, 4}
    assert kept(folder) == kept(tmp_path / "whole") == (1, 7.0)
    final, expected = (torch.load(p / "model_final.pth") for p in (folder, tmp_path / "whole"))
    assert final["trainer"] == expected["trainer"] and final["iteration"] == 4


def test_small_gains_are_kept_but_end_the_training(tmp_path):
    values = [1.0, 1.1, 1.2, 1.3, 1.4]
    loop = Loop(tmp_path, values, Options("bbox/AP", patience=2, min_delta=0.5)).run()
    assert loop.ended_early and kept(tmp_path) == (2, 1.2)
    more = Loop(tmp_path, values, Options("bbox/AP", patience=9, min_delta=0.5)).run()
    assert not more.ended_early and more.evaluated == [3, 4] and kept(tmp_path) == (4, 1.4)


def test_patience_begins_with_the_first_value(tmp_path):
    values = [math.nan, math.nan, math.nan, 1.0, 0.5, math.nan, 2.0, 2.0]
    loop = Loop(tmp_path, values, Options("bbox/AP", patience=2)).run()
    assert loop.ended_early and loop.evaluated == [0, 1, 2, 3, 4, 5]
    assert kept(tmp_path) == (3, 1.0)


def test_what_is_not_logged_is_said(tmp_path, caplog):
    Loop(tmp_path, [None, 1.0], Options("bbox/AP")).run()
    assert "bbox/AP is not among what was evaluated" in caplog.text
    assert kept(tmp_path) == (1, 1.0)


def test_metrics_of_the_last_evaluation_are_written(tmp_path):
    written = []

    class Writer(EventWriter):
        def write(self):
            written.append(loop.storage.latest().get("bbox/AP"))

    loop = Loop(tmp_path, [1.0, 1.0, 1.0], Options("bbox/AP", patience=1))
    loop.register_hooks([PeriodicWriter([Writer()])])
    assert loop.run().ended_early and written == [(1.0, 1)]
