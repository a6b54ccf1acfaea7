"""Coordinates that cannot be what their CRS says: the right place where it is certain, one line where it is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.warp import transform as transform_points
from shapely.geometry import box, mapping

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.support.load import load_support
from fewscope.errors import SourceError, SupportError

SIDE = 300
UTM = Affine(10, 0, 500_000, 0, -10, 4_500_000)
REGION, WATER = box(500_500, 4_497_500, 502_000, 4_499_000), box(500_900, 4_498_000, 501_300, 4_498_500)


def raster(path: Path, crs: str | None, transform: Affine) -> str:
    values = np.random.default_rng(0).integers(9, 200, (3, SIDE, SIDE)).astype(np.uint8)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=SIDE,
        height=SIDE,
        count=3,
        dtype="uint8",
        crs=crs,
        transform=transform,
    ) as file:
        file.write(values)
    return str(path)


def moved(geometry, change):
    return shapely.transform(geometry, lambda p: np.column_stack(change(p[:, 0], p[:, 1])))


def degrees(geometry):
    return moved(geometry, lambda x, y: transform_points("EPSG:32618", "EPSG:4326", x, y))


def swapped(geometry):
    return moved(geometry, lambda x, y: (y, x))


def geojson(
    path: Path, change=lambda geometry: geometry, drawn=((REGION, "Region"), (WATER, "water")), **members
):
    features = [
        {"type": "Feature", "properties": {"class": name}, "geometry": mapping(change(geometry))}
        for geometry, name in drawn
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))
    return str(path)


def geopackage(path: Path, crs: str | None, change=lambda geometry: geometry) -> str:
    pyogrio.raw.write(
        str(path), np.array([shapely.to_wkb(change(g)) for g in (REGION, WATER)], object),
        [np.array(["Region", "water"], object)], ["class"], driver="GPKG", geometry_type="Polygon", crs=crs,
    )  # fmt: skip
    return str(path)


@pytest.fixture(scope="module")
def utm(tmp_path_factory):
    return raster(tmp_path_factory.mktemp("scene") / "utm.tif", "EPSG:32618", UTM)


def refusals(scene: str, path: str) -> list[str]:
    """What is said of a file as a support set, and as an area of interest."""
    source = open_source(scene, raster=RasterOptions())
    with pytest.raises(SupportError) as support:
        load_support(path, source=source)
    with pytest.raises(SourceError) as area:
        open_source(scene, raster=RasterOptions(aoi=path))
    texts = [str(support.value), str(area.value)]
    assert all(text.startswith(path) and "\n" not in text for text in texts)
    return texts


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda f: geojson(f / "a.geojson"),
            ["such as 502000, 4497500", "no longitude and latitude", "read in EPSG:32618", "GeoPackage"],
        ),
        (
            lambda f: geojson(f / "a.geojson", crs={"type": "name", "properties": {"name": "no such CRS"}}),
            ["no longitude and latitude"],
        ),
        (lambda f: geojson(f / "a.geojson", swapped), ["such as 4497500, 502000", "swapped"]),
        (
            lambda f: geojson(f / "a.geojson", lambda g: swapped(degrees(g))),
            ["such as 40.6", "outside the raster", "swapped", "longitude) before"],
        ),
        (lambda f: geopackage(f / "a.gpkg", None), ["states no CRS", "read in EPSG:32618"]),
        (lambda f: geopackage(f / "a.gpkg", "EPSG:4326"), ["no longitude and latitude", "EPSG:32618"]),
        (
            lambda f: geopackage(f / "a.gpkg", "EPSG:32618", degrees),
            ["outside", "read as longitude and latitude"],
        ),
        (
            lambda f: geopackage(f / "a.gpkg", None, degrees),
            ["states no CRS", "read as longitude and latitude"],
        ),
    ],
)
def test_impossible_coordinates_name_themselves_and_the_cure(tmp_path, utm, make, words):
    for text in refusals(utm, make(tmp_path)):
        for word in words:
            assert word in text


def test_a_crs_that_a_geopackage_calls_undefined_is_none(tmp_path, utm):
    import sqlite3

    path = geopackage(tmp_path / "a.gpkg", "EPSG:32618")
    for undefined in (-1, 0):
        with sqlite3.connect(path) as tables:
            tables.execute("update gpkg_geometry_columns set srs_id = ?", (undefined,))
        tables.close()
        assert "states no CRS" in refusals(utm, path)[0]


@pytest.mark.parametrize("turn", [-360, 360])
@pytest.mark.parametrize(("west", "crs"), [(-75, "EPSG:4326"), (285, "EPSG:4326"), (None, "EPSG:32618")])
def test_another_turn_of_longitude_is_the_same_place(tmp_path, utm, turn, west, crs):
    scene = utm
    if west is not None:
        scene = raster(tmp_path / "geo.tif", crs, Affine(1e-4, 0, west, 0, -1e-4, 40.64))
    drawn = [
        (shapely.affinity.translate(g, 3, 4), name) for g, name in ((REGION, "Region"), (WATER, "water"))
    ]
    straight = geojson(
        tmp_path / "a.geojson", degrees, drawn
    )  # off the edges of pixels, where rounding decides
    turned = geojson(tmp_path / "b.geojson", lambda g: moved(degrees(g), lambda x, y: (x + turn, y)), drawn)
    first, second = (
        load_support(path, source=open_source(scene, raster=RasterOptions())) for path in (straight, turned)
    )
    assert (first.labels == 1).sum() > 1000
    assert np.array_equal(first.labels, second.labels)
    first, second = (open_source(scene, raster=RasterOptions(aoi=path)).info for path in (straight, turned))
    assert (first.height, first.width, first.transform) == (second.height, second.width, second.transform)
    assert first.height < SIDE


def test_an_area_on_both_sides_of_the_edge_of_a_global_raster(tmp_path):
    scene = raster(tmp_path / "globe.tif", "EPSG:4326", Affine(1.2, 0, 0, 0, -0.6, 90))
    area = geojson(tmp_path / "a.geojson", drawn=[(box(-36, -30, 36, 30), "x")])
    source = open_source(scene, raster=RasterOptions(aoi=area))
    _, valid = source.overview(SIDE)
    cols = np.flatnonzero(valid[50])
    assert valid.shape == (100, 300)
    assert cols.tolist() == [*range(30), *range(270, 300)]


def test_polygons_of_a_zone_that_crosses_the_antimeridian_stay_whole(tmp_path):
    scene = raster(tmp_path / "a.tif", "EPSG:4326", Affine(0.01, 0, 178.5, 0, -0.01, 2))
    zone = box(700_000, 20_000, 940_000, 150_000)  # UTM 60: from 178.8 to 181 degrees
    pyogrio.raw.write(
        str(tmp_path / "a.gpkg"), np.array([shapely.to_wkb(zone)], object), [], [], driver="GPKG",
        geometry_type="Polygon", crs="EPSG:32660",
    )  # fmt: skip
    info = open_source(scene, raster=RasterOptions(aoi=str(tmp_path / "a.gpkg"))).info
    assert info.transform.c == pytest.approx(178.8, abs=0.02)
    assert info.transform.c + info.width * 0.01 == pytest.approx(180.95, abs=0.06)


def test_the_whole_world_covers_a_raster_in_a_plane(tmp_path, utm):
    world = geojson(tmp_path / "a.geojson", drawn=[(box(-180, -90, 180, 90), "x")])
    for options in (RasterOptions(aoi=world), RasterOptions(bbox=(-180, -90, 180, 90))):
        source = open_source(utm, raster=options)
        assert (source.info.height, source.info.width) == (SIDE, SIDE)
        assert source.overview(SIDE)[1].all()


@pytest.mark.parametrize(
    ("bbox", "words"),
    [
        ((500_500, 4_497_500, 502_000, 4_499_000), ["--bbox 500500 4497500", "degrees", "--aoi"]),
        ((40.62, -74.995, 40.635, -74.98), ["swapped", "WEST SOUTH EAST NORTH"]),
        ((10, 10, 11, 11), ["does not overlap"]),
    ],
)
def test_a_box_that_is_not_there_says_why(utm, bbox, words):
    with pytest.raises(SourceError) as error:
        open_source(utm, raster=RasterOptions(bbox=bbox))
    for word in (utm, *words):
        assert word in str(error.value)


def test_a_box_in_another_turn_is_the_same_box(utm):
    infos = [
        open_source(utm, raster=RasterOptions(bbox=(-74.995 + turn, 40.62, -74.98 + turn, 40.635))).info
        for turn in (0, 360)
    ]
    assert infos[0].transform == infos[1].transform
    assert infos[0].height == infos[1].height < SIDE


def test_without_a_crs_on_the_raster_coordinates_are_taken_as_they_are(tmp_path):
    scene = raster(tmp_path / "a.tif", None, UTM)
    source = open_source(scene, raster=RasterOptions())
    support = load_support(geojson(tmp_path / "a.geojson"), source=source)
    assert (support.labels == 1).sum() == 40 * 50


def test_coordinates_that_are_no_numbers_are_refused(tmp_path, utm):
    broken = shapely.transform(WATER, lambda p: np.where(p == p.max(), np.inf, p))
    pyogrio.raw.write(
        str(tmp_path / "a.gpkg"), np.array([shapely.to_wkb(broken)], object), [], [], driver="GPKG",
        geometry_type="Polygon", crs="EPSG:32618",
    )  # fmt: skip
    assert "not finite" in refusals(utm, str(tmp_path / "a.gpkg"))[0]
