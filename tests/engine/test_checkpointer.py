"""A checkpoint is whole or not there, Detectron2 reads it, and the newest good one is resumed."""

import logging
import re

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import TrainerBase

from d2_regnet.engine.checkpointer import (
    Checkpointer,
    PeriodicCheckpointer,
    damage,
    find_checkpoint,
)


class Counter:
    """Something with a state, as a trainer has."""

    def __init__(self, count=0):
        self.count = count

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_detectron2_reads_what_is_written_and_the_reverse(tmp_path):
    model, counter = torch.nn.Linear(2, 3), Counter(7)
    for writer, reader in [
        (Checkpointer, DetectionCheckpointer),
        (DetectionCheckpointer, Checkpointer),
    ]:
        folder = tmp_path / writer.__name__
        folder.mkdir()
        writer(model, str(folder), counter=counter).save("model_0000004", iteration=4)
        copy, other = torch.nn.Linear(2, 3), Counter()
        rest = reader(copy, str(folder), counter=other).resume_or_load("", resume=True)
        assert rest["iteration"] == 4 and other.count == 7
        assert torch.equal(copy.weight, model.weight) and torch.equal(copy.bias, model.bias)


def test_a_failed_write_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    checkpointer = Checkpointer(torch.nn.Linear(2, 3), str(tmp_path))
    checkpointer.save("model_0000001", iteration=1)
    good = (tmp_path / "model_0000001.pth").read_bytes()

    def full_disk(data, file):
        file.write(b"the beginning of a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    for name in ("model_0000001", "model_0000003"):
        with pytest.raises(OSError, match=rf"{name}.pth cannot be written .*No space"):
            checkpointer.save(name, iteration=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == good
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")


def test_only_the_process_that_is_told_to_writes(tmp_path):
    Checkpointer(torch.nn.Linear(2, 3), str(tmp_path), save_to_disk=False).save("model_0000001")
    Checkpointer(torch.nn.Linear(2, 3), "").save("model_0000001")
    assert not list(tmp_path.iterdir())


def write(folder, *steps):
    """Checkpoints of some steps; the models, by step."""
    models = {step: torch.nn.Linear(2, 3) for step in steps}
    for step, model in models.items():
        name = "model_final" if step == 9 else f"model_{step:07d}"
        Checkpointer(model, str(folder)).save(name, iteration=step)
    return models


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    """A bit of a weight: torch.load does not notice."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path)["model"]["weight"].numpy().tobytes()
    content[content.index(weight)] ^= 1
    path.write_bytes(content)
    torch.load(path)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut, "truncated"),
        (flip, "the checksum of .*/data/0 is wrong"),
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_text("<html>"), "not a checkpoint"),
    ],
)
def test_a_damaged_one_is_passed_over(tmp_path, caplog, spoil, reason):
    models = write(tmp_path, 1, 3, 5)
    spoil(tmp_path / "model_0000005.pth")
    model = torch.nn.Linear(2, 3)
    with caplog.at_level(logging.WARNING):
        rest = Checkpointer(model, str(tmp_path)).resume_or_load("", resume=True)
    assert rest["iteration"] == 3 and torch.equal(model.weight, models[3].weight)
    first, second = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert "model_0000005.pth" in first and second.endswith("model_0000003.pth")
    assert re.search(reason, damage(tmp_path / "model_0000005.pth"))


@pytest.mark.parametrize("tag", [b"", b"\xff\x00", b"model_0000007.pth", None])
def test_the_newest_without_a_good_name(tmp_path, tag):
    write(tmp_path, 1, 5, 3)
    if tag is None:
        (tmp_path / "last_checkpoint").unlink()
    else:
        (tmp_path / "last_checkpoint").write_bytes(tag)
    path, problems = find_checkpoint(tmp_path)
    assert path == str(tmp_path / "model_0000005.pth")
    assert len(problems) == (tag is not None)


def test_the_named_one_comes_first(tmp_path):
    """Detectron2's convention, by which one goes back to an earlier one."""
    write(tmp_path, 5, 9, 3)
    assert find_checkpoint(tmp_path) == (str(tmp_path / "model_0000003.pth"), [])
    (tmp_path / "last_checkpoint").unlink()
    assert find_checkpoint(tmp_path) == (str(tmp_path / "model_final.pth"), [])


def test_nothing_and_nothing_good(tmp_path):
    assert find_checkpoint(tmp_path) == ("", [])
    assert find_checkpoint(tmp_path / "nowhere") == ("", [])
    write(tmp_path, 1, 3)
    for path in tmp_path.glob("*.pth"):
        cut(path)
    with pytest.raises(ValueError, match="3.pth: is truncated.*1.pth: is truncated.*--resume"):
        Checkpointer(torch.nn.Linear(2, 3), str(tmp_path)).newest()


def test_partial_files_of_a_killed_process_are_removed(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".model_0000003.pth.0a1b2c3d.partial").write_bytes(b"PK")
    Checkpointer(torch.nn.Linear(2, 3), str(tmp_path), save_to_disk=False).remove_partial()
    assert len(list(tmp_path.iterdir())) == 3
    Checkpointer(torch.nn.Linear(2, 3), str(tmp_path)).remove_partial()
    assert {path.name for path in tmp_path.iterdir()} == {"last_checkpoint", "model_0000001.pth"}


class Loop(TrainerBase):
    def run_step(self):
        pass


def train(folder, start, stop, keep=2):
    loop = Loop()
    checkpointer = Checkpointer(torch.nn.Linear(2, 3), str(folder))
    loop.register_hooks([PeriodicCheckpointer(checkpointer, 2, max_to_keep=keep)])
    loop.train(start, stop)


def steps(folder):
    return sorted(path.name[6:-4].lstrip("0") for path in folder.glob("*.pth"))


def test_max_to_keep_counts_those_from_before_a_restart(tmp_path):
    train(tmp_path, 0, 6)
    assert steps(tmp_path) == ["3", "5", "final"]
    Checkpointer(torch.nn.Linear(2, 3), str(tmp_path)).save("model_0000006", iteration=6)
    train(tmp_path, 7, 10)
    assert steps(tmp_path) == ["7", "9", "final"]
    train(tmp_path, 0, 2)  # anew: the files of another run are not its own
    assert steps(tmp_path) == ["1", "7", "9", "final"]


def test_nothing_is_deleted_before_a_good_write(tmp_path, monkeypatch):
    train(tmp_path, 0, 4, keep=1)
    assert steps(tmp_path) == ["3", "final"]

    def full_disk(data, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        train(tmp_path, 4, 6, keep=1)
    assert steps(tmp_path) == ["3", "final"]
