"""The second opinion: on which tiles it is asked, and what it does to the interval of the estimate."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewscope.model.networks.pixel_classifier import N_STATISTICS, TexturePack
from fewscope.model.views import SupportFeatures, View
from fewscope.pipeline.calibration.agreement import lost_agreement, sample_tiles
from fewscope.pipeline.calibration.intervals import widened_interval
from fewscope.pipeline.calibration.leave_one_out import LeaveOneOut, agreement
from fewscope.pipeline.calibration.operating_point import ClassOperatingPoint
from fewscope.pipeline.report.builder import quality
from fewscope.pipeline.tiling.foreground import Foreground
from fewscope.pipeline.tiling.grid import TileGrid

SIDE = 512


class Squares:
    """A source whose red is the column / 4 and whose green the row / 4; its right quarter cannot be read."""

    def read(self, window: Any) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(window.row_off, window.row_off + window.height)[:, None]
        cols = np.arange(window.col_off, window.col_off + window.width)[None]
        red, green = np.broadcast_arrays(cols // 4, rows // 4)
        return np.stack([red, green, 0 * red], -1).astype(np.uint8), np.broadcast_to(cols < 384, red.shape)


def plan(mask: list[list[bool]]) -> Any:
    return SimpleNamespace(
        source=Squares(),
        grid=TileGrid(SIDE, SIDE, 64, 0),
        foreground=Foreground(np.array(mask), (SIDE, SIDE)),
    )


def test_tiles_are_of_the_foreground_whole_and_spread_over_it() -> None:
    everywhere = sample_tiles(plan([[True, True], [True, True]]), 40)
    assert everywhere.shape == (40, 64, 64, 3)
    assert len(np.unique(everywhere[:, 0, 0, :2], axis=0)) == 40
    corners = everywhere[:, 0, 0, :2].astype(int) * 4
    assert corners[:, 0].max() + 64 <= 384  # what could not be read is left out
    assert corners[:, 0].min() == 0
    assert corners[:, 1].min() == 0
    assert corners[:, 1].max() == SIDE - 64
    below = sample_tiles(plan([[False, False], [True, False]]), 24)
    assert len(below) == 4 * 4
    assert (below[:, 0, 0, 1].astype(int) * 4 >= SIDE // 2).all()
    assert not len(sample_tiles(plan([[False, False], [False, False]])))


class TwoMinds:
    """Class 1 is where red is under 64, by both; class 2 nowhere; class 3 differs."""

    def predict(self, tiles: np.ndarray, features: Any) -> np.ndarray:
        red = tiles[..., 0].astype(np.float32)
        other = red < (32 if features == "network" else 64)
        return np.stack([red < 64, red < 0, other], 1).astype(np.float32)


def test_agreement_is_the_iou_of_the_two_masks() -> None:
    one = np.array([[0.9, 0.5, 0.4, 0.1]])
    assert agreement(one, np.array([[0.9, 0.1, 0.6, 0.1]])) == round(1 / 3, 3)
    assert agreement(one, one) == 1.0
    assert agreement(one * 0, one * 0) is None


def test_what_is_lost_is_the_agreement_on_patches_minus_that_on_the_source() -> None:
    features = SimpleNamespace(alone=lambda: "classifier")
    model: Any = SimpleNamespace(
        predict=lambda tiles, of: TwoMinds().predict(tiles, "network" if of is features else of)
    )
    red = sample_tiles(plan([[True]]))[..., 0]
    of_source = (red < 32).sum() / (red < 64).sum()
    assert 0.2 < of_source < 0.8

    def lost(before: tuple[float | None, ...], of: Any = features) -> tuple[float | None, ...]:
        encoding = SimpleNamespace(agreement=before)
        point: Any = SimpleNamespace(features=of, encoding=encoding, classes=[None] * 3)
        return lost_agreement(plan([[True]]), model, point)

    assert lost((0.75, 0.5, 1.0)) == (-0.25, None, pytest.approx(1 - of_source, abs=1e-3))
    assert lost((None, 0.5, 1.0))[0] is None
    assert lost(()) == lost((0.9, 0.9, 0.9), "no classifier") == (None, None, None)


def test_the_interval_is_widened_by_what_is_lost_and_never_narrowed() -> None:
    assert widened_interval((0.7, 0.9), 0.0) == widened_interval((0.7, 0.9), -0.3) == (0.7, 0.9)
    assert widened_interval((0.7, 0.9), 0.3) == (pytest.approx(0.4), 1.0)
    assert widened_interval((0.7, 0.9), None) == (0.7, 0.9)
    assert widened_interval(None, 0.5) is None


def test_the_report_says_why_an_interval_is_wide() -> None:
    of_class: Any = SimpleNamespace(config=SimpleNamespace(threshold=None), classes=[None])
    loo = LeaveOneOut(np.zeros((2, 8, 8), np.float32), 0.5, (0.7, 0.9), (0.75, 0.85))
    point = ClassOperatingPoint(loo, 0.5, None, None)
    plain, wide = quality(of_class, point), quality(of_class, point, 0.4)
    assert plain is not None
    assert wide is not None
    assert (plain.iou_interval, plain.lost_agreement) == ((0.75, 0.85), None)
    assert wide.iou_mean == plain.iou_mean
    assert wide.iou_interval == (pytest.approx(0.35), 1.0)
    assert "widened by 0.40" in wide.method
    assert "widened" not in plain.method


def test_features_of_the_classifier_alone_are_others_for_a_segmenter() -> None:
    """They have another digest, by which a segmenter keeps what it has prepared."""
    zeros = TexturePack.of({name: np.zeros(N_STATISTICS, np.float32) for name in TexturePack.__slots__})
    features = SupportFeatures((View(128, (), None, (zeros,)),), 5, "digest")
    alone = features.alone()
    assert alone is not None
    assert alone.texture_share == 1.0
    assert alone.digest != features.digest
    assert SupportFeatures((View(128, ()),), 5, "digest").alone() is None
