"""Pyramid levels: which one to read, in whole blocks, resampled to a working grid.

Pixels of a level are always read in whole blocks of one global grid, so that unreadable blocks, too, do not depend on
the window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.connectors.pixels.resample import Value, resample, taps

SAME_RESOLUTION = 1e-3  # resolutions closer than this are the same: no interpolation
STRIP_PIXELS = 16 * 2**20  # level px of three channels held while resampling: bounds the memory of any read
LEAST_STRIP = 256  # least rows of a level read at once
SAMPLE_LEVEL = 1024  # px; least longer side of the level that is sampled, if the source is as long
SAMPLE_CHUNKS = 64  # most chunks of that level that are read, evenly spaced
SAMPLE_VALUES = 2**20  # most values of each band

Block = tuple[int, int, int, int]
"""Top, bottom, left, right, in pixels of a level; half open."""


@dataclass(frozen=True, slots=True)
class Level:
    """One resolution of a source.

    Attributes
    ----------
    index
        0 for the finest.
    height, width
        Size, px.
    row_step, col_step
        Pixels of the finest level per pixel of this one.
    """

    index: int
    height: int
    width: int
    row_step: float
    col_step: float


AnyLevel = TypeVar("AnyLevel", bound=Level)


def best_level(levels: Sequence[AnyLevel], step: float) -> AnyLevel:
    """Coarsest level whose pixels are at most ``step`` px of the finest level wide; else the finest."""
    fine_enough = [
        level for level in levels if max(level.row_step, level.col_step) <= step * (1 + SAME_RESOLUTION)
    ]
    return max(fine_enough, key=lambda level: level.row_step, default=levels[0])


def overview_shape(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) of an overview whose longer side is at most ``max_side`` px; never enlarged."""
    if max_side < 1:
        raise ValueError(f"max_side {max_side} is not at least 1")
    shrink = max(1.0, max(height, width) / max_side)
    return max(1, round(height / shrink)), max(1, round(width / shrink))


def whole_blocks(
    top: int, bottom: int, left: int, right: int, level: Level, grid: tuple[int, int], chunk: tuple[int, int]
) -> Iterator[Block]:
    """Cover a rectangle by chunks of whole blocks, clipped at the level's edge.

    ``grid`` is the (rows, cols) of a block, on whose multiples chunks begin; ``chunk`` the (rows, cols) of a chunk.
    Yields (top, bottom, left, right) of each chunk.
    """
    top, left = top // grid[0] * grid[0], left // grid[1] * grid[1]
    bottom = min(-(-bottom // grid[0]) * grid[0], level.height)
    right = min(-(-right // grid[1]) * grid[1], level.width)
    for row in range(top, bottom, chunk[0]):
        for col in range(left, right, chunk[1]):
            yield row, min(row + chunk[0], bottom), col, min(col + chunk[1], right)


def sampled_blocks(
    levels: Sequence[AnyLevel], grid: tuple[int, int], chunk: tuple[int, int]
) -> tuple[AnyLevel, list[Block], int]:
    """Where to sample the values of a source: blocks of a coarse level, spread evenly over it.

    ``grid`` and ``chunk`` are as for `whole_blocks`.

    Returns
    -------
    The level, its blocks, and n, of whose pixels every n-th is enough.
    """
    long_enough = [level for level in levels if max(level.height, level.width) >= SAMPLE_LEVEL]
    level = long_enough[-1] if long_enough else levels[0]
    chunks = list(whole_blocks(0, level.height, 0, level.width, level, grid, chunk))
    chosen = chunks[:: -(-len(chunks) // SAMPLE_CHUNKS)]
    n_pixels = sum((bottom - top) * (right - left) for top, bottom, left, right in chosen)
    return level, chosen, max(1, math.ceil(n_pixels / SAMPLE_VALUES))


def assemble(
    bounds: Block,
    pieces: Iterable[tuple[Block, tuple[NDArray[Value], NDArray[np.bool_]]]],
    into: tuple[NDArray[Value], NDArray[np.bool_]] | None = None,
    n_channels: int = 3,
    dtype: type[Value] = np.uint8,  # type: ignore[assignment]
) -> tuple[NDArray[Value], NDArray[np.bool_]]:
    """Assemble the pixels of ``bounds`` from pieces that cover it: uint8 (h, w, ``n_channels``), bool (h, w).

    ``into``: arrays to write to; None for new ones, the first of ``dtype``.
    """
    top, bottom, left, right = bounds
    shape = bottom - top, right - left
    image, valid = into or (np.empty((*shape, n_channels), dtype), np.empty(shape, np.bool_))
    for block, (pixels, real) in pieces:
        rows = max(block[0], top), min(block[1], bottom)
        cols = max(block[2], left), min(block[3], right)
        target = slice(rows[0] - top, rows[1] - top), slice(cols[0] - left, cols[1] - left)
        origin = (
            slice(rows[0] - block[0], rows[1] - block[0]),
            slice(cols[0] - block[2], cols[1] - block[2]),
        )
        image[target], valid[target] = pixels[origin], real[origin]
    return image, valid


def render(
    bounds: Block,
    grid: tuple[int, int],
    steps: tuple[float, float],
    level: AnyLevel,
    read_level: Callable[[AnyLevel, Block], Iterable[tuple[Block, tuple[NDArray[Value], NDArray[np.bool_]]]]],
    background: tuple[int, ...],
    origin: tuple[float, float] = (0.0, 0.0),
    dtype: type[Value] = np.uint8,  # type: ignore[assignment]
) -> tuple[NDArray[Value], NDArray[np.bool_]]:
    """Resample a level to a window of a working grid.

    Parameters
    ----------
    bounds
        The window, in working pixels; it may reach beyond the grid.
    grid
        (height, width) of the working grid.
    steps
        (row, col) pixels of the finest level per working pixel.
    level, read_level
        The level, and a function that reads a rectangle of it, piece by piece.
    background
        Value of each channel where pixels are not valid.
    origin
        (row, col) where the working grid begins, in pixels of the finest level.
    dtype
        Of the pixels: uint8 or uint16.

    Returns
    -------
    image : uint8 or uint16 (h, w, C)
    valid : bool (h, w)
    """
    row_start, row_stop, col_start, col_stop = bounds
    n_channels = len(background)
    image = np.empty((row_stop - row_start, col_stop - col_start, n_channels), dtype)
    valid = np.zeros(image.shape[:2], np.bool_)
    top, bottom = max(row_start, 0), min(row_stop, grid[0])
    left, right = max(col_start, 0), min(col_stop, grid[1])
    if (top, bottom, left, right) != bounds:
        image[:] = background
    if top >= bottom or left >= right:
        return image, valid

    row_scale, col_scale = steps[0] / level.row_step, steps[1] / level.col_step
    cols = taps(left, right, col_scale, level.width, origin[1] / level.col_step)
    span = cols.span
    n_level_cols = span[1] - span[0] + 2 * LEAST_STRIP
    n_rows = max(LEAST_STRIP, STRIP_PIXELS * 3 // (n_level_cols * max(3, n_channels)))
    strip = max(1, int(n_rows / max(row_scale, 1e-9)))
    for row in range(top, bottom, strip):
        stop = min(row + strip, bottom)
        rows = taps(row, stop, row_scale, level.height, origin[0] / level.row_step)
        target = (slice(row - row_start, stop - row_start), slice(left - col_start, right - col_start))
        block = (*rows.span, *span)
        pieces = read_level(level, block)
        if (row_scale, col_scale) == (1, 1) and origin == (0, 0) and block == (row, stop, left, right):
            assemble(block, pieces, (image[target], valid[target]))
        else:
            piece, real = assemble(block, pieces, n_channels=n_channels, dtype=dtype)
            image[target], valid[target] = resample(
                piece, real, rows, cols, (rows.span[0], span[0]), background
            )
    return image, valid


def block_window(block: Block, level: Level, steps: tuple[float, float], grid: tuple[int, int]) -> Window:
    """Window of the working pixels that a block of a level contributes to; ``steps`` and ``grid`` as for `render`,
    without an origin."""
    row = math.floor(block[0] * level.row_step / steps[0])
    stop = math.ceil(block[1] * level.row_step / steps[0])
    col = math.floor(block[2] * level.col_step / steps[1])
    end = math.ceil(block[3] * level.col_step / steps[1])
    return Window(col, row, min(end, grid[1]) - col, min(stop, grid[0]) - row)
