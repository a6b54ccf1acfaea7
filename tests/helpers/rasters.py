"""Rasters written by the tests: any type, any mask, anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from PIL import Image
from rasterio.enums import Resampling
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions

UTM18 = "EPSG:32618"
ORIGIN = (500_000.0, 4_500_000.0)  # on the central meridian of zone 18, 40.6 degrees north


def north_up(res: float = 10.0, x: float = ORIGIN[0], y: float = ORIGIN[1]) -> Affine:
    """Square pixels of ``res`` m, the first one's upper left corner at (x, y)."""
    return Affine(res, 0, x, 0, -res, y)


def waves(height: int, width: int, n_bands: int = 3, top: float = 255, seed: int = 0) -> np.ndarray:
    """float64 (n_bands, h, w) in 1..top: smooth with noise, so that a shift by a pixel shows."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:height, :width]
    smooth = [np.sin(row / (17 + band)) * np.cos(col / (23 + band)) for band in range(n_bands)]
    values = 0.5 + 0.4 * np.stack(smooth) + rng.uniform(-0.1, 0.1, (n_bands, height, width))
    return 1 + np.clip(values, 0, 1) * (top - 1)


def read_all(path: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """Image and valid of a raster as a whole."""
    source = open_source(path, raster=RasterOptions(**options))
    pixels = source.read(Window(0, 0, source.info.width, source.info.height))
    source.close()
    return pixels


def stacked(values: np.ndarray) -> np.ndarray:
    """(h, w, n) of bands (n, h, w)."""
    return np.moveaxis(values, 0, 2)


def write_raster(
    path: Path | str,
    values: np.ndarray,
    transform: Affine | None = None,
    crs: str | None = UTM18,
    *,
    mask: np.ndarray | None = None,
    colours: tuple[Any, ...] = (),
    overviews: tuple[int, ...] = (),
    **profile: Any,
) -> str:
    """Write bands (n, h, w) as a GeoTIFF, tiled in 128 px unless the profile says otherwise; the path."""
    n_bands, height, width = values.shape
    options: dict[str, Any] = {"tiled": True, "blockxsize": 128, "blockysize": 128, "compress": "deflate"}
    if transform is not None:
        options["transform"] = transform
    options |= {
        "driver": "GTiff",
        "count": n_bands,
        "height": height,
        "width": width,
        "dtype": values.dtype,
        "crs": crs,
    }
    options |= profile
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **options) as dataset:
        if colours:
            dataset.colorinterp = colours
        dataset.write(values)
        if mask is not None:
            dataset.write_mask(mask.astype(np.uint8) * 255)
        if overviews:
            dataset.build_overviews(overviews, Resampling.average)
    return str(path)


def break_tile(path: str, index: int) -> None:
    """Overwrite one stored tile of the finest level, so that it does not decode."""
    with Image.open(path) as tiff:
        offset, size = tiff.tag_v2[324][index], tiff.tag_v2[325][index]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * size)
