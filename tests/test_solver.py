"""Schedules in epochs and whole-model clipping, against hand-worked rates and norms."""

import pytest
import torch
from detectron2.config import instantiate
from detectron2.solver import LRMultiplier
from detectron2.utils.events import EventStorage

from d2_regnet.solver import clip_gradients, multi_step_lr, steps_per_epoch


def test_steps_per_epoch():
    assert steps_per_epoch(16) == 7330
    assert steps_per_epoch(8) == 14659
    assert steps_per_epoch(4, images=10) == 3


def test_multi_step_lr_drops_and_warms_up():
    multiplier = instantiate(multi_step_lr(10, [6, 9], 1000, warmup_steps=11, warmup_factor=0.5))
    found = [multiplier(step / 1000) for step in range(1000)]
    assert found[:12] == pytest.approx([0.5 + 0.05 * step for step in range(11)] + [1.0])
    assert found[11:600] == [1.0] * 589
    assert found[600:900] == pytest.approx([0.1] * 300)
    assert found[900:] == pytest.approx([0.01] * 100)


def test_it_is_an_lr_multiplier():
    """As Detectron2's training loop uses it: one optimizer step, one scheduler step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    multiplier = instantiate(multi_step_lr(2, [1], 2000))
    scheduler = LRMultiplier(optimizer, multiplier, max_iter=2000)
    rates = []
    for _ in range(2000):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx(0.02 * 0.001)
    assert rates[250] == pytest.approx(0.02 * (0.001 + 0.999 * 250 / 499))
    assert rates[499] == rates[999] == pytest.approx(0.02)
    assert rates[1000] == rates[1999] == pytest.approx(0.002)


def test_no_warmup():
    multiplier = instantiate(multi_step_lr(4, [2], 40, gamma=0.5, warmup_steps=0))
    assert [multiplier(step / 40) for step in (0, 19, 20, 39)] == [1.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((12, [11, 8], 100), {}, "drops must be ascending"),
        ((12, [8, 8], 100), {}, "drops must be ascending"),
        ((12, [12], 100), {}, "between 0 and 12"),
        ((12, [0, 8], 100), {}, "between 0 and 12"),
        ((12, [8], 500), {}, "a warm-up of 500 steps does not fit into 500 steps"),
        ((12, [8], 500), {"warmup_steps": 1}, "a warm-up of 1 steps"),
    ],
)
def test_impossible_schedules_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        multi_step_lr(*arguments, **options)


def parameters_with_gradients():
    one, two = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(2, 1))
    one.grad, two.grad = torch.tensor([30.0]), torch.tensor([[0.0], [40.0]])  # 50 together
    return one, two


def test_all_gradients_are_clipped_together():
    one, two = parameters_with_gradients()
    optimizer = torch.optim.SGD([{"params": [one]}, {"params": [two], "lr": 2.0}], lr=1.0)
    clip_gradients(optimizer, max_norm=35.0)
    with EventStorage() as storage:
        optimizer.step()
        assert storage.latest()["grad_norm"][0] == pytest.approx(50.0)
    # 35/50 of each gradient; Detectron2's clipping by parameter would leave 30 and cut 40 to 35.
    assert one.item() == pytest.approx(-21.0, rel=1e-5)
    assert two[1].item() == pytest.approx(-56.0, rel=1e-5)


def test_small_gradients_are_left_alone():
    one, two = parameters_with_gradients()
    optimizer = torch.optim.SGD([one, two], lr=1.0)
    clip_gradients(optimizer, max_norm=51.0)
    optimizer.step()
    assert (one.item(), two[1].item()) == (-30.0, -40.0)


def test_other_norms():
    one, two = parameters_with_gradients()
    optimizer = torch.optim.SGD([one, two], lr=1.0)
    clip_gradients(optimizer, max_norm=20.0, norm_type=float("inf"))
    optimizer.step()
    assert (one.item(), two[1].item()) == pytest.approx((-15.0, -20.0), rel=1e-5)


def test_clipping_can_be_removed():
    one, two = parameters_with_gradients()
    optimizer = torch.optim.SGD([one, two], lr=1.0)
    clip_gradients(optimizer, max_norm=1.0).remove()
    optimizer.step()
    assert one.item() == -30.0


@pytest.mark.parametrize(("max_norm", "norm_type"), [(0.0, 2.0), (-1.0, 2.0), (35.0, 0.0)])
def test_impossible_norms_are_refused(max_norm, norm_type):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="positive max_norm and norm_type"):
        clip_gradients(optimizer, max_norm, norm_type)
