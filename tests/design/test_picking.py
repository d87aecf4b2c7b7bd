"""What follows from measurements; the measuring itself is `test_timing.py`'s."""

import json

import pytest

from d2_regnet.archs import get_arch
from d2_regnet.design.picking import Answer, Measurement
from d2_regnet.design.timing import Timing

TIMINGS = {
    "small": Timing(10.0, 9.0, 12.0),
    "slow": Timing(30.0, 29.0, 31.0),
    "good": Timing(20.0, 19.0, 22.0),
}


def answer(budget):
    bad = {"small": 30.0, "slow": 25.0, "good": 20.0}
    return Answer("pass", "CPU", budget, "error", bad, 1, TIMINGS, ["huge"])


@pytest.mark.parametrize("budget, pick", [(9, None), (10, "small"), (19.9, "small"), (99, "good")])
def test_the_best_within_the_budget(budget, pick):
    found = answer(budget)
    assert (found.pick, found.frontier) == (pick, ["small", "good"])
    assert json.loads(json.dumps(found.as_dict()))["pick"] == pick


def test_text():
    lines = answer(15).text().splitlines()
    assert [line.split()[0] for line in lines[4:7]] == ["small", "good", "slow"]
    assert lines[5].split() == ["good", "20.0", "19.0–22.0", "20.0", "yes"]
    assert lines[-3].endswith("more FLOPs than it: huge") and lines[-1] == "Within 15 ms: small"
    assert answer(5).text().endswith("Nothing within 5 ms: the fastest, small, takes 10.0 ms")


def test_measurement_of_two_small_backbones():
    parameters = dict(depth=4, w_0=8, w_a=16, w_m=2, group_width=8)
    archs = {"wide": get_arch(parameters | {"w_0": 16}), "narrow": get_arch(parameters)}
    measurement = Measurement(archs, (64, 96), "cpu", False, budget_ms=1e6, rounds=2)
    assert measurement.names == ["narrow", "wide"]
    seen = []
    found = measurement.run(lambda each, word: seen.append(word) or each)
    assert seen == ["warming up", "rounds"]
    assert set(found.timings) == set(archs) and not found.left_out
    assert found.pick == "wide"  # with more multiply-adds, nobody having trained either
    assert "64x96" in found.what and "thread" in found.where


def test_of_a_measure_of_which_more_is_better_no_number_is_negative():
    timings = {"small": Timing(10, 9, 11), "large": Timing(20, 19, 21)}
    found = Answer("pass", "CPU", 30, "GFLOPs", {"small": 0.4, "large": 3.2}, -1, timings, [])
    assert (found.frontier, found.pick) == (["small", "large"], "large")
    assert "-0.4" not in found.text() and "0.4" in found.text()
