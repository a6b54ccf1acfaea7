"""Confidence intervals of means, areas and counts, from the held-out patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special  # not scipy.stats, which takes a second to import


def mean_interval(
    values: np.ndarray, low: float, high: float, n_more: int | None = None
) -> tuple[float, float] | None:
    """95 % confidence interval of the mean of a few values (Student's t), clipped to [low, high].

    Parameters
    ----------
    values : np.ndarray
        (n,) float; NaN is ignored.
    n_more : int | None
        If given, return the prediction interval of the mean of this many further values instead.

    Returns
    -------
    None for fewer than two values.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return None
    error = np.sqrt(1 / len(known) + (1 / n_more if n_more else 0))
    half = special.stdtrit(len(known) - 1, 0.975) * known.std(ddof=1) * error
    return max(low, float(known.mean() - half)), min(high, float(known.mean() + half))


def moved_estimate(mean: float, change: float) -> float:
    """Estimated IoU of a source, from the mean of the held-out patches and the `ExpectedIou.change`; 0 to 1.

    >>> moved_estimate(0.5, -0.25), moved_estimate(0.5, -0.75)
    (0.25, 0.0)
    """
    return min(1.0, max(0.0, mean + change))


def moved_interval(
    interval: tuple[float, float] | None, change: float, lost: float | None = None
) -> tuple[float, float] | None:
    """Interval of `moved_estimate`: that of the held-out patches, stretched until it covers the moved one as well.

    Where ground differs from the patches, two methods that err differently agree less, and either may be right: both
    ends move further by what is lost.

    Parameters
    ----------
    interval : tuple[float, float] | None
        From the held-out patches alone; None stays None.
    change : float
        How far the estimate moves.
    lost : float | None
        Agreement (IoU of the two methods' masks) on the held-out patches minus that on the source; nothing is changed
        by it if it is negative or None.

    >>> moved_interval((0.5, 0.75), -0.25), moved_interval((0.5, 0.75), 0.125, 0.0625)
    ((0.25, 0.75), (0.4375, 0.9375))
    """
    if interval is None:
        return None
    by = max(0.0, lost or 0.0)
    low, high = interval[0] + min(0.0, change) - by, interval[1] + max(0.0, change) + by
    return max(0.0, round(low, 6)), min(1.0, round(high, 6))


MUCH_WORSE = 0.1
"""Loss of estimated IoU on the source from which on held-out patches no longer speak for it."""

LEAST_SHARE = 0.02
"""Of the IoU of held-out patches that is left, at least: intervals stay finite."""


def share_left(held_out: float | None, moved: float | None) -> float:
    """Share of the IoU of held-out patches that is expected of the source, if it is much less; else 1.

    >>> share_left(0.9, 0.45), share_left(0.9, 0.85), share_left(0.9, None)
    (0.5, 1.0, 1.0)
    """
    if held_out is None or moved is None or held_out - moved < MUCH_WORSE:
        return 1.0
    return max(LEAST_SHARE, moved / held_out)


def widened(ratio: tuple[float, float] | None, share: float) -> tuple[float, float] | None:
    """A `ratio_interval` around the same middle, that holds it divided by ``share``, from `share_left`.

    >>> widened((0.9, 1.1), 0.5), widened((0.9, 1.1), 1.0)
    ((0.0, 2.0), (0.9, 1.1))
    """
    if ratio is None or share == 1:
        return ratio
    middle = (ratio[0] + ratio[1]) / 2
    half = max(ratio[1] - middle, middle * (1 / share - 1))
    return middle - half, middle + half


def ratio_interval(
    true: Sequence[int] | np.ndarray, found: Sequence[int] | np.ndarray, least: float = 0.0
) -> tuple[float, float] | None:
    """95 % confidence interval of the ratio sum(true) / sum(found) over K patches.

    The ratio estimator with Student's t (Cochran, Sampling Techniques, 1977, 6.3): patches weigh by their content, and
    empty ones count too.

    Parameters
    ----------
    true, found : Sequence[int] | np.ndarray
        K areas or counts.
    least : float
        Smallest half width, relative to the ratio.

    Returns
    -------
    Its middle is the ratio itself, so the lower end may be negative: areas end at 0. None for
    fewer than two patches with content, whose ratios cannot be compared, or where nothing was found.

    >>> ratio_interval([90, 0], [100, 0]) is None
    True
    """
    true, found = np.asarray(true, np.float64), np.asarray(found, np.float64)
    if np.count_nonzero(true + found) < 2 or not found.any():
        return None
    ratio = true.sum() / found.sum()
    error = np.sqrt(((true - ratio * found) ** 2).sum() / (len(true) - 1) / len(true)) / found.mean()
    half = max(special.stdtrit(len(true) - 1, 0.975) * error, least * ratio)
    return float(ratio - half), float(ratio + half)


def count_errors(true: Sequence[int], counted: Sequence[int]) -> np.ndarray:
    """Count errors of K held-out patches, |log((true + 1) / (counted + 1))|, (K,) float; adding 1 keeps them finite."""
    return np.abs(np.log((np.array(true) + 1) / (np.array(counted) + 1)))


class CountRatio(NamedTuple):
    """Ratio of true to counted objects: its median, between the ends of a 95 % interval."""

    low: float
    median: float
    high: float


USUAL_DEVIATION = 0.12
"""Of the logarithm of true over counted objects, from job to job. It is 0.08 over the training classes of
`benchmarks/counting.py` and 0.10 over its whole pictures; with 0.12, the interval holds in 57 of 62, with 0.1 in 56."""

HEAVY_TAILS = 3
"""Degrees of freedom of the t distribution of that logarithm: some jobs count far worse than usual."""

RATIOS = np.exp(np.linspace(np.log(0.02), np.log(50.0), 8001))
"""Ratios over which the posterior is summed."""


def counted_ratio(true: Sequence[int], counted: Sequence[int], n_unmatched: int) -> CountRatio | None:
    """Ratio of true to counted objects, from the held-out patches and from how jobs usually count.

    Five patches with a few objects each say little: alone, their ratio was further from the truth than the count
    itself. Its likelihood, Student's t around it as wide as `ratio_interval`, is therefore combined with a prior: the
    ratio is near 1 (`USUAL_DEVIATION`), with tails heavy enough to give way to patches that say otherwise (Gelman et
    al., Bayesian Data Analysis, 3rd edition, section 17.2). The likelihood has a lower bound on its width: in five
    patches, false positives and false negatives may cancel by chance. Their difference has the error of a Poisson count
    of ``n_unmatched + 1``.

    Parameters
    ----------
    true, counted : Sequence[int]
        Objects of each of K patches.
    n_unmatched : int
        False positives and false negatives of all patches.

    Returns
    -------
    None where `ratio_interval` is None.
    """
    chance = special.ndtri(0.975) * np.sqrt(n_unmatched + 1) / max(1, sum(true))
    patches = ratio_interval(true, counted, least=float(chance))
    if patches is None:
        return None
    middle, half = (patches[0] + patches[1]) / 2, (patches[1] - patches[0]) / 2
    if not half:
        return CountRatio(middle, middle, middle)
    freedom = len(true) - 1
    error = half / special.stdtrit(freedom, 0.975)
    log_posterior = _log_t((RATIOS - middle) / error, freedom)
    log_posterior += _log_t(np.log(RATIOS) / USUAL_DEVIATION, HEAVY_TAILS)
    posterior = np.exp(log_posterior - log_posterior.max()).cumsum()
    ends = np.searchsorted(posterior, np.array([0.025, 0.5, 0.975]) * posterior[-1])
    return CountRatio(*RATIOS[ends].tolist())


def _log_t(x: np.ndarray, freedom: float) -> np.ndarray:
    """Logarithm of the density of Student's t, but for a constant."""
    return -(freedom + 1) / 2 * np.log1p(x**2 / freedom)


def count_interval(count: int, ratio: CountRatio | None, share: float = 1.0) -> tuple[int, int] | None:
    """95 % interval of the true number that a count stands for; wider if ``share``, from `share_left`, is below 1."""
    if ratio is None:
        return None
    return int(np.floor(count * ratio.low * share)), int(np.ceil(count * ratio.high / share))


def count_estimate(count: int, ratio: CountRatio | None) -> int | None:
    """The true number that a count stands for.

    >>> count_estimate(44, CountRatio(1.0, 1.5, 2.0)), count_interval(44, CountRatio(1.0, 1.5, 2.0))
    (66, (44, 88))
    """
    return None if ratio is None else round(count * ratio.median)
