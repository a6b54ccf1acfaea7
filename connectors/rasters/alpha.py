"""Whether a band that GDAL marks as alpha is one.

GDAL marks the fourth band of a TIFF with red, green and blue as alpha unless the writer says otherwise. It is often
near infrared, which is 0 over clear water.
"""

from __future__ import annotations

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

SAMPLES = 4  # windows along each side
SIDE = 512  # px of a window
OPAQUE_SHARE = 0.5  # least share of opaque values among those that are not 0
FEW = 8  # distinct values of a mask with a few steps


def is_opacity(dataset: rasterio.DatasetReader, band: int) -> bool:
    """Whether the values of a 1-based band, sampled all over, look like opacity; True if they cannot be read."""
    height, width = min(SIDE, dataset.height), min(SIDE, dataset.width)
    rows = np.unique(np.linspace(0, dataset.height - height, SAMPLES).astype(int))
    cols = np.unique(np.linspace(0, dataset.width - width, SAMPLES).astype(int))
    try:
        windows = [Window(int(col), int(row), width, height) for row in rows for col in cols]
        return looks_like_opacity(
            np.concatenate([dataset.read(band, window=window).ravel() for window in windows])
        )
    except RasterioError:  # reading the source will report it
        return True


def looks_like_opacity(values: NDArray[np.generic]) -> bool:
    """Whether values are those of an alpha band: fully opaque for the most part where they are not 0.

    Opaque is the largest value of the type, 255 or 1; a little less counts, as after lossy compression. Without a 0
    nothing depends on the answer but whether the band may be shown.

    >>> looks_like_opacity(np.array([0, 0, 128, 255, 255], np.uint8))
    True
    >>> looks_like_opacity(np.array([0, 0, 190, 200, 213, 207, 181, 220, 233, 199, 255], np.uint8))
    False
    """
    seen = np.unique(values)
    seen = seen[seen != 0]
    if not seen.size:
        return False  # nothing would be left of the picture
    top = float(seen[-1].real)
    opaque = {1.0, 255.0, *([float(np.iinfo(values.dtype.name).max)] if values.dtype.kind in "ui" else [])}
    if top not in opaque:
        return False
    some = values[values != 0].real
    return bool(len(seen) <= FEW or np.mean(some >= top - top / 64) >= OPAQUE_SHARE)
