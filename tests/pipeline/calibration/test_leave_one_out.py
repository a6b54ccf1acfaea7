"""What five patches say of the threshold, the area and the count is taken, and not taken too far."""

from __future__ import annotations

import numpy as np
import pytest

from fewscope.pipeline.calibration.intervals import (
    count_interval,
    counted_ratio,
    mean_interval,
    ratio_interval,
)
from fewscope.pipeline.calibration.leave_one_out import (
    best_threshold,
    covered_ratio,
    score_held_out,
    shrunk_threshold,
)


@pytest.mark.parametrize("level", [0.15, 0.3, 0.5, 0.7, 0.85])
def test_half_of_the_way_to_the_best_threshold_is_gone(level: float) -> None:
    """Objects end where the probability crosses a level: that is the best threshold."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None, None].repeat(3, 0).repeat(128, 1)
    labels = (ramp >= level).astype(np.uint8)
    assert best_threshold(ramp, labels) == pytest.approx(level, abs=0.051)
    chosen = shrunk_threshold(ramp, labels)
    assert chosen == pytest.approx((0.5 + best_threshold(ramp, labels)) / 2, abs=1e-3)
    loo = score_held_out(ramp, labels)
    assert loo is not None
    assert loo.threshold == chosen  # and the promise is for that one
    assert score_held_out(ramp, labels, 0.4).threshold == 0.4


def test_a_threshold_that_patches_do_not_agree_on_is_not_taken() -> None:
    """One gains much from a lower one, two a little, two lose: better in the mean, and not beyond doubt."""
    ramp = np.linspace(0, 1, 128, dtype=np.float32)[None, None].repeat(5, 0).repeat(128, 1)
    labels = (ramp >= 0.5).astype(np.uint8)
    labels[0] = ramp[0] >= 0.1
    labels[1:3] = ramp[1:3] >= 0.45
    assert best_threshold(ramp, labels) < 0.5
    assert shrunk_threshold(ramp, labels) == 0.5


def test_among_equal_thresholds_the_middle_is_taken() -> None:
    labels = np.zeros((2, 64, 64), np.uint8)
    labels[:, 20:40] = 1
    assert shrunk_threshold(np.where(labels == 1, 0.95, 0.05).astype(np.float32), labels) == 0.5


@pytest.mark.slow
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
        ratio = covered_ratio(score_held_out(found, labels, 0.5), labels)
        assert ratio is not None
        inside.append(ratio[0] <= 1 / 1.1 <= ratio[1])
    assert np.mean(inside) == pytest.approx(0.95, abs=0.03)
    labels[0, 32:] = 255  # not known: neither side counts there
    assert covered_ratio(score_held_out(labels == 1, labels, 0.5), labels) == (1, 1)
    assert covered_ratio(None, labels) is None
    assert covered_ratio(score_held_out(np.zeros_like(found), labels, 0.5), labels) is None


@pytest.mark.slow
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
        low, _, high = counted_ratio([12] * 5, 12 - missed + wrong, missed.sum() + wrong.sum())
        inside.append(low <= 1 <= high)
    assert np.mean(inside) > 0.95


def test_the_count_is_estimated_better_than_by_the_patches_or_by_the_count_alone() -> None:
    """Jobs miss more or less of 6, 20 or 80 objects a patch, and some far more; 19 of 20 intervals hold the ratio."""
    rng, errors, inside = np.random.default_rng(0), [], []
    for _ in range(600):
        ratio, n = np.exp(0.1 * rng.standard_t(3)), rng.choice([6, 20, 80])
        true = rng.poisson(n, 5)
        counted = rng.poisson(true / ratio)
        of_job = counted_ratio(true, counted, 0)
        if of_job is None or not 0.2 < ratio < 5:
            continue
        inside.append(of_job.low <= ratio <= of_job.high)
        errors.append([abs(np.log(r / ratio)) for r in (of_job.median, true.sum() / counted.sum(), 1.0)])
    ours, patches_alone, count_alone = np.mean(errors, axis=0)
    assert ours < 0.95 * patches_alone
    assert ours < 0.8 * count_alone
    assert np.mean(inside) > 0.93


@pytest.mark.parametrize("factor", [0.5, 1.5, 3])
def test_patches_that_clearly_say_otherwise_prevail(factor: float) -> None:
    counted = np.array([200, 180, 240, 210, 190])
    low, median, high = counted_ratio(np.rint(counted * factor).astype(int), counted, 0)
    assert median == pytest.approx(factor, rel=0.02)
    assert low < factor < high
    few = np.array([4, 2, 5, 3, 2])
    unclear = counted_ratio(np.rint(few * factor).astype(int), few, 10)
    assert abs(np.log(unclear.median)) < abs(np.log(factor))
    assert unclear.low < factor < unclear.high


def test_counts_that_happen_to_agree_are_not_exact() -> None:
    """Misses and false finds that cancel in every patch leave an interval; the more there are, the wider."""
    agreed = [10, 14, 12, 9, 15]
    few, many = (counted_ratio(agreed, agreed, n) for n in (0, 24))
    assert few == pytest.approx((1 - 1.96 / 60, 1, 1 + 1.96 / 60), abs=0.002)
    assert 1 - 9.8 / 60 < many.low < 0.9
    assert 1.1 < many.high < 1 + 9.8 / 60
    assert many.median == pytest.approx(1, abs=0.01)
    assert count_interval(1000, few) == pytest.approx((967, 1033), abs=2)
    assert counted_ratio([3], [3], 0) is None
    assert counted_ratio([3, 2], [0, 0], 5) is None
    assert count_interval(1000, None) is None


def test_a_patch_of_nothing_widens_the_interval_of_the_count_and_does_not_rule_it() -> None:
    """Two patches in which nothing was to be found, and a few objects were: of a hundred, ten too many."""
    low, _, high = counted_ratio([20, 30, 25, 25, 0, 0], [20, 30, 25, 25, 6, 4], 10)
    assert 0.65 < low < 100 / 110 < high < 1.2
    assert low < counted_ratio([20, 30, 25, 25], [20, 30, 25, 25], 0).low


def test_areas_that_are_not_asked_for_count_neither_as_found_nor_as_true():
    labels = np.zeros((3, 60, 60), np.uint8)
    labels[:, 5:25, 5:25] = 1  # 400 px
    labels[:, 40:44, 40:44] = 1  # 16 px
    held_out = score_held_out((labels == 1).astype(np.float32), labels, 0.5)
    assert covered_ratio(held_out, labels) == pytest.approx((1, 1))
    assert covered_ratio(held_out, labels, 100) == pytest.approx(
        (416 / 400,) * 2
    )  # dropped as noise, and missed
    assert covered_ratio(held_out, labels, 100, 2, 100) == pytest.approx((1, 1))


def test_one_patch_with_objects_has_no_interval_however_many_are_empty():
    assert ratio_interval([90, 0, 0], [100, 0, 0]) is None
    assert counted_ratio([9, 0, 0], [10, 0, 0], n_unmatched=1) is None
    assert ratio_interval([90, 0, 70], [100, 0, 90]) is not None
    assert ratio_interval([90, 0], [100, 5]) is not None  # what is found in an empty patch tells
