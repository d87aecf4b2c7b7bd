"""Statistics by hand, and the order of the turns."""

import pytest

from benchmarks.timing import Timing, compared, take_turns


@pytest.mark.parametrize(
    ("seconds", "median", "spread"),
    [
        ((3.0, 1.0, 2.0, 5.0, 4.0), 3.0, (4 - 2) / 3),
        ((2.0, 2.0, 2.0, 2.0, 90.0), 2.0, 0.0),
        ((1.0, 3.0), 2.0, (2.5 - 1.5) / 2),
        ((7.0,), 7.0, 0.0),
    ],
)
def test_median_and_spread(seconds, median, spread):
    timing = Timing(seconds)
    assert timing.median == median
    assert timing.spread == pytest.approx(spread)


def test_figures():
    timing = Timing((2.0,))
    plain = timing.figures(4, 3e9)
    assert plain["pictures_per_second"] == 2 and plain["gflops_per_second"] == 6
    assert "gflops_done" not in plain
    winograd = timing.figures(4, 3e9, 1e9)
    assert (winograd["gflops"], winograd["gflops_done"]) == (3, 1)
    assert winograd["gflops_per_second"] == 2  # of those carried out


def test_turns_are_taken_and_the_first_rounds_dropped(monkeypatch):
    called = []
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    runs = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    timings = take_turns(runs, rounds=3, discard=2)
    assert called == ["a", "b"] * 5
    assert {name: timing.seconds for name, timing in timings.items()} == {
        "a": (1.0, 1.0, 1.0),
        "b": (1.0, 1.0, 1.0),
    }


def test_ratios():
    results = [
        {"peer": "ours", "seconds": 1.0},
        {"peer": "detectron2", "seconds": 4.0},
        {"peer": "timm", "seconds": 6.0},
    ]
    compared(results)
    assert [result["ratio"] for result in results] == [0.25, 1.0, 1.5]
    others = [{"peer": "ours", "bytes": 3}, {"peer": "unfused", "bytes": 12}]
    compared(others, "bytes")
    assert [result["ratio"] for result in others] == [0.25, 1.0]
    alone = [{"peer": "ours", "seconds": 1.0}]
    compared(alone)
    assert "ratio" not in alone[0]
