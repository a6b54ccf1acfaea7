"""The one function that opens a slide or a raster."""

from __future__ import annotations

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.rasters.gdal_source import RasterSource
from fewscope.connectors.slides.openslide_source import OpenSlideSource
from fewscope.connectors.source import Source
from fewscope.errors import SourceError


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
        Path or address. Slides: an fsspec URL, of which a copy is kept in a local cache. Rasters: also GDAL's
        ``/vsi...``, a pattern, or a STAC item collection; remote files are read in ranges.
    mpp
        Working resolution of a slide in um per px. None: `DEFAULT_MPP` for finer slides (or the whole multiple of
        the slide's own that is within 2 % of it, which needs no interpolation), else the slide's own. A slide
        that does not state its resolution is taken to have this one at level 0.
    slide_mpp
        Resolution of level 0 in um per px; overrides what the file says.
    raster
        Open it as a raster, and how; None: it is a slide.

    Raises
    ------
    SourceError
        One line: the file, what is wrong with it, and what to do.
    """
    if raster is not None:
        if mpp is not None or slide_mpp is not None:
            raise SourceError(f"{uri}: mpp is of slides; give the resolution of a raster with res")
        return RasterSource.open(uri, raster)
    return OpenSlideSource.open(uri, mpp=mpp, slide_mpp=slide_mpp)
