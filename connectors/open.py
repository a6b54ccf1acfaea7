"""The one function that opens a slide or a raster. A new format is a file of its own and one line in `READERS`.

A reader's module is imported when it opens a source: opening a slide does not wait for the code of rasters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.source import Source
from fewscope.connectors.storage.library_errors import library_errors
from fewscope.errors import SourceError


@dataclass(frozen=True, slots=True)
class Reader:
    """One line of `READERS`.

    Attributes
    ----------
    kind
        What it opens.
    endings
        Endings of the names it opens, in lower case; "" stands for any name.
    open
        Opens ``(uri, mpp, slide_mpp, raster)``, as `open_source` takes them; ``raster`` is given for a raster alone.
    """

    kind: Literal["slide", "raster"]
    endings: tuple[str, ...]
    open: Callable[[str, float | None, float | None, RasterOptions | None], Source]


def _openslide(uri: str, mpp: float | None, slide_mpp: float | None, _raster: RasterOptions | None) -> Source:
    from fewscope.connectors.slides.openslide_source import OpenSlideSource

    return OpenSlideSource.open(uri, mpp=mpp, slide_mpp=slide_mpp)


def _gdal(uri: str, _mpp: float | None, _slide_mpp: float | None, raster: RasterOptions | None) -> Source:
    from fewscope.connectors.rasters.gdal_source import RasterSource

    return RasterSource.open(uri, raster or RasterOptions())


READERS: tuple[Reader, ...] = (
    Reader("slide", ("",), _openslide),
    Reader("raster", ("",), _gdal),
)
"""The first that opens the kind and the ending is taken: put a reader of some endings before one of any."""


SLIDE_ENDINGS = (
    *(
        ".svs",
        ".ndpi",
        ".mrxs",
        ".scn",
        ".bif",
        ".vms",
        ".vmu",
        ".svslide",
        ".dcm",
        ".czi",
        ".zvi",
        ".i2syntax",
    ),
)
"""Names of slides alone: such a file that is damaged is not tried as a raster."""


def open_any(
    uri: str,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    raster: RasterOptions | None = None,
) -> Source:
    """Open a slide or a raster, whichever the file is.

    A file is a slide if OpenSlide knows it and it states no CRS, or by its ending; what is not on a local disk, by its
    ending alone. Parameters and errors as in `open_source`; ``raster`` is for rasters.
    """
    if is_slide(uri):
        return open_source(uri, mpp=mpp, slide_mpp=slide_mpp)
    return open_source(uri, raster=raster or RasterOptions())


def is_slide(uri: str) -> bool:
    """Whether a file is a slide rather than a raster; see `open_any`."""
    if uri.lower().endswith(SLIDE_ENDINGS):
        return True
    if "://" in uri or uri.startswith("/vsi"):
        return False
    from fewscope.connectors.slides.openslide_source import knows

    return knows(uri)


def open_source(
    uri: str,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    raster: RasterOptions | None = None,
) -> Source:
    """Open a slide, or a raster, for reading at a working resolution.

    Parameters
    ----------
    uri
        Path or fsspec URL. A remote slide is copied to a local cache. A raster may also be a ``/vsi...`` path of GDAL,
        a pattern, or a STAC item collection; remote rasters are read in ranges.
    mpp
        Working resolution of a slide, um per px. None: `DEFAULT_MPP` for finer slides (or an integer multiple of the
        slide's own within 2 % of it, which needs no interpolation), else the slide's own. A slide that does not state
        its resolution is assumed to have this one at level 0.
    slide_mpp
        Resolution of level 0, um per px; overrides the file's.
    raster
        Options of a raster; None for a slide.

    Raises
    ------
    SourceError
        One line: the file, what is wrong with it, and what to do.
    """
    if raster is not None and (mpp is not None or slide_mpp is not None):
        raise SourceError(f"{uri}: mpp is for slides; give the resolution of a raster with res")
    kind = "slide" if raster is None else "raster"
    reader = next(r for r in READERS if r.kind == kind and uri.lower().endswith(r.endings))
    with library_errors(SourceError, uri):
        return reader.open(uri, mpp, slide_mpp, raster)
