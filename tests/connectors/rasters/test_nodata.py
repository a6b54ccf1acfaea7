"""A collar that no file declares, and what the user says is no data."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.rasters.gdal_file import inspect
from fewscope.connectors.rasters.nodata import implicit_nodata
from fewscope.connectors.source import Pixels, Source
from fewscope.errors import SourceError
from tests.helpers.rasters import north_up, waves, write_raster

SIDE = 400


def outside(side: int = SIDE) -> np.ndarray:
    """bool (side, side): the corners around a scene that was turned."""
    row, col = np.mgrid[:side, :side] / side
    return np.asarray((row + 3 * col < 1) | (row + 3 * col > 3))


def collared(value: float, dtype: str = "uint8", top: float = 250) -> np.ndarray:
    """(3, side, side): waves with a collar."""
    return np.where(outside(), value, waves(SIDE, SIDE, top=top)).astype(dtype)


def opened(path: str, **options: object) -> Source:
    return open_source(path, raster=RasterOptions(**options))  # type: ignore[arg-type]


def whole(source: Source) -> Pixels:
    return source.read(Window(0, 0, source.info.width, source.info.height))


@pytest.mark.parametrize(
    ("value", "dtype", "top"),
    [
        (0, "uint8", 250),
        (255, "uint8", 250),
        (65535, "uint16", 9000),
        (-9999, "int16", 9000),
        (0, "float32", 4),
    ],
)
def test_a_collar_is_no_data_and_the_report_says_so(tmp_path, value, dtype, top):
    path = write_raster(tmp_path / "a.tif", collared(value, dtype, top), north_up())
    source = opened(path)
    assert np.array_equal(whole(source)[1], ~outside())
    assert any(f"Pixels of {value:g} in all bands" in note for note in source.info.assumptions)
    kept = opened(path, nodata="file")
    assert whole(kept)[1].all()
    assert kept.info.assumptions == ()
    said = opened(path, nodata=float(value))
    assert np.array_equal(whole(said)[1], ~outside())
    assert said.info.assumptions == ()


def one_corner(values: np.ndarray) -> np.ndarray:
    values[:, 200:] = np.maximum(values[:, 200:], 1)
    values[:, :, 200:] = np.maximum(values[:, :, 200:], 1)
    return values


def with_black_in_it(values: np.ndarray) -> np.ndarray:
    values[:, np.random.default_rng(0).random(values.shape[1:]) < 0.05] = 0
    return values


def drawing(values: np.ndarray) -> np.ndarray:
    return np.where(values > 0, 200, 0).astype(np.uint8)


def in_one_band(values: np.ndarray) -> np.ndarray:
    values[1:] = np.maximum(values[1:], 3)
    return values


@pytest.mark.parametrize("change", [one_corner, with_black_in_it, drawing, in_one_band])
def test_what_may_be_a_picture_is_none(tmp_path, change):
    path = write_raster(tmp_path / "a.tif", change(collared(0)), north_up())
    assert whole(opened(path))[1].all()


def test_a_file_that_says_what_is_no_data_is_believed(tmp_path):
    pixels, valid = collared(0), np.random.default_rng(0).random((SIDE, SIDE)) > 0.3
    alpha = np.concatenate([pixels, valid[None].astype(np.uint8) * 255])
    paths = [
        write_raster(tmp_path / "nodata.tif", pixels, north_up(), nodata=7),
        write_raster(tmp_path / "mask.tif", pixels, north_up(), mask=valid),
        write_raster(tmp_path / "alpha.tif", alpha, north_up(), photometric="RGB", alpha="YES"),
        write_raster(tmp_path / "nowhere.tif", pixels, crs=None),
    ]
    for path in paths:
        assert implicit_nodata(inspect(path), (1, 2, 3)) is None, path


def test_collars_of_scenes_in_two_zones_let_the_other_scene_through(tmp_path):
    """The second, which has to be warped, has a collar as well: nothing of either reaches the picture."""
    pixels = collared(255)
    first = write_raster(tmp_path / "a.tif", pixels, north_up())
    second = write_raster(tmp_path / "b.tif", pixels, north_up(x=-8_000.0), "EPSG:32619")
    image, valid = whole(opened(first, scenes=(second,)))
    shares = [whole(opened(path))[1].mean() for path in (first, second)]
    assert valid.sum() > 1.1 * SIDE**2 * min(shares)
    assert image[valid].max() < 252, "the collar was mixed into the scene"


def test_no_data_that_cannot_be_is_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", collared(0), north_up())
    with pytest.raises(SourceError, match="--nodata -9999 is no value of uint8"):
        opened(path, nodata=-9999.0)


def test_control_points_and_no_data_that_the_user_names(tmp_path):
    corners = [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)]
    place: Affine = north_up()
    points = [GroundControlPoint(row, col, *(place @ (col, row))) for row, col in corners]
    path = write_raster(tmp_path / "a.tif", collared(255), gcps=points)
    image, valid = whole(opened(path, nodata=255.0))
    assert 0.4 < valid.mean() < 0.9
    assert image[valid].max() < 252
