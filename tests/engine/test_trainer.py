"""The training step against torch's own loop."""

import copy

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import nn

from d2_regnet.engine.trainer import Trainer
from d2_regnet.solver import clip_gradients


class Model(nn.Module):
    """Two losses of a small net; notes what precision it computes in."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.seen = None

    def forward(self, batch):
        out = self.net(batch)
        self.seen = out.dtype
        return {"one": (out[:, 0] ** 2).sum(), "two": (out[:, 1] - 1).abs().sum()}


@pytest.fixture
def batches(seed):
    return [torch.randn(5, 4) for _ in range(6)]


@pytest.fixture
def model(seed):
    return Model()


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def run(trainer, steps):
    with EventStorage(0) as trainer.storage:
        for trainer.iter in range(steps):
            trainer.run_step()
        return trainer.storage.histories()


@pytest.mark.parametrize("max_norm", [None, 0.5, 1e6])
def test_step_equals_torchs_own_loop(model, batches, max_norm):
    other = copy.deepcopy(model)
    optimizer = sgd(model)
    if max_norm:
        clip_gradients(optimizer, max_norm)
    histories = run(Trainer(model, batches, optimizer, device="cpu", precision=None), len(batches))

    optimizer, norms = sgd(other), []
    for batch in batches:
        optimizer.zero_grad()
        sum(other(batch).values()).backward()
        if max_norm:
            norm = nn.utils.clip_grad_norm_(other.parameters(), max_norm)
            norms.append(norm.item())
            clipped = torch.cat([p.grad.flatten() for p in other.parameters()]).norm()
            assert clipped <= max_norm * (1 + 1e-5)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    if max_norm:
        assert [value for value, _ in histories["grad_norm"].values()] == norms
        assert (max(norms) > max_norm) == (max_norm == 0.5)  # one case clips, the other does not
    assert {"one", "two", "total_loss", "data_time"} <= histories.keys()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_mixed_precision_on_the_cpu(model, batches, precision):
    trainer = Trainer(model, batches, sgd(model), device="cpu", precision=precision)
    clip_gradients(trainer.optimizer, 1.0)
    losses = run(trainer, 5)["total_loss"].values()
    assert model.seen == precision
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())
    assert losses[-1][0] < losses[0][0]
    # Unscaled before it is clipped: else the scale of 2**16 would be seen here.
    assert trainer.storage.history("grad_norm").values()[0][0] < 1000
    scale = trainer.state_dict()["grad_scaler"]
    assert bool(scale) == (precision is torch.float16)


def test_scaler_survives_a_checkpoint(model, batches):
    trainer = Trainer(model, batches, sgd(model), device="cpu", precision=torch.float16)
    run(trainer, 2)
    trainer.grad_scaler.update(new_scale=128.0)
    other = Trainer(model, batches, sgd(model), device="cpu", precision=torch.float16)
    other.load_state_dict(trainer.state_dict())
    assert other.grad_scaler.get_scale() == 128.0
    without = Trainer(model, batches, sgd(model), device="cpu", precision=None)
    without.load_state_dict(trainer.state_dict())  # AMP switched off between two runs
    other.load_state_dict(without.state_dict())  # and on again


def test_a_loss_that_is_not_finite_stops_before_the_step(model, batches):
    before = [p.detach().clone() for p in model.parameters()]
    trainer = Trainer(model, [batches[0] * float("nan")], sgd(model), device="cpu", precision=None)
    with pytest.raises(FloatingPointError, match="step 0: the loss is not finite: one nan"):
        run(trainer, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters()))
