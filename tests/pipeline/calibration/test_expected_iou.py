"""The estimated IoU of a source: what the network's own probabilities say of it, beside the held-out patches."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewscope.connectors.results.reader import open_result
from fewscope.pipeline.calibration.expected_iou import (
    LEAST,
    ExpectedIou,
    compare_with_source,
    expected_from_array,
    expected_iou,
    expected_to_array,
)
from fewscope.pipeline.calibration.intervals import moved_estimate, moved_interval
from fewscope.pipeline.calibration.leave_one_out import LeaveOneOut
from fewscope.pipeline.calibration.operating_point import ClassOperatingPoint
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.report.builder import mean_quality, quality
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.reports import Links

EVERYWHERE = np.ones((1, 40, 50), bool)


def test_of_true_probabilities_the_expected_iou_is_the_iou() -> None:
    """Object pixels are drawn with the probabilities that are told."""
    rng = np.random.default_rng(0)
    for a, b in ((0.3, 0.3), (1, 3), (5, 2)):
        p = rng.beta(a, b, 400_000)
        p[p < LEAST] = 0  # no object is missed there
        true = rng.random(p.shape) < p
        for threshold in (0.3, 0.5, 0.7):
            found = p >= threshold
            iou = (found & true).sum() / (found | true).sum()
            assert expected_iou(p, threshold) == pytest.approx(iou, abs=0.005)


def test_ground_without_objects_does_not_lower_the_expected_iou_however_large_it_is() -> None:
    objects = np.array([0.9, 0.8, 0.3])
    ground = np.full(1000, 0.9 * LEAST)
    assert expected_iou(np.concatenate([objects, ground]), 0.5) == expected_iou(objects, 0.5)
    assert expected_iou(ground, 0.5) == 0


def maps(sure: float, share: float = 0.1) -> np.ndarray:
    """Probabilities of which a share is `sure`, the rest sure to be ground."""
    p = np.full(EVERYWHERE.shape, 0.01, np.float32)
    p.reshape(-1)[: round(share * p.size)] = sure
    return p


LABELS = (maps(1.0) >= 0.5).astype(np.uint8)


def test_an_estimate_moves_by_how_much_less_sure_the_network_is_on_the_source() -> None:
    same = compare_with_source(maps(0.9), LABELS, maps(0.9), EVERYWHERE, 0.5)
    paler = compare_with_source(maps(0.9), LABELS, maps(0.6), EVERYWHERE, 0.5)
    assert same == ExpectedIou(0.9, 0.9)
    assert paler is not None
    assert paler.change == pytest.approx(-0.3)


def test_of_a_class_that_is_hardly_found_nothing_is_known() -> None:
    """The sample may have none of it, or all of it is missed. The patches have 10 %, of which 1 % is 0.1 %."""
    for nothing in (maps(0.2), maps(0.9, share=0.0005)):
        found = compare_with_source(maps(0.9), LABELS, nothing, EVERYWHERE, 0.5)
        assert found == ExpectedIou(0.9, None)
        assert found.change is None
    few = compare_with_source(maps(0.9), LABELS, maps(0.9, share=0.002), EVERYWHERE, 0.5)
    assert few == ExpectedIou(0.9, 0.9)


def test_only_labelled_pixels_and_foreground_count() -> None:
    labels, p, tiles, known = LABELS.copy(), maps(0.9), maps(0.9), EVERYWHERE.copy()
    labels[:, 20:], p[:, 20:] = 255, 0.6
    known[:, 30:], tiles[:, 30:] = False, 0.6
    assert compare_with_source(p, labels, tiles, known, 0.5) == ExpectedIou(0.9, 0.9)
    assert compare_with_source(p, labels, tiles, known & False, 0.5) is None
    assert compare_with_source(p, labels * 0, tiles, known, 0.5) is None


def test_what_is_kept_in_the_working_folder_is_what_was_found() -> None:
    of_classes = (ExpectedIou(0.5, 0.25), None, ExpectedIou(0.75, None))
    assert expected_from_array(expected_to_array(of_classes)) == of_classes
    assert expected_from_array(expected_to_array(())) == ()


@pytest.mark.parametrize("change", [-0.9, -0.2, 0.0, 0.1, 0.6])
def test_a_moved_interval_covers_that_of_the_patches_and_the_moved_one(change: float) -> None:
    low, high = 0.4, 0.6
    found = moved_interval((low, high), change)
    assert found is not None
    both = [low, high, *(moved_estimate(end, change) for end in (low, high))]
    assert found == (pytest.approx(min(both)), pytest.approx(max(both)))
    assert moved_interval(None, change) is None


def test_the_interval_is_widened_by_lost_agreement_and_never_narrowed() -> None:
    for nothing in (0.0, -0.3, None):
        assert moved_interval((0.7, 0.9), 0.0, nothing) == (0.7, 0.9)
    assert moved_interval((0.7, 0.9), 0.0, 0.3) == (pytest.approx(0.4), 1.0)
    assert moved_interval((0.7, 0.8), -0.1, 0.05) == (pytest.approx(0.55), pytest.approx(0.85))
    assert moved_interval(None, 0.5, 0.5) is None


def point(*ious: float) -> ClassOperatingPoint:
    loo = LeaveOneOut(np.zeros((len(ious), 8, 8), np.float32), 0.5, ious, (0.75, 0.85))
    return ClassOperatingPoint(loo, 0.5, None, None)


PLAN: Any = SimpleNamespace(config=SimpleNamespace(threshold=None), classes=[None])


def test_the_report_has_the_estimate_of_the_source_and_that_of_the_held_out_patches() -> None:
    plain = quality(PLAN, point(0.7, 0.9))
    moved = quality(PLAN, point(0.7, 0.9), ExpectedIou(0.9, 0.7), 0.125)
    unknown = quality(PLAN, point(0.7, 0.9), ExpectedIou(0.9, None))
    assert plain is not None
    assert moved is not None
    assert unknown is not None
    assert [q.iou_held_out for q in (plain, moved, unknown)] == [pytest.approx(0.8)] * 3
    assert (plain.iou_mean, plain.iou_interval) == (pytest.approx(0.8), (0.75, 0.85))
    assert (moved.iou_mean, moved.iou_interval) == (
        pytest.approx(0.6),
        (pytest.approx(0.425), pytest.approx(0.975)),
    )
    assert (unknown.iou_mean, unknown.iou_interval) == (None, None)
    assert "moved by -0.20" in moved.method
    assert "widened by 0.12" in moved.method
    for word in ("moved", "widened"):
        assert word not in plain.method + unknown.method
    assert moved.lost_agreement == 0.125


def test_the_mean_of_classes_is_unknown_where_one_is_and_that_of_the_patches_still_known() -> None:
    of = [quality(PLAN, point(0.6, 0.8), e) for e in (ExpectedIou(0.9, 0.7), ExpectedIou(0.9, None))]
    both, one_unknown, none = mean_quality([of[0], of[0]]), mean_quality(of), mean_quality([of[0], None])
    assert both is not None
    assert one_unknown is not None
    assert (both.iou_mean, both.iou_held_out) == (pytest.approx(0.5), pytest.approx(0.7))
    assert (one_unknown.iou_mean, one_unknown.iou_held_out) == (None, pytest.approx(0.7))
    assert none is None


@pytest.mark.usefixtures("no_pictures")
def test_a_slide_on_which_the_network_is_less_sure_has_a_lower_estimate_in_all_outputs(
    tmp_path: Path, support: str
) -> None:
    """`ByColour` is right on every patch, and as sure as red differs from blue."""
    bright = fakes.picture()
    grey = np.array([100, 60, 100])
    pictures = {
        "same": bright,
        "pale": (grey + (bright - grey) * 0.3).astype(np.uint8),
        "blue": np.full_like(bright, (20, 60, 180)),
    }
    found = {}
    for name, picture in pictures.items():
        path = fakes.write_slide(tmp_path / f"{name}.tif", picture)
        config = SegmentConfig(path, support, str(tmp_path / name), adapt_s=0, foreground="all")
        with LocalPool(fakes.ByColour) as pool:
            report = segment(config, pool, fakes.ByColour())
        result = open_result(str(tmp_path / name))
        assert result.quality == report["quality"] == json.loads(json.dumps(report["quality"]))
        page = " ".join(Links((tmp_path / name / "report.html").read_text()).text.split())
        assert "1.00 on held-out patches" in page
        found[name] = report["quality"], report["notes"], page
        assert report["quality"]["iou_held_out"] == 1.0
    same, pale, blue = (found[name][0] for name in pictures)
    assert same["iou_mean"] > 0.95
    assert pale["iou_mean"] < same["iou_mean"] - 0.1
    assert pale["iou_interval"] == [pytest.approx(pale["iou_mean"]), 1.0]  # no spread on the patches
    assert (blue["iou_mean"], blue["iou_interval"]) == (None, None)
    less_sure = {name: any("less sure" in note for note in found[name][1]) for name in pictures}
    assert less_sure == {"same": False, "pale": True, "blue": False}
    assert f"Estimated IoU on this slide {pale['iou_mean']:.2f}" in found["pale"][2]
    assert "On this slide it is unknown" in found["blue"][2]
