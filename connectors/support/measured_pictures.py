"""Labelled pictures as they are read: ordinary ones of 8 bits as they are; those of more bits or of several channels as
`connectors.open` reads sources, all in one range of values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.windows import Window

from fewscope.connectors.conventions import Ranges
from fewscope.connectors.slide_options import CHANNEL_TIFF_ENDINGS, NO_STACK, StackOptions
from fewscope.connectors.slides.channel_source import ChannelSource
from fewscope.connectors.slides.channel_tiff import ChannelTiff, is_channel_tiff
from fewscope.connectors.slides.picture_file import PictureFile, is_picture, is_turned, open_quietly
from fewscope.connectors.slides.tiff_pages import has_pages
from fewscope.connectors.source import SourceInfo
from fewscope.connectors.storage.gdal import gdal
from fewscope.connectors.support.image_files import MAX_SIDE, decode_image
from fewscope.errors import SourceError, SupportError

ANY = "--mpp"
"""Where `ChannelSource.open_whole` has the resolution from of a picture that states none."""

TIFF_ENDINGS = (".tif", ".tiff")


class PictureReader:
    """Reads the labelled pictures of one folder.

    Parameters
    ----------
    filesystem
        Of fsspec.
    paths
        Of the pictures, in it.
    stated
        What support.json says; its "ranges" say that pictures of 8 bits were made from these values.
    stack
        Which plane and time point of pictures that are stacks.

    Attributes
    ----------
    mpp : float | None
        um per px: as stated in support.json, else by all pictures of channels.
    ranges : Ranges
        Values of each channel shown as black and white: those stated, else of the pictures together; empty where they
        are ordinary pictures, whose values stay as they are.
    assumptions : tuple[str, ...]
        Which planes of stacks are read.
    """

    def __init__(
        self,
        filesystem: Any,
        paths: Iterable[str],
        stated: Mapping[str, Any],
        stack: StackOptions = NO_STACK,
    ) -> None:
        self._filesystem, self._stack = filesystem, stack
        self._are_stated = "ranges" in stated
        self.ranges: Ranges = tuple((low, high) for low, high in stated.get("ranges", ()))
        found: list[ChannelSource | None] = [self._open(path) for path in paths]
        infos = [source.info for source in found if source is not None]
        planes = sorted({info.plane for info in infos if info.plane})
        self.assumptions: tuple[str, ...] = ()
        if planes and stack.plane is None:
            one = next(info.uri for info in infos if info.plane)
            self.assumptions = (
                f"{one}: of the labelled pictures that are z-stacks was read: {', '.join(planes)}; --plane decides.",
            )
        for source in found:
            if source is not None:
                source.close()
        self.mpp: float | None = stated.get("mpp")
        resolutions = {_stated_mpp(info) for info in infos}
        if self.mpp is None and len(infos) == len(found) and len(resolutions) == 1:
            self.mpp = resolutions.pop()
        if not self._are_stated:
            self.ranges = common_ranges([info.ranges for info in infos])

    def read(self, path: str) -> NDArray[np.uint8]:
        """A picture: uint8 (H, W, 3), RGB, or (H, W, C) of more channels.

        Raises
        ------
        SupportError
            It cannot be decoded, is too large, or is not of 8 bits and not on a disk.
        """
        source = self._open(path)
        if source is None:
            return decode_image(self._filesystem, path)
        try:
            info = source.info
            if max(info.height, info.width) > MAX_SIDE:
                raise SupportError(
                    f"{path}: is {info.height} x {info.width} px, at most {MAX_SIDE} a side; cut out the part that is "
                    "labelled"
                )
            shown = source if self._are_stated else source.matched(self.ranges)
            image, valid = shown.read(Window(0, 0, info.width, info.height))
        finally:
            source.close()
        if not valid.any():
            raise SupportError(f"{path}: cannot be decoded; save it again")
        return image

    def _open(self, path: str) -> ChannelSource | None:
        """A picture of more bits or of channels on its own pixels; None for others, and where it is not on a disk."""
        if not _is_local(self._filesystem):
            return None
        of_channels = path.lower().endswith(CHANNEL_TIFF_ENDINGS) and is_channel_tiff(path)
        if not of_channels and not _is_deep(path) and not has_pages(path):
            return None
        if not of_channels and not is_picture(path):
            raise SupportError(
                f"{path}: is a georeferenced raster of other values than bytes, and how the scene shows them is not "
                "known here; turn its labels into polygons without the background (QGIS: Polygonize) and give these, "
                "with --support-raster if it is not the scene itself; or save it as 8-bit RGB as the scene is shown"
            )
        with gdal(), open_quietly(path) as picture:
            if is_turned(picture):  # whoever labelled it may have seen it so
                raise SupportError(f"{path}: is rotated by its EXIF orientation; save it upright")
        try:
            return ChannelSource.open_whole(
                path,
                ChannelTiff if of_channels else PictureFile,
                as_is=self._are_stated,
                stack=self._stack,
            )
        except SourceError as error:
            raise SupportError(str(error)) from error


def common_ranges(found: Iterable[Ranges]) -> Ranges:
    """One range of each channel for pictures of one experiment: from the median of the lows to the largest high.

    Empty if there are none, or the pictures differ in their number of channels.
    """
    ranges = [one for one in found if one]
    if not ranges or len({len(one) for one in ranges}) > 1:
        return ()
    ends = np.array(ranges)
    return tuple(zip(np.median(ends[..., 0], 0).tolist(), ends[..., 1].max(0).tolist(), strict=True))


def _stated_mpp(info: SourceInfo) -> float | None:
    return None if info.native_mpp is None or info.mpp_source == ANY else round(info.native_mpp, 6)


def _is_local(filesystem: Any) -> bool:
    protocol = getattr(filesystem, "protocol", ())
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _is_deep(path: str) -> bool:
    """Whether a picture holds other numbers than bytes, or more channels than a picture to look at has."""
    try:
        with gdal(), open_quietly(path) as picture:
            n_bands, kinds = picture.count, set(picture.dtypes)
    except RasterioError:
        return False
    return n_bands > 0 and (kinds != {"uint8"} or (n_bands > 4 and path.lower().endswith(TIFF_ENDINGS)))
