"""The area of a slide that is segmented, where it is not all: polygons on the working grid."""

from __future__ import annotations

import hashlib
import math
import threading
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.vectors.polygon_files import burn, polygons_of

BLOCK = 512
"""Side of the blocks of the grid that are rasterised one by one, px: the same pixels in every window."""

SAMPLES = 8
"""Points along each side of an overview pixel at which `Area.coverage` looks: 1.6 % of it each."""

STRIP = 64
"""Rows of an overview at once: points in 32 MB."""


ASKED_IN_TURN = threading.Lock()
"""Held while a prepared geometry is asked, which GEOS indexes at the first question and then changes: threads that ask
at once crash (libgeos/geos, issue 825). Workers of `LocalPool` share the area."""


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """An area of a source: a pixel belongs to it if its centre does.

    Attributes
    ----------
    geometry : BaseGeometry
        Valid Polygon or MultiPolygon in px (x = column, y = row) of the working grid.
    shape : tuple[int, int]
        (height, width) of the working grid.
    """

    geometry: BaseGeometry
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        shapely.prepare(self.geometry)

    def touches(self, window: Window) -> bool:
        """Whether a window and the area have a point in common."""
        with ASKED_IN_TURN:
            return bool(shapely.intersects(self.geometry, _box(window)))

    def on_window(self, window: Window) -> np.ndarray:
        """The area on a window, (h, w) bool; nothing outside the source."""
        top, left = window.row_off, window.col_off
        found = np.zeros((window.height, window.width), bool)
        for row in range(top // BLOCK * BLOCK, top + window.height, BLOCK):
            for col in range(left // BLOCK * BLOCK, left + window.width, BLOCK):
                rows = slice(max(row, top, 0), min(row + BLOCK, top + window.height, self.shape[0]))
                cols = slice(max(col, left, 0), min(col + BLOCK, left + window.width, self.shape[1]))
                if rows.start >= rows.stop or cols.start >= cols.stop:
                    continue
                block = self._block(row, col)[
                    rows.start - row : rows.stop - row, cols.start - col : cols.stop - col
                ]
                found[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = block
        return found

    def coverage(self, shape: tuple[int, int]) -> np.ndarray:
        """Share of each pixel of an overview of ``shape`` that belongs to the area, (h, w) float32."""
        found = np.zeros(shape, np.float32)
        down, across = self.shape[0] / shape[0], self.shape[1] / shape[1]
        left, top, right, bottom = self.geometry.bounds
        first, last = max(0, math.floor(left / across)), min(shape[1], math.ceil(right / across))
        end = min(shape[0], math.ceil(bottom / down))
        for start in range(max(0, math.floor(top / down)), end, STRIP):
            stop = min(start + STRIP, end)
            fine = ((stop - start) * SAMPLES, (last - first) * SAMPLES)
            to_grid = (
                Affine.scale(across, down) @ Affine.translation(first, start) @ Affine.scale(1 / SAMPLES)
            )
            inside = burn([(self._cut(start * down, 0, stop * down, self.shape[1]), 1)], fine, to_grid)
            cells = inside.reshape(stop - start, SAMPLES, last - first, SAMPLES)
            found[start:stop, first:last] = cells.mean(axis=(1, 3))
        return found

    @property
    def area_px(self) -> float:
        """What it covers, in px of the working grid."""
        return float(self.geometry.area)

    @property
    def digest(self) -> str:
        """Hash of its outline, the same for one drawn in another order."""
        return hashlib.sha256(shapely.to_wkb(shapely.normalize(self.geometry))).hexdigest()

    def _block(self, row: int, col: int) -> np.ndarray:
        """The area on a block of the grid, (BLOCK, BLOCK) bool."""
        outline = _box(Window(col, row, BLOCK, BLOCK))
        with ASKED_IN_TURN:
            is_within = bool(shapely.contains_properly(self.geometry, outline))
            is_apart = not is_within and not shapely.intersects(self.geometry, outline)
        if is_within or is_apart:
            return np.full((BLOCK, BLOCK), is_within)
        near = self._cut(row, col, row + BLOCK, col + BLOCK)
        return burn([(near, 1)], (BLOCK, BLOCK), Affine.translation(col, row)) > 0

    def _cut(self, top: float, left: float, bottom: float, right: float) -> BaseGeometry:
        """The part of the area between these lines and a pixel around: an outline has many points, a block few."""
        cut = shapely.intersection(self.geometry, shapely.box(left - 1, top - 1, right + 1, bottom + 1))
        return polygons_of(cut) or shapely.Polygon()


def _box(window: Window) -> BaseGeometry:
    top, left = window.row_off, window.col_off
    return shapely.box(left, top, left + window.width, top + window.height)
