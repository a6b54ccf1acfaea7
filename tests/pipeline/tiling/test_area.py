"""Windows of an area show the same pixels, however they are cut; its coverage adds up to it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import shapely
from rasterio.windows import Window
from shapely.geometry import Polygon, box

from fewscope.pipeline.tiling.area import Area

SHAPE = (1100, 1300)
ROUND = shapely.Point(600.3, 550.7).buffer(400.1, 50)
HOLED = shapely.MultiPolygon(
    [
        Polygon(ROUND.exterior, [box(480, 490.3, 560, 700).exterior]),
        Polygon([(1050, 20), (1290.37, 100.1), (1100, 201.5)]),
    ]
)


@pytest.fixture
def area():
    return Area(HOLED, SHAPE)


def everywhere():
    return Window(0, 0, SHAPE[1], SHAPE[0])


def test_a_pixel_belongs_to_the_area_if_its_centre_does(area):
    rows, cols = np.indices(SHAPE) + 0.5
    assert np.array_equal(area.on_window(everywhere()), shapely.contains_xy(HOLED, cols, rows))


def test_every_window_shows_what_all_of_it_shows(area):
    whole = np.pad(area.on_window(everywhere()), 300)
    rng = np.random.default_rng(0)
    for _ in range(25):
        row, col = rng.integers(-200, 1200, 2).tolist()
        height, width = rng.integers(1, 700, 2).tolist()
        window = Window(col, row, height=height, width=width)
        expected = np.zeros((height, width), bool)
        cut = whole[row + 300 : row + 300 + height, col + 300 : col + 300 + width]
        expected[: cut.shape[0], : cut.shape[1]] = cut
        assert np.array_equal(area.on_window(window), expected)
        assert area.touches(window) or not expected.any()


def test_windows_far_from_it_are_not_touched(area):
    assert not area.touches(Window(0, 900, 190, 200))
    assert not area.touches(Window(490, 500, 60, 190))  # in the hole


@pytest.mark.parametrize("shape", [(110, 130), (64, 80), (220, 260)])
def test_coverage_adds_up_to_the_area(area, shape):
    coverage = area.coverage(shape)
    assert coverage.shape == shape
    assert (coverage.min(), coverage.max()) == (0, 1)
    px = SHAPE[0] * SHAPE[1] / (shape[0] * shape[1])
    assert coverage.sum(dtype=float) * px == pytest.approx(HOLED.area, rel=2e-3)


def test_it_is_known_by_its_outline_alone(area):
    same = shapely.MultiPolygon([HOLED.geoms[1].reverse(), HOLED.geoms[0]])
    assert Area(same, SHAPE).digest == area.digest
    assert Area(shapely.affinity.translate(HOLED, 1), SHAPE).digest != area.digest
    there = pickle.loads(pickle.dumps(area))
    assert np.array_equal(there.on_window(everywhere()), area.on_window(everywhere()))
