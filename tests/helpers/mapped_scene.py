"""A small scene with a river and a lake, and the map that a run makes of it."""

from __future__ import annotations

from pathlib import Path

import cc3d
import numpy as np
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.maps.files import MapSummary, write_map
from fewscope.pipeline.tiling.grid import plan_units
from tests.helpers.finished_runs import SIDE, finished
from tests.helpers.rivers import band, sinusoid, turned

HEIGHT, WIDTH = 150, 260

UTM = Affine(10, 0, 500_000, 0, -10, 9_000_000)

LINE = turned(sinusoid(2200, 200, 1100), 8) + np.array([501_300, 8_999_300])

LAKE = shapely.Point(502_200, 8_999_800).buffer(150)


def scene(folder: Path, transform: Affine = UTM, crs: str | None = "EPSG:32618") -> tuple[str, np.ndarray]:
    """A GeoTIFF whose left upper corner is nodata, and the labels of its river and lake."""
    shapes = [(band(LINE, 100), 1), (LAKE, 1)]
    water = rasterize(shapes, (HEIGHT, WIDTH), transform=UTM).astype(bool)
    image = np.where(water, 40, 160).astype(np.uint8)
    image[:30, :40] = 0
    water[:30, :40] = False
    path = folder / "scene.tif"
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 3, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", crs=crs, transform=transform, **profile) as dataset:
        dataset.write(np.stack([image] * 3))
    return str(path), cc3d.connected_components(water, connectivity=8).astype(np.uint32)


def mapped(folder: Path, path: str, labels: np.ndarray, simplify_px: float = 0.0) -> MapSummary:
    source = open_source(path, raster=RasterOptions())
    job = finished(folder / "out", labels, source)
    pool = LocalPool(lambda: None)  # type: ignore[arg-type, return-value]
    units = plan_units(HEIGHT, WIDTH, SIDE)
    return write_map(pool, job, units, str(folder / "out"), ("water",), simplify_px)
