"""Every image is drawn, for one and for many; what it shows is looked at, not tested."""

import io

import pytest
from PIL import Image

from d2_regnet.archs import get_arch, list_archs
from d2_regnet.design import plots
from d2_regnet.design.picking import Answer
from d2_regnet.design.sampling import sample
from d2_regnet.design.timing import Timing


def size(png):
    image = Image.open(io.BytesIO(png))
    image.load()
    return image.size


@pytest.mark.parametrize("count, shape", [(1, (1, 1)), (5, (4, 2))])
def test_widths(count, shape):
    width, height = size(plots.widths({n: get_arch(n) for n in list_archs()[:count]}))
    assert (round(width / 403), round(height / 358)) == shape
    assert size(plots.widths(dict(enumerate(sample("anynet_a", 4e8, 2)))))


def test_sampled():
    assert size(plots.sampled(sample("constrained", 4e8, 3, family="Y")))


def test_frontier():
    timings = {"a": Timing(10, 9, 12), "b": Timing(20, 19, 30), "c": Timing(25, 24, 26)}
    answer = Answer("pass", "CPU", 15, "error", {"a": 3, "b": 2, "c": 2}, 1, timings, [])
    assert size(plots.frontier(answer))


def test_distributions():
    rows = [{"error": 30.0 + i, "depth": 10 + i} for i in range(5)]
    results = {"anynet_a": rows, "regnet": rows[:1]}
    assert size(plots.distributions(results, {"anynet_a": "A", "regnet": "R"}))
