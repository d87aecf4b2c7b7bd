"""A run that was killed and resumed ends bitwise as one that was not."""

import json

import pytest
import torch
from detectron2.engine import HookBase

from d2_regnet.engine import load_config, train


class Killed(Exception):
    pass


class KillAt(HookBase):
    """Ends the training in the middle of a step, long after the last checkpoint."""

    def __init__(self, step):
        self._step = step

    def before_step(self):
        if self.trainer.iter == self._step:
            raise Killed


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    """run(name, workers, killed_at=(), *overrides): its last checkpoint and its metrics."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))

    def run(name, workers, killed_at=(), *overrides):
        out = tmp_path / name
        cfg = load_config(
            str(data / "tiny_mask_rcnn.py"),
            [
                f"train.output_dir={out}",
                "train.max_iter=8",
                "train.checkpointer.period=3",
                "train.device=cpu",
                f"dataloader.train.num_workers={workers}",
                "dataloader.train.mapper.augmentations.0.short_edge_length=[40,80]",
                "dataloader.train.mapper.augmentations.0.sample_style=range",
                *overrides,
            ],
        )
        cfg.dataloader.evaluator = None
        for step in killed_at:
            with pytest.raises(Killed):
                train(cfg, resume=True, hooks=[KillAt(step)], console=False)
        train(cfg, resume=True, console=False)
        lines = map(json.loads, (out / "metrics.json").read_text().splitlines())
        metrics = {
            (line["iteration"], name): value
            for line in lines
            for name, value in line.items()
            if not name.endswith(("time", "seconds"))
        }
        return torch.load(out / "model_final.pth", weights_only=False), metrics

    return run


def assert_same(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_same(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for i, pair in enumerate(zip(one, other)):
            assert_same(*pair, f"{path}.{i}")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


@pytest.mark.parametrize(
    ("workers", "then", "killed_at"), [(0, 2, (4,)), (2, 0, (1, 5, 7)), (0, 0, (3,))]
)
def test_continues_bitwise(run, workers, then, killed_at):
    whole, metrics = run("whole", workers)
    resumed, metrics_again = run("resumed", then, killed_at)
    assert_same(whole, resumed)
    assert (7, "total_loss") in metrics and metrics == metrics_again


def test_another_seed_ends_elsewhere(run):
    one, _ = run("one", 0)
    other, _ = run("other", 0, (), "train.seed=4")
    with pytest.raises(AssertionError):
        assert_same(one["model"], other["model"])


def test_without_a_seed_a_resumed_run_keeps_the_first_ones(run):
    """A seed is drawn where the config has none; the checkpoint has it."""
    state, _ = run("drawn", 0, (4, 7), "train.seed=-1")
    trainer = state["trainer"]
    assert trainer["data_order"]["dataset_size"] == 8
    again, _ = run("drawn", 0, (), "train.seed=-1", "train.max_iter=9")
    assert again["trainer"]["seed"] == trainer["seed"]
    assert again["trainer"]["data_order"] == trainer["data_order"]
