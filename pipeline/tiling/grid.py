"""Where the tiles lie and how the work is cut: coordinates only, no pixels.

There is one tile grid per source, anchored at (0, 0). A unit needs every tile that touches its window, and a tile on
the border of two units is the same for both, whoever runs it: what a pixel becomes does not depend on how the source
was cut into units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from fewscope.model.conventions import PATCH_SIZE

OVERLAP = 32  # one seventh of a tile: 36% more tiles than none


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of a source: stride ``tile - overlap``, the last of a line shifted inward to end at the edge.

    A source smaller than a tile has one tile at 0, which reaches beyond it.

    Parameters
    ----------
    height, width : int
        The source's working grid, px.
    tile : int
        Side of a tile, px.
    overlap : int
        Pixels that neighbouring tiles share, 0..tile-1.

    Raises
    ------
    ValueError
        A side or the tile is below 1, or the overlap leaves no stride.
    """

    height: int
    width: int
    tile: int = PATCH_SIZE
    overlap: int = OVERLAP

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError(
                f"a grid of {self.height}x{self.width} px has no pixels; both sides must be 1 or more"
            )
        if self.tile < 1:
            raise ValueError(f"tile {self.tile} is not a side in pixels; use {PATCH_SIZE}")
        if not 0 <= self.overlap < self.tile:
            raise ValueError(f"overlap {self.overlap} is not in 0..{self.tile - 1} (tile - 1); use {OVERLAP}")

    @property
    def stride(self) -> int:
        """Distance between two tiles, px."""
        return self.tile - self.overlap

    @property
    def rows(self) -> np.ndarray:
        """First row of every line of tiles, (n,) int64, strictly ascending."""
        return _origins(self.height, self.tile, self.stride)

    @property
    def cols(self) -> np.ndarray:
        """First column of every row of tiles, (n,) int64, strictly ascending."""
        return _origins(self.width, self.tile, self.stride)

    @property
    def n_tiles(self) -> int:
        """Number of tiles of the whole source."""
        return len(self.rows) * len(self.cols)

    def tiles_touching(self, window: Window) -> list[Window]:
        """The tiles that share a pixel with ``window``, in raster order.

        Raises
        ------
        ValueError
            The window does not lie inside the source.
        """
        _check_inside(window, self.height, self.width)
        rows = _touching(self.rows, self.tile, window.row_off, window.height)
        cols = _touching(self.cols, self.tile, window.col_off, window.width)
        return [Window(col, row, self.tile, self.tile) for row in rows.tolist() for col in cols.tolist()]


@dataclass(frozen=True, slots=True)
class Unit:
    """A piece of work: the window of whole output shards that one worker computes and alone writes.

    ``index`` counts in raster order; ``grid_row`` and ``grid_col`` are the place in the grid of units.
    """

    index: int
    grid_row: int
    grid_col: int
    core: Window

    @property
    def name(self) -> str:
        """A name for files, the same in every run over the same units: ``r000000_c004096_h4096_w1200``."""
        core = self.core
        return f"r{core.row_off:06d}_c{core.col_off:06d}_h{core.height}_w{core.width}"


def plan_units(height: int, width: int, unit: int) -> list[Unit]:
    """Cut a source into units of ``unit`` px squares, in raster order; the last ones end at the edge.

    Raises
    ------
    ValueError
        A side or the unit is below 1.
    """
    if height < 1 or width < 1 or unit < 1:
        raise ValueError(f"cannot cut {height}x{width} px into units of {unit} px; all must be 1 or more")
    n_cols = -(-width // unit)
    return [
        Unit(row * n_cols + col, row, col, clip(Window(col * unit, row * unit, unit, unit), height, width))
        for row in range(-(-height // unit))
        for col in range(n_cols)
    ]


def default_shard(height: int, width: int) -> int:
    """Side of a storage shard, px: small sources get small ones, to give several workers something to do."""
    longer = max(height, width)
    if longer <= 2048:
        return 1024
    return 2048 if longer <= 16384 else 4096


def grow(window: Window, margin: int, height: int, width: int) -> Window:
    """``window`` with ``margin`` px more on every side, cut at the edges of the source."""
    grown = Window(
        window.col_off - margin,
        window.row_off - margin,
        window.width + 2 * margin,
        window.height + 2 * margin,
    )
    return clip(grown, height, width)


def clip(window: Window, height: int, width: int) -> Window:
    """The part of ``window`` inside the source (empty: a side of 0)."""
    top, left = max(window.row_off, 0), max(window.col_off, 0)
    bottom = min(window.row_off + window.height, height)
    right = min(window.col_off + window.width, width)
    return Window(left, top, max(right - left, 0), max(bottom - top, 0))


def read_window(core: Window, grid: TileGrid, halo: int = 0) -> Window:
    """What has to be read to know the probability on ``core`` and ``halo`` px around it.

    It bounds all tiles that touch the grown core, so it reaches beyond the source where a tile does.
    """
    tiles = grid.tiles_touching(grow(core, halo, grid.height, grid.width))
    first, last = tiles[0], tiles[-1]  # raster order: the upper left and the lower right tile
    height = last.row_off + grid.tile - first.row_off
    width = last.col_off + grid.tile - first.col_off
    return Window(first.col_off, first.row_off, width, height)


def grid_shape(units: Sequence[Unit]) -> tuple[int, int]:
    """Rows and columns of a plan of units."""
    return units[-1].grid_row + 1, units[-1].grid_col + 1


def _origins(length: int, tile: int, stride: int) -> np.ndarray:
    """First pixel of every tile along one axis."""
    last = max(length - tile, 0)
    return np.minimum(np.arange(-(-last // stride) + 1, dtype=np.int64) * stride, last)


def _touching(origins: np.ndarray, tile: int, start: int, length: int) -> np.ndarray:
    """The origins whose tile shares a pixel with ``start .. start + length``."""
    first = np.searchsorted(origins, start - tile, side="right")
    stop = np.searchsorted(origins, start + length, side="left")
    return origins[first:stop]


def _check_inside(window: Window, height: int, width: int) -> None:
    if window.height < 1 or window.width < 1 or clip(window, height, width) != window:
        raise ValueError(
            f"{window.height}x{window.width} px at row {window.row_off}, column {window.col_off} "
            f"are not inside the source of {height}x{width} px; clip it first"
        )
