"""Z-stacks and time series as images of one plane: a plane of them, or the projection of all, at one time point.

A projection is computed block by block, plane after plane, at the level that is read: memory does not grow with the
planes, and the result does not depend on the windows.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.pixels.levels import Block
from fewscope.connectors.pixels.stretch import stretch_channels
from fewscope.connectors.slide_options import PlaneName, Projection, StackOptions
from fewscope.connectors.slides.channel_image import ChannelImage, ImageReader, picture_stretch
from fewscope.connectors.slides.focus import sharpest_plane
from fewscope.connectors.slides.pyramid_source import DARK_LEVEL
from fewscope.connectors.slides.sampling import sample_of
from fewscope.connectors.source import TimePoint
from fewscope.errors import SourceError

log = logging.getLogger(__name__)

SAMPLED_TIMES = 5
"""Time points of a series, evenly spread from first to last, that say whether it is dark between the objects."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is read of a stack.

    Attributes
    ----------
    plane
        Counted from 0, or a projection of all.
    time
        Time point, counted from 0.
    """

    plane: int | Projection = 0
    time: int = 0


class FlatReader:
    """An image of one plane of a stack; see `connectors.slides.channel_image.ImageReader`.

    Parameters
    ----------
    reader
        Of the stack; it is closed with this one.
    chosen
        What is read of it.
    """

    def __init__(self, reader: ImageReader, chosen: Chosen) -> None:
        self._reader, self._chosen = reader, chosen
        self.image = reader.image
        self.fingerprint = reader.fingerprint
        if self.image.n_planes > 1 or self.image.n_times > 1:
            text = f"{reader.fingerprint} plane {chosen.plane} time {chosen.time}"
            self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def read(
        self, level: int, channels: Sequence[int], block: Block, plane: int = 0, time: int = 0
    ) -> NDArray[np.generic]:
        """See `ImageReader.read`; there is one plane and one time point."""
        chosen = self._chosen
        if isinstance(chosen.plane, int):
            return self._reader.read(level, channels, block, chosen.plane, chosen.time)
        n_planes = self.image.n_planes
        first = self._reader.read(level, channels, block, 0, chosen.time)
        found: NDArray[Any] = first.copy() if chosen.plane == "max" else first.astype(_sum_type(first.dtype))
        add = np.maximum if chosen.plane == "max" else np.add
        for number in range(1, n_planes):
            values: NDArray[Any] = self._reader.read(level, channels, block, number, chosen.time)
            add(found, values, out=found, casting="unsafe")
        if chosen.plane == "max":
            return found
        mean = found / n_planes
        return (np.rint(mean) if first.dtype.kind in "bui" else mean).astype(first.dtype)

    def close(self) -> None:
        """See `ImageReader.close`."""
        self._reader.close()


def _sum_type(dtype: np.dtype[Any]) -> type[np.generic]:
    """In which values of a type are summed, exactly if they are whole numbers."""
    if dtype.kind == "f" or dtype.itemsize > 4:
        return np.float64
    return np.int64 if dtype.itemsize == 4 else np.int32


def choose(
    uri: str, reader: ImageReader, channels: Sequence[int], options: StackOptions
) -> tuple[Chosen, tuple[str, ...]]:
    """What to read of a stack, and what was assumed.

    Parameters
    ----------
    channels
        Indices of those that are read: the plane suits them.

    Raises
    ------
    SourceError
        There is no such plane or time point, or the time point is not said; names how many there are.
    """
    image = reader.image
    time = _time(uri, image, options.time)
    n_planes, asked = image.n_planes, options.plane
    if isinstance(asked, int):
        if asked > n_planes:
            cure = (
                f"give --plane from 1 to {n_planes}, or {_names()}" if n_planes > 1 else "leave --plane out"
            )
            raise SourceError(f"{uri}: has {_count(n_planes, 'plane')}, and no plane {asked}; {cure}")
        return Chosen(asked - 1, time), ()
    if n_planes == 1:
        return Chosen(0, time), ()
    name = asked or ("max" if _is_dark(reader, channels) else "sharpest")
    if name == "middle":
        return Chosen(n_planes // 2, time), ()
    plane: int | Projection = sharpest_plane(reader, channels, time) if name == "sharpest" else name
    if asked is not None:
        return Chosen(plane, time), ()
    if isinstance(plane, int):
        used = f"number {plane + 1} was used, the sharpest, as it is bright between the objects, like transmitted light"
    else:
        used = "the maximum of each pixel was used, as it is dark between the objects, like fluorescence"
    return Chosen(plane, time), (
        f"{uri}: of its {n_planes} planes {used}; --plane {_names()} or a number decides.",
    )


def _names() -> str:
    return ", ".join(get_args(PlaneName))


def _count(number: int, noun: str) -> str:
    return f"one {noun}" if number == 1 else f"{number} {noun}s"


def _time(uri: str, image: ChannelImage, asked: int | None) -> int:
    """The time point, counted from 0."""
    n_times = image.n_times
    if asked is None and n_times > 1:
        raise SourceError(
            f"{uri}: is a series of {n_times} time points; give one of them, from 1 to {n_times}, with --time, of a "
            "support set with --support-time (`fewscope segment` also takes --time all)"
        )
    if asked is not None and asked > n_times:
        cure = f"give --time from 1 to {n_times}" if n_times > 1 else "leave --time out"
        raise SourceError(f"{uri}: has {_count(n_times, 'time point')}, and no time point {asked}; {cure}")
    return (asked or 1) - 1


def plane_in_words(image: ChannelImage, chosen: Chosen) -> str:
    """Which plane is read; empty where there is one alone."""
    n_planes = image.n_planes
    if n_planes == 1:
        return ""
    if isinstance(chosen.plane, int):
        return f"plane {chosen.plane + 1} of {n_planes}"
    return f"{'maximum' if chosen.plane == 'max' else 'mean'} of {n_planes} planes"


def time_point(image: ChannelImage, chosen: Chosen) -> TimePoint | None:
    """Which time point is read; None where there is one alone."""
    if image.n_times == 1:
        return None
    seconds = image.times_s[chosen.time] if len(image.times_s) == image.n_times else None
    return TimePoint(chosen.time + 1, image.n_times, seconds)


def _is_dark(reader: ImageReader, channels: Sequence[int]) -> bool:
    """Whether each channel is dark but for a smaller part of it, as fluorescence is.

    One answer for all time points of a series, or their counts would not compare: an empty one is noise, of which half
    is bright, and a crowded one may be brighter than dark.
    """
    image = reader.image
    times = sorted({round(at) for at in np.linspace(0, image.n_times - 1, min(SAMPLED_TIMES, image.n_times))})
    samples = []
    for time in times:
        with contextlib.suppress(SourceError):  # a time point that the file lacks says nothing of the others
            samples.append(sample_of(reader, channels, image.n_planes // 2, time))
    sample = np.concatenate(samples, axis=1) if samples else np.zeros((len(channels), 0))
    if not sample.size:
        return True
    as_is = picture_stretch(image) if len(channels) == len(image.channels) else None
    shown = (as_is or stretch_channels(sample, None))(sample[:, None])[0]  # (n, n_channels or 3)
    return bool((np.median(shown, axis=0) < DARK_LEVEL).all())
