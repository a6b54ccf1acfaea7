"""The common grid of one or more rasters, and the place of each on it.

A scene whose pixels lie on the grid is read as it is. Any other (another CRS or UTM zone, another phase or resolution,
rotated, located by control points or RPCs) is resampled by GDAL's `WarpedVRT`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import rasterio
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import CRSError, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds

from fewscope.connectors.rasters.gdal_file import RasterFile, close_raster, open_raster, open_without_alpha
from fewscope.connectors.storage.gdal import gdal
from fewscope.errors import SourceError

ON_GRID = 1e-4  # px; tolerance for pixels to lie on the grid
PLAIN = CRS.from_epsg(3857)
"""Stands for "no CRS" on both sides of a warped view that only reduces."""

Bounds = tuple[float, float, float, float]
"""Left, bottom, right, top; in the coordinates of a grid."""


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid of pixels: its CRS (None if not stated), transform from pixel corners (col, row) to (x, y), and size."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    def shrunk(self, factor: int) -> Grid:
        """The same area with pixels ``factor`` times as large."""
        height, width = -(-self.height // factor), -(-self.width // factor)
        return Grid(self.crs, self.transform @ Affine.scale(factor), height, width)


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a file on a grid.

    Attributes
    ----------
    rows, cols
        Half-open ranges of grid pixels that the file may cover.
    offset
        Grid (row, col) of the file's first pixel if its pixels lie on the grid; None if it is warped.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    offset: tuple[int, int] | None


def common_grid(files: list[RasterFile], crs: str | None) -> tuple[Grid, list[Place]]:
    """The common grid of several files, and the place of each on it.

    The grid has the CRS (or ``crs``), pixel size and phase of the first file, and covers all of them.

    Raises
    ------
    SourceError
        The CRS is unknown, or only some of the files have one.
    """
    target = _parse_crs(crs, files[0].uri) if crs else files[0].crs
    for file in files:
        if (file.crs is None) != (target is None):
            known, unknown = (target, file) if target else (file.crs, files[0])
            raise SourceError(
                f"{unknown.uri}: states no CRS, so that it cannot be put on a grid of {known}; state it, for example "
                "with `rio edit-info --crs EPSG:32618 FILE`"
            )
    first = files[0]
    if len(files) == 1 and target == first.crs:
        grid = Grid(first.crs, first.transform, first.height, first.width)
        return grid, [Place((0, first.height), (0, first.width), (0, 0))]

    as_it_is = first.is_upright and target == first.crs
    base = first.transform if as_it_is else _warped_grid(first, target).transform
    bounds = [_bounds(file, target) for file in files]
    if target is not None and target.is_geographic:
        bounds = [_unwrapped(own, bounds[0]) for own in bounds]
    spans = [_span(own, base) for own in bounds]
    top, left = min(rows[0] for rows, _ in spans), min(cols[0] for _, cols in spans)
    bottom, right = max(rows[1] for rows, _ in spans), max(cols[1] for _, cols in spans)
    grid = Grid(target, base @ Affine.translation(left, top), bottom - top, right - left)
    places = []
    for file, own, (rows, cols) in zip(files, bounds, spans, strict=True):
        offset = _offset(file, own, grid) if target == file.crs else None
        places.append(Place((rows[0] - top, rows[1] - top), (cols[0] - left, cols[1] - left), offset))
    return grid, places


def open_on_grid(file: RasterFile, grid: Grid, resampling: Resampling) -> WarpedVRT:
    """Open a file as a view on a grid. If the file has no alpha, the view has one more band, 0 where there are no
    pixels.

    Close it with `fewscope.connectors.rasters.gdal_file.close_raster`.
    """
    as_data = file.opacity_as_data is not None
    if as_data and file.georeference == "transform":
        dataset = open_without_alpha(file.path)
    else:
        dataset = open_raster(
            file.path, file.georeference, file.crs, nodata=file.warp_nodata, opacity_as_data=as_data
        )
    try:
        return WarpedVRT(
            dataset,
            src_crs=file.crs or PLAIN,
            src_nodata=file.warp_nodata,
            crs=grid.crs or PLAIN,
            transform=grid.transform,
            height=grid.height,
            width=grid.width,
            resampling=resampling,
            add_alpha=file.alpha is None,
            UNIFIED_SRC_NODATA="YES",  # as in GDAL's masks: a pixel is valid if any of its bands is
        )
    except BaseException:
        close_raster(dataset)
        raise


def _parse_crs(text: str, uri: str) -> CRS:
    try:
        return CRS.from_user_input(text)
    except CRSError as error:
        raise SourceError(
            f"{uri}: --crs {text!r} is not a CRS ({error}); give one such as EPSG:32618"
        ) from error


def _warped_grid(file: RasterFile, crs: CRS | None) -> Grid:
    """The upright grid that GDAL suggests for a file in a CRS."""
    try:
        with gdal():
            dataset = open_raster(
                file.path, file.georeference, file.crs, opacity_as_data=file.opacity_as_data is not None
            )
            try:
                with WarpedVRT(dataset, src_crs=file.crs or PLAIN, crs=crs or PLAIN) as view:
                    return Grid(crs, view.transform, view.height, view.width)
            finally:
                close_raster(dataset)
    except RasterioError as error:
        raise SourceError(
            f"{file.uri}: cannot be transformed to {crs} ({error}); give another --crs"
        ) from error


def _bounds(file: RasterFile, crs: CRS | None) -> Bounds:
    if not file.is_upright:
        warped = _warped_grid(file, crs)
        return rasterio.transform.array_bounds(warped.height, warped.width, warped.transform)
    own: Bounds = rasterio.transform.array_bounds(file.height, file.width, file.transform)
    left, right = sorted((own[0], own[2]))
    bottom, top = sorted((own[1], own[3]))  # a file may be upside down
    if file.crs == crs:
        return left, bottom, right, top
    try:
        left, bottom, right, top = transform_bounds(file.crs, crs, left, bottom, right, top)
    except (CRSError, RasterioError) as error:
        raise SourceError(
            f"{file.uri}: cannot be transformed to {crs} ({error}); give another --crs"
        ) from error
    if crs is not None and crs.is_geographic and right < left:  # across the antimeridian
        right += 360
    return left, bottom, right, top


def _unwrapped(own: Bounds, first: Bounds) -> Bounds:
    """Bounds in degrees, shifted by a multiple of 360 to be nearest to the first: the sides of the antimeridian
    meet."""
    turns = 360 * round((first[0] + first[2] - own[0] - own[2]) / 720)
    return own[0] + turns, own[1], own[2] + turns, own[3]


def _span(bounds: Bounds, base: Affine) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of an upright transform's unbounded grid that touch the bounds."""
    cols = sorted((x - base.c) / base.a for x in (bounds[0], bounds[2]))
    rows = sorted((y - base.f) / base.e for y in (bounds[1], bounds[3]))
    return (
        (math.floor(rows[0] + ON_GRID), math.ceil(rows[1] - ON_GRID)),
        (math.floor(cols[0] + ON_GRID), math.ceil(cols[1] - ON_GRID)),
    )


def _offset(file: RasterFile, bounds: Bounds, grid: Grid) -> tuple[int, int] | None:
    """Grid (row, col) of the file's first pixel, if all its pixels lie on the grid's."""
    if not file.is_upright:
        return None
    own, base = file.transform, grid.transform
    for step, other, n in ((own.a, base.a, file.width), (own.e, base.e, file.height)):
        if abs(step / other - 1) * n > ON_GRID:
            return None
    x = bounds[0] if own.a > 0 else bounds[2]
    y = bounds[3] if own.e < 0 else bounds[1]
    row, col = (y - base.f) / base.e, (x - base.c) / base.a
    if abs(row - round(row)) > ON_GRID or abs(col - round(col)) > ON_GRID:
        return None
    return round(row), round(col)
