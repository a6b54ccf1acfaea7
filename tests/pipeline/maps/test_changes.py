"""Changes between synthetic maps whose answer is known: areas, migration, dates, maps on different grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.windows import Window

from fewscope.connectors.results.map_series import MapSeries
from fewscope.connectors.vectors.layers import encode, geoparquet_schema
from fewscope.errors import SourceError
from fewscope.pipeline.maps.changes import Change, are_long, changed_areas, date_in, migration
from fewscope.pipeline.maps.files import CENTRELINE_SCHEMA

UTM = Affine(10, 0, 500_000, 0, -10, 9_000_000)


def test_areas_gained_lost_and_kept_add_up():
    rng = np.random.default_rng(0)
    (one, valid_one), (two, valid_two) = (
        (rng.random((40, 50)) < 0.3, rng.random((40, 50)) < 0.9) for _ in range(2)
    )
    row_areas = np.linspace(80, 100, 40)[:, None]
    gained, lost, kept, compared = changed_areas((one, valid_one), (two, valid_two), row_areas)
    both, weight = valid_one & valid_two, np.broadcast_to(row_areas, one.shape)
    assert gained + kept == pytest.approx(weight[two & both].sum())
    assert lost + kept == pytest.approx(weight[one & both].sum())
    assert compared == pytest.approx(weight[both].sum())
    assert gained == pytest.approx(weight[two & ~one & both].sum())


def test_windows_add_up_to_the_whole():
    rng = np.random.default_rng(1)
    water = [(rng.random((30, 40)) < 0.4, rng.random((30, 40)) < 0.8) for _ in range(2)]
    row_areas = np.linspace(1, 2, 30)[:, None]
    cut = [
        changed_areas(*((w[r : r + 7], v[r : r + 7]) for w, v in water), row_areas[r : r + 7])
        for r in range(0, 30, 7)
    ]
    np.testing.assert_allclose(np.sum(cut, axis=0), changed_areas(*water, row_areas))


@given(st.floats(1, 500), st.floats(0, 360))
def test_a_line_moved_sideways_has_moved_that_far(distance, degrees):
    turn = np.radians(degrees)
    along, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    before = np.linspace(-5000, 5000, 50)[:, None] * along
    after = np.linspace(-2000, 2000, 33)[:, None] * along + distance * across
    mean, largest = migration([before], [after])
    assert mean == pytest.approx(distance)
    assert largest == pytest.approx(distance)


def test_a_widening_circle_has_moved_by_the_difference_of_radii():
    turn = np.linspace(0, np.pi, 2000)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=-1)
    mean, largest = migration([1000 * circle], [1100 * circle])
    assert mean == pytest.approx(100, rel=1e-3)
    assert largest == pytest.approx(100, rel=1e-3)


def test_the_mean_is_along_the_length_and_not_over_points():
    before = [np.array([[0.0, 0.0], [1000.0, 0.0]])]
    still = np.stack([np.linspace(0, 500, 1000), np.zeros(1000)], axis=-1)
    moved = np.array([[500.0, 40.0], [1000.0, 40.0]])
    mean, largest = migration(before, [still, moved])
    assert mean == pytest.approx(20)
    assert largest == 40


def test_without_a_river_on_one_date_nothing_has_moved():
    line = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert migration([], [line]) is None
    assert migration([line], []) is None
    assert migration([line], [np.zeros((3, 2))]) is None


def test_oxbow_lakes_beside_the_river_are_not_followed():
    assert are_long([100, 30, 20]) == [True, True, False]
    assert are_long([]) == []


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("1985.tif", ("1985", 1985.5)),
        ("m_4709963_se_14_1_20090818.tif", ("2009-08-18", 2009.627)),
        ("LC08_L2SP_006066_20200702_02_T1.tif", ("2020-07-02", 2020.5)),
        ("river-2016-02-29-ndwi.tif", ("2016-02-29", 2016.161)),
        ("S2A_20219999_scene_2021.tif", ("2021", 2021.5)),  # digits that are no date
        ("scene_12345678.tif", None),
        ("T18LXR.tif", None),
    ],
)
def test_dates_are_found_in_file_names(name, date):
    assert date_in(name) == date


def test_speed_needs_two_dates_and_a_river():
    def change(years: float | None, moved: float | None) -> Change:
        return Change("a", "b", years, 1, 1, 1, 9, moved, moved)

    assert change(5, 100).moved_m_per_year == 20
    assert change(None, 100).moved_m_per_year is None
    assert change(0, 100).moved_m_per_year is None
    assert change(5, None).moved_m_per_year is None


# -- maps as they were written -----------------------------------------------------------------------------------------


def write_map(out: Path, classes: np.ndarray, transform: Affine = UTM, crs: str | None = "EPSG:32618") -> str:
    out.mkdir()
    height, width = classes.shape
    profile = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": 1,
        "dtype": "uint8",
        "nodata": 255,
    }
    with rasterio.open(out / "mask.tif", "w", crs=crs, transform=transform, **profile) as dataset:
        dataset.write(classes, 1)
    line = shapely.LineString([transform @ (0.5, 0.5), transform @ (width - 0.5, height - 0.5)])
    row = [[1], [1], ["water"], ["main"], [1.0], [1.0], [1.0], [1.0], encode(np.array([line]))]
    table = pa.table([pa.array(v) for v in row], names=CENTRELINE_SCHEMA.names)
    pq.write_table(
        table.cast(geoparquet_schema(CENTRELINE_SCHEMA, "LineString", crs)), out / "centreline.parquet"
    )
    return str(out)


def classes(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).choice(np.array([0, 1, 255], np.uint8), (height, width))


def test_maps_on_one_grid_are_read_as_they_are(tmp_path):
    made = [classes(0), classes(1)]
    outs = [write_map(tmp_path / str(k), values) for k, values in enumerate(made)]
    with MapSeries(outs) as series:
        assert (series.height, series.width, series.transform) == (40, 60, UTM)
        for index, values in enumerate(made):
            water, valid = series.read(index, Window(10, 5, 20, 30))
            np.testing.assert_array_equal(water, values[5:35, 10:30] == 1)
            np.testing.assert_array_equal(valid, values[5:35, 10:30] != 255)
        (line,) = series.centrelines(1)
        assert (line.river, line.role, line.class_name, line.length_km) == (1, "main", "water", 1.0)
        assert line.line.coords[0] == UTM @ (0.5, 0.5)


def test_a_map_on_another_grid_is_brought_to_the_first(tmp_path):
    """Shifted by 7 columns, and smaller: what it does not reach is not valid."""
    first, other = classes(0), classes(1, 30, 40)
    outs = [
        write_map(tmp_path / "a", first),
        write_map(tmp_path / "b", other, UTM @ Affine.translation(7, 3)),
    ]
    with MapSeries(outs) as series:
        water, valid = series.read(1, Window(0, 0, 60, 40))
    expected = np.full((40, 60), 255, np.uint8)
    expected[3:33, 7:47] = other
    np.testing.assert_array_equal(water, expected == 1)
    np.testing.assert_array_equal(valid, expected != 255)


def test_a_map_in_another_crs_is_brought_to_the_first(tmp_path):
    """A block of water in one UTM zone lies where it lies in the next."""
    block = np.zeros((100, 100), np.uint8)
    block[40:60, 30:70] = 1
    here = write_map(tmp_path / "a", block)
    x, y = rasterio.warp.transform("EPSG:32618", "EPSG:32619", [500_000], [9_000_000])
    there = write_map(
        tmp_path / "b",
        np.ones((400, 400), np.uint8),
        Affine(10, 0, x[0] - 1500, 0, -10, y[0] + 1500),
        "EPSG:32619",
    )
    with MapSeries([here, there]) as series:
        water, valid = series.read(1, Window(0, 0, 100, 100))
        assert valid.all()
        assert water.all()
        (line,) = series.centrelines(1)
        corner = rasterio.warp.transform("EPSG:32619", "EPSG:32618", [x[0] - 1495], [y[0] + 1495])
        assert line.line.coords[0] == pytest.approx((corner[0][0], corner[1][0]), abs=1e-3)


def test_a_missing_map_and_one_without_a_place_are_refused(tmp_path):
    here = write_map(tmp_path / "a", classes(0))
    with pytest.raises(SourceError, match="no map of a raster"):
        MapSeries([here, str(tmp_path / "nothing")])
    nowhere = write_map(tmp_path / "b", classes(0), UTM @ Affine.scale(2), None)
    with pytest.raises(SourceError, match="another grid"):
        MapSeries([here, nowhere])


def test_the_whole_is_shrunk_for_pictures(tmp_path):
    values = np.zeros((40, 60), np.uint8)
    values[:, 30:] = 1
    with MapSeries([write_map(tmp_path / "a", values)]) as series:
        water, valid = series.shrunk(0, (20, 30))
    assert valid.all()
    np.testing.assert_array_equal(water, np.arange(30)[None].repeat(20, 0) >= 15)
