"""Against the definitions, and against scipy."""

import numpy as np
import pytest
from scipy import stats

from d2_regnet.design import edf

ERRORS = [30.0, 10.0, 20.0, 20.0]


def test_equation_1():
    # F(e) = 1/n sum 1[e_i < e], by its definition.
    for e in (5, 10, 10.1, 20, 25, 30, 31):
        assert edf.value_at(ERRORS, e) == sum(error < e for error in ERRORS) / 4
    e, f = edf.edf(ERRORS)
    assert (list(e), list(f)) == ([10, 20, 20, 30], [0.25, 0.5, 0.75, 1])
    with pytest.raises(ValueError, match="no errors"):
        edf.edf([])


def test_band_as_scipys_bootstrap():
    errors = np.random.RandomState(0).normal(30, 5, 40)
    grid = np.array([25.0, 30.0, 35.0])
    low, high = edf.band(errors, grid)
    for i, e in enumerate(grid):
        theirs = stats.bootstrap(
            ((errors < e).astype(float),), np.mean, method="percentile", rng=0
        ).confidence_interval
        # 1,000 draws here: a step of 1/40 is the difference that a quantile may show.
        assert (low[i], high[i]) == pytest.approx(tuple(theirs), abs=1 / 40 + 1e-9)


def test_mean_difference_as_scipys_bootstrap():
    rng = np.random.RandomState(1)
    first, second = rng.normal(30, 5, 24), rng.normal(27, 4, 24)
    mean, low, high = edf.mean_difference(first, second)
    theirs = stats.bootstrap(
        (first, second),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        method="percentile",
        rng=0,
    ).confidence_interval
    assert mean == pytest.approx(first.mean() - second.mean())
    assert (low, high) == pytest.approx(tuple(theirs), abs=0.15)


def test_likely_best_finds_the_valley():
    depth = np.arange(100)
    errors = 20 + np.abs(depth - 60) / 10
    median, low, high = edf.likely_best(depth, errors)
    assert abs(median - 60) <= 2
    # The nearest of 25 drawn of 100: within 3% either way in 1 - (1 - 0.07)^25 = 84% of draws.
    assert 50 <= low < 60 < high <= 70
