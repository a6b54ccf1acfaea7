"""Implicit nodata: a fill value around a scene that the file does not declare.

Scenes lie along orbits, rotated on upright grids; the empty corners are filled with one value in all bands, usually 0
or 255. Many exports do not declare it, and a quarter of the map would be water, or land, that was never observed.
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
    """Detect the fill value of a georeferenced file's empty corners.

    The value fills at least two corners, is the same in all ``bands``, covers solid areas, and is an extreme of all
    sampled values.

    Parameters
    ----------
    file
        The file.
    bands
        1-based bands that are read.

    Returns
    -------
    The value; None if the file declares nodata, a mask or alpha, is not georeferenced, or has no such value.
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
    except RasterioError:  # reading the source will report it
        return None


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
