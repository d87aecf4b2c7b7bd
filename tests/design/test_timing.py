"""The bookkeeping of measurements, with a clock of the test's own."""

import pytest
import torch

from d2_regnet.archs import get_arch
from d2_regnet.design import timing
from d2_regnet.modeling import build_regnet

ARCH = get_arch(dict(depth=4, w_0=8, w_a=16, w_m=2, group_width=8))


@pytest.fixture
def clock(monkeypatch):
    """The seconds that have passed; passes advance them."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    return now


def test_rounds_are_interleaved_and_the_median_counts(clock):
    order = []

    def takes(name, seconds):
        left = iter(seconds)

        def once():
            order.append(name)
            clock[0] += next(left)

        return once

    found = timing.interleaved(
        {"a": takes("a", [1, 9, 2, 3, 4]), "b": takes("b", [5, 5, 5, 5, 50])}, 5
    )
    assert order == ["a", "b"] * 5
    assert found["a"] == pytest.approx(timing.Timing(3000, 2000, 4000))
    assert found["b"].median == found["b"].high == 5000


def test_one_round(clock):
    assert timing.interleaved({"a": lambda: clock.__setitem__(0, 2.0)}, 1)["a"].median == 2000


def test_what_is_far_above_the_budget_is_left_out(clock):
    def make(ms):
        def once():
            clock[0] += ms / 1000

        return lambda: once

    # Three are always kept; from the first beyond three budgets on, none.
    costs = {"a": 500, "b": 500, "c": 500, "d": 290, "e": 301, "f": 1}
    kept, left_out = timing.within_reach([(n, make(ms)) for n, ms in costs.items()], 100)
    assert (list(kept), left_out) == (["a", "b", "c", "d"], ["e", "f"])


@pytest.mark.parametrize("train", [False, True])
def test_a_pass_is_the_backbones_own(monkeypatch, train):
    backbones = []

    def build(*args, **kwargs):
        backbones.append(build_regnet(*args, **kwargs))
        return backbones[-1]

    monkeypatch.setattr(timing, "build_regnet", build)
    timing.backbone_pass(ARCH, (64, 96), "cpu", train)()
    (backbone,) = backbones
    assert backbone.training == train
    trained = {name for name, p in backbone.named_parameters() if p.grad is not None}
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith(("stem.", "s1.")) for name in frozen)
    everything = {name for name, _ in backbone.named_parameters()}
    assert trained == (everything - frozen if train else set())
    assert torch.is_grad_enabled()
