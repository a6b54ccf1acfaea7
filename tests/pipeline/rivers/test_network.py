"""Rivers of known centreline and width are measured within 2 %; graphs of small skeletons are those drawn by hand."""

from __future__ import annotations

import math

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter

from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.rivers import network
from fewscope.pipeline.rivers.network import (
    MIN_ELONGATION,
    MIN_INNER_ELONGATION,
    Network,
    remove_specks,
    trace_network,
)
from fewscope.pipeline.rivers.skeleton import contract, path_from, prune, skeleton_graph
from tests.helpers.rivers import band, burn, sinusoid, turned

METRES = GroundMeasure("EPSG:32618", "plane")


def drawn(text: str) -> np.ndarray:
    return np.array([[c == "#" for c in line] for line in text.split()])


def measured(shapes: list[shapely.Geometry], pixel: float = 10.0, margin: float = 50.0) -> Network:
    mask, transform = burn(shapes, pixel, margin)
    return trace_network(mask, transform, METRES)


# -- a river of known length and width -------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 27, 90])
def test_a_straight_river_is_as_long_as_the_way_from_end_to_end(degrees):
    line = turned(np.array([[-1500.0, 0.0], [1500.0, 0.0]]), degrees)
    (river,) = measured([band(line, 200)]).rivers
    assert river.sinuosity == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(("width", "pixel"), [(120, 10), (60, 10), (120, 5)])
@pytest.mark.parametrize("degrees", [0, 27, 90])
def test_a_sinusoid_is_measured_within_2_percent(width, pixel, degrees):
    line = turned(sinusoid(6000, 500, 2000), degrees)
    found = measured([band(line, width)], pixel)
    (river,) = found.rivers
    true_length = shapely.LineString(line).length
    assert river.length_m == pytest.approx(true_length, rel=0.02)
    assert river.main_length_m == river.length_m
    assert river.width_m == pytest.approx(width, rel=0.02)
    assert river.braiding == 1
    assert river.sinuosity == pytest.approx(true_length / 6000, rel=0.02)
    widths, lengths = found.widths()
    assert np.quantile(widths, [0.1, 0.5, 0.9]) == pytest.approx([width] * 3, rel=0.08)
    assert lengths.sum() == pytest.approx(river.length_m)
    (reach,) = found.reaches
    off = shapely.distance(shapely.points(reach.line), shapely.LineString(line))
    assert off.max() < 1.5 * pixel


def test_a_sinusoid_at_60_degrees_north_in_degrees_is_measured_within_2_percent():
    """Pixels there are half as wide as high, on the ground."""
    utm, degrees = "EPSG:32632", "EPSG:4326"
    line = turned(sinusoid(6000, 500, 2000), 35) + np.array([540_000, 6_651_000])
    to_degrees = pyproj.Transformer.from_crs(utm, degrees, always_xy=True)
    shape = shapely.transform(band(line, 120), lambda xy: np.stack(to_degrees.transform(*xy.T), axis=-1))
    west, south, east, north = shape.bounds
    pixel = 1e-4  # 5.6 x 11.1 m
    transform = Affine(pixel, 0, west - 0.001, 0, -pixel, north + 0.001)
    size = int((north - south + 0.002) / pixel), int((east - west + 0.002) / pixel)
    mask = rasterize([(shape, 1)], size, transform=transform).astype(bool)
    (river,) = trace_network(mask, transform, GroundMeasure.of(degrees, transform, *size)).rivers
    scale = pyproj.Proj(utm).get_factors(9.7, 60).meridional_scale  # UTM's metres are not quite the ground's
    assert river.length_m == pytest.approx(shapely.LineString(line).length / scale, rel=0.02)
    assert river.width_m == pytest.approx(120 / scale, rel=0.02)


def test_without_a_crs_lengths_are_in_pixels():
    mask, transform = burn([shapely.box(0, 0, 1500, 100)], 10, margin=50)
    (river,) = trace_network(mask, transform, GroundMeasure(None, "pixels")).rivers
    assert river.length_m == pytest.approx(150, rel=0.02)
    assert river.width_m == pytest.approx(10, rel=0.02)


def test_a_river_across_the_whole_raster_ends_at_its_edges():
    """No end is lost to thinning, which stops half a width before."""
    mask = np.zeros((200, 300), bool)
    mask[90:110] = True
    (river,) = trace_network(mask, Affine.scale(10, -10), METRES).rivers
    assert river.length_m == pytest.approx(3000, rel=0.005)
    assert river.width_m == pytest.approx(200, rel=0.005)


def test_ragged_banks_grow_no_branches():
    line = turned(sinusoid(6000, 500, 2000), 20)
    mask, transform = burn([band(line, 160)], 10, margin=100)
    noise = gaussian_filter(np.random.default_rng(0).standard_normal(mask.shape), 1.5)
    ragged = gaussian_filter(mask.astype(float), 1.5) + 1.0 * noise > 0.5
    assert (ragged != mask).mean() > 0.005
    found = trace_network(ragged, transform, METRES)
    assert len(found.rivers) == 1
    assert found.rivers[0].main_length_m == pytest.approx(shapely.LineString(line).length, rel=0.02)
    assert found.length_m < 1.05 * found.main_length_m


# -- networks --------------------------------------------------------------------------------------------------------


def test_an_island_is_two_channels_and_a_tributary_a_branch():
    """The braiding index counts what goes round islands, not what flows in."""
    river = shapely.box(0, 0, 6000, 400) - shapely.Point(3000, 200).buffer(120)
    tributary = band(np.array([[1500, 300], [1500, 1500]]), 150)
    water = shapely.union(river, tributary)
    found = measured([water])
    (only,) = found.rivers
    assert only.width_m * only.length_m == pytest.approx(water.area, rel=0.01)
    by_role = {
        role: sum(r.length_m for r in found.reaches if r.role == role) for role in ("main", "side", "branch")
    }
    assert by_role["main"] + by_role["side"] + by_role["branch"] == pytest.approx(only.length_m)
    assert 1000 < by_role["branch"] < 1400
    assert 200 < by_role["side"] < 800
    assert only.braiding == pytest.approx(1 + by_role["side"] / by_role["main"])
    assert only.main_length_m == pytest.approx(by_role["main"])


def test_the_main_channel_is_the_wide_one():
    wide = band(np.array([[-3000, 0], [-1000, 0], [0, 600], [1000, 0], [3000, 0]]), 300)
    narrow = band(np.array([[-1000, 0], [0, -600], [1000, 0]]), 80)
    found = measured([shapely.union(wide, narrow)])
    (side,) = [reach for reach in found.reaches if reach.role == "side"]
    assert side.line[:, 1].mean() < -100
    assert side.width_m == pytest.approx(80, rel=0.25)  # it opens into the wide one at both ends


def test_lakes_are_no_rivers_and_two_rivers_are_two():
    long, short = shapely.box(0, 0, 4000, 100), shapely.box(0, 1000, 2000, 1100)
    lake = shapely.Point(1000, 2500).buffer(600)
    speck = shapely.box(3500, 3000, 3520, 3020)
    found = measured([long, short, lake, speck])
    assert [river.id for river in found.rivers] == [1, 2]
    assert [river.length_m for river in found.rivers] == pytest.approx([4000, 2000], rel=0.02)
    assert [river.width_m for river in found.rivers] == pytest.approx([100, 100], rel=0.02)
    assert {reach.river for reach in found.reaches} == {1, 2}


def test_water_belongs_to_its_own_river_even_where_another_is_nearer():
    """A speck beside a narrow river does not make it wider."""
    river, speck = shapely.box(0, 0, 4000, 60), shapely.box(2000, 80, 2100, 180)
    found = measured([river, speck])
    assert found.rivers[0].width_m == pytest.approx(60, rel=0.02)


@pytest.mark.parametrize("mask", [np.zeros((40, 50), bool), np.ones((40, 50), bool)])
def test_all_land_and_all_water_have_no_river(mask):
    found = trace_network(mask, Affine.scale(10, -10), METRES)
    assert found.rivers == found.reaches == ()
    assert found.length_m == 0
    assert found.width_m is None


def test_a_ring_with_a_tail_has_no_sinuosity(monkeypatch):
    """It has one end, at which the ring, its longest reach, is not."""
    monkeypatch.setattr(network, "_is_river", lambda *_: True)
    ring = shapely.Point(0, 0).buffer(1000) - shapely.Point(0, 0).buffer(900)
    tail = shapely.LineString([(950, 0), (2500, 0)]).buffer(50)
    (river,) = measured([ring | tail]).rivers
    assert river.sinuosity is None
    assert river.length_m > river.main_length_m == pytest.approx(2 * np.pi * 950, rel=0.03)


def test_a_ring_is_one_reach(monkeypatch):
    monkeypatch.setattr(network, "_is_river", lambda *_: True)  # a ring by itself is a lake with an island
    ring = shapely.Point(0, 0).buffer(1000) - shapely.Point(0, 0).buffer(900)
    (river,) = measured([ring]).rivers
    assert river.length_m == pytest.approx(2 * math.pi * 950, rel=0.02)
    assert river.width_m == pytest.approx(100, rel=0.02)
    assert river.sinuosity is None


# -- the skeleton's graph --------------------------------------------------------------------------------------------

CROSSING = """
..........
.#......#.
..#....#..
...#..#...
....##....
....##....
...#..#...
..#....#..
.#......#.
..........
"""


def test_paths_join_what_is_drawn():
    graph = skeleton_graph(drawn(".....  .###.  ...#.  ...##  ....."))
    ((one, other),) = graph.edges()
    assert {one, other} == {(1, 1), (3, 4)}
    path = path_from(graph, (1, 1), (3, 4), 0)
    assert path.tolist() == [[1, 1], [1, 2], [1, 3], [2, 3], [3, 3], [3, 4]] or len(path) < 6
    assert np.abs(np.diff(path, axis=0)).max() == 1


def test_a_crossing_has_four_ends_and_no_loop():
    graph = skeleton_graph(drawn(CROSSING))
    assert sorted(node for node, degree in graph.degree() if degree == 1) == [(1, 1), (1, 8), (8, 1), (8, 8)]
    assert graph.number_of_edges() - graph.number_of_nodes() == -1, "a tree"


def test_short_spurs_go_and_long_ones_stay():
    mask = np.zeros((30, 60), bool)
    mask[15, 5:55] = True
    mask[10:15, 20] = True  # 5 px
    mask[3:15, 40] = True  # 12 px
    graph = skeleton_graph(mask)
    assert graph.number_of_edges() == 5
    prune(graph, lambda node: 4.0, (1.0, 1.0))  # shorter than 8 px
    assert sorted(node for node, degree in graph.degree() if degree == 1) == [(3, 40), (15, 5), (15, 54)]
    assert graph.number_of_edges() == 3


def test_a_fork_at_the_end_leaves_no_bent_end():
    mask = np.zeros((30, 60), bool)
    mask[15, 5:50] = True
    for k in range(1, 5):
        mask[15 - k, 49 + k] = mask[15 + k, 49 + k] = True
    graph = skeleton_graph(mask)
    prune(graph, lambda node: 4.0, (1.0, 1.0))
    assert sorted(graph.nodes) == [(15, 5), (15, 49)]


def test_contracting_keeps_every_pixel_and_the_order():
    graph = skeleton_graph(drawn("......  .####.  ......"))
    contract(graph)  # nothing to join
    ((_, _, data),) = graph.edges(data=True)
    assert len(data["path"]) == 4


def test_ponds_of_a_few_pixels_are_not_looked_at():
    """However many there are; and what might be a river of one pixel's width is."""
    mask = np.zeros((40, 61), bool)
    mask[1::6, 1::6] = mask[2::6, 1::6] = True
    mask[30:34, 10:14] = True
    kept = np.zeros_like(mask)
    kept[20, 31:36] = True  # five in a row
    kept[[24, 25, 26, 27, 28], [51, 52, 53, 54, 55]] = True  # and across
    mask[18:30, 29:58] = kept[18:30, 29:58]
    assert np.array_equal(remove_specks(mask), kept)
    assert not remove_specks(np.zeros((3, 5), bool)).any()
    river = np.zeros((60, 300), bool)
    river[27:33] = True
    alone = trace_network(river, Affine.identity(), METRES)
    river[1:20:4, 1::5] = river[2:20:4, 1::5] = True
    assert [r.length_m for r in trace_network(river, Affine.identity(), METRES).rivers] == [
        r.length_m for r in alone.rivers
    ]


@pytest.mark.parametrize(("bound", "margin"), [(MIN_ELONGATION, -50.0), (MIN_INNER_ELONGATION, 50.0)])
def test_an_object_at_the_bound_of_elongation(bound, margin):
    """Of one that the edge of the raster cuts, and of one that ends inside it."""

    def of(elongation: float) -> Network:
        shape = shapely.box(0, 0, 100 * elongation, 100)
        mask, transform = burn([shape, shapely.Point(0, 400), shapely.Point(0, -400)], 10, 50)
        if margin < 0:
            cut = round((0 - transform.c) / 10)
            mask, transform = mask[:, cut:], transform @ Affine.translation(cut, 0)
        return trace_network(mask, transform, METRES)

    assert (len(of(bound - 1).rivers), len(of(bound + 1).rivers)) == (0, 1)


def arc(degrees: float, radius: float = 800) -> np.ndarray:
    angle = np.radians(np.linspace(0, degrees, 300))
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


@pytest.mark.parametrize("degrees", [180, 240, 300, 340])
@pytest.mark.parametrize("facing", [0, 33, 90])
def test_an_oxbow_is_a_water_body_beside_a_river(degrees, facing):
    line = turned(sinusoid(9000, 500, 2000), 10)
    oxbow = turned(arc(degrees), facing) + np.array([0, 3000])
    found = measured([band(line, 120), band(oxbow, 80)])
    assert (len(found.rivers), found.n_water_bodies) == (1, 1)
    assert found.in_words == "1 river, and 1 elongated water body that is no river"
    assert all(reach.river == 1 for reach in found.reaches)
    assert found.rivers[0].length_m == pytest.approx(shapely.LineString(line).length, rel=0.02)
    alone = measured([band(oxbow, 80)])  # by its own shape, whatever else is on the map
    assert (alone.rivers, alone.n_water_bodies) == ((), 1)


def test_bends_to_and_fro_are_a_river_and_so_is_a_loop_that_leaves_the_raster():
    assert len(measured([band(sinusoid(4000, 600, 1500), 80)]).rivers) == 1
    mask, transform = burn([band(arc(200), 80)], 10, 50)
    found = trace_network(
        mask[: round(transform.f / 10)], transform, METRES
    )  # as if the scene ended at its feet
    assert (len(found.rivers), found.n_water_bodies) == (1, 0)


def test_lakes_and_sounds_of_a_coast_are_no_rivers():
    lake = shapely.LineString([(0, 0), (2400, 300)]).buffer(200)  # a long lake
    found = measured([lake])
    assert (found.rivers, found.n_water_bodies) == ((), 1)
    sea = shapely.union_all(
        [shapely.box(0, 0, 4000, 3000), *(shapely.box(4000, y, 9000, y + 300) for y in (300, 1500, 2400))]
    )
    mask, transform = burn([sea], 20, 0)
    at_edge = mask[:, int(np.flatnonzero(mask.any(axis=0))[0]) :]  # the sea goes on beyond the raster
    assert trace_network(at_edge, transform, METRES).rivers == ()
