"""Rules for separating touching objects (`pipeline.instances.splitting`): height of a pixel, depth of a saddle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SCALE = 64  # heights of a SplitRule are integers in 1/64 px
_DEPTH_SCALE = 16  # heights of a DepthRule are integers in 1/16 of a stored level of depth

# Of rule 3. Chosen on 8,602 hand-outlined nuclei (34 sets of images): the counts of a set are off by 4 %, those of
# connected components by 16 %. From 0.3 px and 5 % to 0.75 px and 10 % the error is 3 % to 6 %; half or twice the
# radius changes less.
_TOLERANCE = round(0.4 * _SCALE)
_TOLERANCE_PERCENT = 6


class _AscentRule:
    """Smoothing and ascent, as functions of the radius of a typical object."""

    __slots__ = ()
    radius: float

    @property
    def n_smoothings(self) -> int:
        """Passes of the (1, 2, 1) filter: removes ripples of the outline, keeps necks."""
        return min(1 + int(self.radius / 6), 6)

    @property
    def n_doublings(self) -> int:
        """The ascent takes ``2 ** n_doublings`` steps: at least 1.25 radii, from a saddle to near the peak."""
        return int(np.ceil(np.log2(1.25 * self.radius + 1)))


@dataclass(frozen=True, slots=True)
class SplitRule(_AscentRule):
    """Separates touching objects by shape: the height of a pixel is its distance to the background.

    Parameters
    ----------
    radius : float
        Radius of a typical object, px, 1..80: median of ``sqrt(area / pi)`` over the support set.
    connectivity : int
        1: pixels that share a side are neighbours; 2: also those that share a corner.

    Raises
    ------
    ValueError
        The radius or the connectivity is out of range.
    """

    radius: float
    connectivity: int = 2

    def __post_init__(self) -> None:
        _check(self.radius, self.connectivity)

    def __str__(self) -> str:
        return f"split, radius {self.radius:.3f} px"

    @property
    def reach(self) -> int:
        """Largest distance to the background that is distinguished, px: larger objects have a flat top."""
        return int(np.ceil(2 * self.radius)) + 2

    @property
    def halo(self) -> int:
        """Width of the border around a core on which the mask is needed, px."""
        return self.reach + self.n_smoothings + 2**self.n_doublings + 1

    def heights(self, mask: np.ndarray) -> np.ndarray:
        """Smoothed distance to the background, int32 in 1/64 px, without the outer ``reach + n_smoothings`` px."""
        reach = self.reach
        # Squared distance, one axis after the other, clipped to (reach + 1)^2: the minimum over pixels up to reach
        # away of their value plus the squared offset. Below 2^16, as the radius is bounded.
        square = np.where(mask, np.uint16((reach + 1) ** 2), np.uint16(0))
        for axis in (0, 1):
            length = square.shape[axis] - 2 * reach
            nearest = _cut(square, axis, reach, length).copy()
            for offset in range(1, reach + 1):
                before, after = (
                    _cut(square, axis, reach - offset, length),
                    _cut(square, axis, reach + offset, length),
                )
                np.minimum(nearest, np.minimum(before, after) + np.uint16(offset * offset), out=nearest)
            square = nearest
        np.minimum(square, reach * reach, out=square)
        height = np.rint(_SCALE * np.sqrt(np.arange(reach * reach + 1))).astype(np.int32)[square]
        return _smoothed(height, self.n_smoothings)

    def is_shallow(self, rise: np.ndarray, side: np.ndarray) -> np.ndarray:
        """Whether a saddle merges its sides: the lower one, of height ``side``, hardly rises above it."""
        shallow: np.ndarray = 100 * rise <= np.maximum(100 * _TOLERANCE, _TOLERANCE_PERCENT * side)
        return shallow


@dataclass(frozen=True, slots=True)
class DepthRule(_AscentRule):
    """Separates touching objects by learned depth: the height of a pixel is its predicted depth in its object.

    Parameters
    ----------
    radius : float
        Radius of a typical object, px, 1..80, as in `SplitRule`: bounds the distance to a peak.
    tolerance : float
        Depth, 0..1, by which a saddle may lie below the lower of its two peaks within one object.
    connectivity : int
        As in `SplitRule`.

    Raises
    ------
    ValueError
        A number is out of range.
    """

    radius: float
    tolerance: float
    connectivity: int = 2

    def __post_init__(self) -> None:
        _check(self.radius, self.connectivity)
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance {self.tolerance} of depth is not between 0 and 1; use 0.02")

    def __str__(self) -> str:
        return f"learned depth, radius {self.radius:.3f} px, tolerance {self.tolerance:g}"

    @property
    def halo(self) -> int:
        """Width of the border around a core on which mask and depth are needed, px."""
        return self.n_smoothings + 2**self.n_doublings + 1

    def heights(self, depth: np.ndarray) -> np.ndarray:
        """Smoothed depth, int32 in 1/4080, without the outer ``n_smoothings`` px; ``depth`` is uint8, 255 for 1."""
        return _smoothed(depth.astype(np.int32) * _DEPTH_SCALE, self.n_smoothings)

    def is_shallow(self, rise: np.ndarray, side: np.ndarray) -> np.ndarray:
        """As in `SplitRule`, but whatever the height of the side: depth is relative to the object."""
        shallow: np.ndarray = rise <= round(self.tolerance * 255 * _DEPTH_SCALE)
        return shallow


Rule = SplitRule | DepthRule


def _check(radius: float, connectivity: int) -> None:
    if not 1 <= radius <= 80:
        raise ValueError(f"object radius {radius} px is not in 1..80; choose a coarser mpp or do not split")
    if connectivity not in (1, 2):
        raise ValueError(f"connectivity {connectivity} is neither 1 (sides) nor 2 (sides and corners)")


def _smoothed(height: np.ndarray, times: int) -> np.ndarray:
    """Binomial filter (1, 2, 1) along both axes, in integers; each pass loses a pixel on every side."""
    for _ in range(times):
        height = height[:-2] + 2 * height[1:-1] + height[2:]
        height = (height[:, :-2] + 2 * height[:, 1:-1] + height[:, 2:] + 8) >> 4
    return height


def _cut(array: np.ndarray, axis: int, start: int, length: int) -> np.ndarray:
    """``length`` rows (axis 0) or columns (axis 1) from ``start``."""
    return array[start : start + length] if axis == 0 else array[:, start : start + length]
