"""The journey of a raster: what the job promises of the map, the area, the indices, and of what it cannot do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from shapely.geometry import Polygon, box, mapping

import fewscope.jobs.segmenting
from fewscope.connectors.results.reader import open_result
from fewscope.jobs import segment_raster
from tests.helpers import fakes
from tests.helpers.rasters import ORIGIN, UTM18, north_up, write_raster

pytestmark = pytest.mark.usefixtures("no_pictures")

X, Y = ORIGIN
HEIGHT, WIDTH = 300, 420
LAKES = (
    (40, 50, 90, 130),
    (150, 60, 250, 90),
    (120, 200, 124, 205),
    (200, 300, 300, 420),
)  # row, col to row, col
AREA_PX = sum((bottom - top) * (right - left) for top, left, bottom, right in LAKES)


def bands(scale: int = 1, dtype: type = np.uint8) -> np.ndarray:
    """Red, green, blue, NIR: lakes are red for `fakes.ByColour`, and dark in NIR but for the first one."""
    picture = np.zeros((4, HEIGHT, WIDTH), dtype)
    picture[:] = np.array([40, 60, 200, 150])[:, None, None] * scale
    for n, (top, left, bottom, right) in enumerate(LAKES):
        nir = 90 if n == 0 else 10
        picture[:, top:bottom, left:right] = np.array([200, 60, 40, nir])[:, None, None] * scale
    return picture


def ground(top: float, left: float, bottom: float, right: float):
    return box(X + 10 * left, Y - 10 * bottom, X + 10 * right, Y - 10 * top)


@pytest.fixture
def scene(tmp_path) -> str:
    return write_raster(tmp_path / "scene.tif", bands(), north_up())


@pytest.fixture
def drawn(tmp_path) -> str:
    """Two regions with the lakes in them, as GeoJSON in UTM 18."""
    named = [(ground(20, 20, 140, 160), "Region"), (ground(140, 20, 280, 160), "Region")]
    named += [(ground(*lake), "lake") for lake in LAKES]
    features = [
        {"type": "Feature", "properties": {"class": name}, "geometry": mapping(shape)}
        for shape, name in named
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return str(path)


@pytest.fixture
def job(tmp_path, drawn, capfd, monkeypatch):
    """``job(raster, flags)`` -> (exit code, report or None, stderr's lines), with a model that looks at colours."""
    monkeypatch.setattr(fewscope.jobs.segmenting, "model_loader", lambda config: fakes.ByColour)

    def call(*arguments: object):
        capfd.readouterr()
        command = [*map(str, arguments), "--support", drawn, "--out", str(tmp_path / "out"), "--local"]
        code = segment_raster.main([*command, "--threshold", "0.5"])
        page = tmp_path / "out/report.json"
        return (
            code,
            json.loads(page.read_text()) if page.exists() else None,
            capfd.readouterr().err.splitlines(),
        )

    return call


def test_a_scene_becomes_a_map_with_its_grid_and_its_areas(job, scene, tmp_path):
    code, report, errors = job(scene)
    assert (code, errors) == (0, [])
    assert report["count"] == 4
    assert report["covered_km2"] == pytest.approx(AREA_PX * 100 / 1e6, rel=1e-9)
    assert report["area_km2"] == pytest.approx(HEIGHT * WIDTH * 100 / 1e6, rel=1e-9)
    # a model that is right on the patches
    assert report["covered_interval_km2"] == pytest.approx([report["covered_km2"]] * 2)
    assert report["class_name"] == "lake"
    assert "red, green, blue by the file" in report["run"]["source"]["bands"]
    page = (tmp_path / "out/report.html").read_text()
    assert "<h2>Map and rivers</h2>" in page
    assert re.search(r'class="count area">[\d.,]+ (m²|km²)<', page)  # what a map is read for, not the count
    assert report["map"]["measured"] == "in the plane of the raster's projection"
    with rasterio.open(tmp_path / "out/mask.tif") as mask, rasterio.open(scene) as original:
        assert mask.transform == pytest.approx(original.transform, abs=1e-9)
        assert mask.crs == original.crs
        assert (mask.read(1) == 1).sum() == AREA_PX


def test_what_is_too_small_is_in_no_number_and_no_file(job, scene, tmp_path):
    code, report, _ = job(scene, "--min-area-m2", "50000", "--instances", "components")
    kept = [lake for lake in LAKES if (lake[2] - lake[0]) * (lake[3] - lake[1]) * 100 >= 50_000]
    kept_px = sum((bottom - top) * (right - left) for top, left, bottom, right in kept)
    assert (code, report["count"], len(kept)) == (0, len(kept), 3)
    assert (report["dropped_count"], report["dropped_px"]) == (1, AREA_PX - kept_px)
    assert report["covered_px"] == kept_px
    assert report["covered_km2"] == pytest.approx(kept_px * 100 / 1e6, rel=1e-9)
    result = open_result(str(tmp_path / "out"))
    for levels in zip(result.mask, result.labels, strict=True):
        mask, labels = (level.compute() for level in levels)
        assert np.array_equal(mask > 0, labels > 0)
    with rasterio.open(tmp_path / "out/mask.tif") as dataset:
        assert np.count_nonzero(dataset.read(1) == 1) == kept_px
    assert len(gpd.read_file(tmp_path / "out/features.gpkg", layer="features")) == 3
    page = (tmp_path / "out/report.html").read_text()
    assert "1 smaller object" in page
    assert "--min-area-m2" in page


@pytest.mark.slow
def test_what_the_user_says_is_no_data_is_not_part_of_the_area(job, scene):
    with rasterio.open(scene, "r+") as raster:
        picture = raster.read()
        picture[:, :20] = 7
        raster.write(picture)
    assert job(scene)[1]["area_km2"] == pytest.approx(HEIGHT * WIDTH * 100 / 1e6)
    code, report, errors = job(scene, "--nodata", "7", "--overwrite")
    assert (code, errors) == (0, [])
    assert report["area_km2"] == pytest.approx((HEIGHT - 20) * WIDTH * 100 / 1e6)
    code, _, errors = job(scene, "--nodata", "-9999", "--overwrite")
    assert (code, len(errors)) == (2, 1)
    assert "--nodata -9999 is no value of uint8" in errors[0]


def test_polygons_of_the_map_are_simplified_on_request(job, scene, tmp_path):
    with rasterio.open(scene, "r+") as raster:  # a staircase: a lake with a slanted shore
        picture = raster.read()
        for row in range(40, 90):
            picture[:3, row, 130 : 130 + (row - 40) // 2] = np.array([200, 60, 40])[:, None]
        raster.write(picture)

    def outlines() -> gpd.GeoDataFrame:
        return gpd.read_file(tmp_path / "out/features.gpkg", layer="features")

    job(scene)
    exact = outlines()
    code, _, errors = job(scene, "--simplify", 1.5, "--overwrite")
    simple = outlines()
    assert (code, errors) == (0, [])
    assert simple.geometry.is_valid.all()
    assert simple.area_m2.tolist() == exact.area_m2.tolist()  # of the mask, however it is drawn
    assert simple.geometry.count_coordinates().sum() < exact.geometry.count_coordinates().sum() / 2
    assert exact.geometry.hausdorff_distance(simple.geometry).max() <= 10 * 1.5 * 2**0.5

    code, _, errors = job(scene, "--simplify", -1)
    assert code == 2
    assert errors[-1].endswith(
        "--simplify -1 is negative or no number; give pixels, or 0 to follow every pixel"
    )


def test_water_indices_are_compared_with_the_mask(job, scene):
    _, report, _ = job(scene, "--green", 2, "--nir", 4)
    found = report["run"]["water index"]
    first = 50 * 80  # the lake that is bright in NIR: of the mask alone
    assert found["NDWI: IoU with the mask"] == pytest.approx((AREA_PX - first) / AREA_PX, abs=1e-4)
    assert found["NDWI: water of the index alone"].startswith("0.0%")


def test_indices_of_16_bits_are_those_of_the_ratio_of_bands(job, tmp_path):
    scene = write_raster(tmp_path / "scene16.tif", bands(40, np.uint16), north_up())
    _, report, _ = job(scene, "--green", 2, "--nir", 4, "--scale", 0, 255 * 40)
    first = 50 * 80
    assert report["run"]["water index"]["NDWI: IoU with the mask"] == pytest.approx(
        1 - first / AREA_PX, abs=1e-4
    )


def test_small_objects_are_dropped_by_their_area_on_the_ground(job, scene):
    assert job(scene, "--min-area-m2", 2001)[1]["count"] == 3  # the smallest lake has 20 px of 100 m2
    assert job(scene, "--min-area-m2", 2000, "--overwrite")[1]["count"] == 4


@pytest.mark.slow
def test_a_mosaic_of_its_parts_gives_the_map_of_the_whole(job, scene, tmp_path):
    _, whole, _ = job(scene)
    expected = open_result(str(tmp_path / "out")).instances[0].compute()
    parts = []
    for col in (0, 200):
        transform = north_up(x=X + 10 * col)
        parts.append(write_raster(tmp_path / f"part{col}.tif", bands()[:, :, col : col + 220], transform))
    code, report, errors = job(*parts, "--mosaic", "--overwrite", "--support-raster", scene)
    assert (code, errors) == (0, [])
    assert report["count"] == whole["count"]
    assert np.array_equal(open_result(str(tmp_path / "out")).instances[0].compute(), expected)


def test_only_the_area_asked_for_is_computed(job, scene, tmp_path):
    _, report, errors = job(scene, "--aoi", write_area(tmp_path, ground(30, 40, 95, 300)))
    assert errors == []
    assert report["count"] == 1
    assert report["covered_km2"] == pytest.approx(50 * 80 * 100 / 1e6)
    assert report["area_km2"] == pytest.approx(65 * 260 * 100 / 1e6)
    with rasterio.open(tmp_path / "out/mask.tif") as mask:
        assert (mask.transform.c, mask.transform.f) == (X + 400, Y - 300)
        assert mask.shape == (65, 260)
    assert "Only the area asked for" in " ".join(report["notes"])


def write_area(folder: Path, area) -> str:
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    feature = {"type": "Feature", "properties": {}, "geometry": mapping(area)}
    (folder / "area.geojson").write_text(
        json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]})
    )
    return str(folder / "area.geojson")


def test_several_rasters_get_folders_of_their_own(tmp_path):
    args = segment_raster.parse(["a/x.tif", "b/x.tif", "c/y.tif", "--support", "s", "--out", "o/"])
    found = segment_raster.configs(args)
    assert [config.out for config in found] == ["o/x-1", "o/x-2", "o/y"]
    assert {config.support_slide for config in found} == {"a/x.tif"}


def nodata_only(folder: Path) -> list:
    bad = write_raster(folder / "bad.tif", np.zeros((3, 99, 99), np.uint8), north_up(), nodata=0)
    return [bad, "--support-raster", folder / "scene.tif"]


def no_crs(folder: Path) -> list:
    path = write_raster(folder / "bad.tif", bands(), None, None)
    return [path, "--min-area-m2", 100]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (nodata_only, ["bad.tif", "no pixel of it is valid", "nodata"]),
        (no_crs, ["drawn.geojson", "out of the raster"]),
        (lambda folder: ["none.tif"], ["none.tif", "no such file"]),
        (lambda folder: [str(folder / "scene.tif"), "--nir", 4], ["--green"]),
        (lambda folder: [str(folder / "scene.tif"), "--green", 2], ["--nir", "--swir"]),
        (lambda folder: [str(folder / "scene.tif"), "--min-area-m2", -1], ["--min-area-m2 -1", "negative"]),
        (
            lambda folder: [str(folder / "scene.tif"), "--bbox", 0, 0, 1, 1],
            ["does not overlap the requested area"],
        ),
        (lambda folder: [str(folder / "scene.tif"), "--bands", "1,2,9"], ["no band 9", "only 1..4"]),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(job, scene, tmp_path, arguments, words):
    code, report, errors = job(*arguments(tmp_path))
    assert (code, report, len(errors)) == (2, None, 1)
    assert errors[0].startswith("error: ")
    for word in words:
        assert word in errors[0]
    assert not (tmp_path / "out").exists()


def test_another_area_is_another_run(job, scene, tmp_path):
    assert job(scene)[0] == 0
    code, _, errors = job(scene, "--aoi", write_area(tmp_path, ground(30, 40, 95, 300)))
    assert code == 2
    assert "--overwrite" in errors[0]


def zone_km2(south: float, north: float, width: float) -> float:
    """Area on WGS 84 between two parallels over so many degrees of longitude, in closed form."""
    b, e = 6356.752314245, 0.0818191908426215

    def to_pole(latitude: float) -> float:
        s = np.sin(np.radians(latitude))
        return b**2 / 2 * (s / (1 - (e * s) ** 2) + np.log((1 + e * s) / (1 - e * s)) / (2 * e))

    return np.radians(width) * (to_pole(north) - to_pole(south))


def test_a_scene_around_the_pole_is_measured_on_the_ellipsoid(job, drawn, tmp_path):
    """EPSG:3413 with the North Pole in one of the lakes: 2 km pixels, 6 % larger on the ground than in the plane."""
    transform = Affine(2000, 0, -2000 * 90, 0, -2000, 2000 * 65)  # the pole is in the first lake
    scene = write_raster(tmp_path / "polar.tif", bands(), transform, "EPSG:3413")
    features = []
    for (top, left, bottom, right), name in [
        ((20, 20, 140, 160), "Region"),
        *((lake, "lake") for lake in LAKES),
    ]:
        corners = [
            transform @ corner for corner in ((left, bottom), (right, bottom), (right, top), (left, top))
        ]
        features.append(
            {"type": "Feature", "properties": {"class": name}, "geometry": mapping(Polygon(corners))}
        )
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3413"}}
    Path(drawn).write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    code, report, errors = job(scene)
    assert (code, errors) == (0, [])
    assert report["count"] == 4
    lakes = gpd.read_file(tmp_path / "out/features.gpkg", layer="features")
    to_degrees = pyproj.Transformer.from_crs("EPSG:3413", "EPSG:4326", always_xy=True)
    true = []
    for outline in lakes.geometry:
        along = to_degrees.transform(*shapely.get_coordinates(shapely.segmentize(outline, 500)).T)
        true.append(abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(*along)[0]))
    assert lakes.area_m2.tolist() == pytest.approx(true, rel=1e-5)
    assert report["covered_km2"] == pytest.approx(sum(true) / 1e6, rel=1e-4)
    assert report["covered_km2"] > 1.05 * AREA_PX * 4


def test_degrees_are_measured_on_the_ellipsoid(job, drawn, tmp_path):
    """A scene in degrees at 60 degrees north: a pixel is half as wide as it is high."""
    scene = write_raster(tmp_path / "north.tif", bands(), Affine(0.001, 0, 10, 0, -0.001, 60), "EPSG:4326")
    features = []
    for shape, name in [((20, 20, 140, 160), "Region"), *((lake, "lake") for lake in LAKES)]:
        top, left, bottom, right = shape
        area = box(10 + 0.001 * left, 60 - 0.001 * bottom, 10 + 0.001 * right, 60 - 0.001 * top)
        features.append({"type": "Feature", "properties": {"class": name}, "geometry": mapping(area)})
    Path(drawn).write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    _, report, _ = job(scene)
    expected = sum(
        zone_km2(60 - 0.001 * bottom, 60 - 0.001 * top, 0.001 * (right - left))
        for top, left, bottom, right in LAKES
    )
    assert report["covered_km2"] == pytest.approx(expected, rel=1e-6)
    assert report["run"]["areas"]["measured"] == "on the ellipsoid"
    assert UTM18 not in report["run"]["source"]["coordinate system"]
