"""Statistics by hand, and the order of the turns."""

from argparse import Namespace
from itertools import chain

import pytest

from benchmarks.timing import compared, figures, take_turns
from d2_regnet.design.timing import Timing


@pytest.fixture
def clock(monkeypatch):
    """`clock(3.0, 1.0)`: what is timed next takes so many seconds."""

    def set_clock(*seconds):
        ticks = chain.from_iterable((0.0, each) for each in seconds)
        monkeypatch.setattr("time.perf_counter", lambda: next(ticks))

    return set_clock


def turns(runs, rounds, discard=0):
    return take_turns(runs, Namespace(rounds=rounds, discard=discard, device="cpu"))


@pytest.mark.parametrize(
    ("seconds", "median", "spread"),
    [
        ((3.0, 1.0, 2.0, 5.0, 4.0), 3.0, (4 - 2) / 3),
        ((2.0, 2.0, 2.0, 2.0, 90.0), 2.0, 0.0),
        ((1.0, 3.0), 2.0, (2.5 - 1.5) / 2),
        ((7.0,), 7.0, 0.0),
    ],
)
def test_median_and_spread(clock, seconds, median, spread):
    clock(*seconds)
    found = figures(turns({"a": lambda: None}, len(seconds))["a"], 1)
    assert found["seconds"] == median
    assert found["spread"] == pytest.approx(spread)


def test_figures():
    timing = Timing(2000.0, 2000.0, 2000.0)
    plain = figures(timing, 4, 3e9)
    assert plain["images_per_second"] == 2 and plain["gflops_per_second"] == 6
    assert "gflops_done" not in plain
    winograd = figures(timing, 4, 3e9, 1e9)
    assert (winograd["gflops"], winograd["gflops_done"]) == (3, 1)
    assert winograd["gflops_per_second"] == 2  # of those carried out


def test_turns_are_taken_and_the_first_rounds_dropped(clock):
    called = []
    clock(1, 4, 2, 5, 3, 6)  # of the last three rounds
    runs = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    timings = turns(runs, rounds=3, discard=2)
    assert called == ["a", "b"] * 5
    assert {name: timing.median for name, timing in timings.items()} == {"a": 2000, "b": 5000}


def test_ratios():
    results = {
        "ours": {"seconds": 1.0},
        "detectron2": {"seconds": 4.0},
        "timm": {"seconds": 6.0},
    }
    assert [result["ratio"] for result in compared(results)] == [0.25, 1.0, 1.5]
    others = {"ours": {"bytes": 3}, "unfused": {"bytes": 12}}
    assert [result["ratio"] for result in compared(others, "bytes")] == [0.25, 1.0]
    assert "ratio" not in compared({"ours": {"seconds": 1.0}})[0]
