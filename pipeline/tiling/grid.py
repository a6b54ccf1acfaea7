"""Tile grid and work units: coordinates only, no pixels.

There is one tile grid per source, anchored at (0, 0). A unit needs every tile that intersects its window, and a tile on
the border of two units is the same for both. So no pixel depends on how the source is cut into units.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from fewscope.model.conventions import PATCH_SIZE

OVERLAP = 32  # px, one seventh of a tile: 36 % more tiles than without overlap


@dataclass(frozen=True, slots=True)
class TileGrid:
    """The tiles of a source: stride ``tile - overlap``, the last of each row shifted inward to end at the edge.

    A source smaller than a tile has one tile at 0, which extends beyond it.

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
        """First pixel row of each row of tiles, (n,) int64, strictly ascending."""
        return _origins(self.height, self.tile, self.stride)

    @property
    def cols(self) -> np.ndarray:
        """First pixel column of each column of tiles, (n,) int64, strictly ascending."""
        return _origins(self.width, self.tile, self.stride)

    @property
    def n_tiles(self) -> int:
        """Number of tiles of the whole source."""
        return len(self.rows) * len(self.cols)

    def tiles_touching(self, window: Window) -> list[Window]:
        """Tiles that intersect ``window``, in raster order.

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
    """A work unit: a window of whole storage shards, which one worker computes and no other writes.

    Attributes
    ----------
    index : int
        Position in raster order.
    grid_row, grid_col : int
        Position in the grid of units.
    core : Window
        The window, px of the working grid.
    """

    index: int
    grid_row: int
    grid_col: int
    core: Window

    @property
    def name(self) -> str:
        """Name in files, a function of the core: ``r000000_c004096_h4096_w1200``."""
        core = self.core
        return f"r{core.row_off:06d}_c{core.col_off:06d}_h{core.height}_w{core.width}"


def plan_units(height: int, width: int, unit: int) -> list[Unit]:
    """Cut a source into square units of ``unit`` px, in raster order; the last ones end at the edge.

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


MOST_UNIT_BYTES = 100 * 2**20
"""Of the pixels of a unit of many channels, where it can be smaller."""


def default_shard(height: int, width: int, n_channels: int = 3) -> int:
    """Side of a storage shard, px: smaller for small sources, so that several workers have units, and for many
    channels, as a unit is read whole.

    >>> default_shard(50_000, 50_000), default_shard(50_000, 50_000, 12), default_shard(50_000, 50_000, 60)
    (4096, 2048, 1024)
    """
    longer = max(height, width)
    side = 1024 if longer <= 2048 else 2048 if longer <= 16384 else 4096
    while side > 1024 and side**2 * n_channels > MOST_UNIT_BYTES:
        side //= 2
    return side


def grow(window: Window, margin: int, height: int, width: int) -> Window:
    """``window`` with ``margin`` px more on every side, clipped to the source."""
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
    """Window to read for predicting ``core`` and ``halo`` px around it.

    It is the bounding window of all tiles that intersect the grown core, and extends beyond the source where a tile
    does.
    """
    tiles = grid.tiles_touching(grow(core, halo, grid.height, grid.width))
    first, last = tiles[0], tiles[-1]  # raster order: the upper left and the lower right tile
    height = last.row_off + grid.tile - first.row_off
    width = last.col_off + grid.tile - first.col_off
    return Window(first.col_off, first.row_off, width, height)


def grid_shape(units: Sequence[Unit]) -> tuple[int, int]:
    """Number of rows and columns of units."""
    return units[-1].grid_row + 1, units[-1].grid_col + 1


def _origins(length: int, tile: int, stride: int) -> np.ndarray:
    """First pixel of each tile along one axis."""
    last = max(length - tile, 0)
    return np.minimum(np.arange(-(-last // stride) + 1, dtype=np.int64) * stride, last)


def _touching(origins: np.ndarray, tile: int, start: int, length: int) -> np.ndarray:
    """Origins of the tiles that intersect ``start .. start + length``."""
    first = np.searchsorted(origins, start - tile, side="right")
    stop = np.searchsorted(origins, start + length, side="left")
    return origins[first:stop]


def _check_inside(window: Window, height: int, width: int) -> None:
    if window.height < 1 or window.width < 1 or clip(window, height, width) != window:
        raise ValueError(
            f"{window.height}x{window.width} px at row {window.row_off}, column {window.col_off} "
            f"are not inside the source of {height}x{width} px; clip it first"
        )
