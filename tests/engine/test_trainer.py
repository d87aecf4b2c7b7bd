"""The training step against torch's own loop, and what train() and evaluate() give."""

import copy
import json
import logging

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from torch import nn

from d2_regnet import optimize_for_inference
from d2_regnet.engine import Interrupted, evaluate, load_config, train, trainer
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


@pytest.fixture
def cfg(data, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    cfg = load_config(str(data / "tiny_mask_rcnn.py"), [f"train.output_dir={tmp_path / 'out'}"])
    cfg.train.max_iter = 3
    return cfg


class Stop(HookBase):
    """Interrupts the training, as a signal does."""

    def after_step(self):
        if self.trainer.iter == 1:
            raise Interrupted(2)


def test_train_returns_the_last_evaluation(cfg, tmp_path, capsys):
    seen = []

    class Note(HookBase):
        def after_step(self):
            seen.append(self.trainer.iter)
            self.trainer.storage.put_scalar("noted", 5.0)

    logs = [logging.getLogger(name) for name in ("detectron2", "fvcore", "d2_regnet")]
    before = [(list(log.handlers), log.propagate) for log in logs]
    results = train(cfg, hooks=[Note()], console=False)
    assert seen == [0, 1, 2]
    assert {"AP", "AP50", "AP-circle"} <= results["bbox"].keys()
    out = tmp_path / "out"
    lines = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [line["noted"] for line in lines if "noted" in line] == [5.0, 5.0, 5.0]
    assert lines[-1]["bbox/AP"] == results["bbox"]["AP"]

    # The loggers are as before, and the console was quiet although the log is complete.
    assert [(log.handlers, log.propagate) for log in logs] == before
    assert "Starting training" in (out / "log.txt").read_text()
    assert "Starting training" not in capsys.readouterr().out

    cfg.train.init_checkpoint = str(out / "model_final.pth")
    cfg.train.output_dir = str(tmp_path / "again")
    again = evaluate(cfg)
    assert json.dumps(again) == json.dumps(results)
    assert "model" not in cfg.optimizer.params  # the config stays what it was


def test_evaluates_the_optimized_model(cfg, monkeypatch):
    made = []

    def optimize(*args, **options):
        made.append(options)
        return optimize_for_inference(*args, **options)

    monkeypatch.setattr(trainer, "optimize_for_inference", optimize)
    model = instantiate(cfg.model)
    plain = evaluate(cfg, model)
    assert not made
    cfg.train.optimize_for_inference.enabled = True
    optimized = evaluate(cfg, model)
    assert made == [{"dtype": torch.float32, "compile": False}]
    assert optimized["bbox"]["AP"] == pytest.approx(plain["bbox"]["AP"], abs=0.05)

    cfg.train.optimize_for_inference.dtype = "int8"
    with pytest.raises(
        ValueError, match="train.optimize_for_inference.dtype='int8' is not a dtype"
    ):
        evaluate(cfg)


def test_interrupted_training_is_resumed(cfg, tmp_path):
    cfg.dataloader.evaluator = None
    cfg.train.checkpointer.period = 1
    with pytest.raises(Interrupted):
        train(cfg, hooks=[Stop()], console=False)
    assert train(cfg, resume=True, console=False) == {}
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Starting training from iteration 2" in log
    assert "no dataloader.evaluator" in log
    assert (tmp_path / "out" / "model_final.pth").exists()


def test_nothing_is_written_where_the_config_is_refused(cfg, tmp_path):
    cfg.dataloader.train.dataset.names = "nowhere"
    with pytest.raises(ValueError, match="'nowhere' is not registered"):
        train(cfg)
    with pytest.raises(ValueError, match="needs weights"):
        evaluate(cfg)
    assert not (tmp_path / "out").exists()
