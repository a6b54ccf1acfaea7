"""Foreground: the parts of a source that are worth predicting, such as tissue on glass or signal on a dark slide.

It is detected on an overview. Only the background can be recognised reliably: glass, or the dark of a fluorescence
slide. Everything that differs from it is foreground, with a margin; if no background is found, everything is. A mistake
costs time, not objects.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window
from scipy import ndimage

from fewscope.model.conventions import PATCH_SIZE
from fewscope.pipeline.tiling.area import Area
from fewscope.pipeline.tiling.grid import clip, grow

OVERVIEW_SIDE = 2048  # px; a tile of a slide of 100,000 px is 5 px here, and a single cell still visible

_GLASS = 190  # minimum of every channel on glass (white balance puts it at 215 to 255)
_GREY = 40  # maximum difference of its channels
_DARK = 60  # maximum of every channel on the background of a fluorescence slide
_LEAST_GLASS = 0.02  # minimum fraction of the valid pixels; with less, no glass was found
_LEAST_DARK = 0.25  # likewise; larger, as ink and pigment on a slide full of tissue are dark too
_LEAST_CONTRAST, _MOST_CONTRAST = 5.0, 12.0  # grey levels; bounds of the contrast threshold
_MARGIN = 1 / 400  # of the longer side: 5 px, about a tile


def foreground_mask(image: np.ndarray, valid: np.ndarray, kind: str = "slide") -> np.ndarray:
    """Tissue on a bright slide, signal on a dark one, all valid pixels of a raster.

    Parameters
    ----------
    image : (h, w, channels) uint8
        Overview of the whole source.
    valid : (h, w) bool
        True where pixels were read.
    kind : str
        ``SourceInfo.kind``: "slide" or "raster".

    Returns
    -------
    (h, w) bool, within ``valid``. All of ``valid`` if no background was found, or nothing else.

    Raises
    ------
    ValueError
        Image and valid differ in size, or the kind is unknown.
    """
    if image.ndim != 3 or image.shape[:2] != valid.shape:
        raise ValueError(
            f"overview {image.shape} and valid {valid.shape} do not fit; they are (h, w, channels) and (h, w)"
        )
    if kind not in ("slide", "raster"):
        raise ValueError(f'kind "{kind}" is neither "slide" nor "raster"')
    if kind == "raster" or not valid.any():
        return valid.copy()
    lowest, highest = image.min(axis=2), image.max(axis=2)
    glass = valid & (lowest >= _GLASS) & (highest - lowest <= _GREY)
    dark = valid & (highest <= _DARK)
    n_valid = valid.sum()

    # Contrast to the background in grey levels: below it on glass, as any stain absorbs light in at least one
    # channel; above it on dark slides.
    if glass.sum() >= _LEAST_GLASS * n_valid:
        white = lowest >= 254  # white is often padding that was never scanned: prefer other glass
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

    # A large pale area, or a single pixel of high contrast.
    contrast[~valid] = 0
    found = (ndimage.uniform_filter(contrast, 3) > threshold) | (contrast > 2 * threshold)
    found &= valid
    if not found.any():
        return valid.copy()
    margin = max(2, round(_MARGIN * max(valid.shape)))
    grown: np.ndarray = ndimage.distance_transform_edt(~found) <= margin
    return grown & valid


def touches_mask(mask: np.ndarray, window: Window, shape: tuple[int, int]) -> bool:
    """Whether a window of the working grid intersects a coarse mask.

    Parameters
    ----------
    mask : (h, w) bool
        From `foreground`.
    window : Window
        In px of the working grid; it may extend beyond the source.
    shape : tuple[int, int]
        (height, width) The source's working grid.
    """
    inside = clip(window, *shape)
    rows = _covering(inside.row_off, inside.height, shape[0], mask.shape[0])
    cols = _covering(inside.col_off, inside.width, shape[1], mask.shape[1])
    return bool(mask[rows, cols].any())


def _covering(start: int, length: int, of: int, n: int) -> slice:
    """Pixels of an overview of ``n`` px that ``start .. start + length`` of ``of`` px covers."""
    if length < 1:
        return slice(0, 0)
    return slice(start * n // of, -(-(start + length) * n // of))


def _level(values: np.ndarray) -> tuple[float, float]:
    """Most frequent grey level of the background and its noise, from a sample that may include darker tissue.

    The noise is the 68th percentile of the distance above that level, where there is only background.
    """
    counts = ndimage.gaussian_filter1d(np.bincount(values, minlength=256).astype(float), 1.0)
    level = int(np.argmax(counts))
    upper = values[values >= level].astype(float) - level
    return float(level), float(np.quantile(upper, 0.68))


HOLE_TILES = 4
"""Holes in the tissue smaller than this many tiles are predicted too."""


@dataclass(frozen=True, slots=True, eq=False)
class Foreground:
    """A mask over the whole source, on a coarse grid.

    Attributes
    ----------
    mask : (h, w) bool
    shape : tuple[int, int]
        (height, width) of the source's working grid, px.
    margin : int
        Width of the border around the mask that is predicted too, px.
    area : Area | None
        Nothing outside is analysed; None: the whole source is. Tiles across its outline are predicted whole.
    """

    mask: np.ndarray
    shape: tuple[int, int]
    margin: int = 0
    area: Area | None = None

    @property
    def covers_all(self) -> bool:
        """True if nothing is skipped."""
        return bool(self.mask.all())

    def touches(self, tile: Window) -> bool:
        """Whether a tile contains any foreground, and any of the area."""
        return touches_mask(self.mask, grow(tile, self.margin, *self.shape), self.shape) and (
            self.area is None or self.area.touches(tile)
        )

    def on_window(self, window: Window) -> np.ndarray:
        """The mask in the area on a window inside the source, (h, w) bool at the working resolution."""
        rows = (np.arange(window.row_off, window.row_off + window.height) + 0.5) * self.mask.shape[0]
        cols = (np.arange(window.col_off, window.col_off + window.width) + 0.5) * self.mask.shape[1]
        on: np.ndarray = self.mask[
            np.ix_((rows // self.shape[0]).astype(int), (cols // self.shape[1]).astype(int))
        ]
        return on if self.area is None else on & self.area.on_window(window)

    def analysed(self) -> np.ndarray:
        """Share of each pixel of the mask that is analysed, (h, w): bool, or float32 where there is an area."""
        return self.mask if self.area is None else self.mask * self.area.coverage(self.mask.shape)

    def count(self, tiles: Iterable[Window]) -> int:
        """Number of tiles that contain foreground."""
        return sum(map(self.touches, tiles))


def find_foreground(
    overview: np.ndarray,
    valid: np.ndarray,
    unreadable: Sequence[Window],
    shape: tuple[int, int],
    choice: str,
    kind: str = "slide",
) -> Foreground:
    """The foreground of a source, from its overview.

    Windows that failed to decode may contain tissue and count as foreground. All valid pixels of a raster are
    foreground, with a margin of one pixel of the overview.

    Parameters
    ----------
    overview : (h, w, channels) uint8
    valid : (h, w) bool
    unreadable : Sequence[Window]
        Windows of the working grid that failed to decode.
    shape : tuple[int, int]
        (height, width) of the working grid.
    choice : str
        "auto", or "all" to skip only what lies outside the scan.
    kind : str
        "slide" or "raster".
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
    # small holes save little time, and may be the objects themselves: vacuoles and vessels are white as glass
    hole_px = HOLE_TILES * PATCH_SIZE**2 * found.size / (shape[0] * shape[1])
    holes, _ = ndimage.label(~found)
    area = np.bincount(holes.ravel())
    return Foreground(found | ((area[holes] < hole_px) & (holes > 0) & valid), shape)
