"""Figures of masks and objects agree with definitions worked out by hand, and with slow twins."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewscope.pipeline.metrics import (
    Objects,
    Pixels,
    compare_masks,
    compare_objects,
    correlation,
    count_error,
    mean_over_classes,
)

LABELS = arrays(np.int32, (6, 7), elements=st.integers(0, 4))


def test_pixels_by_hand():
    found = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
    true = np.array([[1, 1, 1, 0], [0, 0, 0, 0]], bool)
    pixels = compare_masks(found, true)
    assert pixels == Pixels(both=2, only_found=1, only_true=1, neither=4)
    assert pixels.iou == 2 / 4
    assert pixels.background_iou == 4 / 6
    assert pixels.fb_iou == pytest.approx((1 / 2 + 2 / 3) / 2)


@given(arrays(bool, (2, 5, 6)), arrays(bool, (2, 5, 6)))
def test_pixels_of_two_pictures_are_those_of_one_made_of_both(found, true):
    parts = [compare_masks(f, t) for f, t in zip(found, true, strict=True)]
    assert parts[0] + parts[1] == compare_masks(found.reshape(10, 6), true.reshape(10, 6))


def test_a_picture_without_object_in_which_none_is_found_is_right():
    assert compare_masks(np.zeros((3, 3), bool), np.zeros((3, 3), bool)).iou == 1


def test_objects_by_hand():
    true = np.zeros((10, 20), np.int32)
    true[0:4, 0:4], true[0:4, 6:10], true[6:10, 0:4] = 1, 2, 3
    found = np.zeros_like(true)
    found[0:4, 0:3] = 7  # 12 of 16 pixels of object 1
    found[0:4, 6:11] = 2  # all 16 of object 2, and 4 more
    found[6:10, 15:20] = 9  # nobody's, 20 pixels
    objects = compare_objects(found, true)
    assert (objects.true, objects.found, objects.matched) == (3, 3, 2)
    assert objects.matched_iou == pytest.approx(12 / 16 + 16 / 20)
    assert objects.f1 == pytest.approx(2 / 3)
    assert objects.accuracy == pytest.approx(2 / 4)
    assert objects.pq == pytest.approx((0.75 + 0.8) / 2 * 2 / 3)
    assert objects.aji == pytest.approx((12 + 16) / (16 + 20 + 16 + 20))


def slow(found, true):
    """Matches by trying all of them, and AJI by its pseudo code."""
    ts, fs = sorted(set(true.flat) - {0}), sorted(set(found.flat) - {0})
    iou = {
        (t, f): ((true == t) & (found == f)).sum() / ((true == t) | (found == f)).sum()
        for t in ts
        for f in fs
    }
    best = (0, 0.0)
    for chosen in permutations(fs + [0] * len(ts), len(ts)):
        pairs = [iou[t, f] for t, f in zip(ts, chosen, strict=True) if f and iou[t, f] >= 0.5]
        best = max(best, (len(pairs), round(sum(pairs), 9)))
    shared = joined = 0
    used = set()
    for t in ts:
        f = max(fs, key=lambda f: (iou[t, f], -f), default=None)
        if f is None or iou[t, f] == 0:
            joined += (true == t).sum()
            continue
        used.add(f)
        shared += ((true == t) & (found == f)).sum()
        joined += ((true == t) | (found == f)).sum()
    joined += sum((found == f).sum() for f in fs if f not in used)
    return len(ts), len(fs), *best, shared, joined


@given(LABELS, LABELS)
def test_objects_agree_with_trying_everything(found, true):
    objects = compare_objects(found, true)
    n_true, n_found, matched, matched_iou, shared, joined = slow(found, true)
    assert (objects.true, objects.found, objects.matched) == (n_true, n_found, matched)
    assert objects.matched_iou == pytest.approx(matched_iou)
    assert (objects.shared_px, objects.joined_px) == (shared, joined)


@given(LABELS)
def test_an_image_is_itself_whatever_its_numbers(true):
    renamed = np.where(true > 0, 90_000 - true, 0)
    objects = compare_objects(renamed, true)
    assert (objects.f1, objects.accuracy, objects.pq, objects.aji) == (1, 1, 1, 1)


def test_counts_by_hand():
    pictures = [Objects(true, found, 0, 0, 0, 0) for true, found in ((10, 9), (20, 26), (0, 2), (4, 4))]
    error = count_error(pictures)
    assert error.mean_absolute == (1 + 6 + 2 + 0) / 4
    assert error.median_relative == 0.1  # of 0.1, 0.3 and 0
    assert error.bias == pytest.approx(41 / 34 - 1)


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(60):
        mean = mean_over_classes(rng.uniform(0, 1, 40))
        low, high = mean.interval
        assert low < mean.value < high
        inside += low <= 0.5 <= high
    assert 52 <= inside <= 60  # 57 of 60 expected
    assert mean_over_classes([0.3]).interval is None


def test_correlation_needs_three_pairs_that_vary():
    assert correlation([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert np.isnan(correlation([1, 2], [2, 4]))
    assert np.isnan(correlation([1, 1, 1], [2, 4, 6]))
