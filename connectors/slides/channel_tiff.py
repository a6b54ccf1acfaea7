"""Multi-channel TIFFs (OME-TIFF, QPTIFF, stacks of ImageJ), which OpenSlide shows one channel of, or none.

tifffile says where the planes of an image lie in the file, GDAL decodes them, window by window. So every compression is
read that GDAL knows, and a damaged tile costs its surroundings alone, as in all other sources.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import tifffile
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from fewscope.connectors.pixels.levels import Block
from fewscope.connectors.slide_options import CHANNEL_TIFF_ENDINGS
from fewscope.connectors.slides.channel_image import Channel, ChannelImage, DecodeError, Stated
from fewscope.connectors.slides.openslide_source import knows
from fewscope.connectors.slides.tiff_kinds import kind_of
from fewscope.connectors.storage.download import local_copy, remote_version
from fewscope.connectors.storage.fingerprint import add_files
from fewscope.connectors.storage.gdal import gdal
from fewscope.connectors.storage.handles import IdleHandles
from fewscope.errors import SourceError

MAX_IDLE = 256  # handles kept open: of each channel at a level for a few threads
MAX_BLOCK_BYTES = 512 * 2**20  # of a tile or strip as the file stores it
RGB = ("red", "green", "blue")


@dataclass(frozen=True, slots=True)
class _Plane:
    """Where a channel of a level lies: file, offset of its directory, band."""

    path: str
    offset: int
    band: int


class ChannelTiff:
    """One image of a TIFF of one of `tiff_kinds.KINDS`; see `connectors.slides.channel_image.ImageReader`.

    Parameters
    ----------
    uri
        Path or fsspec URL; a remote file is copied to the local cache.
    series
        Which image, counted from 1; None: the first.

    Raises
    ------
    SourceError
        It is of no such kind, or has no such image, or its planes cannot be found.
    """

    def __init__(self, uri: str, series: int | None = None) -> None:
        self._uri = uri
        path = local_copy(uri)
        self.image, self._planes, files = _inspect(uri, path, series)
        digest = hashlib.sha256(f"{remote_version(uri)} {series or 1}".encode())
        add_files(
            digest,
            [
                ("", path),
                *((os.path.basename(f), f) for f in files if os.path.realpath(f) != os.path.realpath(path)),
            ],
        )
        self.fingerprint = digest.hexdigest()
        self._handles: IdleHandles[rasterio.DatasetReader] = IdleHandles(
            rasterio.DatasetReader.close, MAX_IDLE
        )
        self._check_blocks()

    def read(self, level: int, channels: Sequence[int], block: Block) -> NDArray[np.generic]:
        """See `ImageReader.read`."""
        top, bottom, left, right = block
        values = np.empty((len(channels), bottom - top, right - left), self.image.dtype)
        window = Window(left, top, right - left, bottom - top)
        by_directory: dict[tuple[str, int], list[int]] = {}
        planes = [self._planes[level][channel] for channel in channels]
        for i, plane in enumerate(planes):
            by_directory.setdefault((plane.path, plane.offset), []).append(i)
        for (path, offset), wanted in by_directory.items():
            try:
                with (
                    gdal(),
                    self._handles.take(
                        (path, offset), functools.partial(_open, path, offset), self._uri
                    ) as one,
                ):
                    found = one.read([planes[i].band for i in wanted], window=window)
            except RasterioError as error:
                raise DecodeError(str(error)) from error
            if found.shape[1:] != values.shape[1:]:
                raise DecodeError(f"a plane measures {one.height} x {one.width} px, other than its level")
            values[wanted] = found
        return values

    def close(self) -> None:
        """See `ImageReader.close`."""
        self._handles.close()

    def _check_blocks(self) -> None:
        """Refuse an image whose stored tiles or strips do not fit into memory."""
        plane = self._planes[0][0]
        try:
            with gdal(), _open(plane.path, plane.offset) as dataset:
                rows, cols = dataset.block_shapes[0]
        except RasterioError as error:
            reason = " ".join(str(error).split())
            raise SourceError(
                f"{self._uri}: GDAL cannot decode it ({reason}); convert it, for example with "
                "`bfconvert -compression zlib`"
            ) from error
        size = rows * cols * self.image.dtype.itemsize
        if size > MAX_BLOCK_BYTES:
            raise SourceError(
                f"{self._uri}: is stored in blocks of {rows} x {cols} px, {size / 2**30:.1f} GiB each; write it in "
                "tiles, for example with `bfconvert -tilex 512 -tiley 512`"
            )


def is_channel_tiff(path: str) -> bool:
    """Whether a local file is a TIFF to be read here: not an RGB picture of 8 bits whose resolution OpenSlide knows."""
    if not path.lower().endswith(CHANNEL_TIFF_ENDINGS):
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            if kind_of(tiff) is None:
                return False
            page = tiff.pages.first
            if page.samplesperpixel < 3 or page.dtype != np.uint8 or not knows(path):
                return True
            return "XResolution" not in page.tags or page.resolutionunit not in (2, 3)
    except Exception:  # tifffile has no common error for files that are damaged, or no TIFFs
        return False


def _open(path: str, offset: int) -> rasterio.DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # slides have no place on earth
        return rasterio.open(f"GTIFF_DIR:off:{offset}:{path}")


def _inspect(uri: str, path: str, series: int | None) -> tuple[ChannelImage, list[list[_Plane]], list[str]]:
    """What an image states, its planes by level and channel, and the files that they lie in."""
    try:
        if os.path.getsize(path) == 0:
            raise SourceError(f"{uri}: is empty (0 bytes); copy it again from where it came")
        with tifffile.TiffFile(path) as tiff:
            kind = kind_of(tiff)
            if kind is None:
                raise SourceError(
                    f"{uri}: is a TIFF whose OME-XML, which says what its channels are, is missing or cut off; "
                    "export it as OME-TIFF, or copy it again"
                )
            len(
                tiff.pages
            )  # stops at directories that lead in a circle, where looking for series does not end
            found, stated = kind.read(uri, tiff)
            index = _choose(uri, [one.name for one in found], series)
            image, planes = _describe(uri, kind.name, tiff, found, index, stated[index], series)
            files = sorted({plane.path for of_level in planes for plane in of_level})
            _check_folder(uri, path, files)
            return image, planes, files
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceError(f"{uri}: no such file; check the path") from error
    except Exception as error:  # tifffile has no common error for damaged files
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise SourceError(
            f"{uri}: cannot be read as a multi-channel TIFF ({reason}); it is damaged or cut short: copy it again"
        ) from error


def _choose(uri: str, names: Sequence[str], series: int | None) -> int:
    if not names:
        raise SourceError(f"{uri}: has no image")
    if series is not None and series > len(names):
        listed = ", ".join(f"{i} {name or 'without name'}" for i, name in enumerate(names, start=1))
        raise SourceError(f"{uri}: has no image {series}; give --series from these: {listed}")
    return (series or 1) - 1


def _check_folder(uri: str, path: str, files: Sequence[str]) -> None:
    """Refuse an image whose planes lie in files elsewhere."""
    folder = os.path.dirname(os.path.realpath(path))
    if outside := [file for file in files if os.path.dirname(os.path.realpath(file)) != folder]:
        raise SourceError(f"{uri}: refers to {outside[0]}, outside its folder; put its files into one folder")


def _describe(
    uri: str,
    vendor: str,
    tiff: tifffile.TiffFile,
    found: Sequence[Any],
    index: int,
    stated: Stated,
    series: int | None,
) -> tuple[ChannelImage, list[list[_Plane]]]:
    """What an image states, and its planes by level and channel."""
    chosen = found[index]
    axes, shape = chosen.axes, chosen.shape
    assumptions = []
    if "C" not in axes and axes.count("I") == 1:
        axes = axes.replace("I", "C")
        assumptions.append(
            f"{uri}: does not say what its {shape[axes.index('C')]} planes are; they were read as channels."
        )
    if not {"Y", "X"} <= set(axes) or set(axes) - set("TCZSYX"):
        raise SourceError(f"{uri}: has axes {axes}, expected Y and X with C, Z, T or samples; export it anew")
    sizes = dict(zip(axes, shape, strict=True))
    if len(found) > 1 and series is None:
        listed = ", ".join(f"{i} {one.name} ({one.shape})" for i, one in enumerate(found[:6], start=1))
        assumptions.append(
            f"{uri}: of its {len(found)} images the first was read ({listed}{', ...' if len(found) > 6 else ''}); "
            "--series takes another."
        )
    at = {"T": 0, "Z": sizes.get("Z", 1) // 2}
    for axis, what in (("Z", "planes"), ("T", "time points")):
        if sizes.get(axis, 1) > 1:
            assumptions.append(
                f"{uri}: of its {sizes[axis]} {what} number {at[axis] + 1} was read; save another one for that."
            )
    leading = [axis for axis in axes if axis not in "SYX"]
    n_samples = sizes.get("S", 1)
    planes = []
    for level in chosen.levels:
        of_level = []
        for channel in range(sizes.get("C", 1)):
            place = tuple(channel if axis == "C" else at[axis] for axis in leading)
            number = int(np.ravel_multi_index(place, [sizes[a] for a in leading])) if leading else 0
            page = _page(level, tiff, number)
            if page is None:
                raise SourceError(
                    f"{uri}: lacks the plane of channel {channel + 1}: it was not saved whole, or by ImageJ with more "
                    "than 4 GB; save it as OME-TIFF"
                )
            file = page.parent.filehandle.path
            of_level += [_Plane(file, page.offset, sample + 1) for sample in range(n_samples)]
        planes.append(of_level)
    shapes = []
    for level in chosen.levels:
        of_level_axes = dict(zip(level.axes, level.shape, strict=True))
        shapes.append((of_level_axes["Y"], of_level_axes["X"]))
    is_rgb = n_samples in (3, 4) and sizes.get("C", 1) == 1
    image = ChannelImage(
        vendor=vendor,
        channels=_channels(stated.channels, sizes.get("C", 1), n_samples, is_rgb),
        shapes=tuple(shapes),
        dtype=np.dtype(chosen.dtype).newbyteorder("="),
        mpp=stated.mpp,
        is_rgb=is_rgb,
        assumptions=tuple(assumptions),
    )
    if is_rgb:
        planes = [of_level[:3] for of_level in planes]
    return image, planes


def _page(level: Any, tiff: tifffile.TiffFile, number: int) -> Any:
    """A plane's directory, None if it has none. Of ImageJ's stacks, tifffile lists the first alone."""
    pages = tiff.pages if level.kind == "imagej" else level.pages
    return pages[number] if number < len(pages) else None


def _channels(
    stated: Sequence[Channel], n_channels: int, n_samples: int, is_rgb: bool
) -> tuple[Channel, ...]:
    """One channel for each sample of each channel that is stated."""
    if is_rgb:
        return tuple(Channel(name) for name in RGB)
    if len(stated) != n_channels:
        stated = [Channel(f"channel {i}") for i in range(1, n_channels + 1)]
    if n_samples == 1:
        return tuple(stated)
    return tuple(Channel(f"{channel.name} ({s})") for channel in stated for s in range(1, n_samples + 1))
