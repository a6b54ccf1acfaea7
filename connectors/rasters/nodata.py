"""Implicit nodata: a fill value around a scene, or in it, that the file does not declare.

Scenes lie along orbits, rotated on upright grids; the empty corners are filled with one value in all bands, usually 0
or 255. Many exports do not declare it, and a quarter of the map would be water, or land, that was never observed.
"""

from __future__ import annotations

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy.ndimage import binary_opening

from fewscope.connectors.rasters.gdal_file import RasterFile, close_raster, open_raster
from fewscope.connectors.rasters.stored_values import read_bands
from fewscope.connectors.storage.gdal import gdal

CORNER = 16  # px; side of the corners that are tested for one value
FEWEST_CORNERS = 2
SAMPLES = 4  # windows along each side that are tested if corners have one value
SAMPLE_SIDE = 512  # px
SOLID = 0.99
"""Least share of the pixels with the fill value that lie in squares of `SQUARE` px of it. Genuine black pixels are
scattered; if there are some, no value is assumed to be nodata."""
SQUARE = 5
FEWEST_VALUES = (
    16  # distinct values of the other pixels in some band: excludes drawings on an empty background
)


def implicit_nodata(file: RasterFile, bands: tuple[int, ...]) -> float | None:
    """The first value of `find_nodata`."""
    return find_nodata(file, bands)[0]


def find_nodata(file: RasterFile, bands: tuple[int, ...]) -> tuple[float | None, float | None]:
    """Detect a fill value that a georeferenced file does not declare.

    The value is the same in all ``bands``, covers solid areas, and is an extreme of all sampled values. It is nodata if
    it fills at least two corners, or is farther from all other values than these are from each other (-9999 beside
    reflectances); else it is doubtful.

    Parameters
    ----------
    file
        The file.
    bands
        1-based bands that are read.

    Returns
    -------
    The nodata value and a doubtful one, of which at least one is None; both if the file declares nodata, a mask or
    alpha, is not georeferenced, or has no such value.
    """
    if file.nodata or file.alpha or file.georeference == "none":
        return None, None
    try:
        with gdal():
            dataset = open_raster(file.path, file.georeference, file.crs)
            try:
                if _is_masked(dataset, bands):
                    return None, None

                def read(row: int, col: int, side: int) -> NDArray[np.generic]:
                    height, width = min(side, file.height), min(side, file.width)
                    return read_bands(dataset, bands, Window(col, row, width, height))

                value = _of_corners(
                    [read(row, col, CORNER) for row, col in _spread(file.height, file.width, CORNER, 2)]
                )
                places = _spread(file.height, file.width, SAMPLE_SIDE, SAMPLES)
                samples = [read(*place, SAMPLE_SIDE) for place in places]
                if value is not None and _is_fill(value, samples):
                    return value, None
                return _of_the_middle(samples)
            finally:
                close_raster(dataset)
    except RasterioError:  # reading the source will report it
        return None, None


def shared_nodata(file: RasterFile, bands: tuple[int, ...], values: list[float]) -> float | None:
    """The first of the nodata values of other files of a mosaic that covers solid areas of this one, if it declares
    none itself."""
    if file.nodata or file.alpha or file.georeference == "none":
        return None
    try:
        with gdal():
            dataset = open_raster(file.path, file.georeference, file.crs)
            try:
                if _is_masked(dataset, bands):
                    return None
                height, width = min(SAMPLE_SIDE, file.height), min(SAMPLE_SIDE, file.width)
                samples = [
                    read_bands(dataset, bands, Window(col, row, width, height))
                    for row, col in _spread(file.height, file.width, SAMPLE_SIDE, SAMPLES)
                ]
            finally:
                close_raster(dataset)
    except RasterioError:
        return None
    return next((value for value in values if _is_fill(value, samples)), None)


def _is_masked(dataset: rasterio.DatasetReader, bands: tuple[int, ...]) -> bool:
    flags = dataset.mask_flag_enums[bands[0] - 1]
    return MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags


def _of_the_middle(samples: list[NDArray[np.generic]]) -> tuple[float | None, float | None]:
    """An extreme of the samples that covers solid areas: as nodata if it is far from all other values, else as
    doubtful."""
    if samples[0].dtype.kind == "c":
        return None, None
    values = np.concatenate([sample.reshape(len(sample), -1) for sample in samples], axis=1)
    values = values[:, np.isfinite(values).all(0)]
    if not values.size:
        return None, None
    for value in (float(values.min()), float(values.max())):
        is_value = (values == value).all(0)
        if not is_value.any() or not _is_fill(value, samples):
            continue
        rest = values[:, ~is_value].astype(np.float64)
        gap = min(abs(rest.min() - value), abs(rest.max() - value))
        return (value, None) if gap > np.ptp(rest) else (None, value)
    return None, None


def _spread(height: int, width: int, side: int, n: int) -> list[tuple[int, int]]:
    """(row, col) of n x n squares, evenly spaced from corner to corner; without duplicates on a small grid."""
    rows, cols = (
        np.unique(np.linspace(0, max(0, length - side), n).astype(int)) for length in (height, width)
    )
    return [(int(row), int(col)) for row in rows for col in cols]


def _of_corners(corners: list[NDArray[np.generic]]) -> float | None:
    """The value that fills most corners, if it fills at least `FEWEST_CORNERS`."""
    filled = [
        float(corner.flat[0].real) for corner in corners if corner.dtype.kind != "c" and np.ptp(corner) == 0
    ]
    values, counts = np.unique(filled, return_counts=True)
    if not len(counts) or counts.max() < FEWEST_CORNERS:
        return None
    return float(values[counts.argmax()])


def _is_fill(value: float, samples: list[NDArray[np.generic]]) -> bool:
    """Whether the value covers solid areas and is an extreme of the samples, (n_bands, h, w) each."""
    empty = [(sample == value).all(0) for sample in samples]
    n_empty = sum(int(each.sum()) for each in empty)
    square = np.ones((SQUARE, SQUARE), bool)
    n_solid = sum(int(binary_opening(each, square).sum()) for each in empty)
    rest = np.concatenate([sample[:, ~each] for sample, each in zip(samples, empty, strict=True)], axis=1)
    rest = rest[:, np.isfinite(rest).all(0)]
    if n_solid < SOLID * n_empty or not rest.size:
        return False
    is_extreme = value <= rest.min() or value >= rest.max()
    return bool(is_extreme and max(len(np.unique(band)) for band in rest) >= FEWEST_VALUES)
