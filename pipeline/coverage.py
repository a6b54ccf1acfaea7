"""Which tiles are worth computing: the foreground of a source, asked tile by tile."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window
from scipy import ndimage

from pipeline.foreground import foreground, touches_foreground
from pipeline.grid import TILE, grow

HOLE_TILES = 4
"""Holes in the tissue of fewer tiles than this are not left out."""


@dataclass(frozen=True, slots=True, eq=False)
class Foreground:
    """A mask over the whole source, on a coarse grid.

    Attributes
    ----------
    mask : (h, w) bool
    shape : (height, width) of the source's working grid, px
    margin : px beyond the mask that are worth computing too
    """

    mask: np.ndarray
    shape: tuple[int, int]
    margin: int = 0

    @property
    def is_everything(self) -> bool:
        """True when nothing is skipped."""
        return bool(self.mask.all())

    def touches(self, tile: Window) -> bool:
        """Whether any foreground lies under a tile, however little."""
        return touches_foreground(self.mask, grow(tile, self.margin, *self.shape), self.shape)

    def on(self, window: Window) -> np.ndarray:
        """The mask on a window inside the source, (h, w) bool at the working resolution."""
        rows = (np.arange(window.row_off, window.row_off + window.height) + 0.5) * self.mask.shape[0]
        cols = (np.arange(window.col_off, window.col_off + window.width) + 0.5) * self.mask.shape[1]
        on: np.ndarray = self.mask[
            np.ix_((rows // self.shape[0]).astype(int), (cols // self.shape[1]).astype(int))
        ]
        return on

    def count(self, tiles: Iterable[Window]) -> int:
        """How many of the tiles touch the foreground."""
        return sum(map(self.touches, tiles))


def find_foreground(
    overview: np.ndarray,
    valid: np.ndarray,
    unreadable: Sequence[Window],
    shape: tuple[int, int],
    choice: str,
    kind: str = "slide",
) -> Foreground:
    """The foreground of a source of `shape` (height, width), from its overview (h, w, 3) and what is valid there.

    Places that did not decode may be tissue: they count as such, and the units will find out. ``choice`` "all" skips
    only what lies outside the scan. Of rasters all that is valid is foreground, and what may be, within a pixel of the
    overview.
    """
    failed = np.zeros_like(valid)
    for window in unreadable:
        rows, cols = window.toslices()
        failed[
            rows.start * len(valid) // shape[0] : -(-rows.stop * len(valid) // shape[0]),
            cols.start * valid.shape[1] // shape[1] : -(-cols.stop * valid.shape[1] // shape[1]),
        ] = True
    failed &= ~valid
    if kind == "raster":
        return Foreground(valid | failed, shape, math.ceil(max(shape) / max(valid.shape)))
    if choice == "all":
        return Foreground(ndimage.binary_dilation(valid | failed), shape)
    found = foreground(overview, valid, kind) | failed
    # a hole smaller than a few tiles is run through anyway, and may be the very thing that is looked for: a vacuole, a
    # vessel, white as glass
    hole_px = HOLE_TILES * TILE**2 * found.size / (shape[0] * shape[1])
    holes, _ = ndimage.label(~found)
    area = np.bincount(holes.ravel())
    return Foreground(found | ((area[holes] < hole_px) & (holes > 0) & valid), shape)
