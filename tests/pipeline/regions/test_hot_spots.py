"""The densest fields are those that trying every circle finds."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from fewscope.pipeline.regions.hot_spots import Grid, hot_spots


def by_trying_all(points, radius, bounds, within=None):
    """The largest count of any circle; then, for each circle that is sent, that of those that do not overlap it."""
    grid = Grid.within(bounds, radius)
    rows, cols = np.indices((grid.n_y, grid.n_x))
    x, y = grid.x0 + cols.ravel() * grid.step, grid.y0 + rows.ravel() * grid.step
    free = np.ones(len(x), bool) if within is None else shapely.contains_xy(within, x, y)
    counts = (np.hypot(points[:, :1] - x, points[:, 1:] - y) <= radius).sum(axis=0)
    while True:
        taken = yield int(counts[free].max(initial=0))
        free &= np.hypot(x - taken.x, y - taken.y) >= 2 * radius


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([1.0, 2.3, 5.0]), st.booleans())
def test_no_circle_of_the_grid_holds_more(seed, n_points, radius, is_cut):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 20, (n_points, 2)).round(rng.integers(0, 3))
    bounds = (0.0, 0.0, 20.0, 14.0)
    within = shapely.Polygon([(1, 1), (18, 3), (9, 13)]) if is_cut else None
    found = hot_spots(points, radius, 3, bounds, within)
    truth = by_trying_all(points, radius, bounds, within)
    most = next(truth)
    for spot in found:
        assert spot.count == most
        most = truth.send(spot)
    assert most == 0 or len(found) == 3


def test_circles_do_not_overlap_and_lie_in_the_source():
    points = np.random.default_rng(1).uniform(0, 100, (3000, 2))
    found = hot_spots(points, 7.0, 6, (0, 0, 100, 100))
    assert len(found) == 6
    centres = np.array([(spot.x, spot.y) for spot in found])
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    assert (apart + 14.0 * np.eye(6) >= 14.0).all()
    assert (centres >= 7).all()
    assert (centres <= 93).all()
    assert [spot.count for spot in found] == sorted((spot.count for spot in found), reverse=True)


def test_the_order_of_the_points_does_not_matter():
    rng = np.random.default_rng(2)
    points = rng.uniform(0, 30, (200, 2)).round()
    assert hot_spots(points, 4.0, 3, (0, 0, 30, 30)) == hot_spots(
        rng.permutation(points), 4.0, 3, (0, 0, 30, 30)
    )


def test_of_single_objects_the_circle_is_centred_on_one():
    (spot,) = hot_spots(np.array([[10.0, 10.0]]), 2.0, 3, (0, 0, 20, 20))
    assert (spot.x, spot.y) == (10.0, 10.0)


def test_nothing_is_found_where_nothing_is():
    assert hot_spots(np.zeros((0, 2)), 2.0, 3, (0, 0, 20, 20)) == []


@pytest.mark.parametrize("bounds", [(0, 0, 3, 20), (0, 0, 3, 3)])
def test_a_source_smaller_than_the_circle_has_one_in_its_middle(bounds):
    (spot, *_) = hot_spots(np.array([[1.0, 1.0]]), 2.0, 1, bounds)
    assert spot.x == 1.5
