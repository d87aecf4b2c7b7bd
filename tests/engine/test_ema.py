"""The average of the weights, against its definition, and through checkpoints."""

import copy

import pytest
import torch
from torch import nn

from d2_regnet.engine.checkpointer import Checkpointer
from d2_regnet.engine.ema import Average, decay_after


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.register_buffer("mean", torch.tensor(3.0))

    def set(self, weight, mean):
        with torch.no_grad():
            self.weight.copy_(torch.tensor(weight))
            self.mean.fill_(mean)


def test_decay_begins_low():
    assert [decay_after(n, 0.9) for n in (1, 2, 80, 10_000)] == [2 / 11, 3 / 12, 81 / 90, 0.9]


def test_average_of_weights_and_statistics():
    model = Model()
    average = Average(model, decay=0.2)
    model.set([2.0, 4.0], 10.0)
    average.update()  # the first values are the average
    assert average.module.weight.tolist() == [2.0, 4.0] and average.module.mean == 10
    model.set([3.0, 4.0], 21.0)
    average.update()
    # 2 / 11 of the average: (2 * 2 + 9 * 3) / 11, 4, (2 * 10 + 9 * 21) / 11.
    expected = torch.tensor([31 / 11, 4.0])
    torch.testing.assert_close(average.module.weight.detach(), expected)
    assert average.module.mean.item() == pytest.approx(209 / 11)
    model.set([0.0, 0.0], 0.0)
    average.update()  # 3 / 12 is more than 0.2
    torch.testing.assert_close(average.module.weight.detach(), 0.2 * expected)
    assert model.weight.tolist() == [0.0, 0.0]


def test_checkpoints_hold_the_average_as_the_model(tmp_path):
    model = Model()
    average = Average(model, decay=0.5)
    checkpointer = Checkpointer(model, str(tmp_path), average=average)
    model.set([7.0, 7.0], 7.0)
    checkpointer.save("model_before")  # no step yet: there is no average
    assert torch.load(tmp_path / "model_before.pth")["model"]["mean"] == 7
    for value in (1.0, 2.0):
        model.set([value, value], value)
        average.update()
    checkpointer.save("model_0000001")
    checkpointer.save_best(iteration=1)
    for name in ("model_0000001.pth", "model_best.pth"):
        saved = torch.load(tmp_path / name)["model"]
        assert saved["mean"] == average.module.mean != 2
    assert torch.load(tmp_path / "model_0000001.pth")["average"]["plain"]["mean"] == 2
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000001.pth"

    other = Model()
    resumed = Average(other, decay=0.5)
    Checkpointer(other, average=resumed).load(str(tmp_path / "model_0000001.pth"))
    before = copy.deepcopy(average.module.state_dict())
    for each in (model, other):
        assert each.mean == 2 and each.weight.tolist() == [2.0, 2.0]
        each.set([9.0, 8.0], 5.0)
    average.update()
    resumed.update()
    for name, value in average.module.state_dict().items():
        assert torch.equal(value, resumed.module.state_dict()[name])
        assert not torch.equal(value, before[name])
