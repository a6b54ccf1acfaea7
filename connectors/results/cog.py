"""Cloud Optimized GeoTIFFs, written window by window: memory does not grow with the raster.

GDAL's COG driver copies a finished raster, so the windows go to a plain tiled GeoTIFF beside it first.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors

WriteWindow = Callable[[Window, npt.NDArray[Any]], None]

BLOCK = 512
"""Side of a tile of the file, px, which a reader fetches with one request; GDAL's default."""


@dataclass(frozen=True, slots=True)
class CogSpec:
    """Properties of a Cloud Optimized GeoTIFF of one band.

    Attributes
    ----------
    height, width : int
        Size, px.
    transform : Affine
        From pixel corners (col, row) to (x, y)
    crs : str | None
        WKT, or any notation that GDAL reads; None without.
    dtype : str
        Type of the values.
    nodata : float
        Value that stands for "no data".
    description : str
        Name of the band.
    is_categories : bool
        Values are classes: overviews take the mode, not the mean.
    colours : tuple[tuple[int, tuple[int, int, int, int]], ...]
        RGBA of values, for uint8; other values are black.
    """

    height: int
    width: int
    transform: Affine
    crs: str | None
    dtype: str
    nodata: float
    description: str
    is_categories: bool = False
    colours: tuple[tuple[int, tuple[int, int, int, int]], ...] = ()


@contextmanager
def cog_writer(uri: str, spec: CogSpec) -> Iterator[WriteWindow]:
    """Write a Cloud Optimized GeoTIFF, which appears under its name when the block succeeds, and not otherwise.

    Parameters
    ----------
    uri : str
        Path or fsspec URL.
    spec : CogSpec

    Yields
    ------
    (window, values (h, w)) -> None
        Writes a window; fastest where its offsets are multiples of `BLOCK`.

    Raises
    ------
    OutputError
        It cannot be written.

    Examples
    --------
    >>> spec = CogSpec(9, 7, Affine.scale(10, -10), None, "uint8", 255, "class")
    >>> with cog_writer("memory://docs/mask.tif", spec) as put:
    ...     put(Window(0, 0, 7, 9), np.zeros((9, 7), np.uint8))
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with output_errors(uri):
            path = stack.enter_context(atomic_file(uri))
            tiles = os.path.join(os.path.dirname(path), "tiles.tif")
            dataset = stack.enter_context(_open(tiles, spec))

        def write(window: Window, values: npt.NDArray[Any]) -> None:
            with output_errors(uri):
                dataset.write(values.astype(spec.dtype, copy=False), 1, window=window)

        yield write
        with output_errors(uri):
            dataset.close()
            rasterio.shutil.copy(
                tiles,
                path,
                driver="COG",
                blocksize=BLOCK,
                compress="DEFLATE",
                predictor="FLOATING_POINT" if np.issubdtype(np.dtype(spec.dtype), np.floating) else "NO",
                overview_resampling="MODE" if spec.is_categories else "AVERAGE",
                bigtiff="IF_SAFER",
            )
            stack.close()


def _open(path: str, spec: CogSpec) -> Any:
    """The plain tiled GeoTIFF that the windows go to."""
    dataset = rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=spec.height,
        width=spec.width,
        count=1,
        dtype=spec.dtype,
        crs=CRS.from_user_input(spec.crs) if spec.crs else None,
        transform=spec.transform,
        nodata=spec.nodata,
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="zstd",
        zstd_level=1,
        bigtiff="if_safer",
    )
    dataset.set_band_description(1, spec.description)
    if spec.colours:
        dataset.write_colormap(1, dict(spec.colours))
    return dataset
