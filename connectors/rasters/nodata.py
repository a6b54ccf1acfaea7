"""The collar of a scene: pixels around it that stand for "no data" where the file does not say so.

Scenes are cut along orbits and put on upright grids; the corners that stay empty are filled with one number in all
bands, 0 or 255 as a rule. Many exports forget to declare it, and then a quarter of the map is water, or land, that
nobody has seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window
from scipy.ndimage import binary_opening

from fewscope.connectors.rasters.gdal_file import RasterFile, close_raster, open_raster
from fewscope.connectors.storage.gdal import gdal

CORNER = 16  # px; side of a corner that is empty
FEWEST_CORNERS = 2
SAMPLES = 4  # along each side; windows that are looked at where corners are empty
SAMPLE_SIDE = 512  # px
SOLID = 0.99
"""Of the pixels that have the collar's number so many lie in squares of `SQUARE` px of it: a picture's own black is
scattered, and where it has some, nothing is assumed."""
SQUARE = 5
FEWEST_VALUES = 16  # that the rest of a picture has in a band: not a drawing on an empty ground


def implicit_nodata(file: RasterFile, bands: tuple[int, ...]) -> float | None:
    """The number that fills a file's collar; None where the file says itself what is no data, or has no collar.

    A collar fills two corners at least, with the same number in all ``bands`` (1-based), lower or higher than what else
    was looked at, in solid areas, and around a picture that has a place on Earth. It is not looked for in files with
    control points or RPCs, which are seen resampled.
    """
    if file.nodata or file.alpha or file.georeference == "none":
        return None
    try:
        with gdal():
            dataset = open_raster(file.path, file.georeference, file.crs)
            try:
                if MaskFlags.per_dataset in dataset.mask_flag_enums[bands[0] - 1]:
                    return None

                def read(row: int, col: int, side: int) -> NDArray[np.generic]:
                    height, width = min(side, file.height), min(side, file.width)
                    return np.asarray(dataset.read(list(bands), window=Window(col, row, width, height)))

                value = _of_corners(
                    [read(row, col, CORNER) for row, col in _spread(file.height, file.width, CORNER, 2)]
                )
                if value is None:
                    return None
                places = _spread(file.height, file.width, SAMPLE_SIDE, SAMPLES)
                return value if _is_fill(value, [read(*place, SAMPLE_SIDE) for place in places]) else None
            finally:
                close_raster(dataset)
    except RasterioError:  # the run will say so
        return None


def _spread(height: int, width: int, side: int, n: int) -> list[tuple[int, int]]:
    """(row, col) of n x n squares, evenly over a grid from corner to corner; each but once where it is small."""
    rows, cols = (
        np.unique(np.linspace(0, max(0, length - side), n).astype(int)) for length in (height, width)
    )
    return [(int(row), int(col)) for row in rows for col in cols]


def _of_corners(corners: list[NDArray[np.generic]]) -> float | None:
    """The number that fills several corners, the one that fills most."""
    filled = [
        float(corner.flat[0].real) for corner in corners if corner.dtype.kind != "c" and np.ptp(corner) == 0
    ]
    values, counts = np.unique(filled, return_counts=True)
    if not len(counts) or counts.max() < FEWEST_CORNERS:
        return None
    return float(values[counts.argmax()])


def _is_fill(value: float, samples: list[NDArray[np.generic]]) -> bool:
    """Whether what has the number lies in solid areas, around a picture whose numbers are all on one side of it."""
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
