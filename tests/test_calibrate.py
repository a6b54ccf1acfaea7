"""What five patches say of the threshold, the area and the count is taken, and not taken too far."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.calibrate import (
    best_threshold,
    careful_threshold,
    count_interval,
    counted_ratio,
    covered_ratio,
    judged,
    mean_interval,
)


@pytest.mark.parametrize("level", [0.15, 0.3, 0.5, 0.7, 0.85])
def test_half_of_the_way_to_the_best_threshold_is_gone(level: float) -> None:
    """Objects end where the probability crosses a level: that is the best threshold."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None, None].repeat(3, 0).repeat(128, 1)
    labels = (ramp >= level).astype(np.uint8)
    assert best_threshold(ramp, labels) == pytest.approx(level, abs=0.051)
    chosen = careful_threshold(ramp, labels)
    assert chosen == pytest.approx((0.5 + best_threshold(ramp, labels)) / 2, abs=1e-3)
    loo = judged(ramp, labels)
    assert loo is not None
    assert loo.threshold == chosen  # and the promise is for that one
    assert judged(ramp, labels, 0.4).threshold == 0.4  # type: ignore[union-attr]
    assert judged(None, labels) is None


def test_a_threshold_that_patches_do_not_agree_on_is_not_taken() -> None:
    """One gains much from a lower one, two a little, two lose: better in the mean, and not beyond doubt."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None, None].repeat(5, 0).repeat(128, 1)
    labels = (ramp >= 0.5).astype(np.uint8)
    labels[0] = ramp[0] >= 0.1
    labels[1:3] = ramp[1:3] >= 0.45
    assert best_threshold(ramp, labels) < 0.5
    assert careful_threshold(ramp, labels) == 0.5


def test_among_equal_thresholds_the_middle_is_taken() -> None:
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[:, 20:40] = 1
    assert careful_threshold(np.where(labels == 1, 0.95, 0.05).astype(np.float32), labels) == 0.5


def test_the_interval_of_the_area_holds_the_true_ratio() -> None:
    """Patches of any size of objects, found a tenth too large and not quite alike: 19 of 20 intervals hold 1 / 1.1."""
    rng, inside = np.random.default_rng(0), []
    labels, found = np.zeros((5, 64, 64), np.uint8), np.zeros((5, 64, 64), np.float32)
    for _ in range(1500):
        true = rng.integers(200, 2000, 5)
        wrong = np.rint(true * 1.1 * np.exp(rng.normal(0, 0.05, 5))).astype(int)
        for k in range(5):
            labels[k].flat[:] = np.arange(64 * 64) < true[k]
            found[k].flat[:] = np.arange(64 * 64) < wrong[k]
        ratio = covered_ratio(judged(found, labels, 0.5), labels)
        assert ratio is not None
        inside.append(ratio[0] <= 1 / 1.1 <= ratio[1])
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)
    labels[0, 32:] = 255  # not known: neither side counts there
    assert covered_ratio(judged(labels == 1, labels, 0.5), labels) == (1, 1)
    assert covered_ratio(None, labels) is None
    assert covered_ratio(judged(np.zeros_like(found), labels, 0.5), labels) is None


def test_intervals_of_a_mean_and_of_the_mean_of_more() -> None:
    """19 of 20 of the first hold the true mean; 19 of 20 of the second hold the mean of three more values."""
    rng = np.random.default_rng(0)
    inside, agrees = [], []
    for _ in range(4000):
        known, more = rng.normal(0.7, 0.1, 5), rng.normal(0.7, 0.1, 3)
        low, high = mean_interval(known, -np.inf, np.inf)
        inside.append(low <= 0.7 <= high)
        low, high = mean_interval(known, -np.inf, np.inf, n_more=3)
        agrees.append(low <= more.mean() <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)
    assert np.mean(agrees) == pytest.approx(0.95, abs=0.012)
    assert mean_interval(np.array([0.9, 1.0, np.nan]), 0.0, 1.0)[1] == 1
    assert mean_interval(np.array([0.9, np.nan]), 0.0, 1.0) is None


def test_the_interval_of_the_count_holds_the_true_ratio() -> None:
    """Of 12 objects a patch 15 % are missed and as many found where there are none: 19 of 20 intervals hold 1."""
    rng, inside = np.random.default_rng(0), []
    for _ in range(1500):
        missed, wrong = rng.binomial(12, 0.15, 5), rng.poisson(12 * 0.15, 5)
        errors = np.log(13 / (13 - missed + wrong))
        low, high = counted_ratio(errors, 60, missed.sum() + wrong.sum())
        inside.append(low <= 1 <= high)
    assert np.mean(inside) > 0.95


def test_counts_that_happen_to_agree_are_not_exact() -> None:
    """Misses and false finds that cancel in every patch leave an interval; the more there are, the wider."""
    agreed = np.zeros(5)
    few, many = (counted_ratio(agreed, 60, n) for n in (0, 24))
    assert few == pytest.approx((np.exp(-1.96 / 60), np.exp(1.96 / 60)), rel=1e-4)
    assert many == pytest.approx((np.exp(-9.8 / 60), np.exp(9.8 / 60)), rel=1e-4)
    assert count_interval(1000, few) == (967, 1034)
    assert counted_ratio(agreed[:1], 60, 0) is None
    assert count_interval(1000, None) is None


def test_patches_that_disagree_widen_the_interval_of_the_count() -> None:
    errors = np.array([0.5, -0.4, 0.6, -0.2, 0.3])
    assert np.log(counted_ratio(errors, 600, 4)) == pytest.approx(mean_interval(errors, -np.inf, np.inf))
