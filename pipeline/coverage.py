"""Which tiles are worth computing: the foreground of a source, asked tile by tile."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window

from pipeline.foreground import foreground, touches_foreground


@dataclass(frozen=True, slots=True, eq=False)
class Foreground:
    """A mask over the whole source, on a coarse grid.

    Attributes
    ----------
    mask : (h, w) bool
    shape : (height, width) of the source's working grid, px
    """

    mask: np.ndarray
    shape: tuple[int, int]

    @property
    def is_everything(self) -> bool:
        """True when nothing is skipped."""
        return bool(self.mask.all())

    def touches(self, tile: Window) -> bool:
        """Whether any foreground lies under a tile, however little."""
        return touches_foreground(self.mask, tile, self.shape)

    def count(self, tiles: Iterable[Window]) -> int:
        """How many of the tiles touch the foreground."""
        return sum(map(self.touches, tiles))


def find_foreground(
    overview: np.ndarray, valid: np.ndarray, shape: tuple[int, int], choice: str, kind: str = "slide"
) -> Foreground:
    """The foreground of a source of `shape` (height, width), from its overview; ``choice`` "all" skips nothing."""
    return Foreground(np.ones_like(valid) if choice == "all" else foreground(overview, valid, kind), shape)
