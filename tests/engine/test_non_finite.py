"""Steps that are not finite: what is said, what is left out, what is saved and replayed."""

import copy

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.modeling import RetinaNet
from detectron2.utils import comm
from torch import nn

from d2_regnet.engine import load_config, train
from d2_regnet.engine.non_finite import NonFinite, describe_gradients, describe_losses
from d2_regnet.engine.replay import load_model, read_batch, replay, same
from d2_regnet.engine.trainer import Trainer


def test_losses():
    fine = {"one": torch.tensor(1.0), "two": torch.tensor(2.0)}
    assert describe_losses(fine) is None and describe_losses({}) is None
    bad = fine | {"three": torch.tensor(float("-inf"))}
    assert describe_losses(bad) == "the loss is not finite: one 1, two 2, three -inf"


def test_gradients():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert describe_gradients(model.named_parameters()) is None
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert describe_gradients(model.named_parameters()) is None
    model[1].bias.grad[1] = float("nan")
    assert "of 1 of 4 parameters, such as 1.bias" in describe_gradients(model.named_parameters())
    model[1].bias.grad[1] = 3e38
    assert "too large" in describe_gradients(model.named_parameters())


class Net(nn.Module):
    """Has batch statistics, which a step that is left out must not change."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def forward(self, batch):
        return {"loss": self.net(batch[0]["image"]).square().mean()}


def batch(name, scale=1.0):
    return [{"file_name": name, "image": torch.randn(5, 4) * scale}]


def run(batches, steps, **options):
    """A model trained on batches; the trainer."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    trainer = Trainer(
        model, batches, optimizer, device="cpu", precision=None, non_finite=NonFinite(**options)
    )
    trainer.seed = 3
    trainer.train(0, steps)
    return trainer


@pytest.fixture
def good(seed):
    return [batch(f"{i}.png") for i in range(4)]


def test_left_out_as_if_it_had_not_been(good, caplog):
    bad = batch("bad.png", float("nan"))
    mixed = [good[0], bad, bad, good[1], bad, good[2]]
    with_bad, without = run(mixed, 6, skip=2), run(good, 3)
    for one, other in zip(
        with_bad.model.state_dict().values(), without.model.state_dict().values()
    ):
        assert torch.equal(one, other)
    assert with_bad.state_dict()["left_out_in_a_row"] == 0
    messages = [r.getMessage() for r in caplog.records if r.name == "d2_regnet.engine.non_finite"]
    assert len(messages) == 3
    assert messages[1] == (
        "Left out (2 in a row, at most 2): step 2: the loss is not finite: loss nan; learning rate "
        "0.05; images bad.png"
    )


@pytest.mark.parametrize("skip", [0, 1])
def test_too_many_in_a_row_are_the_end(good, tmp_path, skip):
    bad = batch("bad.png", float("inf"))
    with pytest.raises(FloatingPointError, match=f"step {1 + skip}: the loss is not finite"):
        run([good[0], bad, bad, bad], 4, skip=skip, folder=str(tmp_path), save=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000001_rank0.pth"]


def test_gradients_that_are_not_finite(good):
    class Break(HookBase):
        def before_step(self):
            if self.trainer.iter == 1:
                weight = self.trainer.model.net[2].weight
                self.handle = weight.register_hook(lambda grad: grad * float("inf"))
            elif self.trainer.iter == 2:
                self.handle.remove()

    def train(batches, hooks, **options):
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        trainer = Trainer(
            model, batches, optimizer, device="cpu", precision=None, non_finite=NonFinite(**options)
        )
        trainer.register_hooks(hooks)
        trainer.train(0, len(batches))
        return model.state_dict()

    with pytest.raises(
        FloatingPointError,
        match="step 1: the losses are finite, but the gradients are not: of 1 of 6 .*net.2.weight;"
        " learning rate 0.05; images 1.png",
    ):
        train(good, [Break()])
    left_out = train(good, [Break()], skip=1)
    without = train([good[0], *good[2:]], [])
    assert all(torch.equal(left_out[key], without[key]) for key in without)


def test_all_processes_decide_alike(monkeypatch):
    """This one's loss is finite, the other's is not."""
    monkeypatch.setattr(comm, "all_gather", lambda problem: [problem, "the loss is nan"])
    policy = NonFinite(skip=1)
    assert policy.left_out(7, None, {})
    with pytest.raises(FloatingPointError, match="^step 8: process 1: the loss is nan$"):
        policy.left_out(8, None, {})


@pytest.fixture
def cfg(fixtures, tmp_path, monkeypatch):
    monkeypatch.setenv("D2_REGNET_CACHE", str(tmp_path / "cache"))
    cfg = load_config(str(fixtures / "tiny_mask_rcnn.py"), [f"train.output_dir={tmp_path / 'out'}"])
    cfg.dataloader.evaluator = None
    return cfg


def spoil(model):
    """One weight that makes a loss infinite."""
    with torch.no_grad():
        model.roi_heads.box_predictor.bbox_pred.bias[0] = float("inf")


class Spoil(HookBase):
    def before_step(self):
        if self.trainer.iter == 2:
            spoil(self.trainer.model)


def test_a_saved_batch_gives_the_very_losses(cfg, tmp_path):
    with pytest.raises(
        FloatingPointError, match="step 2.*loss_box_reg (inf|nan).*png.*replay"
    ) as end:
        train(cfg, hooks=[Spoil()], console=False)
    path = tmp_path / "out" / "non_finite" / "step_0000002_rank0.pth"
    assert str(end.value).endswith(f"d2-regnet replay {path}")
    saved = read_batch(path)
    assert saved["step"] == 2 and len(saved["batch"]) == 2
    model = load_model(str(tmp_path / "out" / "config.yaml"), saved)
    result = replay(model, saved)
    assert same(saved["losses"], result.losses) and len(result.losses) == 5
    assert result.module == "roi_heads.box_predictor.bbox_pred (Linear)"
    gradients = result.gradients
    assert 0 < gradients["roi_heads.mask_head.predictor.weight"] < 100

    other = copy.deepcopy(saved)
    other["rng"] += 1
    other["seed"] += 1
    assert not same(saved["losses"], replay(model, other).losses)


def test_detectron2s_retinanet_is_replayed_with_its_running_mean(cfg, fixtures, tmp_path):
    cfg = load_config(str(fixtures / "tiny_retinanet.py"), [f"train.output_dir={tmp_path / 'out'}"])
    cfg.model._target_, cfg.dataloader.evaluator = RetinaNet, None

    def spoil(model):
        with torch.no_grad():
            model.head.bbox_pred.bias[0] = float("inf")

    class SpoilHead(HookBase):
        def before_step(self):
            if self.trainer.iter == 2:
                spoil(self.trainer.model)

    with pytest.raises(FloatingPointError, match="step 2.*loss_box_reg (inf|nan)"):
        train(cfg, hooks=[SpoilHead()], console=False)
    saved = read_batch(tmp_path / "out" / "non_finite" / "step_0000002_rank0.pth")
    model = load_model(str(tmp_path / "out" / "config.yaml"), saved)
    assert same(saved["losses"], replay(model, saved).losses)
    assert 0 < saved["normalizer"]["loss_normalizer"] != 100


@pytest.mark.parametrize("content", [b"", b"nothing", {"step": 1}])
def test_what_is_no_saved_batch(tmp_path, content):
    path = tmp_path / "batch.pth"
    with pytest.raises(FileNotFoundError, match="batch.pth: no such file"):
        read_batch(path)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match="batch.pth is (damaged or )?not a saved batch"):
        read_batch(path)
