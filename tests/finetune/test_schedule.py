"""Schedules worked out by hand, and memory against what was published."""

import pytest

from d2_regnet import model_zoo
from d2_regnet.archs import get_arch
from d2_regnet.checkpoint.fitting import BACKBONE, DETECTOR, SCRATCH
from d2_regnet.finetune.schedule import GIB, batch_size, picture_bytes, plan


def test_a_large_data_set_gets_12_passes():
    found = plan(10_000, 16, DETECTOR, base_lr=0.02, base_batch=16)
    assert (found.steps, found.passes) == (7500, 12)
    assert (found.warmup, found.eval_period) == (375, 1500)
    assert found.lr == pytest.approx(0.01)


def test_a_small_one_as_many_as_show_4000_pictures():
    found = plan(100, 4, DETECTOR, base_lr=0.02, base_batch=16)
    assert (found.steps, found.passes, found.warmup) == (1000, 40, 50)
    assert found.lr == pytest.approx(0.02 / 4 / 2)


def test_without_a_detector_it_takes_longer():
    steps = [plan(100, 4, start, 0.02, 16).steps for start in (DETECTOR, BACKBONE, SCRATCH)]
    assert steps == [1000, 2000, 3000]
    assert plan(100, 4, BACKBONE, 0.02, 16).lr == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("one", "memory", "images", "on_gpu", "expected"),
    [
        (2, 80, 1000, True, 16),
        (2, 40, 1000, True, 8),  # 15 fit
        (2, 16, 1000, False, 4),
        (2, 1, 1000, True, 1),
        (1, 1000, 20, True, 2),
        (1, 1000, 3, True, 1),
    ],
)
def test_as_many_pictures_as_fit(one, memory, images, on_gpu, expected):
    assert batch_size(one * GIB, memory * GIB, images, on_gpu) == expected


def test_memory_is_about_what_mmdetection_published():
    """Two images of 800 x 1333 a GPU; gigabytes, as the table counts."""
    seen = 0
    for name, facts in model_zoo.rows().items():
        detector, _, rest = name.partition("_regnetx_")
        if not facts["mem_gb"] or not rest or "dcn" in rest or detector == "retinanet":
            continue
        arch = get_arch(f"RegNetX-{rest.split('_')[0].upper()}")
        acts = arch.complexity((800, 1333), 0).acts
        found = 2 * picture_bytes(acts, "cascade" in name)
        assert found == pytest.approx(facts["mem_gb"] * 2**30, rel=0.25), name
        seen += 1
    assert seen > 15
