"""Multi-channel TIFFs (OME-TIFF, QPTIFF, stacks of ImageJ), which OpenSlide shows one channel of, or none.

tifffile says where the planes of an image lie in the file, GDAL decodes them, window by window. So every compression is
read that GDAL knows, and a damaged tile costs its surroundings alone, as in all other sources.
"""

from __future__ import annotations

import functools
import hashlib
import math
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
from fewscope.connectors.slide_options import CHANNEL_TIFF_ENDINGS, Pages
from fewscope.connectors.slides.channel_image import Channel, ChannelImage, DecodeError, Stated
from fewscope.connectors.slides.ome_xml import MAX_PLANES
from fewscope.connectors.slides.openslide_source import knows
from fewscope.connectors.slides.resolution import is_of_a_screen
from fewscope.connectors.slides.tiff_kinds import kind_of, tags_mpp
from fewscope.connectors.slides.tiff_pages import PAGE_AXES
from fewscope.connectors.storage.download import local_copy, remote_version
from fewscope.connectors.storage.fingerprint import add_files
from fewscope.connectors.storage.gdal import gdal
from fewscope.connectors.storage.handles import IdleHandles
from fewscope.errors import SourceError

MAX_IDLE = 256  # handles kept open: of each channel at a level for a few threads
MAX_BLOCK_BYTES = 512 * 2**20  # of a tile or strip as the file stores it
RGB = ("red", "green", "blue")


Place = tuple[str, int]
"""Where a plane lies: file, offset of its directory."""


@dataclass(frozen=True, slots=True)
class _Planes:
    """Where the planes of an image lie.

    Attributes
    ----------
    places
        Of each level, in the order of ``axes``, the last of which counts fastest; None where the file lacks one.
    axes, sizes
        Of channels, planes and time points, and how many there are of each.
    n_samples
        Values of each pixel in a plane.
    """

    places: tuple[tuple[Place | None, ...], ...]
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    n_samples: int

    def at(self, level: int, channel: int, plane: int, time: int) -> Place | None:
        """Of a channel, which may be one of several in a plane."""
        of_axis = {"C": channel // self.n_samples, "Z": plane, "T": time}
        place = tuple(of_axis[axis] for axis in self.axes)
        return self.places[level][int(np.ravel_multi_index(place, self.sizes)) if place else 0]


class ChannelTiff:
    """One image of a TIFF of one of `tiff_kinds.KINDS`; see `connectors.slides.channel_image.ImageReader`.

    Parameters
    ----------
    uri
        Path or fsspec URL; a remote file is copied to the local cache.
    series
        Which image, counted from 1; None: the first.
    pages
        What the planes are if the file does not say it; None: channels.

    Raises
    ------
    SourceError
        It is of no such kind, or has no such image, or its planes cannot be found.
    """

    def __init__(self, uri: str, series: int | None = None, pages: Pages | None = None) -> None:
        self._uri = uri
        path = local_copy(uri)
        self.image, self._planes, files = _inspect(uri, path, series, pages)
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

    def read(
        self, level: int, channels: Sequence[int], block: Block, plane: int = 0, time: int = 0
    ) -> NDArray[np.generic]:
        """See `ImageReader.read`; SourceError if the file lacks a plane."""
        top, bottom, left, right = block
        values = np.empty((len(channels), bottom - top, right - left), self.image.dtype)
        window = Window(left, top, right - left, bottom - top)
        by_directory: dict[Place, list[int]] = {}
        for i, channel in enumerate(channels):
            place = self._planes.at(level, channel, plane, time)
            if place is None:
                raise SourceError(self._lacks(channel, plane, time))
            by_directory.setdefault(place, []).append(i)
        bands = [channel % self._planes.n_samples + 1 for channel in channels]
        for (path, offset), wanted in by_directory.items():
            try:
                with (
                    gdal(),
                    self._handles.take(
                        (path, offset), functools.partial(_open, path, offset), self._uri
                    ) as one,
                ):
                    found = one.read([bands[i] for i in wanted], window=window)
            except RasterioError as error:
                raise DecodeError(str(error)) from error
            if found.shape[1:] != values.shape[1:]:
                raise DecodeError(f"a plane measures {one.height} x {one.width} px, other than its level")
            values[wanted] = found
        return values

    def close(self) -> None:
        """See `ImageReader.close`."""
        self._handles.close()

    def _lacks(self, channel: int, plane: int, time: int) -> str:
        of = [f"channel {channel // self._planes.n_samples + 1}"]
        of += [f"plane {plane + 1}"] if self.image.n_planes > 1 else []
        of += [f"time point {time + 1}"] if self.image.n_times > 1 else []
        return (
            f"{self._uri}: lacks the plane of {', '.join(of)}: it was not saved whole, or by ImageJ with more than "
            "4 GB; save it as OME-TIFF"
        )

    def _check_blocks(self) -> None:
        """Refuse an image whose stored tiles or strips do not fit into memory."""
        first = next((place for place in self._planes.places[0] if place is not None), None)
        if first is None:
            raise SourceError(self._lacks(0, 0, 0))
        try:
            with gdal(), _open(*first) as dataset:
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
    """Whether a local file is a TIFF to be read here: not an RGB picture of 8 bits whose resolution OpenSlide knows.

    Of a z-stack or time series, OpenSlide shows the first plane.
    """
    if not path.lower().endswith(CHANNEL_TIFF_ENDINGS):
        return False
    try:
        with tifffile.TiffFile(path) as tiff:
            kind = kind_of(tiff)
            if kind is None:
                return False
            page = tiff.pages.first
            if page.samplesperpixel < 3 or page.dtype != np.uint8 or not knows(path):
                return True
            mpp = tags_mpp(page)
            if mpp is None or is_of_a_screen(mpp):
                return True
            first = kind.read(path, tiff)[0][0]
            return any(size > 1 for axis, size in zip(first.axes, first.shape, strict=True) if axis in "TZ")
    except Exception:  # tifffile has no common error for files that are damaged, or no TIFFs
        return False


def _open(path: str, offset: int) -> rasterio.DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # slides have no place on earth
        return rasterio.open(f"GTIFF_DIR:off:{offset}:{path}")


def _inspect(
    uri: str, path: str, series: int | None, pages: Pages | None
) -> tuple[ChannelImage, _Planes, list[str]]:
    """What an image states, its planes, and the files that they lie in."""
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
            image, planes = _describe(uri, kind.name, tiff, found, index, stated[index], series, pages)
            files = sorted({place[0] for of_level in planes.places for place in of_level if place})
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
    pages: Pages | None,
) -> tuple[ChannelImage, _Planes]:
    """What an image states, and its planes."""
    chosen = found[index]
    axes, shape = chosen.axes, chosen.shape
    assumptions = []
    unknown = "I" if axes.count("I") == 1 else ""
    if pages is not None and chosen.kind == "imagej":
        alone = axes.translate(str.maketrans("", "", "SYX"))
        unknown = alone if len(alone) == 1 else unknown  # ImageJ calls any stack slices
    if unknown and PAGE_AXES[pages or "channels"] not in axes.replace(unknown, ""):
        axes = axes.replace(unknown, PAGE_AXES[pages or "channels"])
        if pages is None:
            assumptions.append(
                f"{uri}: does not say what its {shape[axes.index('C')]} planes are; they were read as channels. "
                "--pages planes or times says otherwise."
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
    leading = tuple(axis for axis in axes if axis not in "SYX")
    n_of_each = tuple(sizes[axis] for axis in leading)
    n_samples = sizes.get("S", 1)
    n_planes = math.prod(n_of_each)
    if n_planes > MAX_PLANES:
        raise SourceError(
            f"{uri}: states {n_planes} planes, at most {MAX_PLANES} are read; check its metadata"
        )
    places, shapes = [], []
    for level in chosen.levels:
        of_level = dict(zip(level.axes, level.shape, strict=True))
        # a level with fewer planes is one of another stack
        if tuple(size for axis, size in of_level.items() if axis not in "SYX") == n_of_each:
            places.append(tuple(_place(level, tiff, number) for number in range(n_planes)))
            shapes.append((of_level["Y"], of_level["X"]))
    is_rgb = n_samples in (3, 4) and sizes.get("C", 1) == 1
    image = ChannelImage(
        vendor=vendor,
        channels=_channels(stated.channels, sizes.get("C", 1), n_samples, is_rgb),
        shapes=tuple(shapes),
        dtype=np.dtype(chosen.dtype).newbyteorder("="),
        mpp=stated.mpp,
        is_rgb=is_rgb,
        assumptions=tuple(assumptions),
        n_planes=sizes.get("Z", 1),
        n_times=sizes.get("T", 1),
        times_s=stated.times_s,
    )
    return image, _Planes(tuple(places), leading, n_of_each, n_samples)


def _place(level: Any, tiff: tifffile.TiffFile, number: int) -> Place | None:
    page = _page(level, tiff, number)
    return None if page is None else (page.parent.filehandle.path, page.offset)


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
