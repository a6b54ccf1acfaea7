"""What a file says of its bands: alpha or data, masks beside nodata, and names, nodata and scale in a mosaic."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.pixels.composite import composite
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.source import Pixels, Source
from fewscope.errors import ConfigError, SourceError
from tests.helpers.rasters import north_up, waves, write_raster

SIDE = 200


def opened(path: str, **options: object) -> Source:
    return open_source(path, raster=RasterOptions(**options))  # type: ignore[arg-type]


def whole(source: Source) -> Pixels:
    return source.read(Window(0, 0, source.info.width, source.info.height))


def near_infrared(dtype: str = "uint8", scale: int = 1) -> np.ndarray:
    """(4, side, side): red, green, blue, NIR; NIR is 0 on most of a river."""
    rng = np.random.default_rng(0)
    nir = rng.normal(200, 10, (SIDE, SIDE))
    nir[80:120] = rng.normal(-1, 4, (40, SIDE))
    nir = np.clip(nir, 0, 255) * scale
    return np.concatenate([waves(SIDE, SIDE, top=250) * scale, nir[None]]).astype(dtype)


def opacity(top: int, feather: int = 0) -> np.ndarray:
    """(side, side): opaque but for a frame, with a smooth edge."""
    row, col = np.mgrid[:SIDE, :SIDE]
    depth = np.minimum.reduce([row, col, SIDE - 1 - row, SIDE - 1 - col]) - 20.0
    return np.clip(depth / max(feather, 1), 0, 1) * top


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", 1), ("uint16", 40)])
def test_near_infrared_that_is_marked_as_alpha_is_data(tmp_path, dtype, scale):
    path = write_raster(
        tmp_path / "a.tif", near_infrared(dtype, scale), north_up(), photometric="RGB", alpha="YES"
    )
    source = opened(path)
    assert whole(source)[1].all()
    assert "Band 4 is marked as alpha" in " ".join(source.info.assumptions)
    masked = whole(opened(path, alpha="mask"))[1]
    assert 0.75 < masked.mean() < 0.95
    assert whole(opened(path, bands=(4, 1, 2)))[1].all()
    assert whole(opened(path, alpha="mask", data_bands=(4,)))[1].all()
    warped = opened(path, crs="EPSG:32619")
    inside = whole(warped)[1]
    assert inside.mean() > 0.8
    rows = np.flatnonzero(inside.any(1))
    assert inside[rows[len(rows) // 2]].any(), "the river was taken for no data"


@pytest.mark.parametrize(
    ("dtype", "top", "feather"),
    [("uint8", 255, 0), ("uint8", 255, 20), ("uint16", 65535, 20), ("uint16", 255, 0)],
)
def test_a_real_alpha_band_stays_a_mask(tmp_path, dtype, top, feather):
    alpha = opacity(top, feather)
    values = np.concatenate([waves(SIDE, SIDE, top=250), alpha[None]]).astype(dtype)
    path = write_raster(tmp_path / "a.tif", values, north_up(), photometric="RGB", alpha="YES")
    assert np.array_equal(whole(opened(path))[1], values[3] > 0)
    assert whole(opened(path, alpha="band"))[1].all()


def test_grey_and_alpha_and_a_mosaic_with_near_infrared(tmp_path):
    grey = np.stack([waves(SIDE, SIDE, 1, top=250)[0], opacity(255)]).astype(np.uint8)
    path = write_raster(tmp_path / "g.tif", grey, north_up(), alpha="YES")
    assert np.array_equal(whole(opened(path))[1], grey[1] > 0)
    first = write_raster(tmp_path / "1.tif", near_infrared(), north_up())
    second = write_raster(tmp_path / "2.tif", near_infrared(), north_up(x=500_000 + 10 * SIDE))
    assert whole(opened(first, scenes=(second,)))[1].all()


def test_near_infrared_in_a_file_with_control_points(tmp_path):
    place = north_up()
    corners = [(0, 0), (0, SIDE), (SIDE, 0), (SIDE, SIDE)]
    points = [GroundControlPoint(row, col, *(place @ (col, row))) for row, col in corners]
    path = write_raster(tmp_path / "a.tif", near_infrared(), gcps=points)
    assert whole(opened(path))[1][80:120, 5:-5].all()


def test_one_control_point_is_refused(tmp_path):
    path = write_raster(tmp_path / "a.tif", near_infrared()[:3], gcps=[GroundControlPoint(0, 0, 5e5, 45e5)])
    with pytest.raises(SourceError, match="1 control point, and at least 3 are needed"):
        opened(path)


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_takes_precedence_over_a_nodata_value(tmp_path, internal):
    values = waves(SIDE, SIDE).astype(np.uint8)
    values[:, 50:60, 100:120] = 0  # black, but valid by the mask
    mask = np.ones((SIDE, SIDE), bool)
    mask[:, :60] = False
    path = write_raster(tmp_path / "a.tif", values, north_up(), nodata=0, mask=mask if internal else None)
    if not internal:
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(mask.astype(np.uint8) * 255)
    with rasterio.open(path) as dataset:
        assert np.array_equal(dataset.dataset_mask() > 0, mask)
    assert np.array_equal(whole(opened(path))[1], mask)
    warped = whole(opened(path, crs="EPSG:32619"))[1]
    plain = whole(opened(write_raster(tmp_path / "b.tif", values, north_up()), crs="EPSG:32619"))[1]
    assert warped.sum() / plain.sum() == pytest.approx(mask.mean(), abs=0.02)
    second = write_raster(tmp_path / "c.tif", values, north_up(x=500_000 + 10 * SIDE))
    assert np.array_equal(whole(opened(path, scenes=(second,)))[1][:, :SIDE], mask)


def test_a_hole_of_an_impossible_value_is_nodata_and_a_dark_one_is_doubtful(tmp_path):
    values = waves(SIDE, SIDE, top=3000).astype(np.int16)
    values[:, 60:100, 60:100] = -9999
    source = opened(write_raster(tmp_path / "a.tif", values, north_up()))
    assert np.array_equal(whole(source)[1], values[0] != -9999)
    dark = np.where(values == -9999, 0, values).astype(np.uint16)
    source = opened(write_raster(tmp_path / "b.tif", dark, north_up()))
    assert whole(source)[1].all()
    assert "--nodata 0 leaves them out" in " ".join(source.info.assumptions)


def test_what_fills_the_corners_of_one_file_of_a_mosaic_holds_for_the_other(tmp_path):
    row, col = np.mgrid[:SIDE, :SIDE] / SIDE
    values = waves(SIDE, SIDE, top=250).astype(np.uint8)
    framed = np.where((row + 3 * col < 1) | (row + 3 * col > 3), 0, values).astype(np.uint8)
    holed = values.copy()
    holed[:, 60:100, 60:100] = 0
    first = write_raster(tmp_path / "1.tif", framed, north_up())
    second = write_raster(tmp_path / "2.tif", holed, north_up(x=500_000 + 10 * SIDE))
    assert np.array_equal(whole(opened(first, scenes=(second,)))[1][:, SIDE:], holed[0] > 0)


def named(path: str, *names: str) -> str:
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = names
    return path


def test_each_file_of_a_mosaic_has_its_own_order_of_bands_and_its_own_nodata(tmp_path):
    values = waves(SIDE, SIDE, top=250).astype(np.uint8)
    right = north_up(x=500_000 + 10 * SIDE)
    first = named(write_raster(tmp_path / "1.tif", values, north_up(), nodata=255), "red", "green", "blue")
    turned = values[::-1].copy()
    turned[:, 50:60] = 0
    second = named(write_raster(tmp_path / "2.tif", turned, right, nodata=0), "Blue", "Green", "Red")
    for options in ({}, {"bands": (1, 2, 3)}):
        image, valid = whole(opened(first, scenes=(second,), **options))
        assert np.array_equal(valid[:, SIDE:], (turned > 0).any(0))
        seen = valid[:, SIDE:]
        assert np.array_equal(image[:, SIDE:][seen], np.moveaxis(values, 0, 2)[seen])


def test_files_of_a_mosaic_with_other_scales_are_brought_to_the_first_ones(tmp_path):
    values = waves(SIDE, SIDE, top=3000).astype(np.uint16)
    first = write_raster(tmp_path / "1.tif", values, north_up())
    second = write_raster(tmp_path / "2.tif", values + 1000, north_up(x=500_000 + 10 * SIDE))
    for path, offset in ((first, 0.0), (second, -0.1)):
        with rasterio.open(path, "r+") as dataset:
            dataset.scales, dataset.offsets = (1e-4,) * 3, (offset,) * 3
    image, _ = whole(opened(first, scenes=(second,), scale=(0, 3000)))
    assert np.abs(image[:, :SIDE].astype(int) - image[:, SIDE:]).max() <= 1


def test_a_block_as_large_as_a_huge_file_is_refused(tmp_path):
    path = tmp_path / "a.tif"
    profile = {"driver": "GTiff", "width": 24_576, "height": 24_576, "count": 1, "dtype": "uint8"}
    sides = {"tiled": True, "blockxsize": 24_576, "blockysize": 24_576, "sparse_ok": True}
    with rasterio.open(path, "w", **profile, **sides):
        pass
    with pytest.raises(SourceError, match="TILED=YES"):
        opened(str(path))


def test_all_bands_travel_with_their_names_and_a_composite_of_the_visible_ones(tmp_path):
    values = waves(60, 80, 5, 9000).astype(np.uint16)
    path = write_raster(tmp_path / "a.tif", values, north_up())
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("B02", "B03", "B04", "B08", "B11")
    window = Window(0, 0, 80, 60)
    every = open_source(path, raster=RasterOptions(all_bands=True))
    image, _ = every.read(window)
    assert every.info.channels == ("b02", "b03", "b04", "b08", "b11")
    usual = open_source(path, raster=RasterOptions())
    assert np.array_equal(composite(image, every.info), usual.read(window)[0])
    some = open_source(path, raster=RasterOptions(bands=(5, 4, 1, 2)))
    assert np.array_equal(some.read(window)[0], image[..., [4, 3, 0, 1]])
    two = open_source(path, raster=RasterOptions(bands=(4, 5)))
    assert np.array_equal(two.read(window)[0], image[..., [3, 4, 3]])
    assert len({source.info.appearance for source in (every, usual, some, two)}) == 4
    for source in (every, usual, some, two):
        source.close()
    for options, match in (
        ({"bands": (1, 2, 2, 3)}, "twice"),
        ({"bands": (1,), "all_bands": True}, "one of them"),
    ):
        with pytest.raises(ConfigError, match=match):
            RasterOptions(**options)
