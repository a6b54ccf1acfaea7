"""Windows of an area show the same pixels, however they are cut; its coverage adds up to it."""

from __future__ import annotations

import pickle
import subprocess
import sys

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


IN_THREADS = """
import threading
import numpy as np, shapely
from rasterio.windows import Window
from fewscope.pipeline.tiling.area import Area

angles = np.linspace(0, 2 * np.pi, 100_001)[:-1]
radius = 4000 + 300 * np.sin(40 * angles)
star = 5000 + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
windows = [Window(x, y, 224, 224) for y in range(900, 9000, 900) for x in range(900, 9000, 900)]
for _ in range(4):
    area, start = Area(shapely.Polygon(star), (10_000, 10_000)), threading.Barrier(8)

    def ask() -> None:
        start.wait()
        for window in windows:
            area.touches(window)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_share_it():
    """In a process of its own, as geometries of GEOS that several threads ask at once crash it."""
    subprocess.run([sys.executable, "-c", IN_THREADS], check=True, timeout=200)
