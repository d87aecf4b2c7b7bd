"""The order of training images: complete, in groups, and the same from any step on."""

from itertools import islice

import numpy as np
import pytest
from detectron2.utils import comm

from d2_regnet.data.sampler import TrainingBatchSampler, global_batches

GROUPS = np.random.RandomState(0).rand(53) < 0.7


def take(count, **kwargs):
    arguments = dict(groups=GROUPS, batch_size=4, seed=5) | kwargs
    return np.array(list(islice(global_batches(**arguments), count)))


def test_each_epoch_holds_every_picture_once():
    samples = take(400).reshape(-1, 2)
    number, index = samples[np.argsort(samples[:, 0])].T
    epochs = index[: 20 * 53].reshape(20, 53)  # what is left over is at most 3 a group
    assert np.array_equal(number[: 20 * 53], np.arange(20 * 53))
    assert (np.sort(epochs) == np.arange(53)).all()
    assert len({tuple(epoch) for epoch in epochs}) == 20


def test_as_one_stream_dealt_into_buckets():
    """The definition, one image after the other, as Detectron2's AspectRatioGroupedDataset."""
    samples = take(100).reshape(-1, 2)
    buckets, expected = {True: [], False: []}, []
    for number, index in samples[np.argsort(samples[:, 0])][:300]:
        bucket = buckets[GROUPS[index]]
        bucket.append((number, index))
        if len(bucket) == 4:
            expected.append(list(bucket))
            bucket.clear()
    assert np.array_equal(take(len(expected)), expected)


@pytest.mark.parametrize("start", [0, 1, 12, 13, 14, 27, 99])
@pytest.mark.parametrize("groups", [GROUPS, [False] * 53, [True]])
def test_starts_at_any_step(start, groups):
    whole = take(start + 30, groups=groups)
    assert np.array_equal(take(30, groups=groups, start_step=start), whole[start:])


def test_a_batch_larger_than_the_data_set():
    samples = take(3, groups=[True, False], batch_size=7)
    assert samples.shape == (3, 7, 2)
    assert all(len(set(batch[:, 1])) == 1 for batch in samples)


def test_seeds_differ():
    assert not np.array_equal(take(13), take(13, seed=6))


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_a_batch(monkeypatch, processes):
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        sampler = TrainingBatchSampler(GROUPS, 4, seed=5)
        sampler.start_step = 3
        shares.append(list(islice(sampler, 9)))
    shared = np.array(shares).transpose(1, 0, 2, 3).reshape(9, 4, 2)
    assert np.array_equal(shared[..., ::-1], take(9, start_step=3))


def test_state_carries_the_seed_over():
    first, second = TrainingBatchSampler(GROUPS, 4), TrainingBatchSampler(GROUPS, 4, seed=1)
    second.load_state_dict(first.state_dict())
    second.start_step = 2
    assert list(islice(first, 2, 9)) == list(islice(second, 7))


@pytest.mark.parametrize(("groups", "batch"), [(GROUPS[1:], 4), (GROUPS, 8)])
def test_refuses_another_order(groups, batch):
    state = TrainingBatchSampler(GROUPS, 4).state_dict()
    with pytest.raises(ValueError, match="was .* and is .* start anew"):
        TrainingBatchSampler(groups, batch).load_state_dict(state)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 4, 0), "empty"),
        ((GROUPS, 0, 0), "total_batch_size=0"),
        ((GROUPS, 3, 0), "does not divide among 2"),
        ((GROUPS, 4, -1), "negative"),
    ],
)
def test_refuses_the_impossible(monkeypatch, arguments, message):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=message):
        TrainingBatchSampler(*arguments)
