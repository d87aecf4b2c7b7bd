"""Several batches a step, against one batch of their size."""

import json

import pytest
import torch
from detectron2.config import instantiate
from detectron2.engine import HookBase
from torch import nn

from d2_regnet.engine import load_config, train
from d2_regnet.engine.accumulation import Known
from d2_regnet.engine.ema import Average
from d2_regnet.engine.replay import load_model, read_batch, replay, same
from d2_regnet.engine.trainer import Trainer
from d2_regnet.model_zoo.recipes import scale_to_batch_size
from d2_regnet.solver import clip_gradients

from .test_trainer import Model, run, sgd

VARIED = (
    "dataloader.train.mapper.augmentations.0.short_edge_length=[40,120]",
    "dataloader.train.mapper.augmentations.0.sample_style=range",
)


@pytest.fixture
def trained(fixtures, tmp_path, monkeypatch):
    """trained(name, config, *overrides): the last checkpoint, the metrics by step and the model."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))

    def trained(name, config, *overrides):
        out = tmp_path / name
        own = ("train.max_iter=3", "train.device=cpu", "model.backbone.bottom_up.norm=EvalBN")
        cfg = load_config(
            str(fixtures / f"tiny_{config}.py"),
            [f"train.output_dir={out}", "train.clip_grad.max_norm=1.0", *own, *VARIED, *overrides],
        )
        cfg.dataloader.evaluator = None
        train(cfg, console=False)
        lines = map(json.loads, (out / "metrics.json").read_text().splitlines())
        metrics = {line["iteration"]: line for line in lines if "total_loss" in line}
        return torch.load(out / "model_final.pth"), metrics

    return trained


@pytest.mark.parametrize("config", ["mask_rcnn", "retinanet"])
def test_a_step_equals_one_of_a_larger_batch(trained, config):
    """Images of other sizes, clipping, an average and the schedule included."""
    average = "train.ema.enabled=true"
    one, losses = trained("one", config, "dataloader.train.total_batch_size=4", average)
    parts = ("dataloader.train.total_batch_size=2", "train.accumulate=2", average)
    several, others = trained("several", config, *parts)
    assert len(losses) == len(others) == 3
    for step, metrics in losses.items():
        for name in metrics:
            if "loss" in name or name in ("lr", "grad_norm"):
                assert others[step][name] == pytest.approx(metrics[name], abs=1e-5), name
    states = [{**each["model"], **each["average"]["plain"]} for each in (one, several)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-5, msg=name)


def test_parts_of_a_size_of_their_own_would_be_another_step(trained, monkeypatch):
    """What the test above sees: the mean of the parts' losses is not the loss of the whole."""
    one, _ = trained("one", "retinanet", "dataloader.train.total_batch_size=4")
    monkeypatch.setattr(Known, "reduce", lambda self, values, op: values * self.processes)
    several, _ = trained("several", "retinanet", "train.accumulate=2")
    differences = [
        (several["model"][name] - value).abs().max().item() for name, value in one["model"].items()
    ]
    assert max(differences) > 1e-4


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_gradients_of_any_model_are_the_mean(seed, precision):
    model, other = Model(), Model()
    other.load_state_dict(model.state_dict())
    batches = [torch.randn(5, 4) for _ in range(6)]
    trainer = Trainer(model, batches, sgd(model), device="cpu", precision=precision, accumulate=2)
    half = precision is torch.float16  # with its usual scale, it would leave out the first steps
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=half)
    clip_gradients(trainer.optimizer, 0.5)
    run(trainer, 3)
    optimizer = sgd(other)
    for first, second in zip(batches[::2], batches[1::2]):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=precision, enabled=precision is not None):
            losses = [sum(other(batch).values()) for batch in (first, second)]
        (sum(losses) / 2).backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
    for value, expected in zip(model.parameters(), other.parameters()):
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-2 if precision else 1e-6)


def test_looking_ahead_changes_nothing(fixtures, tmp_path, monkeypatch):
    """Batch statistics count each image once."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    overrides = ["model.backbone.bottom_up.norm=BN", "train.device=cpu", "train.accumulate=2"]
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"), overrides)
    model = instantiate(cfg.model)
    trainer = Trainer(
        model,
        instantiate(cfg.dataloader.train),
        sgd(model),
        device="cpu",
        precision=None,
        accumulate=2,
        average=Average(model, 0.9),
    )
    run(trainer, 2)
    counted = [v for n, v in model.state_dict().items() if n.endswith("num_batches_tracked")]
    assert counted and all(value == 4 for value in counted)


def test_a_part_that_is_not_finite_is_replayed(fixtures, load_file, tmp_path, monkeypatch):
    """Alone, with what it knew of the other parts."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    poison = load_file(fixtures / "faulty_process.py").poison
    overrides = [f"train.output_dir={tmp_path / 'out'}", "train.device=cpu", "train.accumulate=2"]
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"), overrides)
    cfg.dataloader.evaluator = None

    class Poison(HookBase):
        def before_train(self):
            poison(self.trainer.model, "loss")

    with pytest.raises(FloatingPointError, match="step 0: the loss is not finite"):
        train(cfg, hooks=[Poison()], console=False)
    batch = read_batch(tmp_path / "out" / "non_finite" / "step_0000000_rank0.pth")
    assert (batch["rank"], batch["processes"], len(batch["batch"])) == (0, 2, 2)
    model = load_model(str(tmp_path / "out" / "config.yaml"), batch)
    poison(model, "loss")
    found = replay(model, batch)
    assert found.losses and same(batch["losses"], found.losses)


def test_the_learning_rate_follows_all_images_of_a_step(fixtures, monkeypatch, tmp_path):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    path = str(fixtures / "tiny_mask_rcnn.py")
    cfg = load_config(path, ["dataloader.train.total_batch_size=1", "train.accumulate=2"])
    assert (cfg.optimizer.lr, cfg.train.max_iter, cfg.train.base_batch_size) == (0.01, 4, 2)
    cfg = load_config(path, ["dataloader.train.total_batch_size=2", "train.accumulate=2"])
    assert (cfg.optimizer.lr, cfg.train.max_iter, cfg.train.base_batch_size) == (0.02, 2, 4)
    scale_to_batch_size(cfg)
    assert cfg.optimizer.lr == 0.02
