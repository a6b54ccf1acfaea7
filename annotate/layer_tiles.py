"""PNG tiles of layers over the image: probability, and instances of a result."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.annotate.tiles import TILE, TileAddress, TileGrid, png
from fewscope.connectors.colours import Colour
from fewscope.errors import LabelError

MAX_SIDE = 4096
"""Working px along a tile's side up to which a layer is read; further out a preview shows nothing."""

PAINTED_ALPHA = 150
UNSURE_ALPHA, UNSURE_POWER = 255, 1.5
_HEX = re.compile(r"[0-9a-fA-F]{6}")

Read = Callable[[Window], tuple[NDArray[np.uint8], NDArray[np.bool_]]]
Draw = Callable[[NDArray[np.uint8], Colour, float], NDArray[np.uint8]]


def places(grid: TileGrid, tile: TileAddress, scale: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and column of the working grid under the middle of each tile pixel, (256,) each.

    ``scale`` is image px per working px.
    """
    step = grid.step(tile.zoom)
    middle = (np.arange(TILE) + 0.5) * step / scale
    x0, y0 = tile.x * TILE * step / scale, tile.y * TILE * step / scale
    return np.floor(y0 + middle).astype(np.int64), np.floor(x0 + middle).astype(np.int64)


def value_tile(grid: TileGrid, tile: TileAddress, scale: float, read: Read) -> NDArray[np.uint8]:
    """RGBA (256, 256, 4): the value in red, opaque where it is known."""
    out = np.zeros((TILE, TILE, 4), np.uint8)
    if TILE * grid.step(tile.zoom) / scale > MAX_SIDE:
        return out
    rows, cols = places(grid, tile, scale)
    window = Window(int(cols[0]), int(rows[0]), int(cols[-1] - cols[0]) + 1, int(rows[-1] - rows[0]) + 1)
    values, known = read(window)
    index = np.ix_(rows - rows[0], cols - cols[0])
    out[..., 0] = values[index]
    out[..., 3] = np.where(known[index], 255, 0)
    return out


def painted(tile: NDArray[np.uint8], colour: Colour, threshold: float) -> NDArray[np.uint8]:
    """A value tile as the page shows it without WebGL: coloured above the threshold, the surer the more opaque."""
    level = max(1, math.ceil(threshold * 255 - 1e-9))
    shown = (tile[..., 0] >= level) & (tile[..., 3] > 0)
    out = np.zeros_like(tile)
    out[shown, :3] = colour
    out[shown, 3] = (tile[shown, 0].astype(np.int64) * PAINTED_ALPHA) // 255
    return out


def painted_unsure(tile: NDArray[np.uint8], colour: Colour, threshold: float) -> NDArray[np.uint8]:
    """A value tile coloured where it is near the threshold: the nearer, the more opaque."""
    value = tile[..., 0] / 255
    far = np.where(value < threshold, (threshold - value) / max(threshold, 1e-6), 1.0)
    far = np.where(value >= threshold, (value - threshold) / max(1 - threshold, 1e-6), far)
    out = np.zeros_like(tile)
    out[..., :3] = colour
    out[..., 3] = np.where(tile[..., 3] > 0, np.round(UNSURE_ALPHA * (1 - far) ** UNSURE_POWER), 0)
    return out


def paint_of(query: str | None, threshold: str | None) -> tuple[Colour, float] | None:
    """Colour and threshold of a query, ``paint=RRGGBB&threshold=0.5``; None without.

    Raises
    ------
    LabelError
        They are none.
    """
    if query is None:
        return None
    try:
        value = float(threshold if threshold is not None else 0.5)
    except ValueError:
        value = math.nan
    if not _HEX.fullmatch(query) or not 0 <= value <= 1:
        raise LabelError("paint is no RRGGBB, or threshold is not in 0..1")
    red, green, blue = bytes.fromhex(query)
    return (red, green, blue), value


def layer_png(
    grid: TileGrid,
    tile: TileAddress,
    scale: float,
    read: Read,
    paint: tuple[Colour, float] | None,
    draw: Draw = painted,
) -> bytes:
    """A value tile as PNG, painted on request."""
    values = value_tile(grid, tile, scale, read)
    return png(values if paint is None else draw(values, *paint))
