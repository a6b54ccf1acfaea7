"""Images of several channels, as `ChannelSource` sees them: what a file states, and its planes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.colours import Colour
from fewscope.connectors.pixels.levels import Block
from fewscope.connectors.pixels.stretch import Stretch, as_is
from fewscope.errors import SourceError

MAX_CHANNELS = 256
"""More are likely another axis, or a spectrum, of which a few components are enough."""


SECONDS_PER_UNIT = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3, "µs": 1e-6,
    "us": 1e-6, "microsecond": 1e-6, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0,
    "hours": 3600.0, "d": 86400.0, "day": 86400.0,
}  # fmt: skip
"""Of the units of OME-XML, OME-Zarr and ImageJ, in lower case."""

UM_PER_UNIT = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "in": 25400.0,
    "meter": 1e6, "centimeter": 1e4, "millimeter": 1e3, "micrometer": 1.0, "nanometer": 1e-3, "picometer": 1e-6,
    "angstrom": 1e-4, "inch": 25400.0, "micron": 1.0, "microns": 1.0,
}  # fmt: skip
"""Of the units of OME-XML, OME-Zarr and ImageJ, in lower case; others, such as "pixel", say nothing."""


class DecodeError(Exception):
    """A part of an image fails to decode."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel: its name, and the RGB in which the file has it shown; None if it does not say."""

    name: str
    colour: Colour | None = None


@dataclass(frozen=True, slots=True)
class Stated:
    """What the metadata of a file state of one of its images.

    Attributes
    ----------
    channels
        One for each channel, whatever its samples per pixel; empty if nothing is said.
    mpp
        Where the resolution is stated, and um per px across and down as text; None if not in a unit of length.
    times_s
        When each time point was taken, in seconds from the first; empty if that is not stated.
    """

    channels: tuple[Channel, ...] = ()
    mpp: tuple[str, str, str] | None = None
    times_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelImage:
    """What a file states about one of its images.

    Attributes
    ----------
    vendor
        Format, in words.
    channels
        In the order of the file.
    shapes
        (height, width) of the levels, px, finest first.
    dtype
        Of the stored values.
    mpp
        Where the file states its resolution, and um per px across and down as text; None if it does not.
    is_rgb
        Whether the channels are the red, green and blue of a picture.
    is_field
        Whether it is a picture of one field of view: it has no glass around the tissue, need not state a resolution,
        and is analysed at its own.
    assumptions
        What had to be chosen, such as the series; one sentence each, with the cure.
    n_planes, n_times
        Focal planes and time points.
    times_s
        When each time point was taken, in seconds from the first; empty if the file does not state it.
    """

    vendor: str
    channels: tuple[Channel, ...]
    shapes: tuple[tuple[int, int], ...]
    dtype: np.dtype[Any]
    mpp: tuple[str, str, str] | None
    is_rgb: bool = False
    is_field: bool = False
    assumptions: tuple[str, ...] = ()
    n_planes: int = 1
    n_times: int = 1
    times_s: tuple[float, ...] = ()


class ImageReader(Protocol):
    """An open image. Several threads may read.

    Attributes
    ----------
    image
        What the file states.
    fingerprint
        Hash that identifies the content, as `SourceInfo.fingerprint`.
    """

    image: ChannelImage
    fingerprint: str

    def read(
        self, level: int, channels: Sequence[int], block: Block, plane: int = 0, time: int = 0
    ) -> NDArray[np.generic]:
        """Values (n_channels, h, w) of a block that lies inside a level, of a plane and a time point, both counted
        from 0; `DecodeError` if any fails."""
        ...

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""
        ...


def choose_channels(uri: str, image: ChannelImage, asked: Sequence[str]) -> tuple[int, ...]:
    """Indices of the channels asked for, by name in any case or by number from 1; all if none is asked for.

    Raises
    ------
    SourceError
        There is no such channel, several have the name, or one is asked for twice; lists those there are.
    """
    if not asked:
        return tuple(range(len(image.channels)))
    names = [channel.name.casefold() for channel in image.channels]
    listed = ", ".join(f"{i} {channel.name}" for i, channel in enumerate(image.channels, start=1))
    chosen: list[int] = []
    for text in asked:
        found = [i for i, name in enumerate(names) if name == text.strip().casefold()]
        if not found and text.strip().isdigit() and 1 <= int(text) <= len(names):
            found = [int(text) - 1]
        if not found:
            raise SourceError(f"{uri}: has no channel {text!r}; give --channels from these: {listed}")
        if len(found) > 1:
            raise SourceError(
                f"{uri}: {len(found)} channels are named {text!r}; give --channels their numbers: {listed}"
            )
        if found[0] in chosen:
            raise SourceError(
                f"{uri}: --channels names {image.channels[found[0]].name!r} twice; name it once"
            )
        chosen.append(found[0])
    return tuple(chosen)


def picture_stretch(image: ChannelImage) -> Stretch | None:
    """The stretch of a picture of 8 bits, which stays as it is; None for all else."""
    if image.is_rgb and image.dtype == np.uint8:
        return as_is(len(image.channels), "8 bits as they are")
    return None


def regular_times(step: object, unit: object, n_times: int) -> tuple[float, ...]:
    """Seconds of time points that are ``step`` units apart; empty if that is not a time above 0."""
    seconds = SECONDS_PER_UNIT.get(str(unit or "s").strip().lower())
    try:
        every = float(step) * (seconds or 0.0)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ()
    return tuple(round(i * every, 9) for i in range(n_times)) if 0 < every < math.inf else ()
