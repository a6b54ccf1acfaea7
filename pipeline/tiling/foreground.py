"""Which parts of a source are worth computing: tissue on glass, signal on dark. Never at the price of tissue.

Looked for on an overview. What can be told for sure is the ground: glass, or the dark of a fluorescence
slide. All that differs from it is foreground, with a margin around it; where no ground is found, everything
is. A mistake costs time, not objects.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window
from scipy import ndimage

from fewscope.model.conventions import PATCH_SIZE
from fewscope.pipeline.tiling.grid import clip, grow

OVERVIEW_SIDE = 2048  # px; a tile of a slide of 100,000 px is 5 px here, and a lone cell still a trace

_GLASS = 190  # a slide's glass is at least so bright in every channel (white balance puts it at 215 to 255)
_GREY = 40  # and its channels differ by no more than this
_DARK = 60  # the ground of a fluorescence slide is at most so bright in every channel
_LEAST_GLASS = 0.02  # of the valid pixels: with less, no glass was found
_LEAST_DARK = 0.25  # likewise; more, because ink and pigment on a slide full of tissue are dark too
_LEAST_CONTRAST, _MOST_CONTRAST = 5.0, 12.0  # grey levels; bounds of what the noise of the ground may ask for
_MARGIN = 1 / 400  # of the longer side: 5 px, about a tile


def foreground_mask(image: np.ndarray, valid: np.ndarray, kind: str = "slide") -> np.ndarray:
    """Tissue on a bright slide, signal on a dark one, everything valid on a raster.

    Parameters
    ----------
    image : (h, w, 3) uint8
        Overview of the whole source.
    valid : (h, w) bool
        Where its pixels are real.
    kind : str
        ``SourceInfo.kind``: "slide" or "raster".

    Returns
    -------
    (h, w) bool, within ``valid``. All of ``valid`` where no ground was found, or nothing but ground.

    Raises
    ------
    ValueError
        Image and valid do not fit, or the kind is unknown.
    """
    if image.shape != (*valid.shape, 3):
        raise ValueError(
            f"overview {image.shape} and valid {valid.shape} do not fit; they are (h, w, 3) and (h, w)"
        )
    if kind not in ("slide", "raster"):
        raise ValueError(f'kind "{kind}" is neither "slide" nor "raster"')
    if kind == "raster" or not valid.any():
        return valid.copy()
    lowest, highest = image.min(axis=2), image.max(axis=2)
    glass = valid & (lowest >= _GLASS) & (highest - lowest <= _GREY)
    dark = valid & (highest <= _DARK)
    n_valid = valid.sum()

    # How far a pixel is from the ground, in grey levels: below it on glass, as any stain takes light from at
    # least one channel; above it on dark.
    if glass.sum() >= _LEAST_GLASS * n_valid:
        white = (
            lowest >= 254
        )  # glass that was scanned, where there is some, rather than what was never scanned
        scanned = glass & ~white
        ground = scanned if scanned.sum() >= _LEAST_GLASS * n_valid else glass
        level, noise = _level(lowest[ground])
        contrast = level - lowest.astype(np.float32)
    elif dark.sum() >= _LEAST_DARK * n_valid:
        level, noise = _level(255 - highest[dark])
        contrast = highest - np.float32(255 - level)
    else:
        return valid.copy()
    threshold = float(np.clip(3 * noise, _LEAST_CONTRAST, _MOST_CONTRAST))

    # A large pale area, or a single pixel that stands out.
    contrast[~valid] = 0
    found = (ndimage.uniform_filter(contrast, 3) > threshold) | (contrast > 2 * threshold)
    found &= valid
    if not found.any():
        return valid.copy()
    margin = max(2, round(_MARGIN * max(valid.shape)))
    grown: np.ndarray = ndimage.distance_transform_edt(~found) <= margin
    return grown & valid


def touches_mask(mask: np.ndarray, window: Window, shape: tuple[int, int]) -> bool:
    """Whether a window of the working grid shares anything with the foreground.

    Parameters
    ----------
    mask : (h, w) bool
        From `foreground`.
    window : Window
        In px of the working grid; it may reach beyond the source.
    shape : (height, width)
        The source's working grid.
    """
    inside = clip(window, *shape)
    rows = _covering(inside.row_off, inside.height, shape[0], mask.shape[0])
    cols = _covering(inside.col_off, inside.width, shape[1], mask.shape[1])
    return bool(mask[rows, cols].any())


def _covering(start: int, length: int, of: int, n: int) -> slice:
    """The pixels of an overview of ``n`` px that ``start .. start + length`` of ``of`` px touches."""
    if length < 1:
        return slice(0, 0)
    return slice(start * n // of, -(-(start + length) * n // of))


def _level(values: np.ndarray) -> tuple[float, float]:
    """The ground's commonest grey level and its noise, from a sample that may hold tissue on its lower side.

    The noise is that of the upper side, where there is only ground: the distance that two thirds stay within.
    """
    counts = ndimage.gaussian_filter1d(np.bincount(values, minlength=256).astype(float), 1.0)
    level = int(np.argmax(counts))
    upper = values[values >= level].astype(float) - level
    return float(level), float(np.quantile(upper, 0.68))


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
    def covers_all(self) -> bool:
        """True when nothing is skipped."""
        return bool(self.mask.all())

    def touches(self, tile: Window) -> bool:
        """Whether any foreground lies under a tile, however little."""
        return touches_mask(self.mask, grow(tile, self.margin, *self.shape), self.shape)

    def on_window(self, window: Window) -> np.ndarray:
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
    found = foreground_mask(overview, valid, kind) | failed
    # a hole smaller than a few tiles is run through anyway, and may be the very thing that is looked for: a vacuole, a
    # vessel, white as glass
    hole_px = HOLE_TILES * PATCH_SIZE**2 * found.size / (shape[0] * shape[1])
    holes, _ = ndimage.label(~found)
    area = np.bincount(holes.ravel())
    return Foreground(found | ((area[holes] < hole_px) & (holes > 0) & valid), shape)
