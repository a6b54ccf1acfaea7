"""OME-Zarr 0.4 and 0.5 as slides: an image, or one of several as Bio-Formats' converter writes them.

https://ngff.openmicroscopy.org/0.5/. A folder, a URL whose chunks are read in place, or a ZIP of one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from fewscope.connectors.colours import Colour
from fewscope.connectors.pixels.composite import PRIMARIES, unique_names
from fewscope.connectors.pixels.levels import Block
from fewscope.connectors.slide_options import OME_ZARR_ENDINGS, OME_ZARR_ZIP_ENDINGS, Pages
from fewscope.connectors.slides.channel_image import (
    UM_PER_UNIT,
    Channel,
    ChannelImage,
    DecodeError,
    regular_times,
)
from fewscope.connectors.storage.fingerprint import add_files, files_below
from fewscope.errors import SourceError

SAMPLE = 64  # px; side of the samples by which a remote image is identified
MAX_CHUNK_BYTES = 512 * 2**20


class OmeZarr:
    """One image of an OME-Zarr; see `connectors.slides.channel_image.ImageReader`.

    Parameters
    ----------
    uri
        Path or fsspec URL of the group, or of a ZIP of it.
    series
        Which image, counted from 1, where the group holds several; None: the first.
    pages
        As of other images; an OME-Zarr says what its axes are.

    Raises
    ------
    SourceError
        It is no OME-Zarr, or has no such image.
    """

    def __init__(self, uri: str, series: int | None = None, pages: Pages | None = None) -> None:
        self._uri = uri
        self._store = _open_store(uri)
        try:
            root = zarr.open_group(self._store, mode="r")
            group, assumptions = _choose(uri, root, series)
            multiscale, version = _multiscale(uri, group)
            arrays = [_array(uri, group, one["path"]) for one in multiscale["datasets"]]
            self._axes = _axes(uri, multiscale, arrays[0])
            self._arrays = _whole_stacks(self._axes, arrays)
            self.image = _describe(uri, group, multiscale, version, self._axes, self._arrays)
        except SourceError:
            raise
        except Exception as error:  # zarr has no common error for damaged metadata
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise SourceError(
                f"{uri}: cannot be read as OME-Zarr ({reason}); check the address, or copy it again"
            ) from error
        self.image = replace(self.image, assumptions=assumptions)
        self._closed = False
        self.fingerprint = self._identify(series)

    def read(
        self, level: int, channels: Sequence[int], block: Block, plane: int = 0, time: int = 0
    ) -> NDArray[np.generic]:
        """See `ImageReader.read`."""
        if self._closed:
            raise ValueError(f"{self._uri}: is closed")
        top, bottom, left, right = block
        of_axis: dict[str, Any] = {"y": slice(top, bottom), "x": slice(left, right), "c": list(channels)}
        at = {"z": plane, "t": time}
        place: Any = tuple(of_axis.get(axis, at.get(axis)) for axis in self._axes)
        try:
            values = np.asarray(self._arrays[level].oindex[place])
        except Exception as error:  # every codec has its own
            raise DecodeError(str(error)) from error
        kept = [axis for axis in self._axes if axis in of_axis]
        if "c" not in kept:
            values, kept = values[None], ["c", *kept]
        values = np.moveaxis(values, [kept.index(axis) for axis in "cyx"], [0, 1, 2])
        return values.astype(self.image.dtype, copy=False)

    def close(self) -> None:
        """See `ImageReader.close`."""
        self._closed = True
        self._store.close()

    def _identify(self, series: int | None) -> str:
        """Hash of the files of a local image; of a remote one, of its metadata and nine samples of its finest level."""
        digest = hashlib.sha256(str(series or 1).encode())
        path = self._uri.removeprefix("file://")
        if os.path.isdir(path):
            add_files(digest, files_below(path))
        elif os.path.isfile(path):
            add_files(digest, [("", path)])
        else:
            finest = self._arrays[0]
            digest.update(json.dumps([finest.metadata.to_dict(), self.image.vendor], default=str).encode())
            height, width = self.image.shapes[0]
            for row in range(0, height, -(-height // 3)):
                for col in range(0, width, -(-width // 3)):
                    block = row, min(row + SAMPLE, height), col, min(col + SAMPLE, width)
                    try:
                        values = self.read(
                            0, range(len(self.image.channels)), block, self.image.n_planes // 2
                        )
                    except DecodeError:
                        digest.update(b"unreadable")
                    else:
                        digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()


def is_ome_zarr(uri: str) -> bool:
    """Whether an address is that of an OME-Zarr: by its ending and, of a local folder, by its metadata."""
    if not uri.lower().endswith(OME_ZARR_ENDINGS):
        return False
    path = uri.removeprefix("file://").rstrip("/")
    if not os.path.isdir(path):
        return uri.lower().endswith(OME_ZARR_ZIP_ENDINGS) or "://" in uri
    for name in ("zarr.json", ".zattrs"):
        try:
            with open(os.path.join(path, name), encoding="utf-8") as file:
                attributes = json.load(file)
        except (OSError, ValueError):
            continue
        found = attributes.get("attributes", attributes) if name == "zarr.json" else attributes
        if any(key in found for key in ("ome", "multiscales", "bioformats2raw.layout")):
            return True
    return False


def _open_store(uri: str) -> Store:
    path = uri.removeprefix("file://").rstrip("/")
    try:
        if os.path.isdir(path):
            return zarr.storage.LocalStore(path, read_only=True)
        if "://" in path:
            return zarr.storage.FsspecStore.from_url(path, read_only=True)
        if os.path.isfile(path):
            return zarr.storage.ZipStore(path, mode="r")
    except Exception as error:  # every storage driver has its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{uri}: cannot be opened ({reason}); check the address") from error
    raise SourceError(f"{uri}: no such file or folder; check the path")


def _ome(group: zarr.Group) -> Mapping[str, Any]:
    """OME's attributes of a group: under a key of their own since 0.5."""
    attributes = group.attrs.asdict()
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, Mapping) else {}


def _choose(uri: str, root: zarr.Group, series: int | None) -> tuple[zarr.Group, tuple[str, ...]]:
    """The image of a group, which it may be itself, and what was assumed."""
    ome = _ome(root)
    if "multiscales" in ome:
        if series not in (None, 1):
            raise SourceError(f"{uri}: is one image; leave --series out")
        return root, ()
    if "plate" in ome or "well" in ome:
        raise SourceError(
            f"{uri}: is a plate of many images; give one of them, such as {uri.rstrip('/')}/A/1/0"
        )
    names = [name for name, group in sorted(root.groups(), key=_by_number) if "multiscales" in _ome(group)]
    if not names:
        raise SourceError(f"{uri}: is a Zarr without the metadata of OME-Zarr (multiscales); it is no image")
    if series is not None and series > len(names):
        raise SourceError(f"{uri}: has {len(names)} images; give --series from 1 to {len(names)}")
    chosen = root[names[(series or 1) - 1]]
    assert isinstance(chosen, zarr.Group)
    if len(names) > 1 and series is None:
        return chosen, (f"{uri}: of its {len(names)} images the first was read; --series takes another.",)
    return chosen, ()


def _by_number(named: tuple[str, zarr.Group]) -> tuple[int, str]:
    return (int(named[0]) if named[0].isdigit() else 2**31, named[0])


def _multiscale(uri: str, group: zarr.Group) -> tuple[Mapping[str, Any], str]:
    """The first multiscale of an image, and the version of the metadata."""
    ome = _ome(group)
    multiscale = ome["multiscales"][0]
    version = ome.get("version") or multiscale.get("version") or "without version"
    if not multiscale.get("datasets"):
        raise SourceError(f"{uri}: has no resolution level in its metadata; convert it again")
    return multiscale, version


def _array(uri: str, group: zarr.Group, path: str) -> zarr.Array[Any]:
    array = group[path]
    if not isinstance(array, zarr.Array):
        raise SourceError(f"{uri}: {path} is no array, which its metadata say it is; convert it again")
    n_bytes = int(np.prod(array.chunks)) * array.dtype.itemsize
    if n_bytes > MAX_CHUNK_BYTES:
        raise SourceError(
            f"{uri}: is stored in chunks of {array.chunks}, {n_bytes / 2**30:.1f} GiB each; write it in smaller ones"
        )
    return array


def _axes(uri: str, multiscale: Mapping[str, Any], array: zarr.Array[Any]) -> str:
    """Names of the axes, such as "tczyx"."""
    stated = multiscale.get("axes") or ["t", "c", "z", "y", "x"][-array.ndim :]
    axes = "".join((one if isinstance(one, str) else str(one.get("name", "?"))).lower()[:1] for one in stated)
    if len(axes) != array.ndim or len(set(axes)) < len(axes) or not {"y", "x"} <= set(axes) <= set("tczyx"):
        raise SourceError(f"{uri}: has axes {axes!r}, expected y and x with t, c and z; convert it again")
    return axes


def _size(axes: str, array: zarr.Array[Any], axis: str) -> int:
    return int(array.shape[axes.index(axis)]) if axis in axes else 1


def _whole_stacks(axes: str, arrays: Sequence[zarr.Array[Any]]) -> list[zarr.Array[Any]]:
    """Levels that have all planes and time points of the finest: others are of another stack."""
    return [one for one in arrays if all(_size(axes, one, a) == _size(axes, arrays[0], a) for a in "tz")]


def _describe(
    uri: str,
    group: zarr.Group,
    multiscale: Mapping[str, Any],
    version: str,
    axes: str,
    arrays: Sequence[zarr.Array[Any]],
) -> ChannelImage:
    rows, cols = axes.index("y"), axes.index("x")
    n_channels = arrays[0].shape[axes.index("c")] if "c" in axes else 1
    stated = _ome(group).get("omero", {}).get("channels", [])
    if len(stated) == n_channels:
        names = unique_names([str(one.get("label") or "").strip() for one in stated])
        colours = [_colour(one.get("color")) for one in stated]
    else:
        names, colours = tuple(f"channel {i}" for i in range(1, n_channels + 1)), [None] * n_channels
    dtype = arrays[0].dtype.newbyteorder("=")
    is_rgb = n_channels == 3 and dtype == np.uint8 and tuple(colours) == PRIMARIES
    return ChannelImage(
        vendor=f"OME-Zarr {version}",
        channels=tuple(Channel(*pair) for pair in zip(names, colours, strict=True)),
        shapes=tuple((array.shape[rows], array.shape[cols]) for array in arrays),
        dtype=dtype,
        mpp=_mpp(multiscale, axes),
        is_rgb=is_rgb,
        n_planes=_size(axes, arrays[0], "z"),
        n_times=_size(axes, arrays[0], "t"),
        times_s=_times(multiscale, axes, _size(axes, arrays[0], "t")),
    )


def _colour(text: Any) -> Colour | None:
    try:
        red, green, blue = bytes.fromhex(str(text).lstrip("#")[:6])
    except ValueError:
        return None
    return red, green, blue


def _mpp(multiscale: Mapping[str, Any], axes: str) -> tuple[str, str, str] | None:
    """um per px across and down of the finest level, from the axes' units and the scales."""
    scales, sizes = _scales(multiscale, axes), []
    for axis in "xy":
        unit = UM_PER_UNIT.get(_unit(multiscale, axes, axis))
        if unit is None or scales is None:
            return None
        sizes.append(f"{scales[axes.index(axis)] * unit:.6g}")
    return "OME-Zarr", sizes[0], sizes[1]


def _times(multiscale: Mapping[str, Any], axes: str, n_times: int) -> tuple[float, ...]:
    """Seconds of the time points; empty where no unit of time is stated."""
    scales, unit = _scales(multiscale, axes), _unit(multiscale, axes, "t") if "t" in axes else ""
    return regular_times(scales[axes.index("t")], unit, n_times) if scales and unit else ()


def _unit(multiscale: Mapping[str, Any], axes: str, axis: str) -> str:
    """The unit of an axis, in lower case; empty if none is stated."""
    stated, at = multiscale.get("axes", []), axes.index(axis)
    described = stated[at] if at < len(stated) else None
    return str(described.get("unit") or "").lower() if isinstance(described, Mapping) else ""


def _scales(multiscale: Mapping[str, Any], axes: str) -> list[float] | None:
    """Units per step along each axis of the finest level; None if none is stated."""
    scales = [1.0] * len(axes)
    parts = [
        multiscale["datasets"][0].get("coordinateTransformations"),
        multiscale.get("coordinateTransformations"),
    ]
    found = False
    for part in parts:
        for one in part or ():
            if one.get("type") == "scale" and len(one.get("scale", ())) == len(axes):
                scales = [own * float(other) for own, other in zip(scales, one["scale"], strict=True)]
                found = True
    return scales if found else None
