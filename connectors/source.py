"""`Source`, the interface of slides and rasters. `fewscope.connectors.open.open_source` opens one.

A source is **one grid of 8-bit pixels**, RGB or of any number of channels, with one affine transform. Pyramid levels,
resolutions, bands and decoding errors are handled behind this interface: the rest of Fewscope reads windows of the
working grid, and gets an image and a map of its valid pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.connectors.colours import Colour
from fewscope.connectors.conventions import Ranges
from fewscope.errors import SourceError

DEFAULT_MPP = 0.5
"""Default working resolution, um per px: a 20x scan, in which nuclei are about 15 to 30 px across."""

PLAUSIBLE_MPP = (1e-4, 50.0)
"""Finest and coarsest plausible um per px: from an electron microscope to a flat-bed scanner."""

FINEST_OF_LIGHT = 0.05
"""Finest um per px of a light microscope: 100x oil immersion with small camera pixels."""

Pixels = tuple[NDArray[np.uint8], NDArray[np.bool_]]
"""(image, valid): uint8 (h, w, C), bool (h, w); C is 3, or `SourceInfo.n_channels`."""


@dataclass(frozen=True, slots=True)
class MeasuredChannel:
    """A channel whose mean is measured in every object.

    Attributes
    ----------
    name
        Of the channel, or of a colour; all of a source differ.
    low, step
        The stored value is ``low + step * n``, where n is what `MeasurableSource.read_measured` gives, or of other
        sources the pixel itself.
    quantity
        "intensity", or "od": optical density of a stain (`connectors.pixels.stains`).
    """

    name: str
    low: float = 0.0
    step: float = 1.0
    quantity: Literal["intensity", "od"] = "intensity"

    @property
    def column(self) -> str:
        """Name of its column in tables of objects."""
        return f"{self.quantity}_{self.name}"


@dataclass(frozen=True, slots=True)
class TimePoint:
    """One of the time points of a series.

    Attributes
    ----------
    number, total
        Counted from 1, and how many there are.
    seconds
        From the first one; None if the file does not state it.
    """

    number: int
    total: int
    seconds: float | None = None


COLOURS = tuple(map(MeasuredChannel, ("red", "green", "blue")))
"""What is measured of a picture of 8 bits."""

_TITLES = {"intensity_": "{}: Mean", "od_": "{} OD: Mean"}


def measured_title(column: str) -> str | None:
    """What a column of a measured channel is called in QuPath; None for other columns.

    Examples
    --------
    >>> measured_title("od_DAB")
    'DAB OD: Mean'
    """
    for prefix, title in _TITLES.items():
        if column.startswith(prefix):
            return title.format(column.removeprefix(prefix))
    return None


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Metadata of a source, known before any pixel is read.

    Attributes
    ----------
    uri
        Path or address, as given.
    kind
        ``"slide"`` or ``"raster"``.
    height, width
        Size of the working grid, px: after resampling to the working resolution.
    transform
        From pixel corners (col, row) of the working grid to world (x, y); the world of a slide is its level-0 pixels.
    mpp, mpp_source
        Micrometres per working pixel (None for rasters, and for pictures that state none), and where the slide's own
        resolution comes from, in words.
    native_mpp, native_height, native_width
        The same for the finest level in the file.
    vendor
        Format as its reader names it.
    crs
        Coordinate reference system of rasters, as text.
    background
        Value of each channel where pixels lie outside the source or could not be read.
    fingerprint
        Hash that identifies the content, cheap to compute; the same for a renamed or copied file.
    bands
        Bands of a raster that are used, and their stretch, in words.
    appearance
        Hash of everything that maps a raster's values to pixels: bands, stretch, resolution, area.
    notes
        What a reader of the result must know about the source, one sentence each.
    assumptions
        What the file does not state and was assumed, one sentence each, with the option that overrides it.
    scan_origin
        Level-0 (x, y) of the corner of the scanned area, the origin of QuPath's coordinates; (0, 0) if the file states
        none.
    from_glass_nm
        From nanometres from the centre of the glass slide (x, y), as Hamamatsu's NDP.view counts, to level-0 pixels;
        None if the file does not state where on the glass it lies.
    channels
        Names of the channels, where there are more than three; empty: pixels are RGB.
    ranges
        Values of each channel shown as black and white, if they were chosen by what the source holds; empty where
        pixels stay as they are, or were asked for.
    measured
        What is measured in every object; empty for rasters.
    is_field
        Whether a slide is a picture of one field of view, all of which is analysed; it may have no ``mpp``.
    plane
        Which plane of a z-stack is read, in words; empty where there is one alone.
    time
        Which time point is read; None where there is one alone.
    z
        Index of the plane that is read; None of a projection, or where there is one alone.
    colours
        RGB in which each of the ``channels`` is shown to people, black where it is not shown; see
        `connectors.pixels.composite`.
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
    background: tuple[int, ...]
    fingerprint: str
    bands: str = ""
    appearance: str = ""
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    scan_origin: tuple[int, int] = (0, 0)
    from_glass_nm: Affine | None = None
    channels: tuple[str, ...] = ()
    colours: tuple[Colour, ...] = ()
    ranges: Ranges = ()
    measured: tuple[MeasuredChannel, ...] = ()
    is_field: bool = False
    plane: str = ""
    time: TimePoint | None = None
    z: int | None = None

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.native_height, self.native_width) < 1:
            raise SourceError(
                f"{self.uri}: a source of {self.height} x {self.width} px (native {self.native_height} x "
                f"{self.native_width}) has no pixels"
            )
        if self.mpp is not None and not self.mpp > 0:
            raise SourceError(f"{self.uri}: mpp {self.mpp} is not positive")
        if len(self.background) != self.n_channels or not all(0 <= level <= 255 for level in self.background):
            raise SourceError(
                f"{self.uri}: background {self.background} is not {self.n_channels} values of 0..255"
            )
        if len(self.colours) != len(self.channels):
            raise SourceError(f"{self.uri}: {len(self.channels)} channels have {len(self.colours)} colours")

    @property
    def noun(self) -> str:
        """What people call it: "slide", "raster" or "picture"."""
        return "picture" if self.is_field else self.kind

    @property
    def image_plane(self) -> dict[str, int] | None:
        """Which plane of the file's stack this is, as QuPath's GeoJSON states it; None where there is one alone."""
        if self.z is None and self.time is None:
            return None
        return {"c": -1, "z": self.z or 0, "t": self.time.number - 1 if self.time else 0}

    @property
    def n_channels(self) -> int:
        """C, the channels of a pixel: 3 where they are RGB."""
        return len(self.channels) or 3


def changed_since(info: SourceInfo, found: str) -> SourceError | None:
    """The error of a source that is opened again and is another one; None if it is the same.

    Parameters
    ----------
    info
        From when it was first opened.
    found
        Its fingerprint now.
    """
    if found == info.fingerprint:
        return None
    return SourceError(
        f"{info.uri}: changed since it was first opened (fingerprint {found[:12]}, expected "
        f"{info.fingerprint[:12]}); start the run again"
    )


@runtime_checkable
class Source(Protocol):
    """Pixels on one working grid. Picklable (the other side reopens it); several threads may call ``read``.

    ``read`` is exact: the pixels of a window equal those of the same place in a read of the whole grid, with resampling
    and unreadable places, so no result depends on how the source is divided into windows.
    """

    @property
    def info(self) -> SourceInfo:
        """Metadata, known without reading pixels."""
        ...

    def read(self, window: Window) -> Pixels:
        """Read a window of the working grid.

        Parameters
        ----------
        window
            Integer offsets and size; it may reach beyond the grid.

        Returns
        -------
        image : uint8 (h, w, C)
        valid : bool (h, w)
            False outside the grid, and where the file has no pixels or they fail to decode; there, ``image`` is
            ``info.background``.
        """
        ...

    def overview(self, max_side: int) -> Pixels:
        """Read the whole source, reduced so that its longer side is at most ``max_side`` px; never enlarged."""
        ...

    def unreadable(self, max_side: int | None = None) -> tuple[Window, ...]:
        """Windows of the working grid that failed to decode in any ``read`` so far (or ``overview(max_side)``).

        Pixels that are not valid for another reason (outside the scan, transparent) do not count. For a window that was
        read, the list is complete.
        """
        ...

    def close(self) -> None:
        """Release files and memory; reading afterwards raises ValueError. Closing twice is allowed."""
        ...


@runtime_checkable
class ZoomableSource(Source, Protocol):
    """A source that viewers can read at any zoom, from the pyramid level that is fine enough."""

    def read_zoomed(self, window: Window, step: float) -> Pixels:
        """Read a window of a grid whose pixels are ``step`` image px wide.

        Image px are the level-0 px of a slide, and the working px of a raster.

        Parameters
        ----------
        window : Window
            Integer offsets and size, in px of that grid; it may reach beyond it.
        step : float
            Image px per px of the grid, 1 or more.

        Returns
        -------
        image : uint8 (h, w, C)
        valid : bool (h, w)
        """
        ...


@runtime_checkable
class MeasurableSource(Source, Protocol):
    """A source that shows stored values as 8 bits, and has them as they are stored."""

    def read_measured(self, window: Window) -> NDArray[np.uint16]:
        """Read `SourceInfo.measured` in a window, as ``read`` does: uint16 (h, w, n), 0 where it is not valid."""
        ...


def window_bounds(window: Window) -> tuple[int, int, int, int]:
    """``(row_start, row_stop, col_start, col_stop)`` of a window; ValueError if they are not integers."""
    values = (window.row_off, window.col_off, window.height, window.width)
    if any(int(value) != value for value in values) or window.height < 1 or window.width < 1:
        raise ValueError(f"{window} is not made of whole pixels; round its offsets, make its size 1 or more")
    row, col, height, width = (int(value) for value in values)
    return row, row + height, col, col + width
