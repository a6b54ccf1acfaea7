"""A sample of the tiles of a source, at which a job looks before it segments them all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from fewscope.pipeline.plan import Plan

N_TILES = 64
"""Tiles of a sample: the network encodes them in a second or two."""

MOST_CANDIDATES = 5000
"""Tiles that are looked at for these: enough where half a percent of the source is foreground."""


MOSTLY = 0.5
"""Part of a tile that lies in the area asked for, from which it is preferred to others."""


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
    """At most `n_tiles` tiles of the foreground, the same for any units; without those that cannot be read whole.

    Where an area was asked for, they are of it, and first those half of which it is.
    """
    grid = plan.grid
    windows: list[Window] = []
    images: list[np.ndarray] = []
    foreground: list[np.ndarray] = []
    for tile in _candidates(plan):
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


def _candidates(plan: Plan) -> Iterator[Window]:
    """Tiles of the foreground in random order."""
    grid, area = plan.grid, plan.foreground.area
    rows, cols = grid.rows, grid.cols
    order = np.random.default_rng(0).permutation(grid.n_tiles)
    if area is not None:  # which may be a small part of a large slide
        left, top, right, bottom = area.geometry.bounds
        near_rows = (rows < bottom) & (rows + grid.tile > top)
        near_cols = (cols < right) & (cols + grid.tile > left)
        order = order[near_rows[order // len(cols)] & near_cols[order % len(cols)]]
    at_the_edge = list[Window]()
    for k in order[:MOST_CANDIDATES].tolist():
        row, col = divmod(k, len(cols))
        tile = Window(int(cols[col]), int(rows[row]), grid.tile, grid.tile)
        if not plan.foreground.touches(tile):
            continue
        share = 1.0 if area is None else float(area.on_window(tile).mean())
        if share >= MOSTLY:
            yield tile
        elif share:
            at_the_edge.append(tile)
    yield from at_the_edge
