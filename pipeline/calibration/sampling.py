"""A sample of the tiles of a source, at which a job looks before it segments them all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from fewscope.pipeline.plan import Plan

N_TILES = 64
"""Tiles of a sample: the network encodes them in a second or two."""

MOST_CANDIDATES = 5000
"""Tiles that are looked at for these: enough where half a percent of the source is foreground."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Foreground tiles drawn at random.

    Attributes
    ----------
    windows : tuple[Window, ...]
        Where they are, px of the working grid.
    images : np.ndarray
        (n, tile, tile, channels) uint8.
    foreground : np.ndarray
        (n, tile, tile) bool, pixels that are foreground.
    """

    windows: tuple[Window, ...]
    images: np.ndarray
    foreground: np.ndarray

    def __len__(self) -> int:
        return len(self.windows)


def sample_tiles(plan: Plan, n_tiles: int = N_TILES) -> Sample:
    """At most `n_tiles` tiles of the foreground, the same for any units; without those that cannot be read whole."""
    grid = plan.grid
    rows, cols = grid.rows.tolist(), grid.cols.tolist()
    windows: list[Window] = []
    images: list[np.ndarray] = []
    foreground: list[np.ndarray] = []
    for k in np.random.default_rng(0).permutation(grid.n_tiles)[:MOST_CANDIDATES].tolist():
        row, col = divmod(k, len(cols))
        tile = Window(cols[col], rows[row], grid.tile, grid.tile)
        if not plan.foreground.touches(tile):
            continue
        image, valid = plan.source.read(tile)
        if valid.all():
            windows.append(tile)
            images.append(image)
            foreground.append(plan.foreground.on_window(tile))
        if len(images) == n_tiles:
            break
    if not images:
        none = np.zeros((0, grid.tile, grid.tile), bool)
        return Sample((), np.zeros((*none.shape, plan.source.info.n_channels), np.uint8), none)
    return Sample(tuple(windows), np.stack(images), np.stack(foreground))
