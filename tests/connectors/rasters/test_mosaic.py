"""Many scenes as one: the parts put together are the whole, whatever grid, zone, order or catalogue they come from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import transform as transform_points
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.errors import SourceError
from tests.helpers.rasters import break_tile, north_up, waves, write_raster


def read_all(source) -> tuple[np.ndarray, np.ndarray]:
    return source.read(Window(0, 0, source.info.width, source.info.height))


def cut(path, values: np.ndarray, row: int, col: int, height: int, width: int, **profile) -> str:
    """A part of a raster as a file of its own."""
    part = values[:, row : row + height, col : col + width]
    return write_raster(path, part, north_up() @ Affine.translation(col, row), **profile)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.integers(20, 180), max_size=2, unique=True),
    cols=st.lists(st.integers(20, 230), max_size=2, unique=True),
    spare=st.integers(0, 15),
    pick=st.sampled_from(["first", "best"]),
    order=st.randoms(use_true_random=False),
)
def test_a_raster_equals_its_tiles_put_together(tmp_path_factory, rows, cols, spare, pick, order):
    folder = tmp_path_factory.mktemp("tiles")
    values = waves(200, 250).astype(np.uint8)
    whole = open_source(write_raster(folder / "whole.tif", values, north_up()), raster=RasterOptions())
    tops, lefts = [0, *sorted(rows)], [0, *sorted(cols)]
    paths = []
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            bottom = min(200, [*tops, 200][i + 1] + spare)
            right = min(250, [*lefts, 250][j + 1] + spare)
            paths.append(cut(folder / f"{i}{j}.tif", values, top, left, bottom - top, right - left))
    order.shuffle(paths)
    mosaic = open_source(paths[0], raster=RasterOptions(scenes=tuple(paths[1:]), pick=pick))
    assert mosaic.info.transform == pytest.approx(whole.info.transform, abs=1e-9)
    for mine, expected in zip(read_all(mosaic), read_all(whole), strict=True):
        assert np.array_equal(mine, expected)


def ground_picture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Grey level 0..255 of a place in UTM 18: waves 4 km long."""
    return 127 + 100 * np.sin(x / 640) * np.cos(y / 640)


def scene_of_the_ground(path, crs: str, transform: Affine, height: int, width: int) -> str:
    """What a satellite sees of `ground_picture` on another grid, at the centres of its pixels."""
    col, row = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x = transform.a * col + transform.b * row + transform.c
    y = transform.d * col + transform.e * row + transform.f
    if crs != "EPSG:32618":
        moved = transform_points(crs, "EPSG:32618", x.ravel(), y.ravel())
        x, y = (np.reshape(axis, (height, width)) for axis in moved)
    values = np.repeat(np.rint(ground_picture(x, y)).astype(np.uint8)[None], 3, 0)
    return write_raster(path, values, transform, crs, nodata=0)


@pytest.mark.parametrize("pick", ["first", "best"])
def test_scenes_in_two_utm_zones_show_the_same_ground(tmp_path, pick):
    first = scene_of_the_ground(tmp_path / "1.tif", "EPSG:32618", north_up(30, 735_000), 300, 320)
    scene_of_the_ground(tmp_path / "2.tif", "EPSG:32619", north_up(30, 232_000), 280, 300)
    source = open_source(first, raster=RasterOptions(scenes=(str(tmp_path / "2.tif"),), pick=pick))
    info = source.info
    assert info.crs == "EPSG:32618"
    assert "Resampled to EPSG:32618 from EPSG:32619" in " ".join(info.notes)
    image, valid = read_all(source)
    assert valid.mean() > 0.7
    col, row = np.meshgrid(np.arange(info.width) + 0.5, np.arange(info.height) + 0.5)
    expected = ground_picture(info.transform.c + 30 * col, info.transform.f - 30 * row)
    assert (
        np.abs(image[..., 0] - expected)[valid].max() < 3
    )  # two roundings, an eighth of a pixel, interpolation


def test_one_stretch_for_all_scenes(tmp_path):
    values = waves(200, 400, 3, 4000).astype(np.uint16)
    values[:, :, 200:] += 4000
    whole = open_source(write_raster(tmp_path / "whole.tif", values, north_up()), raster=RasterOptions())
    parts = [cut(tmp_path / f"{col}.tif", values, 0, col, 200, 200) for col in (0, 200)]
    mosaic = open_source(parts[0], raster=RasterOptions(scenes=(parts[1],)))
    assert np.abs(read_all(mosaic)[0].astype(int) - read_all(whole)[0]).max() <= 1


def flat(path, value: int, left: int, width: int) -> str:
    values = np.full((3, 100, width), value, np.uint8)
    return write_raster(path, values, north_up() @ Affine.translation(left, 0))


def test_the_first_scene_wins_or_the_one_a_pixel_is_deeper_inside_of(tmp_path):
    paths = flat(tmp_path / "1.tif", 50, 0, 100), flat(tmp_path / "2.tif", 200, 60, 140)
    row = {}
    for pick in ("first", "best"):
        options = RasterOptions(scenes=paths[1:], pick=pick, scale=(0, 255))
        row[pick] = read_all(open_source(paths[0], raster=options))[0][50, :, 0]
    assert np.array_equal(row["first"], np.repeat([50, 200], [100, 100]))
    assert np.array_equal(row["best"], np.repeat([50, 200], [80, 120]))  # the middle of the overlap 60..100


def test_a_broken_place_of_one_scene_is_filled_by_another(tmp_path):
    values = waves(300, 400).astype(np.uint8)
    broken = write_raster(tmp_path / "1.tif", values, north_up())
    break_tile(broken, 5)
    whole = cut(tmp_path / "2.tif", values, 0, 0, 300, 200)
    source = open_source(broken, raster=RasterOptions(scenes=(whole,)))
    image, valid = read_all(source)
    lost = np.zeros((300, 400), bool)
    lost[128:256, 200:256] = True
    assert np.array_equal(valid, ~lost)
    assert np.array_equal(image[valid], np.moveaxis(values, 0, 2)[valid])
    assert source.unreadable() == (Window(128, 128, 128, 128),)


def test_two_sides_of_the_antimeridian_meet(tmp_path):
    values = waves(40, 100).astype(np.uint8)
    west = write_raster(tmp_path / "1.tif", values[:, :, :50], Affine(0.1, 0, 175, 0, -0.1, 10), "EPSG:4326")
    east = write_raster(tmp_path / "2.tif", values[:, :, 50:], Affine(0.1, 0, -180, 0, -0.1, 10), "EPSG:4326")
    source = open_source(west, raster=RasterOptions(scenes=(east,)))
    assert (source.info.height, source.info.width) == (40, 100)
    assert np.array_equal(read_all(source)[0], np.moveaxis(values, 0, 2))


def test_the_overview_of_many_scenes_is_the_overview_of_the_whole(tmp_path):
    values = waves(600, 1400).astype(np.uint8)
    whole = open_source(write_raster(tmp_path / "whole.tif", values, north_up()), raster=RasterOptions())
    parts = [cut(tmp_path / f"{col}.tif", values, 0, col, 600, 700) for col in (0, 700)]
    mosaic = open_source(parts[0], raster=RasterOptions(scenes=(parts[1],)))
    for max_side in (1400, 700, 350):
        image, valid = mosaic.overview(max_side)
        assert valid.all()
        assert np.abs(image.astype(int) - whole.overview(max_side)[0]).max() <= 1


# -- which files


def item(name: str, **assets) -> dict:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": None,
        "properties": {},
        "assets": assets,
    }


def write_catalogue(path, *items) -> str:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
    return str(path)


COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def test_a_stac_item_collection_is_one_source(tmp_path):
    values = waves(200, 250).astype(np.uint8)
    items = []
    for col in (0, 120):
        cut(tmp_path / f"{col}.tif", values, 0, col, 200, 130)
        data = {"href": f"./{col}.tif", "type": COG, "roles": ["data"]}
        preview = {"href": f"./{col}-preview.tif", "type": COG, "roles": ["thumbnail"]}
        items.append(item(f"scene-{col}", data=data, preview=preview))
    source = open_source(write_catalogue(tmp_path / "scenes.json", *items), raster=RasterOptions())
    assert np.array_equal(read_all(source)[0], np.moveaxis(values, 0, 2))


def test_bands_that_are_assets_of_their_own_are_put_together(tmp_path):
    values = waves(60, 80).astype(np.uint8)
    assets = {}
    for band, (key, colour) in enumerate([("B04", "red"), ("B03", "green"), ("B02", "blue")]):
        write_raster(tmp_path / f"{key}.tif", values[band : band + 1], north_up())
        assets[key] = {
            "href": f"{key}.tif",
            "type": COG,
            "roles": ["data"],
            "eo:bands": [{"common_name": colour}],
        }
    catalogue = write_catalogue(tmp_path / "scene.json", item("a", **dict(reversed(assets.items()))))
    for asked in ((), ("B04", "B03", "B02")):
        source = open_source(catalogue, raster=RasterOptions(assets=asked))
        assert np.array_equal(read_all(source)[0], np.moveaxis(values, 0, 2))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1, 2]", "not a STAC item"),
        ("{", "cannot be read as JSON"),
        (json.dumps({"type": "FeatureCollection", "features": []}), "not a STAC item"),
        (json.dumps(item("x", a={"href": "a.tif"}, b={"href": "b.tif"})), "--assets from a, b"),
    ],
)
def test_catalogues_that_say_too_little_are_refused(tmp_path, content, words):
    path = tmp_path / "scenes.json"
    path.write_text(content)
    with pytest.raises(SourceError, match=words):
        open_source(str(path), raster=RasterOptions())


def test_scenes_that_do_not_fit_are_refused(tmp_path):
    one = write_raster(tmp_path / "1.tif", waves(30, 40).astype(np.uint8), north_up())
    other = write_raster(tmp_path / "2.tif", waves(30, 40).astype(np.uint16), north_up())
    nowhere = write_raster(tmp_path / "3.tif", waves(30, 40).astype(np.uint8), None, None)
    with pytest.raises(SourceError, match="need the same bands"):
        open_source(one, raster=RasterOptions(scenes=(other,)))
    with pytest.raises(SourceError, match="states no CRS"):
        open_source(one, raster=RasterOptions(scenes=(nowhere,)))
    with pytest.raises(SourceError, match="no file matches"):
        open_source(str(tmp_path / "none*.tif"), raster=RasterOptions())


def test_a_raster_beyond_the_antimeridian_keeps_its_grid(tmp_path):
    path = write_raster(
        tmp_path / "a.tif", waves(30, 400).astype(np.uint8), Affine(0.1, 0, 170, 0, -0.1, 89), "EPSG:4326"
    )
    with rasterio.open(path) as dataset:
        assert open_source(path, raster=RasterOptions()).info.transform == dataset.transform
