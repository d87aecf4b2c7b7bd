"""A step shared by processes, seen from one: draws, divisors and padding of the whole batch.

tests/engine/test_processes.py starts processes and compares what they train.
"""

import pytest
import torch
from detectron2.modeling import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn

from d2_regnet.modeling import global_batch as module
from d2_regnet.modeling.global_batch import (
    Exchange,
    Repeated,
    StoppedElsewhere,
    global_batch,
    mean_over_processes,
    random_numbers_of,
    sample_each,
    share_losses,
)

MODEL = nn.Linear(1, 1)


def draw(picture):
    with random_numbers_of(picture):
        return torch.randperm(1000).tolist()


def draws(images, seed=3, step=5):
    with global_batch(MODEL, seed, step, images):
        return [draw(image) for image in range(images)]


def test_draws_are_a_function_of_seed_step_and_picture():
    four = draws(4)
    assert four == draws(4) and len({tuple(each) for each in four}) == 4
    assert four[0] not in (draws(4, seed=4)[0], draws(4, step=6)[0])


def test_a_picture_draws_anew_each_time():
    with global_batch(MODEL, 3, 5, 1):
        assert draw(0) != draw(0)


def test_draws_do_not_depend_on_processes(monkeypatch):
    four = draws(4)
    shared = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shared += draws(2)
    assert shared == four


def test_other_random_numbers_go_on(seed):
    expected = torch.rand(3)
    seed(0)
    draws(2)
    assert torch.equal(torch.rand(3), expected)


def test_outside_it_draws_as_ever(seed):
    expected = torch.randperm(1000).tolist()
    seed(0)
    assert draw(0) == expected


def test_samples_each_picture_and_logs_the_mean():
    def sample(proposals, targets):
        kept = [each[torch.randperm(len(each))[:3]] for each in proposals]
        get_event_storage().put_scalar("kept", sum(map(len, kept)) / len(kept))
        return kept

    def boxes(count):
        return Instances((9, 9), proposal_boxes=Boxes(torch.arange(4.0 * count).reshape(-1, 4)))

    proposals = [boxes(50), boxes(1), boxes(60)]
    with EventStorage() as storage, global_batch(MODEL, 0, 0, 3):
        together = sample_each(sample, proposals, proposals)
        assert storage.latest()["kept"][0] == pytest.approx((3 + 1 + 3) / 3)
    with EventStorage(), global_batch(MODEL, 0, 0, 3):
        # What the first image draws does not show in the last.
        again = sample_each(sample, [boxes(7), *proposals[1:]], proposals)
    assert len(together) == 3
    last, last_again = (each[2].proposal_boxes.tensor for each in (together, again))
    assert torch.equal(last, last_again)


def sampled(*classes):
    return [Instances((9, 9), gt_classes=torch.tensor(each)) for each in classes]


@pytest.mark.parametrize("classes", [([0, 6, 2], [6]), ([6], [6, 6])])
def test_one_process_divides_as_ever(classes):
    losses = {"loss_cls": torch.rand(()), "loss_mask": torch.tensor(0.0), "other": torch.rand(())}
    with global_batch(MODEL, 0, 0, 2):
        assert share_losses(losses, sampled(*classes), 6) == losses


def test_weights_of_two_processes(monkeypatch):
    """3 boxes here and 5 there, 2 and 0 of them on objects: the mean over all 8, and over all 2."""
    means = torch.tensor([4.0, 1.0])
    monkeypatch.setattr(module, "mean_over_processes", lambda counts: means)
    loss = torch.tensor(1.0)
    here = share_losses({"loss_cls": loss, "loss_mask": loss}, sampled([0, 6, 2]), 6)
    there = share_losses({"loss_cls": loss, "loss_mask": 0 * loss}, sampled([6] * 5), 6)
    assert here == {"loss_cls": 0.75, "loss_mask": 2}
    assert there == {"loss_cls": 1.25, "loss_mask": 0}


class Detector(GeneralizedRCNN):
    """A GeneralizedRCNN of nothing but a backbone, which tells what it is given."""

    def __init__(self):
        nn.Module.__init__(self)
        self.backbone = nn.Identity()

    def forward(self, images):
        return self.backbone(images)


def test_pads_to_the_largest_of_all_processes(monkeypatch):
    model, images = Detector(), torch.rand(2, 3, 32, 64)
    with global_batch(model, 0, 0, 2):
        assert model(images) is images
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    larger = torch.tensor([96, 32])
    monkeypatch.setattr(
        module.dist, "all_reduce", lambda sides, op: sides.copy_(torch.maximum(sides, larger))
    )
    exchange = Exchange()
    with global_batch(model, 0, 0, 2, exchange):
        padded = model(images)
    assert [each.tolist() for each in exchange.results] == [[96, 64]]
    assert padded.shape == (2, 3, 96, 64)
    assert torch.equal(padded[:, :, :32], images) and not padded[:, :, 32:].any()
    assert model(images) is images  # as in evaluation


def test_repeats_what_was_exchanged():
    heard = [torch.tensor([96, 64]), torch.tensor(10.0)]
    model, images = Detector(), torch.rand(2, 3, 32, 64)
    with global_batch(model, 0, 0, 2, Repeated(rank=1, processes=2, results=heard)):
        assert model(images).shape == (2, 3, 96, 64)
        assert mean_over_processes(torch.tensor(4)) == 5
        assert mean_over_processes(torch.tensor(4)) == 4  # no more is known
        last = draw(1)
    with global_batch(MODEL, 0, 0, 4):
        assert draw(3) == last


class RPN(nn.Linear):
    def forward(self, raises):
        if raises:
            raise FloatingPointError("not finite")
        return ()


@pytest.mark.parametrize("here", [True, False])
def test_where_the_rpn_of_one_raises_all_stop(monkeypatch, here):
    model, exchange = Detector(), Exchange(rank=0, processes=2)
    model.proposal_generator = RPN(1, 1)
    monkeypatch.setattr(module.dist, "all_reduce", lambda flag, op: flag.fill_(1))
    with (
        pytest.raises(FloatingPointError, match="not finite") as end,
        global_batch(model, 0, 0, 2, exchange),
    ):
        model.proposal_generator(here)
    assert (end.type is StoppedElsewhere) != here and exchange.stopped
    model.proposal_generator(False)  # as in evaluation
