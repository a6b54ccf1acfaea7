"""The smooth centreline of a reach, between two nodes of the skeleton, and the widths along it.

Two corrections matter, because they bias every number:

- A path from pixel to pixel is up to 8 % longer than the line that it follows, so paths are smoothed before they are
  measured, by a filter that keeps bends (Savitzky and Golay 1964: a cubic fitted to each stretch of about one width).
- Twice the distance to the bank is off by up to a pixel, depending on where the banks lie between pixel centres. So
  every water pixel is assigned to its nearest centreline pixel (a distance transform with indices), and the width is
  the area of a stretch over its length: exact in the mean, at any orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.windows import Window
from scipy.ndimage import distance_transform_edt
from scipy.signal import savgol_filter

from fewscope.connectors.pixels.transform import place_points
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.rivers.skeleton import Ints, Node

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

SHORTEST_WINDOW = 11
"""Shortest window of the smoothing filter, px: a cubic through fewer points follows the steps between pixels."""

STRIP = 512
"""Rows processed at once, where a whole array of 8-byte numbers would be large."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """The grid of a mask, and the size of its pixels.

    Attributes
    ----------
    pixel : tuple[float, float]
        (height, width) of a pixel in the middle of the raster, m; (1, 1) without a CRS.
    """

    transform: Affine
    ground: GroundMeasure
    pixel: tuple[float, float]

    @classmethod
    def of(cls, shape: tuple[int, int], transform: Affine, ground: GroundMeasure) -> Frame:
        """For a mask of `shape` (H, W)."""
        pixel = 1.0, 1.0
        if ground.method != "pixels":
            pixel = ground.pixel_m(transform, shape[0] / 2, shape[1] / 2)
        return cls(transform, ground, pixel)

    def to_world(self, points: Floats) -> Floats:
        """x, y of points (n, 2) given as row, col from the corner of the first pixel."""
        return place_points(points[:, ::-1], self.transform)

    def steps(self, points: Floats) -> Floats:
        """Distances between successive points (n, 2) given as row, col: (n - 1,), m, or px without a CRS."""
        if self.ground.method == "pixels":
            return np.hypot(*np.diff(points, axis=0).T)
        return self.ground.steps_m(self.to_world(points))


class Banks:
    """The nearest bank of every water pixel; 8 bytes per pixel."""

    def __init__(self, water: Mask, pixel: tuple[float, float]) -> None:
        self._pixel = pixel
        self._nearest = distance_transform_edt(
            water, sampling=pixel, return_distances=False, return_indices=True
        )

    def half_width(self, pixels: Ints) -> Floats:
        """Distance from pixels (n, 2) to the nearest bank, in the unit of the pixel size, (n,)."""
        nearest = self._nearest[:, pixels[:, 0], pixels[:, 1]].T
        return np.hypot(*((nearest - pixels) * self._pixel).T)


@dataclass(frozen=True, slots=True, eq=False)
class Centreline:
    """The centreline of a reach, between two nodes.

    Attributes
    ----------
    ends : tuple[Node, Node]
        The nodes at its first and last pixel.
    is_free : tuple[bool, bool]
        Whether the river ends there, rather than at a junction.
    path : Ints
        (n, 2) pixels, extended to the end of the water.
    points : Floats
        (n, 2) the smooth centreline as row, col from the corner of the first pixel.
    steps : Floats
        (n - 1,) lengths between the points.
    approximate_width : float
        Twice the distance to the bank, median along the path.
    widest : float
        Twice the distance to the bank, maximum along the path.
    """

    ends: tuple[Node, Node]
    is_free: tuple[bool, bool]
    path: Ints
    points: Floats
    steps: Floats
    approximate_width: float
    widest: float

    @property
    def length(self) -> float:
        """Along the smooth centreline."""
        return float(self.steps.sum())

    def shares(self) -> Floats:
        """The length represented by each point, (n,): half of the steps on both sides of it."""
        padded = np.concatenate([[0.0], self.steps, [0.0]])
        return (padded[1:] + padded[:-1]) / 2

    def widths(self, areas: Floats) -> Floats:
        """Width at each point, (n,): area over length of a window around it that is about as long as the reach is wide.

        Parameters
        ----------
        areas : Floats
            (n,) area of the water nearest to each pixel of the path.
        """
        own = np.ones(len(self.path), bool)  # water at a junction belongs to all reaches alike
        own[0], own[-1] = self.is_free
        if not own.any():
            return np.full(len(self.path), self.approximate_width)
        n = 2 * round(self.approximate_width / (2 * float(np.median(self.steps)))) + 1
        n = max(3, min(n, len(self.path)))
        stretch = np.ones(n)
        lengths = np.convolve(np.where(own, self.shares(), 0), stretch, "full")[n // 2 :][: len(own)]
        water = np.convolve(np.where(own, areas, 0), stretch, "full")[n // 2 :][: len(own)]
        return np.divide(water, lengths, out=np.full(len(own), self.approximate_width), where=lengths > 0)


def make_centreline(
    ends: tuple[Node, Node], is_free: tuple[bool, bool], path: Ints, water: Mask, banks: Banks, frame: Frame
) -> Centreline:
    """Extend a path of the skeleton to the end of the water, smooth it and measure it."""
    half_width = banks.half_width(path)
    approximate_width, widest = 2 * float(np.median(half_width)), 2 * float(half_width.max())
    width_px = approximate_width / float(np.hypot(*frame.pixel) / np.sqrt(2))
    if is_free[1]:
        path = _extended(path, water, width_px)
    if is_free[0]:
        path = _extended(path[::-1], water, width_px)[::-1]
    points = _smooth(path.astype(np.float64) + 0.5, width_px, is_ring=ends[0] == ends[1], is_free=is_free)
    return Centreline(ends, is_free, path, points, frame.steps(points), approximate_width, widest)


def nearest_areas(water: Mask, centrelines: Sequence[Centreline], others: Ints, frame: Frame) -> list[Floats]:
    """Area of the water nearest to each pixel of each centreline's path: one (n,) per centreline.

    Water is assigned only to centrelines in its own connected component.

    Parameters
    ----------
    others : Ints
        (m, 2) pixels of the skeleton on no centreline: the water nearest to these is ignored.
    """
    pixels = np.concatenate([*(centreline.path for centreline in centrelines), others])
    owner = np.full(water.shape, -1, np.int32)
    owner[pixels[:, 0], pixels[:, 1]] = np.arange(len(pixels))  # of several, the last one gets the water
    nearest = distance_transform_edt(
        owner < 0, sampling=frame.pixel, return_distances=False, return_indices=True
    )
    objects = cc3d.connected_components(water, connectivity=8)
    areas = np.zeros(len(pixels))
    for top in range(0, water.shape[0], STRIP):
        strip = slice(top, top + STRIP)
        rows, cols = nearest[:, strip]
        mine = water[strip] & (objects[strip] == objects[rows, cols])
        pixel_areas = frame.ground.pixel_areas_m2(
            frame.transform, Window(0, top, mine.shape[1], mine.shape[0])
        )
        weight = np.broadcast_to(pixel_areas, mine.shape)[mine]
        areas += np.bincount(owner[rows[mine], cols[mine]], weight, len(pixels))
    return np.split(areas[: len(pixels) - len(others)], np.cumsum([len(c.path) for c in centrelines])[:-1])


def _extended(path: Ints, water: Mask, width_px: float) -> Ints:
    """The path with its last half width replaced by a straight line to the end of the water.

    Thinning stops half a width before the end, or bends into one of its corners.
    """
    bent = round(width_px / 2)
    if len(path) >= 4 * bent:
        path = path[: len(path) - bent]
    reach = int(np.clip(round(width_px), 3, len(path) - 1))
    step = (path[-1] - path[-1 - reach]).astype(float)
    if not step.any():
        return path
    step /= np.abs(step).max()
    added = []
    for n in range(1, 2 + int(2 * width_px)):
        row, col = np.rint(path[-1] + n * step).astype(int)
        if not (0 <= row < water.shape[0] and 0 <= col < water.shape[1] and water[row, col]):
            break
        added.append((row, col))
    return np.concatenate([path, np.array(added, path.dtype).reshape(-1, 2)])


def _smooth(points: Floats, width_px: float, is_ring: bool, is_free: tuple[bool, bool]) -> Floats:
    """A path of pixel centres, smoothed; ends at junctions stay in place."""
    n = len(points)
    window = max(SHORTEST_WINDOW, 2 * round(width_px / 2) + 1)
    window = min(window, n if n % 2 else n - 1)
    if window < 5:
        return points
    if is_ring:
        smooth = savgol_filter(points[:-1], min(window, (n - 2) | 1), 3, axis=0, mode="wrap")
        return np.concatenate([smooth, smooth[:1]])
    smooth = savgol_filter(points, window, 3, axis=0, mode="interp")
    for end, free in zip((0, -1), is_free, strict=True):
        if not free:
            smooth[end] = points[end]
    return smooth
