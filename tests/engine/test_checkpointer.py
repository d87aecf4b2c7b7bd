"""A checkpoint is whole or not there, and Detectron2 reads it."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer

from d2_regnet.engine.checkpointer import Checkpointer


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
        with pytest.raises(OSError, match="No space left"):
            checkpointer.save(name, iteration=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last_checkpoint", "model_0000001.pth"]
    assert (tmp_path / "model_0000001.pth").read_bytes() == good
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model_0000001.pth")


def test_only_the_process_that_is_told_to_writes(tmp_path):
    Checkpointer(torch.nn.Linear(2, 3), str(tmp_path), save_to_disk=False).save("model_0000001")
    Checkpointer(torch.nn.Linear(2, 3), "").save("model_0000001")
    assert not list(tmp_path.iterdir())
