"""Blends overlapping tiles into one map: sum(w p) / sum(w).

Numerator and denominator are summed in the same order with the same rounding. A model that predicts 1 everywhere gives
exactly 1 everywhere, at any overlap, and no pixel leaves 0..1.
"""

import numpy as np
from rasterio.windows import Window

ROWS_AT_ONCE = 32  # of a window of 4096 px: half a megabyte

LOWEST_WEIGHT = 1e-3  # at a tile's edge; above 0, so that every pixel of the source has a prediction


def tile_weights(tile: int, overlap: int) -> np.ndarray:
    """Blending weight of each pixel of a tile: 1 in the interior, falling as sin^2 over the overlap.

    Parameters
    ----------
    tile : int
        Side of a tile, px.
    overlap : int
        Pixels that neighbouring tiles share, 0..tile-1. The ramp is at most half a tile wide.

    Returns
    -------
    (tile, tile) float32, the outer product of two windows, all > 0.
    """
    ramp = min(overlap, tile // 2)
    window = np.ones(tile)
    if ramp:
        rise = np.sin(0.5 * np.pi * (np.arange(ramp) + 0.5) / ramp) ** 2
        window[:ramp] = LOWEST_WEIGHT + (1 - LOWEST_WEIGHT) * rise
        window[tile - ramp :] = window[:ramp][::-1]
    return np.outer(window, window).astype(np.float32)


class Blender:
    """Weighted sum of the tiles of one window. Memory: one float32 array of the window per map, and one more.

    Tiles are clipped to the window. Add them in raster order (that of ``TileGrid.tiles_touching``; some may be
    missing): float additions in another order would give other bytes.

    Parameters
    ----------
    window : Window
        The area to blend, px of the working grid.
    weights : (tile, tile) float32
        From `tile_weights`.
    n_maps : int or None
        Maps per tile; None: one map, without the leading axis.
    """

    def __init__(self, window: Window, weights: np.ndarray, n_maps: int | None = None) -> None:
        self.window = window
        self.weights = weights
        maps = () if n_maps is None else (n_maps,)
        self._weighted = np.zeros((*maps, window.height, window.width), np.float32)
        self._weight = np.zeros((window.height, window.width), np.float32)
        self._last: tuple[int, int] | None = None

    def add(self, tile: Window, probability: np.ndarray) -> None:
        """Add one tile.

        Parameters
        ----------
        tile : Window
            Position of the tile, px of the working grid; it may extend beyond the window.
        probability : (tile, tile) or (n_maps, tile, tile) float32
            0..1.

        Raises
        ------
        ValueError
            The array does not have the shape of the weights, or the tile precedes one that was added.
        """
        expected = (*self._weighted.shape[:-2], *self.weights.shape)
        if probability.shape != expected:
            raise ValueError(
                f"the tile is {probability.shape}, the weights are {self.weights.shape}; give {expected}"
            )
        place = (tile.row_off, tile.col_off)
        if self._last is not None and place <= self._last:
            raise ValueError(
                f"tile at {place} after the one at {self._last}; add tiles once and in raster order"
            )
        self._last = place
        top, left = tile.row_off - self.window.row_off, tile.col_off - self.window.col_off
        rows = slice(max(top, 0), min(top + tile.height, self.window.height))
        cols = slice(max(left, 0), min(left + tile.width, self.window.width))
        if rows.start >= rows.stop or cols.start >= cols.stop:
            return
        of_tile = (slice(rows.start - top, rows.stop - top), slice(cols.start - left, cols.stop - left))
        weight = self.weights[of_tile]
        self._weighted[..., rows, cols] += weight * probability[..., *of_tile]
        self._weight[rows, cols] += weight

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """The blend.

        Returns
        -------
        probability : (h, w) or (n_maps, h, w) float32
            0..1; 0 where there is no tile.
        covered : (h, w) bool
            True where there is a tile.
        """
        covered = self._weight > 0
        probability = np.zeros_like(self._weighted)
        np.divide(self._weighted, self._weight, out=probability, where=covered)
        return probability, covered

    def result_uint8(self) -> np.ndarray:
        """``to_uint8(probability)`` of `result`, (h, w) or (n_maps, h, w).

        Works on a few rows at a time: intermediates then stay in the caches, and fresh memory pages would cost more
        than the sums.
        """
        out = np.empty(self._weighted.shape, np.uint8)
        for top in range(0, self.window.height, ROWS_AT_ONCE):
            rows = np.s_[..., top : top + ROWS_AT_ONCE, :]
            weight = self._weight[rows[1:]]
            probability = np.zeros(self._weighted[rows].shape, np.float32)
            np.divide(self._weighted[rows], weight, out=probability, where=weight > 0)
            out[rows] = to_uint8(probability)
        return out


def to_uint8(probability: np.ndarray) -> np.ndarray:
    """Probability 0..1 as stored: uint8 0..255, rounded to the nearest."""
    return np.rint(probability * np.float32(255)).astype(np.uint8)
