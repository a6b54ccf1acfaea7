"""Cells: the squares that a preview is computed in, their order of computation, and the memory for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from rasterio.windows import Window

CELL = 448
"""Side of a cell, working px: a screen is about six of them, and each is ready in a tenth of a second."""

HALO = 32
"""Pixels around a cell that the network sees, too."""

SHARE_OF_MEMORY = 0.25
LEAST_BYTES, MOST_BYTES = 256 * 2**20, 2 * 2**30
"""Memory for the encoder's maps: a quarter of what is available when the preview starts, within these bounds."""


class CellKey(NamedTuple):
    """Place of a cell: number of the source, row and column of the grid of cells."""

    source: int
    row: int
    col: int

    @property
    def core(self) -> Window:
        """The cell, working px; it may reach beyond the source."""
        return Window(self.col * CELL, self.row * CELL, CELL, CELL)

    @property
    def read(self) -> Window:
        """What the network sees of it: with the halo."""
        return Window(self.col * CELL - HALO, self.row * CELL - HALO, CELL + 2 * HALO, CELL + 2 * HALO)


def cells_of(source: int, window: Window, shape: tuple[int, int]) -> list[CellKey]:
    """Cells of a source of (height, width) px that a window touches, in raster order."""
    top, left = max(int(window.row_off), 0), max(int(window.col_off), 0)
    bottom = min(int(-(-(window.row_off + window.height) // 1)), shape[0])
    right = min(int(-(-(window.col_off + window.width) // 1)), shape[1])
    if bottom <= top or right <= left:
        return []
    return [
        CellKey(source, row, col)
        for row in range(top // CELL, (bottom - 1) // CELL + 1)
        for col in range(left // CELL, (right - 1) // CELL + 1)
    ]


def nearest_first(cells: list[CellKey], window: Window, pointer: tuple[float, float] | None) -> list[CellKey]:
    """Cells by their distance to the pointer (x, y) if it is in the window, then to the window's middle."""
    x, y = window.col_off + window.width / 2, window.row_off + window.height / 2
    if pointer is not None and (
        window.col_off <= pointer[0] < window.col_off + window.width
        and window.row_off <= pointer[1] < window.row_off + window.height
    ):
        x, y = pointer
    middle = CELL / 2

    def distance(cell: CellKey) -> tuple[float, CellKey]:
        dx, dy = cell.col * CELL + middle - x, cell.row * CELL + middle - y
        return dx * dx + dy * dy, cell

    return sorted(cells, key=distance)


def ring_around(cells: list[CellKey], shape: tuple[int, int]) -> list[CellKey]:
    """Cells of the same source that touch some of these from outside, in raster order: where a view moves next."""
    inside = set(cells)
    n_rows, n_cols = -(-shape[0] // CELL), -(-shape[1] // CELL)
    around = {
        CellKey(cell.source, cell.row + down, cell.col + right)
        for cell in cells
        for down in (-1, 0, 1)
        for right in (-1, 0, 1)
    }
    return sorted(cell for cell in around - inside if 0 <= cell.row < n_rows and 0 <= cell.col < n_cols)


def cache_bytes() -> int:
    """Bytes for the encoder's maps, from the memory that is available now."""
    return int(min(max(SHARE_OF_MEMORY * available_memory(), LEAST_BYTES), MOST_BYTES))


def available_memory() -> int:
    """Bytes that programs may take without swapping; 4 GB where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        return 4 * 2**30


def overlap(one: Window, other: Window) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where two windows overlap, as (rows, columns) of the first and of the second; they must overlap."""
    top, left = max(one.row_off, other.row_off), max(one.col_off, other.col_off)
    bottom = min(one.row_off + one.height, other.row_off + other.height)
    right = min(one.col_off + one.width, other.col_off + other.width)

    def within(window: Window) -> tuple[slice, slice]:
        return (
            slice(int(top - window.row_off), int(bottom - window.row_off)),
            slice(int(left - window.col_off), int(right - window.col_off)),
        )

    return within(one), within(other)
