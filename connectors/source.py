"""What every source of pixels promises, and the one function that opens one.

A source is a slide or a raster seen as **one grid of 8-bit RGB pixels** with one affine transform. Levels,
microns, bands and decoding errors end behind this interface: the rest of Fewscope asks for windows of the
working grid and gets an image and a map of which of its pixels are real.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

DEFAULT_MPP = 0.5
"""Working resolution when none is asked for, um per px: the 20x at which nuclei are about 15-30 px across."""

PLAUSIBLE_MPP = (0.05, 50.0)
"""Finest and coarsest um per px believed: from 100x oil with a small camera pixel to a flat-bed scanner."""

Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""(image, valid): uint8 (h, w, 3), bool (h, w)."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source before any pixel is read.

    Attributes
    ----------
    uri
        As it was given.
    kind
        ``"slide"`` or ``"raster"``.
    height, width
        Size of the working grid, that is after resampling to the resolution asked for.
    transform
        From the corner (col, row) of a working pixel to world (x, y); for slides the world is level-0 pixels.
    mpp, mpp_source
        Micrometres per working pixel (None for rasters), and in words where the slide's own resolution came
        from.
    native_mpp, native_height, native_width
        The same of the finest level in the file.
    vendor
        Format as its reader names it.
    crs
        Coordinate reference system of rasters, as text.
    background
        RGB that fills what lies outside the source or could not be read.
    fingerprint
        Identity of the content, cheap to compute; the same for a renamed or copied file.
    bands
        Which bands of a raster are shown, and how, in words.
    appearance
        Hash of how a raster's values become pixels: bands, stretch, resolution, area.
    notes
        What a reader of the result has to know of the source, one sentence each.
    assumptions
        What the file does not say and was assumed, one sentence each, with the option that overrides it.
    scan_origin
        Level-0 (x, y) of the corner of the scanned area, which QuPath counts from; (0, 0) where the file states none.
    """

    uri: str
    kind: Literal["slide", "raster"]
    height: int
    width: int
    transform: Affine
    mpp: float | None
    mpp_source: str
    native_mpp: float | None
    native_height: int
    native_width: int
    vendor: str
    crs: str | None
    background: tuple[int, int, int]
    fingerprint: str
    bands: str = ""
    appearance: str = ""
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    scan_origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.native_height, self.native_width) < 1:
            raise ValueError(
                f"{self.uri}: a source of {self.height} x {self.width} px (native {self.native_height} x "
                f"{self.native_width}) has no pixels"
            )
        if self.mpp is not None and not self.mpp > 0:
            raise ValueError(f"{self.uri}: mpp {self.mpp} is not positive")
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise ValueError(f"{self.uri}: background {self.background} is not three values of 0..255")


@runtime_checkable
class Source(Protocol):
    """Pixels on one working grid; picklable (reopened on the other side), and threads may call ``read``.

    ``read`` is exact in position: a window's pixels are those of the same place in a read of the whole,
    resampling and unreadable places included, so no result depends on how the source was cut into windows.
    """

    @property
    def info(self) -> SourceInfo:
        """What is known without reading pixels."""
        ...

    def read(self, window: Window) -> Pixels:
        """Read a window of the working grid.

        Parameters
        ----------
        window
            Integer offsets and size; it may reach beyond the grid.

        Returns
        -------
        image : uint8 (h, w, 3)
        valid : bool (h, w)
            False outside the grid and where the file has no pixels or they failed to decode; there, ``image``
            is ``info.background``.
        """
        ...

    def overview(self, max_side: int) -> Pixels:
        """Read the whole source, shrunk so that its longer side is at most ``max_side``; never enlarged."""
        ...

    def unreadable(self, max_side: int | None = None) -> tuple[Window, ...]:
        """Windows of the working grid that failed to decode in any ``read`` so far (or ``overview(max_side)``).

        What `read` calls not valid for another reason (outside the scan, transparent) is not in it. A window
        that was read is known in full, whatever else was read.
        """
        ...

    def close(self) -> None:
        """Give back files and memory; reading afterwards is an error. Closing twice is fine."""
        ...


def window_bounds(window: Window) -> tuple[int, int, int, int]:
    """``(row_start, row_stop, col_start, col_stop)`` of a window; ValueError if they are not whole pixels."""
    values = (window.row_off, window.col_off, window.height, window.width)
    if any(int(value) != value for value in values) or window.height < 1 or window.width < 1:
        raise ValueError(f"{window} is not made of whole pixels; round its offsets, make its size 1 or more")
    row, col, height, width = (int(value) for value in values)
    return row, row + height, col, col + width
