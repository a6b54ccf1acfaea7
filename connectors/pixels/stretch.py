"""Stored values to 8 bits: one linear stretch for the whole source.

The stretch is fixed once, from a sample of the whole source, never from a window: stretching each tile separately would
cause seams in the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import Ranges

PERCENTILES = (2.0, 98.0)  # QGIS's cumulative count cut
CHANNEL_PERCENTILES = (1.0, 99.8)
"""Of fluorescence, where a marker may be bright in one cell of a hundred, and is not to be cut off there."""

DISPLAY_RANGE = 64
"""Grey levels that the middle 96 % of a uint8 raster must span to be used unstretched: it is an image, not
measurements."""

NEAR = 0.25
"""Share of a range by which the ends of another one may differ from its own, to be of the same exposure."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Linear map from ``low`` to 0 and ``high`` to 255 for each band, clipped; ``words`` describes it.

    >>> Stretch((0.0,), (510.0,), "")(np.array([[[-7.0, 255.0, 900.0]]])).tolist()
    [[[0, 0, 0], [128, 128, 128], [255, 255, 255]]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    words: str

    def __call__(self, bands: NDArray[np.generic]) -> NDArray[np.uint8]:
        """Pixels, uint8 (h, w, C), of bands (n, h, w); NaN becomes 0.

        C is n, and at least 3: one band is grey, of two the first is magenta and the second green.
        """
        if bands.dtype == np.uint8 and self.is_identity:
            scaled = bands.astype(np.uint8)
        else:
            low = np.array(self.low, np.float32)[:, None, None]
            factor = (255 / (np.array(self.high) - self.low)).astype(np.float32)[:, None, None]
            with np.errstate(over="ignore", invalid="ignore"):  # of values that are not valid
                values = (bands.astype(np.float32) - low) * factor
            scaled = np.rint(np.clip(np.nan_to_num(values), 0, 255)).astype(np.uint8)
        if len(scaled) < 3:
            scaled = scaled[[0, 1, 0] if len(scaled) == 2 else [0, 0, 0]]
        return np.ascontiguousarray(np.moveaxis(scaled, 0, 2))

    @property
    def ranges(self) -> Ranges:
        """``low`` and ``high`` of each band."""
        return tuple(zip(self.low, self.high, strict=True))

    @property
    def is_identity(self) -> bool:
        """Whether the stretch maps 0..255 to themselves."""
        return set(self.low) == {0.0} and set(self.high) == {255.0}


def as_is(n_bands: int, words: str) -> Stretch:
    """The stretch that maps 0..255 to themselves."""
    return Stretch((0.0,) * n_bands, (255.0,) * n_bands, words)


def choose_stretch(
    sample: NDArray[np.generic],
    scale: tuple[float, float] | None,
    is_picture: bool = False,
    keep_ratios: bool = False,
) -> Stretch:
    """Choose the stretch of a source.

    Parameters
    ----------
    sample
        Valid values from all over the source, (n_bands, n).
    scale
        Values mapped to 0 and 255 in every band. None: the 2nd and 98th percentile of each band, or no stretch for
        uint8 images.
    is_picture
        The file declares red, green and blue.
    keep_ratios
        Without a scale: stretch from 0 to the largest of the bands' 98th percentiles, the same for all bands.
    """
    n_bands = len(sample)
    if scale is not None:
        return Stretch(
            (scale[0],) * n_bands, (scale[1],) * n_bands, f"{scale[0]:g} to {scale[1]:g}, as asked for"
        )
    if not sample.size:
        return as_is(n_bands, "nothing to go by")
    values = sample.astype(np.float64)
    if keep_ratios and sample.dtype != np.uint8:
        top = max(
            float(np.percentile(values, PERCENTILES[1], axis=1).max()), float(np.finfo(np.float32).tiny)
        )
        return Stretch((0.0,) * n_bands, (top,) * n_bands, f"0 to {top:.4g}")
    if sample.dtype == np.uint8 and (
        is_picture or keep_ratios or np.ptp(np.percentile(values, PERCENTILES)) >= DISPLAY_RANGE
    ):
        return as_is(n_bands, "8 bits as they are")
    return _between_percentiles(values, PERCENTILES, "2nd to 98th percentile of each band")


def stretch_channels(sample: NDArray[np.generic], scale: tuple[float, float] | None) -> Stretch:
    """The stretch of fluorescence and other channels that are measured, not seen.

    Parameters
    ----------
    sample
        Values from all over the source, (n_channels, n).
    scale
        Values mapped to 0 and 255 in every channel; None: `CHANNEL_PERCENTILES` of each.
    """
    if scale is not None or not sample.size:
        return choose_stretch(sample, scale)
    low, high = CHANNEL_PERCENTILES
    words = f"{low:g} to {high:g} % of each channel's values"
    return _between_percentiles(sample.astype(np.float64), CHANNEL_PERCENTILES, words)


def matched_ranges(own: Ranges, reference: Ranges) -> Ranges:
    """The ranges in which to show a picture, so that it compares with another one of the same exposure.

    A channel takes the range of the other picture if one end of its own is near, and the other end does not reach far
    beyond: an empty field then stays empty, whose noise its own range would show as if it were signal. Where neither
    end is near, or it is more than twice as bright, exposure or offset differ, and its own range stays.

    >>> matched_ranges(((310.0, 330.0),), ((300.0, 1300.0),))
    ((300.0, 1300.0),)
    >>> matched_ranges(((2000.0, 9000.0),), ((300.0, 1300.0),))
    ((2000.0, 9000.0),)
    """
    if len(own) != len(reference):
        return own
    found = []
    for (low, high), (least, most) in zip(own, reference, strict=True):
        width = most - least
        is_near = min(abs(low - least), abs(high - most)) <= NEAR * width
        found.append(
            (least, most) if is_near and low >= least - width and high <= most + width else (low, high)
        )
    return tuple(found)


def _between_percentiles(
    values: NDArray[np.float64], percentiles: tuple[float, float], words: str
) -> Stretch:
    """Each band of (n_bands, n) from one of its percentiles to the other."""
    ends = np.percentile(values, percentiles, axis=1)
    flat = ends[0] == ends[1]  # nearly constant: the few other values are the content
    ends[:, flat] = values.min(1)[flat], values.max(1)[flat]
    lows = tuple(float(value) for value in ends[0])
    highs = tuple(float(high) if high > low else low + 1.0 for low, high in zip(lows, ends[1], strict=True))
    shown = "; ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(lows, highs, strict=True))
    return Stretch(lows, highs, f"{words} ({shown})")
