"""Pictures of fields of view (PNG, JPEG, BMP, WebP, GIF, plain TIFF), as cameras and programs write them.

They have one level and any depth of bits, and GDAL decodes them window by window.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from fewscope.connectors.pixels.levels import Block
from fewscope.connectors.slide_options import Pages
from fewscope.connectors.slides.channel_image import Channel, ChannelImage, DecodeError
from fewscope.connectors.slides.members import check_file
from fewscope.connectors.slides.tiff_pages import PageOrder, page_order
from fewscope.connectors.source import PLAUSIBLE_MPP
from fewscope.connectors.storage.download import local_copy, remote_version
from fewscope.connectors.storage.fingerprint import add_files
from fewscope.connectors.storage.gdal import gdal
from fewscope.connectors.storage.handles import IdleHandles
from fewscope.errors import SourceError

MAX_IDLE = 64
"""Handles kept open: of a few threads, or of the pages of a stack."""

MAX_PIXELS = 2**28
"""Of a picture that no pyramid makes quick to look at: 16,384 px a side. A slide is written in levels."""

RGB = ("red", "green", "blue")
MM_PER_UNIT = {"2": 25.4, "3": 10.0}  # of TIFFTAG_RESOLUTIONUNIT: inch, cm


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the bands of a file become channels.

    Attributes
    ----------
    bands
        Of each channel, counted from 1; a grey picture of 8 bits has its band three times.
    alpha
        The band of opacity, laid over white; None without one.
    palette
        RGB of each value of the only band, uint8 (n, 3), over white; None without one.
    white
        The value that is shown as white, where it is less than the type's largest: of 1 to 7 bits.
    """

    bands: tuple[int, ...]
    alpha: int | None = None
    palette: NDArray[np.uint8] | None = None
    white: int | None = None


class PictureFile:
    """A picture; see `connectors.slides.channel_image.ImageReader`.

    Parameters
    ----------
    uri
        Path or fsspec URL; a remote file is copied to the local cache.
    series
        As of other images; a picture has one.
    pages
        What the pages of a TIFF are if it does not say it; None: channels.

    Raises
    ------
    SourceError
        It is no picture, lies on a map, holds several pictures, or is a CIELAB one, whose colours are not certain.
    """

    def __init__(self, uri: str, series: int | None = None, pages: Pages | None = None) -> None:
        self._uri, self._path = uri, local_copy(uri)
        if series not in (None, 1):
            raise SourceError(f"{uri}: is one picture and has no image {series}; leave out --series")
        check_file(uri, self._path)
        try:
            with gdal(), open_quietly(self._path) as opened:
                _check(uri, opened)
                is_paged = len(opened.subdatasets) > 1
                self._pages = page_order(uri, self._path, pages) if is_paged else None
                n_channels = self._pages.size("C") if self._pages else 1
                self._layout = _layout(opened) if n_channels == 1 else _Layout((1,) * n_channels)
                self.image = _image(uri, opened, self._layout, self._pages)
        except RasterioError as error:
            reason = " ".join(str(error).replace(self._path, "the file").split())
            raise SourceError(
                f"{uri}: is not a picture that can be read ({reason}); it is damaged, cut short or of another kind: "
                "copy it again, or check that it is the right file"
            ) from error
        digest = hashlib.sha256(remote_version(uri).encode())
        add_files(digest, [("", self._path)])
        self.fingerprint = digest.hexdigest()
        self._handles: IdleHandles[rasterio.DatasetReader] = IdleHandles(
            rasterio.DatasetReader.close, MAX_IDLE
        )

    def read(
        self, level: int, channels: Sequence[int], block: Block, plane: int = 0, time: int = 0
    ) -> NDArray[np.generic]:
        """See `ImageReader.read`."""
        top, bottom, left, right = block
        window, pages = Window(left, top, right - left, bottom - top), self._pages
        if pages is None:
            return self._values(self._path, channels, window)
        if "C" not in pages.axes:
            return self._values(_page(self._path, pages.offset(0, plane, time)), channels, window)
        each = [self._decode(_page(self._path, pages.offset(c, plane, time)), [1], window) for c in channels]
        return np.concatenate(each)

    def _values(self, path: str, channels: Sequence[int], window: Window) -> NDArray[np.generic]:
        """Channels of a picture, which may lie in its bands, in a palette, or under an opacity."""
        layout = self._layout
        bands = sorted({layout.bands[channel] for channel in channels})
        wanted = bands if layout.alpha is None else [*bands, layout.alpha]
        found = self._decode(path, wanted, window)
        if layout.palette is not None:
            return np.moveaxis(layout.palette[found[0]], 2, 0)[list(channels)]
        if layout.white is not None:
            found = (found.astype(np.uint16) * 255 // layout.white).astype(np.uint8)
        values = found[: len(bands)]
        if layout.alpha is not None:
            values = _over_white(values, found[-1])
        return values[[bands.index(layout.bands[channel]) for channel in channels]]

    def _decode(self, path: str, bands: Sequence[int], window: Window) -> NDArray[np.generic]:
        try:
            with gdal(), self._handles.take(path, functools.partial(open_quietly, path), self._uri) as one:
                found: NDArray[np.generic] = one.read(bands, window=window)
        except RasterioError as error:
            raise DecodeError(str(error)) from error
        return found

    def close(self) -> None:
        """See `ImageReader.close`."""
        self._handles.close()


def is_picture(path: str) -> bool:
    """Whether GDAL reads a local file as a picture that lies on no map."""
    try:
        with gdal(), open_quietly(path) as opened:
            return not _is_on_map(opened)
    except RasterioError:
        return False


def open_quietly(path: str) -> rasterio.DatasetReader:
    """GDAL's handle of a picture, without the warning that it lies nowhere on earth."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def _is_on_map(opened: rasterio.DatasetReader) -> bool:
    return bool(opened.crs) or not opened.transform.is_identity or bool(opened.gcps[0]) or bool(opened.rpcs)


def _check(uri: str, opened: rasterio.DatasetReader) -> None:
    """Refuse what is no picture of one field of view, or one whose pixels have no certain meaning."""
    if _is_on_map(opened):
        raise SourceError(
            f"{uri}: is a georeferenced raster ({opened.crs or 'without a CRS'}), not a slide; segment it with "
            "`fewscope map`"
        )
    size = f"{opened.width} x {opened.height} px"
    if opened.count == 0:
        raise SourceError(f"{uri}: has no pixels of its own; export it as PNG or TIFF")
    if opened.width * opened.height > MAX_PIXELS:
        raise SourceError(
            f"{uri}: is a picture of {size} without levels; make it a slide with `python -m "
            f"fewscope.connectors.slides.pyramid_tiff {shlex.quote(uri)} OUT.tif --mpp UM_PER_PX`"
        )
    if opened.driver == "WEBP" and _is_animated(opened.name):
        raise SourceError(f"{uri}: is an animation, of which no picture can be read; save one of them as PNG")
    if opened.tags(ns="IMAGE_STRUCTURE").get("SOURCE_COLOR_SPACE", "").endswith("LAB"):
        raise SourceError(
            f"{uri}: is a CIELAB picture, whose white point is not certain; convert it to RGB first"
        )


def is_turned(opened: rasterio.DatasetReader) -> bool:
    """Whether a picture is to be shown in another orientation than it is stored in, by its EXIF."""
    return opened.tags().get("EXIF_Orientation", "1") not in ("0", "1")


def _is_animated(path: str) -> bool:
    """Whether a WebP holds several pictures: https://developers.google.com/speed/webp/docs/riff_container"""
    with open(path, "rb") as file:
        head = file.read(21)
    return head[12:16] == b"VP8X" and len(head) == 21 and bool(head[20] & 2)


def _page(path: str, offset: int) -> str:
    """GDAL's name of a page of a TIFF."""
    return f"GTIFF_DIR:off:{offset}:{path}"


def _layout(opened: rasterio.DatasetReader) -> _Layout:
    meaning, is_bytes = opened.colorinterp, set(opened.dtypes) == {"uint8"}
    if meaning[0] == ColorInterp.palette and is_bytes and opened.count == 1:
        palette = np.full((256, 3), 255, np.uint8)
        for index, colour in opened.colormap(1).items():
            rgb = np.array(colour[:3], np.uint8)[:, None]
            palette[index] = _over_white(rgb, np.array([colour[3]], np.uint8))[:, 0]
        return _Layout((1, 1, 1), palette=palette)
    has_alpha = opened.count in (2, 4) and meaning[-1] == ColorInterp.alpha
    n_colours = opened.count - has_alpha
    alpha = opened.count if has_alpha else None
    if n_colours == 1 and is_bytes:
        bits = int(opened.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", "8"))
        return _Layout((1, 1, 1), alpha, white=2**bits - 1 if bits < 8 else None)
    return _Layout(tuple(range(1, n_colours + 1)), alpha)


def _image(
    uri: str, opened: rasterio.DatasetReader, layout: _Layout, pages: PageOrder | None
) -> ChannelImage:
    dtype = np.result_type(*opened.dtypes)
    driver = "plain TIFF" if opened.driver == "GTiff" else opened.driver
    is_rgb = len(layout.bands) == 3 and (pages is None or "C" not in pages.axes)
    names = RGB if is_rgb else ("grey",) if len(layout.bands) == 1 else ()
    mpp = _resolution(opened)
    assumptions: tuple[str, ...] = ()
    if pages is not None and pages.is_assumed:
        assumptions = (
            f"{uri}: does not say what its {len(pages.offsets)} pages are; they were read as channels. --pages planes "
            "or times says otherwise.",
        )
    if is_turned(opened):
        assumptions += (
            f"{uri}: is to be shown turned, as its EXIF orientation says; it was analysed as it is stored, and so are "
            "the coordinates and outlines of what was found.",
        )
    return ChannelImage(
        vendor=f"{driver} picture",
        channels=tuple(map(Channel, names or (f"channel {i}" for i in range(1, len(layout.bands) + 1)))),
        shapes=((opened.height, opened.width),),
        dtype=np.dtype(dtype),
        mpp=mpp,
        is_rgb=is_rgb,
        is_field=True,
        assumptions=assumptions,
        n_planes=pages.size("Z") if pages else 1,
        n_times=pages.size("T") if pages else 1,
    )


def _resolution(opened: rasterio.DatasetReader) -> tuple[str, str, str] | None:
    """um per px across and down, where the tags of a TIFF state a microscope's; other pictures state that of a screen
    or a printer."""
    tags = opened.tags()
    per_mm = MM_PER_UNIT.get(tags.get("TIFFTAG_RESOLUTIONUNIT", "").split(" ")[0])
    found: list[float] = []
    with contextlib.suppress(KeyError, ValueError, ZeroDivisionError, TypeError):
        found = [1000 * per_mm / float(tags[f"TIFFTAG_{axis}RESOLUTION"]) for axis in "XY"]  # type: ignore[operator]
    if found and all(PLAUSIBLE_MPP[0] <= um <= PLAUSIBLE_MPP[1] for um in found):
        across, down = (f"{um:.6g}" for um in found)
        return "TIFF resolution", across, down
    return None


def _over_white(values: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Channels (n, h, w) over white, by an opacity (h, w) of the same type."""
    if values.dtype.kind not in "u":
        return values
    full = int(np.iinfo(alpha.dtype).max)
    weight = alpha.astype(np.uint64)
    white = np.uint64(np.iinfo(values.dtype).max) * (full - weight)
    mixed = (values.astype(np.uint64) * weight + white + full // 2) // full
    return mixed.astype(values.dtype)
