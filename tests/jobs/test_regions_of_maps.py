"""`fewscope regions` of rasters: areas are those on the ground, names those of a column."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
from affine import Affine
from pyproj import Geod
from shapely.geometry import box

from fewscope.connectors.results.reader import open_result
from fewscope.pipeline.config import SegmentConfig
from tests.helpers.finished_runs import segmented_raster
from tests.helpers.region_jobs import counted, drawn, feature, refused


@pytest.fixture(scope="module")
def raster(tmp_path_factory) -> tuple[SegmentConfig, np.ndarray]:
    return segmented_raster(tmp_path_factory.mktemp("raster"))


def test_a_map_is_measured_on_the_ground_by_name(raster, tmp_path):
    config, water = raster
    result = open_result(config.out)
    transform, (height, width) = result.transform, water.shape
    corner, across, down = transform @ (0, 0), transform @ (150, height), transform @ (width, height)
    west = box(corner[0], across[1], across[0], corner[1])
    east = box(across[0], down[1], down[0] + 1000, corner[1])  # reaches beyond the raster
    frame = geopandas.GeoDataFrame(
        {"District": ["West", "East"]}, geometry=[west, east], crs=result.crs
    ).to_crs(4326)
    frame.to_file(tmp_path / "districts.gpkg")
    argv = ("--in", str(tmp_path / "districts.gpkg"), "--name", "district")
    rows = {row["region"]: row for row in counted(config, tmp_path / "out", *argv)}
    assert [rows["1"]["name"], rows["2"]["name"]] == ["West", "East"]
    pixel_km2 = abs(transform.determinant) / 1e6
    for number, part in (("1", water[:, :150]), ("2", water[:, 150:])):
        assert float(rows[number]["analysed_km2"]) == pytest.approx((part != 255).sum() * pixel_km2, rel=1e-5)
        assert float(rows[number]["covered_km2"]) == pytest.approx((part == 1).sum() * pixel_km2, rel=1e-5)
    whole = rows["whole source"]
    assert float(whole["covered_km2"]) == pytest.approx(result.report["covered_km2"], rel=1e-5)
    assert float(rows["in any region"]["covered_km2"]) == pytest.approx(
        result.report["covered_km2"], rel=1e-5
    )
    assert float(rows["in any region"]["analysed_km2"]) == pytest.approx(result.report["area_km2"], rel=1e-5)
    assert int(rows["1"]["count"]) + int(rows["2"]["count"]) == result.count
    written = geopandas.read_file(tmp_path / "out/regions.gpkg")
    assert written.crs == frame.to_crs(result.crs).crs
    assert written["count"].tolist() == [int(rows["1"]["count"]), int(rows["2"]["count"])]
    assert written.geometry[0].symmetric_difference(west).area < 1
    assert "partly outside the raster: 2 (East)" in (tmp_path / "out/regions.html").read_text()


def test_degrees_are_measured_on_the_ellipsoid(tmp_path):
    """Rows of pixels differ in area, and two parts of the raster add up to its report."""
    config, water = segmented_raster(tmp_path, Affine(0.01, 0, 20, 0, -0.01, 64), "EPSG:4326")
    result = open_result(config.out)
    north, south = box(20, 62, 24, 64), box(20, 61, 24, 62)
    path = tmp_path / "parts.geojson"
    geopandas.GeoDataFrame({"name": ["north", "south"]}, geometry=[north, south], crs=4326).to_file(path)
    rows = {row["region"]: row for row in counted(config, tmp_path / "regions", "--in", str(path))}
    earth = Geod(ellps="WGS84")
    edges = 64 - 0.01 * np.arange(301)
    pixel = [
        abs(earth.geometry_area_perimeter(box(20, south, 20.01, north).segmentize(0.001))[0])
        for south, north in zip(edges[1:], edges[:-1], strict=True)
    ]
    areas = np.repeat(np.array(pixel)[:, None], 400, axis=1) / 1e6
    for number, rows_of in (("1", slice(0, 200)), ("2", slice(200, 300))):
        covered, analysed = (
            areas[rows_of][water[rows_of] == 1].sum(),
            areas[rows_of][water[rows_of] != 255].sum(),
        )
        assert float(rows[number]["covered_km2"]) == pytest.approx(covered, rel=1e-5)
        assert float(rows[number]["analysed_km2"]) == pytest.approx(analysed, rel=1e-5)
    assert float(rows["in any region"]["covered_km2"]) == pytest.approx(
        result.report["covered_km2"], rel=1e-5
    )
    assert float(rows["in any region"]["analysed_km2"]) == pytest.approx(result.report["area_km2"], rel=1e-5)
    lake = drawn(tmp_path / "lake.geojson", feature(box(22.9, 63.3, 23.5, 63.8)))
    (row, *_) = counted(config, tmp_path / "lake", "--in", lake)
    assert int(row["count"]) == 1
    assert float(row["median_area_m2"]) == pytest.approx(1e6 * areas[30:60, 300:340].sum(), rel=1e-3)


def test_a_file_that_is_not_there_is_said_to_be_missing(raster, tmp_path, capsys):
    assert "no such file" in refused(capsys, raster[0].out, "--in", str(tmp_path / "none.gpkg"))
