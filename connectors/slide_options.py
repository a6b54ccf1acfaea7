"""Options for opening a slide of several channels. Light to import: a command line needs them first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from fewscope.errors import ConfigError

CHANNEL_TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff")
"""Names of files that may be OME-TIFF, QPTIFF or stacks of ImageJ."""

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
"""Names of pictures of fields of view; a plain TIFF is one, too."""

OME_ZARR_ZIP_ENDINGS = (".zarr.zip", ".ozx")
"""Names of OME-Zarrs in one file."""

OME_ZARR_ENDINGS = (".zarr", ".zarr/", *OME_ZARR_ZIP_ENDINGS)
"""Names of OME-Zarrs."""


Projection = Literal["max", "mean"]
"""How all planes of a z-stack become one: the maximum, or the mean, of each pixel."""

PlaneName = Literal["max", "mean", "middle", "sharpest"]
"""What a plane is called by: a projection, the plane in the middle, or the one in focus."""

Pages = Literal["channels", "planes", "times"]
"""What the pages of a TIFF are that does not say it."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What is read of z-stacks and of time series.

    Attributes
    ----------
    plane
        Of several focal planes: a name, or a number counted from 1. None: "max" of fluorescence, else "sharpest".
    time
        Which of several time points, counted from 1; None: there is to be one alone.
    pages
        What the pages of a TIFF are, if it does not say it; None: channels.

    Raises
    ------
    ConfigError
        There is no such name, or a number is below 1.
    """

    plane: PlaneName | int | None = None
    time: int | None = None
    pages: Pages | None = None

    def __post_init__(self) -> None:
        if isinstance(self.plane, int) and self.plane < 1:
            raise ConfigError(f"--plane {self.plane}: planes are counted from 1")
        if isinstance(self.plane, str) and self.plane not in get_args(PlaneName):
            raise ConfigError(
                f"--plane {self.plane!r} is none of {', '.join(get_args(PlaneName))}, nor a number from 1"
            )
        if self.time is not None and self.time < 1:
            raise ConfigError(f"--time {self.time}: time points are counted from 1")
        if self.pages is not None and self.pages not in get_args(Pages):
            raise ConfigError(f"--pages {self.pages!r} is none of {', '.join(get_args(Pages))}")


NO_STACK = StackOptions()
"""Nothing asked for."""


@dataclass(frozen=True, slots=True)
class SlideOptions:
    """How to open a multi-channel TIFF, an OME-Zarr or a picture.

    Attributes
    ----------
    channels
        Channels to read, in this order: names, in any case, or numbers counted from 1. Empty: all.
    series
        Which image of the file, counted from 1; None: the first.
    scale
        Values mapped to 0 and 255 in every channel; None: percentiles of each channel over the whole image.
    stack
        Which plane and which time point.

    Raises
    ------
    ConfigError
        A channel has no name or is named twice, a number is below 1, or the scale is empty.
    """

    channels: tuple[str, ...] = ()
    series: int | None = None
    scale: tuple[float, float] | None = None
    stack: StackOptions = NO_STACK

    def __post_init__(self) -> None:
        for i, channel in enumerate(self.channels):
            if not channel.strip():
                raise ConfigError("--channels has an empty name; give names or numbers such as DAPI,CD3")
            if channel in self.channels[:i]:
                raise ConfigError(f"--channels names {channel} twice; name each channel once")
        if self.series is not None and self.series < 1:
            raise ConfigError(f"--series {self.series}: images of a file are counted from 1")
        if self.scale is not None and not -math.inf < self.scale[0] < self.scale[1] < math.inf:
            raise ConfigError(
                f"--scale {self.scale[0]:g} {self.scale[1]:g}: give two numbers, the first below the second"
            )

    @property
    def is_default(self) -> bool:
        """Whether nothing is asked for but what every file has: its first time point."""
        time = None if self.stack.time == 1 else self.stack.time
        return replace(self, stack=replace(self.stack, time=time)) == SlideOptions()
