"""The one function that opens a slide or a raster. A new format is a file of its own and one line in `READERS`.

A reader's module is imported when it opens a source: opening a slide does not wait for the code of rasters.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slide_options import (
    CHANNEL_TIFF_ENDINGS,
    OME_ZARR_ENDINGS,
    PICTURE_ENDINGS,
    SlideOptions,
)
from fewscope.connectors.source import Source, SourceInfo
from fewscope.connectors.storage.library_errors import library_errors
from fewscope.errors import SourceError

if TYPE_CHECKING:
    from fewscope.connectors.results.finished_run import FinishedRun
    from fewscope.connectors.slides.channel_source import OpenImage


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be opened, as `open_source` takes it; ``raster`` is given for a raster alone."""

    uri: str
    mpp: float | None
    slide_mpp: float | None
    slide: SlideOptions
    raster: RasterOptions | None


@dataclass(frozen=True, slots=True)
class StackSize:
    """Planes and time points of a slide, and the pixels of each at full resolution; 0 where that is not asked."""

    n_planes: int
    n_times: int
    n_pixels: int


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
        Opens what is asked for.
    """

    kind: Literal["slide", "raster"]
    endings: tuple[str, ...]
    open: Callable[[Asked], Source]


def _openslide(asked: Asked) -> Source:
    from fewscope.connectors.slides.openslide_source import OpenSlideSource

    if not asked.slide.is_default:
        raise SourceError(
            f"{asked.uri}: --channels, --series, --scale, --plane, --time and --pages are for OME-TIFF, QPTIFF, "
            "ImageJ's TIFF, OME-Zarr and pictures; leave them out"
        )
    return OpenSlideSource.open(asked.uri, mpp=asked.mpp, slide_mpp=asked.slide_mpp)


def _tiff(asked: Asked) -> Source:
    """With OpenSlide, unless it is a multi-channel TIFF, of which it would show one, or a plain one."""
    return _of_channels(asked, _tiff_reader(asked.uri, asked.slide))


def _of_channels(asked: Asked, open_image: OpenImage | None) -> Source:
    if open_image is None:
        return _openslide(asked)
    from fewscope.connectors.slides.channel_source import ChannelSource

    return ChannelSource.open(asked.uri, open_image, asked.slide, mpp=asked.mpp, slide_mpp=asked.slide_mpp)


def _tiff_reader(uri: str, slide: SlideOptions) -> OpenImage | None:
    """What reads a TIFF; None: OpenSlide."""
    from fewscope.connectors.slides.channel_tiff import ChannelTiff, is_channel_tiff
    from fewscope.connectors.slides.openslide_source import knows
    from fewscope.connectors.slides.picture_file import PictureFile, is_picture
    from fewscope.connectors.storage.download import local_copy

    path = local_copy(uri)
    if is_channel_tiff(path):
        return ChannelTiff
    if not knows(path) and not uri.lower().endswith(OF_CHANNELS_BY_NAME) and is_picture(path):
        return PictureFile
    return None if slide.is_default else ChannelTiff


def _picture(asked: Asked) -> Source:
    from fewscope.connectors.slides.picture_file import PictureFile

    return _of_channels(asked, PictureFile)


def _ome_zarr(asked: Asked) -> Source:
    from fewscope.connectors.slides.ome_zarr import OmeZarr

    return _of_channels(asked, OmeZarr)


def stack_size(uri: str, slide: SlideOptions) -> StackSize:
    """How many planes and time points a slide has, from its metadata; of others than stacks, one of each.

    Raises
    ------
    SourceError
        It cannot be opened.
    """
    name = uri.lower()
    open_image: OpenImage | None = None
    with library_errors(SourceError, uri):
        if name.endswith(OME_ZARR_ENDINGS):
            from fewscope.connectors.slides.ome_zarr import OmeZarr

            open_image = OmeZarr
        elif name.endswith(CHANNEL_TIFF_ENDINGS):
            open_image = _tiff_reader(uri, slide)
        if open_image is None:
            return StackSize(1, 1, 0)
        with closing(open_image(uri, slide.series, slide.stack.pages)) as reader:
            height, width = reader.image.shapes[0]
            return StackSize(reader.image.n_planes, reader.image.n_times, height * width)


def _gdal(asked: Asked) -> Source:
    from fewscope.connectors.rasters.gdal_source import RasterSource

    return RasterSource.open(asked.uri, asked.raster or RasterOptions())


READERS: tuple[Reader, ...] = (
    Reader("slide", OME_ZARR_ENDINGS, _ome_zarr),
    Reader("slide", CHANNEL_TIFF_ENDINGS, _tiff),
    Reader("slide", PICTURE_ENDINGS, _picture),
    Reader("slide", ("",), _openslide),
    Reader("raster", ("",), _gdal),
)
"""The first that opens the kind and the ending is taken: put a reader of some endings before one of any."""


SLIDE_ENDINGS = (
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
)
"""Names of slides alone: such a file that is damaged is not tried as a raster."""

FIELD_ENDINGS = (*PICTURE_ENDINGS, ".tif", ".tiff")
"""Names of pictures, which are slides unless they lie on a map."""

OF_CHANNELS_BY_NAME = (".ome.tif", ".ome.tiff", ".ome.btf", ".qptiff")
"""Names of files that are damaged where they do not say what their channels are."""


def open_any(
    uri: str,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    slide: SlideOptions | None = None,
    raster: RasterOptions | None = None,
) -> Source:
    """Open a slide or a raster, whichever the file is.

    A file is a slide if OpenSlide knows it and it states no CRS, if it is a multi-channel TIFF, an OME-Zarr or a
    picture that lies on no map, or by its ending; what is not on a local disk, by its ending alone. A picture of which
    bands, a CRS or a resolution are asked for is a raster. Parameters and errors as in `open_source`; ``slide`` is for
    slides, ``raster`` for rasters.
    """
    if is_slide(uri) and not (raster is not None and _asks_for_bands(raster) and is_plain_picture(uri)):
        return open_source(uri, mpp=mpp, slide_mpp=slide_mpp, slide=slide)
    return open_source(uri, raster=raster or RasterOptions())


def is_slide(uri: str) -> bool:
    """Whether a file is a slide rather than a raster; see `open_any`."""
    if uri.lower().endswith(SLIDE_ENDINGS):
        return True
    from fewscope.connectors.slides.ome_zarr import is_ome_zarr

    if is_ome_zarr(uri):
        return True
    if "://" in uri or uri.startswith("/vsi"):
        return False
    from fewscope.connectors.slides.channel_tiff import is_channel_tiff
    from fewscope.connectors.slides.openslide_source import knows

    return knows(uri) or is_channel_tiff(uri) or is_plain_picture(uri)


def is_plain_picture(uri: str) -> bool:
    """Whether a local file is a picture of one field of view, which is no other kind of slide, and lies on no map."""
    from fewscope.connectors.slides.channel_tiff import is_channel_tiff
    from fewscope.connectors.slides.openslide_source import knows
    from fewscope.connectors.slides.picture_file import is_picture

    if not uri.lower().endswith(FIELD_ENDINGS):
        return False
    return not knows(uri) and not is_channel_tiff(uri) and is_picture(uri)


def _asks_for_bands(raster: RasterOptions) -> bool:
    """Whether a raster's bands or grid are chosen, which a picture of a microscope does not have."""
    return bool(raster.bands or raster.all_bands or raster.res or raster.crs or raster.data_bands)


def open_source(
    uri: str,
    *,
    mpp: float | None = None,
    slide_mpp: float | None = None,
    slide: SlideOptions | None = None,
    raster: RasterOptions | None = None,
) -> Source:
    """Open a slide, or a raster, for reading at a working resolution.

    Parameters
    ----------
    uri
        Path or fsspec URL. A remote slide is copied to a local cache. A raster may also be a ``/vsi...`` path of GDAL,
        a pattern, or a STAC item collection; remote rasters and OME-Zarrs are read in ranges.
    mpp
        Working resolution of a slide, um per px. None: `DEFAULT_MPP` for finer slides (or an integer multiple of the
        slide's own within 2 % of it, which needs no interpolation), else the slide's own; images of an electron
        microscope are read at their own, too. A slide that does not state its resolution is assumed to have this one
        at level 0.
    slide_mpp
        Resolution of level 0, um per px; overrides the file's.
    slide
        Which channels of which image of a multi-channel TIFF or an OME-Zarr; None: all of the first.
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
        return reader.open(Asked(uri, mpp, slide_mpp, slide or SlideOptions(), raster))


def reopen_slide(run: FinishedRun, slide: str | None = None) -> SourceInfo:
    """Metadata of the slide of a finished run.

    Parameters
    ----------
    slide
        Where it is now; None: where it was.

    Raises
    ------
    SourceError
        It is not there, or is another one.
    """
    uri = slide or run.source
    if "://" not in uri and not os.path.exists(uri):
        raise SourceError(f"{uri}: the slide of {run.out} is not there; say with --slide where it is")
    source = open_source(uri, mpp=run.manifest["mpp"])
    source.close()
    if source.info.fingerprint != run.manifest["source"]:
        raise SourceError(f"{uri}: is not the slide of {run.out}; give that one as --slide")
    return source.info
