"""Which bands of a raster are shown, and how their values are stretched."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.pixels.stretch import choose_stretch
from fewscope.connectors.raster_options import RasterOptions
from tests.helpers.rasters import north_up, read_all, stacked, waves, write_raster


def test_8_bit_pictures_stay_as_they_are(tmp_path):
    values = waves(60, 70).astype(np.uint8)
    image, valid = read_all(write_raster(tmp_path / "a.tif", values, north_up()))
    assert np.array_equal(image, stacked(values))
    assert valid.all()


@pytest.mark.parametrize(
    ("n_bands", "colours", "asked", "shown"),
    [
        (3, (), (), (1, 2, 3)),
        (5, (), (), (1, 2, 3)),
        (3, (ColorInterp.blue, ColorInterp.green, ColorInterp.red), (), (3, 2, 1)),
        (4, (), (4, 2, 1), (4, 2, 1)),
        (4, (), (2,), (2, 2, 2)),
        (1, (), (), (1, 1, 1)),
        (2, (), (), (1, 1, 1)),
        (2, (ColorInterp.gray, ColorInterp.alpha), (), (1, 1, 1)),
    ],
)
def test_bands_by_number_by_colour_or_the_first(tmp_path, n_bands, colours, asked, shown):
    values = waves(40, 50, n_bands).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", values, north_up(), colours=colours)
    image, _ = read_all(path, bands=asked)
    assert np.array_equal(image, stacked(values[[band - 1 for band in shown]]))
    words = open_source(path, raster=RasterOptions(bands=asked)).info.bands
    assert all(str(band) in words or "first three" in words for band in shown)


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("B01", "B02", "B03", "B04", "B08"), (4, 3, 2)),
        (("Blue", "Green", "Red", "NIR"), (3, 2, 1)),
        (("B1", "B2", "B3", "B4"), (1, 2, 3)),  # red is B3 of one Landsat and B4 of another
    ],
)
def test_bands_by_their_names(tmp_path, names, shown):
    values = waves(40, 50, len(names)).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", values, north_up())
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = names
    image, _ = read_all(path)
    assert np.array_equal(image, stacked(values[[band - 1 for band in shown]]))
    told = open_source(path, raster=RasterOptions()).info.bands
    assert ("by their names" in told) == (shown != (1, 2, 3))


def test_a_palette_is_shown_in_its_colours(tmp_path):
    values = np.arange(12, dtype=np.uint8).reshape(1, 3, 4) % 3
    path = write_raster(tmp_path / "a.tif", values, north_up())
    colours = {0: (10, 20, 30, 255), 1: (200, 0, 9, 255), 2: (1, 2, 255, 255)}
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, colours)
    image, _ = read_all(path)
    assert np.array_equal(image, np.array([colours[i][:3] for i in range(3)], np.uint8)[values[0]])


def test_the_stretch_is_the_percentiles_of_the_whole_band(tmp_path):
    values = waves(300, 400, 3, 12_000).astype(np.uint16)
    image, _ = read_all(write_raster(tmp_path / "a.tif", values, north_up()))
    for band in range(3):
        low, high = np.percentile(values[band], (2, 98))
        expected = np.rint(np.clip((values[band] - low) / (high - low), 0, 1) * 255)
        assert np.abs(image[..., band] - expected).max() <= 1


def test_the_stretch_does_not_depend_on_the_window_nor_on_nodata(tmp_path):
    values = waves(300, 300, 1, 5000).astype(np.float32)
    values[:, :, 200:] = -9999
    path = write_raster(tmp_path / "a.tif", values, north_up(), nodata=-9999)
    source = open_source(path, raster=RasterOptions())
    image, valid = source.read(Window(0, 0, 200, 300))
    assert valid.all()
    low, high = np.percentile(values[0, :, :200], (2, 98))
    expected = np.rint(np.clip((values[0, :, :200] - low) / (high - low), 0, 1) * 255)
    assert np.abs(image[..., 0] - expected).max() <= 1


def test_the_scale_asked_for_is_the_scale(tmp_path):
    values = np.array([[[0, 100, 200, 300, 1100, 2000]]], np.uint16)
    image, _ = read_all(write_raster(tmp_path / "a.tif", values, north_up()), scale=(100, 1100))
    assert image[0, :, 0].tolist() == [0, 0, 26, 51, 255, 255]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (np.full((1, 500), 7, np.uint16), 7, 8),  # the same everywhere
        (np.append(np.zeros((1, 999), np.uint16), [[50]], 1), 0, 50),  # nearly so
        (np.repeat(np.arange(20, dtype=np.uint8)[None], 3, 0), 0.38, 18.62),  # 8 bits, of which few are used
    ],
)
def test_stretches_of_bands_with_little_in_them(values, low, high):
    stretch = choose_stretch(values, None)
    assert (stretch.low[0], stretch.high[0]) == pytest.approx((low, high))
