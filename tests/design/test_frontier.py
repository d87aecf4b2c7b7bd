import json
from itertools import product

import pytest

from d2_regnet.archs import get_arch, list_archs
from d2_regnet.design.frontier import IMAGENET_ERROR, frontier, quality


def test_frontier_by_its_definition():
    points = [(3, 5), (1, 9), (2, 9), (4, 5), (5, 1), (1, 9), (6, 2), (3, 6)]
    cost, bad = zip(*points)
    beaten = {
        i
        for (i, a), (j, b) in product(enumerate(points), repeat=2)
        if b != a and b[0] <= a[0] and b[1] <= a[1]
    }
    assert {points[i] for i in frontier(cost, bad)} == {
        point for i, point in enumerate(points) if i not in beaten
    }
    assert frontier(cost, bad) == [1, 0, 4]


def test_published_errors_are_the_recorded_ones(fixtures):
    recorded = json.loads((fixtures / "regnet_archs.json").read_text())
    assert {n: facts["imagenet_top1_error"] for n, facts in recorded.items()} == IMAGENET_ERROR


def test_quality_of_untrained_networks_is_called_a_stand_in():
    archs = {name: get_arch(name) for name in list_archs()}
    title, values, sign = quality(archs)
    assert "published" in title and values == IMAGENET_ERROR and sign == 1
    title, values, sign = quality(
        {"mine": get_arch("RegNetX-400MF"), "RegNetX-3.2GF": get_arch("RegNetX-3.2GF")}
    )
    assert "stand-in" in title
    assert sign == -1  # the more, the better
    assert values == pytest.approx({"mine": 0.398, "RegNetX-3.2GF": 3.177}, abs=1e-3)
