"""Values of a raster's bands, as GDAL stores them: of one type, or of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray


def numpy_type(name: str) -> np.dtype[Any]:
    """NumPy's type for a name of rasterio; complex integers, which NumPy does not have, are read as complex64."""
    return np.dtype(np.complex64 if name.startswith("complex_int") else name)


def common_type(dataset: rasterio.DatasetReader, bands: Sequence[int]) -> np.dtype[Any]:
    """The type that holds the values of all of some bands, counted from 1."""
    return np.result_type(*{numpy_type(dataset.dtypes[band - 1]) for band in bands})


def read_bands(dataset: rasterio.DatasetReader, bands: Sequence[int], window: Any) -> NDArray[Any]:
    """Values (n, h, w) of a window of bands counted from 1, which rasterio reads together only if they are of one type;
    of several, in the type that holds all."""
    if len({dataset.dtypes[band - 1] for band in bands}) == 1:
        return np.asarray(dataset.read(list(bands), window=window))
    kind = common_type(dataset, bands)
    return np.stack([dataset.read(band, window=window).astype(kind) for band in bands])
