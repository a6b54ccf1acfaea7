"""Maps of one area at several dates, from the folders of their runs, on the grid of the first."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pyproj
import rasterio
import rasterio.errors
import shapely
from affine import Affine
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from fewscope.connectors.storage.filesystem import is_local, open_filesystem
from fewscope.errors import SourceError

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Centreline:
    """One reach, a row of ``centreline.parquet``; ``line`` is in the CRS of the series."""

    river: int
    role: Literal["main", "side", "branch"]
    class_name: str
    length_km: float | None
    width_m: float | None
    line: shapely.LineString


class MapSeries:
    """Output folders of several runs on one area, on the grid of the first. Close it, or use ``with``.

    A mask on another grid or in another CRS is resampled to this one by nearest pixel.

    Parameters
    ----------
    outs : Sequence[str]
        Folders with ``mask.tif`` and ``centreline.parquet``, paths or fsspec URLs.

    Raises
    ------
    SourceError
        A map is missing, or only some of them have a CRS.
    """

    def __init__(self, outs: Sequence[str]) -> None:
        self.outs = [out.rstrip("/") for out in outs]
        self._stack = ExitStack()
        try:
            datasets = [self._stack.enter_context(_open(out)) for out in self.outs]
            first = datasets[0]
            self.height, self.width = first.height, first.width
            self.transform: Affine = first.transform
            self.crs: str | None = first.crs.to_wkt() if first.crs else None
            self._views = [
                self._stack.enter_context(self._view(out, first, dataset))
                for out, dataset in zip(self.outs, datasets, strict=True)
            ]
        except BaseException:
            self._stack.close()
            raise

    def read(self, index: int, window: Window, value: int = 1) -> tuple[Mask, Mask]:
        """Masks of the class ``value`` and of valid pixels of one date in a window of the grid: bool (h, w) each."""
        view = self._views[index]
        classes = view.read(1, window=window)
        return classes == value, classes != view.nodata

    def shrunk(self, index: int, shape: tuple[int, int], value: int = 1) -> tuple[Mask, Mask]:
        """The same for the whole grid, reduced to ``shape`` (h, w) by nearest pixel, from overviews if possible."""
        view = self._views[index]
        classes = view.read(1, out_shape=shape, resampling=Resampling.nearest)
        return classes == value, classes != view.nodata

    def centrelines(self, index: int) -> list[Centreline]:
        """The reaches of one date; SourceError if the run wrote none."""
        fs, root = open_filesystem(self.outs[index])
        try:
            with fs.open(f"{root}/centreline.parquet", "rb") as file:
                table = pq.read_table(file)
        except FileNotFoundError as error:
            raise SourceError(
                f"{self.outs[index]}/centreline.parquet: no such file; run jobs/segment_raster.py into it"
            ) from error
        lines = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
        own = self._views[index].src_crs if isinstance(self._views[index], WarpedVRT) else None
        if own and self.crs:
            move = pyproj.Transformer.from_crs(own.to_wkt(), self.crs, always_xy=True)
            lines = shapely.transform(lines, lambda xy: np.stack(move.transform(*xy.T), axis=-1))
        names = ("river", "role", "class", "length_km", "width_mean_m")
        columns = (table[name].to_pylist() for name in names)
        return [Centreline(*row) for row in zip(*columns, lines, strict=True)]

    def _view(self, out: str, first: Any, dataset: Any) -> Any:
        """The dataset itself if it is on the grid, else a view of it on the grid."""
        same = (dataset.height, dataset.width) == (first.height, first.width)
        if same and dataset.crs == first.crs and dataset.transform.almost_equals(first.transform, 1e-9):
            return dataset
        if bool(dataset.crs) != bool(first.crs) or not first.crs:
            raise SourceError(
                f"{out}/mask.tif lies on another grid than {self.outs[0]}/mask.tif, and without a CRS for both their "
                "positions are unknown; give both rasters their CRS, e.g. with gdal_edit.py -a_srs"
            )
        return WarpedVRT(
            dataset,
            crs=first.crs,
            transform=first.transform,
            height=first.height,
            width=first.width,
            nodata=dataset.nodata,
            resampling=Resampling.nearest,
        )

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def __enter__(self) -> MapSeries:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(out: str) -> Any:
    try:
        fs, root = open_filesystem(out)
        return rasterio.open(f"{root}/mask.tif", **({} if is_local(fs) else {"opener": fs}))
    except rasterio.errors.RasterioIOError as error:
        raise SourceError(
            f"{out}/mask.tif: no map of a raster; run jobs/segment_raster.py into it"
        ) from error
