"""Rasters of every kind promise what every source promises: exact positions, threads, pickling, background."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from tests.helpers.rasters import ORIGIN, break_tile, north_up, waves, write_raster
from tests.helpers.source_conformance import SourceConformance

HEIGHT, WIDTH = 410, 530


def holes(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """bool: a diagonal strip and a disk are missing."""
    row, col = np.mgrid[:height, :width]
    return (np.abs(row - col) > 9) & ((row - 200) ** 2 + (col - 330) ** 2 > 60**2)


def uint16_with_nodata(folder) -> str:
    values = waves(HEIGHT, WIDTH, 4, 9000).astype(np.uint16)
    values[:, ~holes()] = 0
    return write_raster(folder / "a.tif", values, north_up(), nodata=0)


def masked_with_overviews(folder) -> str:
    values = waves(HEIGHT, WIDTH).astype(np.uint8)
    return write_raster(folder / "a.tif", values, north_up(), mask=holes(), overviews=(2, 4))


def floats_in_strips(folder) -> str:
    values = waves(HEIGHT, WIDTH, 1, 0.4).astype(np.float32)
    values[:, ~holes()] = np.nan
    return write_raster(
        folder / "a.tif", values, north_up(), tiled=False, blockxsize=WIDTH, blockysize=3, nodata=-9999.0
    )


def with_a_broken_tile(folder) -> str:
    path = write_raster(folder / "a.tif", waves(HEIGHT, WIDTH).astype(np.uint8), north_up())
    break_tile(path, 7)
    return path


def rotated(folder) -> str:
    turned = Affine.translation(*ORIGIN) @ Affine.rotation(30) @ Affine.scale(10, -10)
    return write_raster(folder / "a.tif", waves(HEIGHT, WIDTH).astype(np.uint8), turned)


def palette(folder) -> str:
    path = write_raster(folder / "a.tif", (waves(HEIGHT, WIDTH, 1) // 64).astype(np.uint8), north_up())
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {i: (60 * i, 255 - 60 * i, 7 * i, 255) for i in range(4)})
    return path


def control_points_only(folder) -> str:
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    turned = Affine.translation(*ORIGIN) @ Affine.rotation(12) @ Affine.scale(10, -10)
    points = []
    for row, col in corners:
        x, y = turned.c + turned.a * col + turned.b * row, turned.f + turned.d * col + turned.e * row
        points.append(GroundControlPoint(row=row, col=col, x=x, y=y))
    values = waves(HEIGHT, WIDTH).astype(np.uint8)
    return write_raster(folder / "a.tif", values, None, gcps=points)


def two_zones(folder) -> str:
    """A pattern for two scenes that overlap, the second in the neighbouring UTM zone."""
    write_raster(folder / "1.tif", waves(300, 320).astype(np.uint8), north_up(30, 735_000), nodata=0)
    values = waves(280, 300, seed=1).astype(np.uint8)
    write_raster(folder / "2.tif", values, north_up(30, 232_000), "EPSG:32619", nodata=0)
    return str(folder / "*.tif")


KINDS = {
    "uint16 with nodata": (uint16_with_nodata, {"bands": (4, 2, 1)}),
    "uint16 shrunk 1.37 times": (uint16_with_nodata, {"res": 13.7}),
    "uint16 enlarged": (uint16_with_nodata, {"res": 6.1}),
    "mask and overviews": (masked_with_overviews, {}),
    "mask and overviews at half": (masked_with_overviews, {"res": 20.0}),
    "mask and overviews at 2.9": (masked_with_overviews, {"res": 29.0}),
    "float strips with NaN": (floats_in_strips, {}),
    "a broken tile": (with_a_broken_tile, {}),
    "a broken tile, shrunk": (with_a_broken_tile, {"res": 16.0}),
    "rotated": (rotated, {}),
    "rotated and shrunk": (rotated, {"res": 17.0}),
    "palette": (palette, {}),
    "control points only": (control_points_only, {}),
    "another CRS": (uint16_with_nodata, {"crs": "EPSG:4326"}),
    "two UTM zones": (two_zones, {}),
    "two UTM zones, best valid": (two_zones, {"pick": "best", "res": 41.0}),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def opened(request, tmp_path_factory):
    make, options = request.param
    source = open_source(make(tmp_path_factory.mktemp("raster")), raster=RasterOptions(**options))
    yield source
    source.close()


class TestRaster(SourceConformance):
    @pytest.fixture
    def source(self, opened):
        return opened


class TestRasterCutToAnArea(SourceConformance):
    @pytest.fixture(params=[None, 17.0])
    def source(self, request, tmp_path):
        x, y = ORIGIN
        triangle = [[x + 713, y - 3501], [x + 4402, y - 404], [x + 6000, y - 5000], [x + 713, y - 3501]]
        area = {
            "type": "FeatureCollection",
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}},
            "features": [
                {
                    "type": "Feature",
                    "properties": {},
                    "geometry": {"type": "Polygon", "coordinates": [triangle]},
                }
            ],
        }
        (tmp_path / "area.geojson").write_text(json.dumps(area))
        options = RasterOptions(aoi=str(tmp_path / "area.geojson"), res=request.param)
        source = open_source(uint16_with_nodata(tmp_path), raster=options)
        yield source
        source.close()
