"""Overlapping tiles to one probability: sum(w p) / sum(w), with the same weights above and below.

Above and below are the same additions in the same order, rounded the same way. So a model that says 1
everywhere gives exactly 1 everywhere, at any overlap, and no pixel ever leaves 0..1.
"""

import numpy as np
from rasterio.windows import Window

ROWS_AT_ONCE = 32  # of a window of 4096 px: half a megabyte

LOWEST_WEIGHT = 1e-3  # at a tile's edge; above 0, so that no pixel of the source is ever without a prediction


def tile_weights(tile: int, overlap: int) -> np.ndarray:
    """How far a tile is believed at each of its pixels: 1 inside, falling as sin^2 over the overlap.

    Parameters
    ----------
    tile : int
        Side of a tile, px.
    overlap : int
        Pixels that neighbouring tiles share, 0..tile-1. The fall takes at most half a tile.

    Returns
    -------
    (tile, tile) float32, the product of a window along the rows and one along the columns, all > 0.
    """
    ramp = min(overlap, tile // 2)
    window = np.ones(tile)
    if ramp:
        rise = np.sin(0.5 * np.pi * (np.arange(ramp) + 0.5) / ramp) ** 2
        window[:ramp] = LOWEST_WEIGHT + (1 - LOWEST_WEIGHT) * rise
        window[tile - ramp :] = window[:ramp][::-1]
    return np.outer(window, window).astype(np.float32)


class Blender:
    """The tiles of one window, laid over each other. Memory: a float32 array of the window per map, and one more.

    Tiles are cut to the window. They are to be added in raster order (as ``TileGrid.tiles_touching`` lists
    them; some may be left out), because float additions in another order would give other bytes.

    Parameters
    ----------
    window : Window
        What is wanted, px of the working grid.
    weights : (tile, tile) float32
        From `weights`.
    n_maps : int or None
        Maps that each tile has; None for one without an axis of its own.
    """

    def __init__(self, window: Window, weights: np.ndarray, n_maps: int | None = None) -> None:
        self.window = window
        self.weights = weights
        maps = () if n_maps is None else (n_maps,)
        self._weighted = np.zeros((*maps, window.height, window.width), np.float32)
        self._weight = np.zeros((window.height, window.width), np.float32)
        self._last: tuple[int, int] | None = None

    def add(self, tile: Window, probability: np.ndarray) -> None:
        """Lay one tile over the others.

        Parameters
        ----------
        tile : Window
            Where the tile lies, px of the working grid; it may reach beyond the window.
        probability : (tile, tile) or (n_maps, tile, tile) float32
            0..1.

        Raises
        ------
        ValueError
            The array has another shape than the weights, or the tile comes before one that was added.
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
            0..1; 0 where no tile was laid.
        covered : (h, w) bool
            True where a tile was laid.
        """
        covered = self._weight > 0
        probability = np.zeros_like(self._weighted)
        np.divide(self._weighted, self._weight, out=probability, where=covered)
        return probability, covered

    def result_uint8(self) -> np.ndarray:
        """``to_uint8(probability)`` of `result`, (h, w) or (n_maps, h, w), a few rows at a time.

        Pages of fresh memory cost more than the sums: what is made on the way stays in the caches.
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
