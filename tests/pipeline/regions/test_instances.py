"""Each instance lies in the regions that hold its centroid: in one, of those that share an edge."""

import numpy as np
import pytest
import shapely

from fewscope.pipeline.regions.instances import Centroids


def random_regions(seed, n=12):
    """Polygons of every shape, with holes and in several parts; they overlap."""
    rng = np.random.default_rng(seed)
    regions = []
    for _ in range(n):
        parts = [
            shapely.Point(rng.uniform(0, 50, 2)).buffer(rng.uniform(1, 12), rng.integers(2, 9))
            for _ in range(rng.integers(1, 5))
        ]
        regions.append(
            shapely.difference(shapely.union_all(parts), parts[0].buffer(-0.4 * rng.uniform(0, 9)))
        )
    return [region for region in regions if not region.is_empty]


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_a_loop_over_all(seed):
    points = np.random.default_rng(seed).uniform(-5, 55, (400, 2))
    index = Centroids(*points.T)
    for region in random_regions(seed):
        truth = [i for i, point in enumerate(points) if region.contains(shapely.Point(point))]
        assert index.inside(region).tolist() == truth


@pytest.mark.parametrize("seed", range(3))
def test_of_regions_that_share_edges_each_point_is_in_one(seed):
    """Points on edges and corners too, of triangles with whole coordinates."""
    rng = np.random.default_rng(seed)
    corners = np.unique(
        np.vstack([rng.integers(1, 20, (25, 2)), [[0, 0], [0, 20], [20, 0], [20, 20]]]), axis=0
    )
    triangles = shapely.get_parts(shapely.delaunay_triangles(shapely.multipoints(corners)))
    rows, cols = np.indices((20, 20))
    points = np.column_stack([cols.ravel(), rows.ravel()]).astype(float)
    points = np.vstack([points, points + 0.5])
    index = Centroids(*points.T)
    found = np.concatenate([index.inside(triangle) for triangle in triangles])
    assert np.array_equal(np.sort(found), np.arange(len(points)))


def test_a_hole_is_not_inside_and_an_empty_region_holds_nothing():
    ring = shapely.box(0, 0, 10, 10).difference(shapely.box(4, 4, 6, 6))
    index = Centroids(np.array([5.0, 1.0]), np.array([5.0, 1.0]))
    assert index.inside(ring).tolist() == [1]
    assert index.inside(shapely.Polygon()).tolist() == []
