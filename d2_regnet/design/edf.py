"""Design spaces compared by the errors of many networks, not of the best one (section 3.1)."""

from collections.abc import Sequence

import numpy as np
from numpy.random import RandomState

DRAWS = 10_000
ENOUGH = 10  # networks of a space, for the bootstrap to say anything


def edf(errors: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The empirical distribution function F(e) = 1/n sum_i 1[e_i < e] (equation 1).

    Returns:
        The errors in ascending order, and the share of networks right above each: 1/n, ..., 1.
    """
    e = np.sort(np.asarray(errors, dtype=float))
    if not len(e):
        raise ValueError("no errors, so no distribution of them")
    return e, np.arange(1, len(e) + 1) / len(e)


def value_at(errors: Sequence[float], e: float | np.ndarray) -> np.ndarray:
    """F(e) at any e: the share of `errors` below it, in [0, 1], of e's shape."""
    return np.searchsorted(np.sort(errors), e, side="left") / len(errors)


def band(
    errors: Sequence[float], e: np.ndarray, *, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Between which bounds F(e) lies, by the bootstrap: the networks drawn anew with replacement.

    Args:
        errors: (n,).
        e: where, (m,).
        confidence: of each point by itself, in (0, 1).
        seed: of the drawing.

    Returns:
        The lower and the upper bound, (m,) each.
    """
    drawn = _resampled(np.asarray(errors, float), DRAWS // 10, seed)
    values = np.stack([value_at(each, e) for each in drawn])
    return tuple(np.quantile(values, _tails(confidence), axis=0))


def mean_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Mean error of `first` minus that of `second`, and its bootstrap interval (low, high).

    `confidence` is the interval's, in (0, 1); `seed` is that of the drawing.
    """
    first, second = (np.asarray(each, float) for each in (first, second))
    of_first, of_second = _resampled(first, DRAWS, seed), _resampled(second, DRAWS, seed + 1)
    differences = of_first.mean(axis=1) - of_second.mean(axis=1)
    return (first.mean() - second.mean(), *np.quantile(differences, _tails(confidence)))


def likely_best(
    values: Sequence[float], errors: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """Where the best networks lie along a property such as the depth: the paper's shaded ranges.

    Its empirical bootstrap (section 3.1, figure 2): of a quarter of the networks, drawn with
    replacement, take the property of the one of least error; 10,000 times over.

    Args:
        values: the property, such as the depth, (n,).
        errors: (n,).
        confidence: of the bounds, in (0, 1).
        seed: of the drawing.

    Returns:
        The median, and the bounds within which `confidence` of the draws lie.
    """
    values, errors = np.asarray(values, float), np.asarray(errors, float)
    drawn = RandomState(seed).randint(len(errors), size=(DRAWS, max(1, len(errors) // 4)))
    best = values[drawn[np.arange(DRAWS), errors[drawn].argmin(axis=1)]]
    low, high = np.quantile(best, _tails(confidence))
    return float(np.median(best)), float(low), float(high)


def _resampled(values: np.ndarray, times: int, seed: int) -> np.ndarray:
    return values[RandomState(seed).randint(len(values), size=(times, len(values)))]


def _tails(confidence: float) -> tuple[float, float]:
    return (1 - confidence) / 2, (1 + confidence) / 2
