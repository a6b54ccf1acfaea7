"""Rasters, read with GDAL: bands, masks, mosaics and unreadable places are handled here.

The working grid is the file's own (or the common grid of several, see `connectors.rasters.alignment`), resampled to the
requested resolution and cropped to the requested area.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.pixels.levels import (
    Block,
    Level,
    assemble,
    best_level,
    block_window,
    overview_shape,
    render,
    whole_blocks,
)
from fewscope.connectors.pixels.stretch import Stretch, as_is, choose_stretch
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.rasters.gdal_file import fingerprint, is_local
from fewscope.connectors.rasters.layout import (
    assumptions_on,
    block_grid,
    lay_out,
    notes_on,
    palette_of,
    resampled,
    sample_values,
)
from fewscope.connectors.rasters.stack import SceneStack, Values
from fewscope.connectors.source import Pixels, SourceInfo, changed_since, window_bounds
from fewscope.connectors.vectors.polygon_files import burn, load_area
from fewscope.errors import SourceError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """How band values of a `SceneStack` become pixels of the working grid.

    Attributes
    ----------
    stretch
        From band values to 8 bits.
    palette
        uint8 (n, 3), colours of the values; or None.
    grid
        (height, width) of the working grid before cropping.
    row, col
        First row and column of the crop.
    area
        Polygons in pixels (col, row) of the grid before cropping; pixels outside are not valid. Or None.
    """

    stretch: Stretch
    palette: NDArray[np.uint8] | None
    grid: tuple[int, int]
    row: int = 0
    col: int = 0
    area: BaseGeometry | None = None


class RasterSource:
    """A raster, or a mosaic, on a working grid. Made by `RasterSource.open`; see `connectors.source.Source`."""

    def __init__(self, info: SourceInfo, stack: SceneStack, view: View) -> None:
        self._info = info
        self._stack = stack
        self._view = view
        self._lock = threading.Lock()
        self._failed: set[tuple[Level, Block]] = set()

    @classmethod
    def open(cls, uri: str, options: RasterOptions) -> RasterSource:
        """Open a raster; parameters and errors as in `connectors.open.open_source`."""
        stack, shown, files = lay_out(uri, options)
        grid, first = stack.grid, files[0]
        palette = palette_of(first) if shown.is_palette else None
        stretch = (
            as_is(1, "as they are")
            if shown.is_palette
            else choose_stretch(sample_values(stack), options.scale, shown.is_picture, options.keep_ratios)
        )
        (height, width), transform = resampled(uri, grid, options.res)
        view, notes = View(stretch, palette, (height, width)), notes_on(files, grid)
        if options.aoi or options.bbox:
            area, left_out = load_area(uri, options, grid.crs, transform, (height, width))
            notes += left_out
            row, bottom, col, right = _bounds_of(area, height, width)
            if row >= bottom or col >= right:
                raise SourceError(
                    f"{uri}: does not overlap the requested area ({options.aoi or options.bbox})"
                )
            view = replace(view, area=area, row=row, col=col)
            height, width, transform = bottom - row, right - col, transform @ Affine.translation(col, row)
            notes.append("Only the area asked for was analysed.")
        info = SourceInfo(
            uri=uri,
            kind="raster",
            height=height,
            width=width,
            transform=transform,
            mpp=None,
            mpp_source="",
            native_mpp=None,
            native_height=grid.height,
            native_width=grid.width,
            vendor=first.driver if len(files) == 1 else f"{len(files)} files, {first.driver}",
            crs=grid.crs.to_string() if grid.crs else None,
            background=(0,) * max(3, len(shown.names)),
            channels=shown.names,
            colours=shown.colours,
            fingerprint=fingerprint(files),
            bands=f"{shown.words}; {stretch.words}",
            appearance=_digest(view, shown.indexes, options.pick),
            notes=tuple(notes),
            assumptions=tuple(assumptions_on(files, options)),
        )
        log.info(
            "%s: %s, %d x %d px in %s; %s; working on %d x %d px",
            uri, info.vendor, grid.width, grid.height, info.crs, info.bands, info.width, info.height,
        )  # fmt: skip
        return cls(info, stack, view)

    @property
    def info(self) -> SourceInfo:
        """Metadata, known without reading pixels."""
        return self._info

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._info, self._stack, self._view)

    def close(self) -> None:
        """Close the files; reading afterwards raises ValueError."""
        self._stack.close()

    def read(self, window: Window) -> Pixels:
        """See `connectors.source.Source.read`."""
        view, info = self._view, self._info
        top, bottom, left, right = window_bounds(window)
        bounds = top + view.row, bottom + view.row, left + view.col, right + view.col
        level = best_level(self._stack.levels, min(self._steps))
        image, valid = render(bounds, view.grid, self._steps, level, self._read_level, info.background)
        if view.area is not None:
            inside = burn([(view.area, 1)], valid.shape, Affine.translation(bounds[2], bounds[0])) > 0
            inside[: max(0, -top)] = inside[:, : max(0, -left)] = False
            inside[max(0, info.height - top) :] = inside[:, max(0, info.width - left) :] = False
            valid &= inside
            image[~valid] = info.background
        return image, valid

    def overview(self, max_side: int) -> Pixels:
        """See `connectors.source.Source.overview`; read from the coarsest level that is fine enough."""
        view, (shape, steps) = self._view, self._overview_grid(max_side)
        level = best_level(self._stack.levels, min(steps))
        origin = view.row * self._steps[0], view.col * self._steps[1]
        bounds = 0, shape[0], 0, shape[1]
        image, valid = render(bounds, shape, steps, level, self._read_level, self._info.background, origin)
        if view.area is not None:
            to_whole = Affine.translation(view.col, view.row) @ Affine.scale(
                self._info.width / shape[1], self._info.height / shape[0]
            )
            valid &= burn([(view.area, 1)], shape, to_whole) > 0
            image[~valid] = self._info.background
        return image, valid

    def read_zoomed(self, window: Window, step: float) -> Pixels:
        """See `connectors.source.ZoomableSource.read_zoomed`; image px are those of the working grid."""
        view, info, (down, right) = self._view, self._info, self._steps
        bounds = window_bounds(window)
        grid = math.ceil(info.height / step), math.ceil(info.width / step)
        steps = down * step, right * step
        level = best_level(self._stack.levels, min(steps))
        origin = view.row * down, view.col * right
        image, valid = render(bounds, grid, steps, level, self._read_level, info.background, origin)
        if view.area is not None:
            to_whole = (
                Affine.translation(view.col, view.row)
                @ Affine.scale(step)
                @ Affine.translation(bounds[2], bounds[0])
            )
            valid &= burn([(view.area, 1)], valid.shape, to_whole) > 0
            image[~valid] = info.background
        return image, valid

    def unreadable(self, max_side: int | None = None) -> tuple[Window, ...]:
        """See `connectors.source.Source.unreadable`: the unreadable blocks of the level that was read."""
        view, info = self._view, self._info
        steps = self._overview_grid(max_side)[1] if max_side else self._steps
        level = best_level(self._stack.levels, min(steps))
        with self._lock:
            blocks = sorted(block for failed_level, block in self._failed if failed_level == level)
        windows = []
        for block in blocks:
            whole = block_window(block, level, self._steps, view.grid)
            row, stop = max(0, whole.row_off - view.row), whole.row_off + whole.height - view.row
            col, end = max(0, whole.col_off - view.col), whole.col_off + whole.width - view.col
            stop, end = min(stop, info.height), min(end, info.width)
            if row < stop and col < end:
                windows.append(Window(col, row, end - col, stop - row))
        return tuple(windows)

    @property
    def _steps(self) -> tuple[float, float]:
        """(row, col) pixels of the stack's grid per working pixel."""
        own, whole = self._info.transform, self._stack.grid.transform
        return _ratio((own.b, own.e), (whole.b, whole.e)), _ratio((own.a, own.d), (whole.a, whole.d))

    def _overview_grid(self, max_side: int) -> tuple[tuple[int, int], tuple[float, float]]:
        """Size of the overview, and its pixels' steps in pixels of the stack's grid."""
        info, (down, right) = self._info, self._steps
        height, width = overview_shape(info.height, info.width, max_side)
        return (height, width), (down * info.height / height, right * info.width / width)

    def _read_level(self, level: Level, bounds: Block) -> Iterator[tuple[Block, Pixels]]:
        """Pixels of a level, piece by piece, in whole blocks."""
        for block in whole_blocks(*bounds, level, *block_grid(self._stack)):
            yield block, self._read_chunk(level, block)

    def _read_chunk(self, level: Level, chunk: Block) -> Pixels:
        pieces = self._stack.read_pieces(level, chunk, block_grid(self._stack)[0])
        lost = [(level, block) for block, (_, valid), failed in pieces if failed and not valid.all()]
        if lost:
            with self._lock:
                self._failed.update(lost)
        shown = {block: self._show(values) for block, values, _ in pieces}
        return (
            shown[chunk]
            if chunk in shown
            else assemble(chunk, shown.items(), n_channels=self._info.n_channels)
        )

    def _show(self, values: Values) -> Pixels:
        """Pixels of band values; background where they are not valid."""
        bands, valid = values
        palette, stretch = self._view.palette, self._view.stretch
        image = stretch(bands) if palette is None else palette[np.minimum(bands[0], len(palette) - 1)]
        image[~valid] = self._info.background
        return image, valid


def _reopen(info: SourceInfo, stack: SceneStack, view: View) -> RasterSource:
    """Reopen the source in another process; SourceError if a local file has changed."""
    files = [layer.file for scene in stack.scenes for layer in scene.layers]
    if all(map(is_local, files)) and (changed := changed_since(info, fingerprint(files))):
        raise changed
    return RasterSource(info, stack, view)


def _digest(view: View, bands: tuple[int, ...], pick: str) -> str:
    """Hash of everything that maps values to pixels: view, bands, and the choice among scenes."""
    stretch = view.stretch
    numbers = (bands, pick, stretch.low, stretch.high, view.grid, view.row, view.col)
    digest = hashlib.sha256(repr(numbers).encode())
    if view.palette is not None:
        digest.update(view.palette.tobytes())
    if view.area is not None:
        digest.update(shapely.to_wkb(view.area))
    return digest.hexdigest()


def _ratio(own: tuple[float, float], whole: tuple[float, float]) -> float:
    """Ratio of the lengths of two pixel sides; exactly 1 if they are the same."""
    return 1.0 if own == whole else math.hypot(*own) / math.hypot(*whole)


def _bounds_of(area: BaseGeometry, height: int, width: int) -> Block:
    """Smallest block of whole pixels that contains an area, given in pixels: top, bottom, left, right."""
    left, top, right, bottom = area.bounds
    return (
        max(0, math.floor(top)),
        min(height, math.ceil(bottom)),
        max(0, math.floor(left)),
        min(width, math.ceil(right)),
    )
