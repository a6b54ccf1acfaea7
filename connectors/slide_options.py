"""Options for opening a slide of several channels. Light to import: a command line needs them first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fewscope.errors import ConfigError

CHANNEL_TIFF_ENDINGS = (".tif", ".tiff", ".btf", ".tf2", ".tf8", ".qptiff")
"""Names of files that may be OME-TIFF, QPTIFF or stacks of ImageJ."""

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
"""Names of pictures of fields of view; a plain TIFF is one, too."""

OME_ZARR_ZIP_ENDINGS = (".zarr.zip", ".ozx")
"""Names of OME-Zarrs in one file."""

OME_ZARR_ENDINGS = (".zarr", ".zarr/", *OME_ZARR_ZIP_ENDINGS)
"""Names of OME-Zarrs."""


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

    Raises
    ------
    ConfigError
        A channel has no name or is named twice, a number is below 1, or the scale is empty.
    """

    channels: tuple[str, ...] = ()
    series: int | None = None
    scale: tuple[float, float] | None = None

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
        """Whether nothing is asked for."""
        return self == SlideOptions()
