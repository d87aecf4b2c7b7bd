"""A run that was killed and resumed ends bitwise as one that was not."""

import copy
import json
import types
from argparse import Namespace

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import instantiate
from detectron2.engine import AMPTrainer, DefaultTrainer, HookBase, SimpleTrainer, hooks
from detectron2.modeling import RetinaNet
from detectron2.modeling.meta_arch import retinanet
from fvcore.nn import sigmoid_focal_loss

from d2_regnet.engine import load_config, train
from d2_regnet.engine.build import build_optimizer
from d2_regnet.engine.logs import job_logging
from d2_regnet.engine.yacs_trainer import YacsTrainer
from d2_regnet.model_zoo.yacs import to_yacs


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
def run(fixtures, tmp_path, monkeypatch):
    """run(name, workers, killed_at=(), *overrides, config=..., model=...): its last checkpoint and
    its metrics."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))

    def run(name, workers, killed_at=(), *overrides, config="tiny_mask_rcnn.py", model=None):
        out = tmp_path / name
        cfg = load_config(
            str(fixtures / config),
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
        cfg.model._target_ = model or cfg.model._target_
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
    ("workers", "then", "killed_at"),
    [(0, 2, (4,)), pytest.param(2, 0, (1, 5, 7), marks=pytest.mark.slow), (0, 0, (3,))],
)
def test_continues_bitwise(run, workers, then, killed_at):
    whole, metrics = run("whole", workers)
    resumed, metrics_again = run("resumed", then, killed_at)
    assert_same(whole, resumed)
    assert (7, "total_loss") in metrics and metrics == metrics_again


EVERYTHING = (
    *("train.accumulate=2", "train.ema.enabled=true", "train.ema.decay=0.9", "train.eval_period=2"),
    *("train.validation_loss=true", "train.keep_best.metric=validation/total_loss"),
    *("train.keep_best.mode=min", "train.early_stopping.patience=9"),
    "train.scale_to_batch_size=false",
)


@pytest.mark.parametrize("killed_at", [(2,), pytest.param((4, 6), marks=pytest.mark.slow)])
def test_continues_bitwise_with_all_options(run, tmp_path, killed_at):
    whole, metrics = run("whole", 0, (), *EVERYTHING)
    resumed, metrics_again = run("resumed", 0, killed_at, *EVERYTHING)
    assert_same(whole, resumed)
    assert whole["average"]["updates"] == 8
    assert (3, "validation/loss_mask") in metrics and metrics == metrics_again
    best = [torch.load(tmp_path / name / "model_best.pth") for name in ("whole", "resumed")]
    assert_same(*best)
    logged = [value for (_, name), value in metrics.items() if name == "validation/total_loss"]
    assert best[0]["best"] == {"validation/total_loss": min(logged)} and len(logged) == 4


def test_an_average_leaves_the_training_as_it_is(run, tmp_path):
    """So it can be switched on and off between two starts."""
    stale = tmp_path / "plain" / "model_best.pth"
    stale.parent.mkdir()
    stale.write_text("of another training")
    plain, _ = run("plain", 0)
    assert not stale.exists()
    averaged, _ = run("averaged", 0, (), "train.ema.enabled=true", "train.ema.decay=0.9")
    assert_same(averaged["average"]["plain"], plain["model"])
    assert any(not torch.equal(v, averaged["model"][name]) for name, v in plain["model"].items())
    (tmp_path / "averaged" / "last_checkpoint").write_text("model_0000005.pth")
    off, _ = run("averaged", 0)
    assert_same(off["model"], plain["model"])
    on, _ = run("plain", 0, (), "train.max_iter=9", "train.ema.enabled=true")
    assert on["average"]["updates"] == 1


def as_in_a_new_process(monkeypatch):
    """The scripted focal loss has not yet run, so TorchScript has not rewritten it."""
    code, names = sigmoid_focal_loss.__code__, sigmoid_focal_loss.__globals__
    function = types.FunctionType(code, names, argdefs=sigmoid_focal_loss.__defaults__)
    function.__annotations__ = sigmoid_focal_loss.__annotations__
    monkeypatch.setattr(retinanet, "sigmoid_focal_loss_jit", torch.jit.script(function))


@pytest.mark.parametrize("model", [None, RetinaNet], ids=["ours", "detectron2"])
def test_retinanet_continues_bitwise(run, monkeypatch, model):
    """Its focal loss is scripted; Detectron2's also divides by a running mean, in no buffer."""
    own = dict(config="tiny_retinanet.py", model=model)
    as_in_a_new_process(monkeypatch)
    whole, metrics = run("whole", 0, **own)
    resumed, metrics_again = run("resumed", 0, (4,), **own)
    assert_same(whole, resumed)
    assert metrics == metrics_again
    assert model is None or 0 < whole["trainer"]["loss_normalizer"] != 100


def test_killed_before_the_final_checkpoint(run, tmp_path):
    """The last step's periodic one is there: it is the final one as well."""
    whole, _ = run("run", 0, (), "train.checkpointer.period=4")
    (tmp_path / "run" / "model_final.pth").unlink()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000007.pth")
    again, _ = run("run", 0, (), "train.checkpointer.period=4")
    assert_same(whole, again)
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_final.pth"


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


@pytest.fixture
def yacs(fixtures, tmp_path, monkeypatch):
    """yacs(name, steps): the YAML form of the tiny Mask R-CNN."""
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))

    def yacs(name, steps=8, workers=0):
        floats = [f"model.backbone.bottom_up.arch.{key}" for key in ("w_a=12.0", "w_m=2.0")]
        cfg = to_yacs(load_config(str(fixtures / "tiny_mask_rcnn.py"), floats))
        cfg.OUTPUT_DIR = str(tmp_path / name)
        cfg.MODEL.DEVICE, cfg.DATASETS.TEST, cfg.SEED = "cpu", (), 3
        cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD = steps, 3
        cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = (6,), 3
        cfg.SOLVER.CLIP_GRADIENTS.update(ENABLED=True, FULL_MODEL=True, CLIP_TYPE="norm")
        cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = (40, 80), "range"
        cfg.DATALOADER.NUM_WORKERS = workers
        return cfg

    return yacs


def go_on(cfg, kind=YacsTrainer, hooks=()):
    """Trains, or resumes, a yacs config as the tool does; the trainer and its last checkpoint."""
    with job_logging(cfg, Namespace(eval_only=False, resume=True), console=False):
        trainer = kind(cfg)
        trainer.resume_or_load(resume=True)
        trainer.register_hooks(hooks)
        trainer.train()
    return trainer, torch.load(f"{cfg.OUTPUT_DIR}/model_final.pth", weights_only=False)


def test_yacs_configs_average_and_accumulate_bitwise(yacs):
    def cfg(name):
        cfg = yacs(name)
        cfg.SOLVER.EMA.ENABLED, cfg.SOLVER.ACCUMULATE = True, 2
        return cfg

    _, whole = go_on(cfg("whole"))
    with pytest.raises(Killed):
        go_on(cfg("killed"), hooks=[KillAt(5)])
    _, resumed = go_on(cfg("killed"))
    assert_same(whole, resumed)
    assert whole["average"]["updates"] == 8
    assert whole["trainer"]["data_order"]["total_batch_size"] == 4


def test_yacs_configs_continue_bitwise(yacs):
    _, whole = go_on(yacs("whole", workers=2))
    for step in (2, 5, 7):
        with pytest.raises(Killed):
            go_on(yacs("killed"), hooks=[KillAt(step)])
    _, resumed = go_on(yacs("killed"))
    assert_same(whole, resumed)
    assert whole["run"]["MODEL.ROI_HEADS.NUM_CLASSES"] == 6
    assert whole["trainer"]["data_order"]["dataset_size"] == 8


def test_a_run_of_detectron2s_default_trainer_is_gone_on_with(yacs):
    former, state = go_on(yacs("run", steps=4), DefaultTrainer)
    assert state["trainer"]["_trainer"]["optimizer"]["state"]
    seen = {}

    class Look(HookBase):
        def before_train(self):
            seen["start"] = self.trainer.start_iter
            seen["optimizer"] = copy.deepcopy(self.trainer.optimizer.state_dict()["state"])
            seen["weights"] = copy.deepcopy(self.trainer.model.state_dict())

        def after_step(self):
            rates = [group["lr"] for group in self.trainer.optimizer.param_groups]
            seen.setdefault("rate", rates)

    go_on(yacs("run", steps=9), hooks=[Look()])
    assert seen["start"] == 4
    assert_same(seen["optimizer"], former.optimizer.state_dict()["state"])
    assert_same(dict(seen["weights"]), dict(former.model.state_dict()))
    # After the warm-up, before the drop.
    assert seen["rate"] == [pytest.approx(0.01)] * len(seen["rate"])


@pytest.mark.parametrize("kind", [SimpleTrainer, AMPTrainer])
def test_a_run_of_detectron2s_lazyconfig_tool_is_gone_on_with(run, fixtures, tmp_path, kind):
    """What its tools/lazyconfig_train_net.py saves, where one step was made."""
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"))
    torch.manual_seed(5)
    model = instantiate(cfg.model)
    optimizer = build_optimizer(cfg, model)
    former = kind(model, [], optimizer)
    former.register_hooks([hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier))])
    former.iter, former.max_iter = 0, 8
    former.before_train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    former.iter = 4
    (tmp_path / "run").mkdir()
    checkpointer = DetectionCheckpointer(model, str(tmp_path / "run"), trainer=former)
    checkpointer.save("model_0000004", iteration=4)

    state, metrics = run("run", 0)
    assert {step for step, _ in metrics} == {5, 6, 7}
    assert state["iteration"] == 7
    other = instantiate(cfg.model)  # and back
    DetectionCheckpointer(other).load(str(tmp_path / "run" / "model_final.pth"))
    assert_same(dict(other.state_dict()), dict(state["model"]))


def test_the_rate_is_the_configs(run):
    """The schedule goes on, at another rate."""
    _, former = run("run", 0, (), "train.max_iter=6")
    _, metrics = run("run", 0, (), "optimizer.lr=0.001")
    _, whole = run("whole", 0)
    assert metrics[5, "lr"] == former[5, "lr"]
    for step in (6, 7):
        assert metrics[step, "lr"] == pytest.approx(whole[step, "lr"] / 10)
