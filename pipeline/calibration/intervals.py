"""Confidence intervals of means, areas and counts, from the held-out patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def mean_interval(
    values: np.ndarray, low: float, high: float, n_more: int | None = None
) -> tuple[float, float] | None:
    """95 % confidence interval of the mean of a few values (Student's t), cut to [low, high]; None for fewer than 2.

    With `n_more`, the prediction interval of the mean of so many further values, which have an error of their own.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return None
    error = np.sqrt(1 / len(known) + (1 / n_more if n_more else 0))
    half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) * error
    return max(low, float(known.mean() - half)), min(high, float(known.mean() + half))


def ratio_interval(
    true: Sequence[int] | np.ndarray, found: Sequence[int] | np.ndarray, least: float = 0.0
) -> tuple[float, float] | None:
    """95 % interval of true over found, of K patches; None for fewer than two, or where nothing was found.

    The ratio estimator with Student's t (Cochran, Sampling Techniques, 1977, 6.3): patches with much say more than
    those with little, and one with nothing counts too. `least` is a bound of its relative half width.
    """
    true, found = np.asarray(true, np.float64), np.asarray(found, np.float64)
    if len(true) < 2 or not found.any():
        return None
    ratio = true.sum() / found.sum()
    error = np.sqrt(((true - ratio * found) ** 2).sum() / (len(true) - 1) / len(true)) / found.mean()
    half = max(stats.t.ppf(0.975, len(true) - 1) * error, least * ratio)
    return max(0.0, float(ratio - half)), float(ratio + half)


def count_errors(true: Sequence[int], counted: Sequence[int]) -> np.ndarray:
    """How far the counts of K held-out patches are off: |log((true + 1) / (counted + 1))|, (K,); 1 keeps it finite."""
    return np.abs(np.log((np.array(true) + 1) / (np.array(counted) + 1)))


def counted_ratio(
    true: Sequence[int], counted: Sequence[int], n_unmatched: int
) -> tuple[float, float] | None:
    """95 % interval of true over counted objects, by the held-out patches; None where that cannot be said.

    That of `ratio_interval`, but no narrower than chance leaves it: objects are missed, and found where there are none,
    one by one, and in five patches the two may happen to cancel. Their difference has the error of a Poisson number of
    as many as were seen, and one more.

    Parameters
    ----------
    true, counted : objects of each of K patches
    n_unmatched : objects that were missed and finds that are none, of all patches
    """
    chance = stats.norm.ppf(0.975) * np.sqrt(n_unmatched + 1) / max(1, sum(true))
    return ratio_interval(true, counted, least=float(chance))


def count_interval(count: int, ratio: tuple[float, float] | None) -> tuple[int, int] | None:
    """95 % interval of a count, were it off as it is on the held-out patches (`counted_ratio`)."""
    return None if ratio is None else (int(np.floor(count * ratio[0])), int(np.ceil(count * ratio[1])))
