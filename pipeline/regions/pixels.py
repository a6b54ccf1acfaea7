"""Areas in regions, at the full working resolution: pixels that were analysed, and those that each class covers.

A pixel is in a region if its centre is. Blocks of the store are read one after another, and only those that a region
reaches: memory depends on neither the size of the source nor the number of regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.connectors.results.map_series import MapSeries
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.vectors.polygon_files import burn
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.report.statistics import area_mean
from fewscope.pipeline.tiling.area import Area

BLOCK = 2048
"""Side of what is read at once, px: whole chunks of the store."""

MANY_VERTICES = 500
"""Regions with more are cut to a block before they are rasterised in it."""

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


class Pixels(Protocol):
    """What is known of the pixels of a result."""

    def classes(self, window: Window) -> npt.NDArray[np.uint8]:
        """Class of each pixel, (h, w): 0 background, 1..C."""
        ...

    def analysed(self, window: Window) -> npt.NDArray[Any]:
        """What part of each pixel was analysed, (h, w) of 0..1, or (1, 1) where all are alike."""
        ...

    def areas(self, window: Window) -> Floats:
        """Area of each pixel, (h, w), (h, 1) or (1, 1): m2 on the ground, or 1."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class RegionPixels:
    """Areas in one region, in units of `Pixels.areas`.

    Attributes
    ----------
    inside_px
        Pixels of the source in it.
    inside
        Their area.
    analysed
        Area of what was analysed of them.
    covered_px, covered
        (C,) pixels of each class, int64, and their area, float64.
    """

    inside_px: int
    inside: float
    analysed: float
    covered_px: npt.NDArray[np.int64]
    covered: Floats


@dataclass(slots=True, eq=False)
class _Sum:
    n_classes: int
    inside_px: int = 0
    inside: float = 0.0
    analysed: float = 0.0
    covered_px: npt.NDArray[np.int64] = field(init=False)
    covered: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.covered_px, self.covered = np.zeros(self.n_classes, np.int64), np.zeros(self.n_classes)

    def add(self, mask: Mask, classes: npt.NDArray[np.uint8], analysed: Any, areas: Floats) -> None:
        """Add the pixels of a block that are True."""
        n = int(np.count_nonzero(mask))
        self.inside_px += n
        if areas.size == 1:
            self.inside += n * float(areas[0, 0])
        else:
            self.inside += _total(mask, areas)
        if analysed.size == 1:
            part = float(analysed[0, 0])
            self.analysed += part * (n * float(areas[0, 0]) if areas.size == 1 else _total(mask, areas))
        elif analysed.dtype == bool:
            self.analysed += _total(mask & analysed, areas)
        else:
            self.analysed += float((analysed * areas)[mask].sum())
        for i in range(self.n_classes):
            of_class = mask & (classes == i + 1)
            self.covered_px[i] += np.count_nonzero(of_class)
            self.covered[i] += _total(of_class, areas)

    @property
    def whole(self) -> RegionPixels:
        return RegionPixels(self.inside_px, self.inside, self.analysed, self.covered_px, self.covered)


def _total(mask: Mask, areas: Floats) -> float:
    """Area of the pixels that are True."""
    if areas.size == 1:
        return np.count_nonzero(mask) * float(areas[0, 0])
    if areas.shape[1] == 1:
        return float(np.count_nonzero(mask, axis=1) @ areas[:, 0])
    return float(areas[mask].sum())


def measure_pixels(
    pixels: Pixels,
    regions: Sequence[BaseGeometry],
    shape: tuple[int, int],
    n_classes: int,
    n_joined: int,
    advance: Callable[[int], object] = lambda n_blocks: None,
    block: int = BLOCK,
) -> tuple[list[RegionPixels], RegionPixels]:
    """Areas in each region, and in any of the first ``n_joined`` of them.

    Parameters
    ----------
    regions
        Valid polygons in pixels (col, row) of the working grid, from its corner.
    shape
        (height, width) of the grid.
    n_classes
        C.
    advance
        Called with the number of blocks done.
    """
    sums, joined = [_Sum(n_classes) for _ in regions], _Sum(n_classes)
    for window, here in _blocks(regions, shape, block):
        classes, analysed, areas = pixels.classes(window), pixels.analysed(window), pixels.areas(window)
        any_region = np.zeros(classes.shape, bool)
        for i in here:
            part = _part(regions[i], window)
            if part is None:
                continue
            rows, cols = part.toslices()
            mask = _rasterised(regions[i], part, window)
            sums[i].add(mask, classes[rows, cols], _cut(analysed, rows, cols), _cut(areas, rows, cols))
            if i < n_joined:
                any_region[rows, cols] |= mask
        joined.add(any_region, classes, analysed, areas)
        advance(1)
    return [one.whole for one in sums], joined.whole


def n_blocks(regions: Sequence[BaseGeometry], shape: tuple[int, int]) -> int:
    """How many blocks `measure_pixels` reads."""
    return sum(1 for _ in _blocks(regions, shape, BLOCK))


def _blocks(
    regions: Sequence[BaseGeometry], shape: tuple[int, int], block: int
) -> Iterator[tuple[Window, list[int]]]:
    """The blocks that regions reach, and which these are."""
    height, width = shape
    tree = shapely.STRtree(regions)
    for top in range(0, height, block):
        for left in range(0, width, block):
            window = Window(left, top, min(block, width - left), min(block, height - top))
            box = shapely.box(left, top, left + window.width, top + window.height)
            if len(here := tree.query(box, "intersects")):
                yield window, sorted(here.tolist())


def _part(region: BaseGeometry, window: Window) -> Window | None:
    """The part of a block that the bounds of a region reach, in px of the block; None where it is empty."""
    left, top, right, bottom = region.bounds
    col, row = max(0, int(left) - window.col_off), max(0, int(top) - window.row_off)
    width = min(window.width, int(np.ceil(right)) - window.col_off) - col
    height = min(window.height, int(np.ceil(bottom)) - window.row_off) - row
    return Window(col, row, width, height) if width > 0 and height > 0 else None


def _rasterised(region: BaseGeometry, part: Window, block: Window) -> Mask:
    """Which pixels of a part of a block have their centres in a region, (h, w) bool."""
    left, top = block.col_off + part.col_off, block.row_off + part.row_off
    shape = (part.height, part.width)
    box = shapely.box(left, top, left + part.width, top + part.height)
    if shapely.get_num_coordinates(region) > MANY_VERTICES:
        shapely.prepare(region)
        if region.contains(box):
            return np.ones(shape, bool)
        region = shapely.clip_by_rect(region, left - 1, top - 1, left + part.width + 1, top + part.height + 1)
    return burn([(region, 1)], shape, Affine.translation(left, top)) > 0


def _cut(array: npt.NDArray[Any], rows: slice, cols: slice) -> npt.NDArray[Any]:
    """A part of an array (h, w), (h, 1) or (1, 1), which stands for all pixels of a block."""
    of_rows = rows if array.shape[0] > 1 else slice(None)
    return array[of_rows, cols if array.shape[1] > 1 else slice(None)]


class SlidePixels:
    """Pixels of the result of a slide.

    Parameters
    ----------
    run
        The run.
    """

    def __init__(self, run: FinishedRun) -> None:
        self._semantic = ResultStore(run.out).array("semantic")
        self._shape = run.result.spec.height, run.result.spec.width
        part = run.analysed
        self._foreground = None if part is None else part.foreground
        area = None if part is None else part.area
        self._area = None if area is None else Area(area, self._shape)

    def classes(self, window: Window) -> npt.NDArray[np.uint8]:
        """See `Pixels`."""
        return np.asarray(self._semantic[window.toslices()])

    def analysed(self, window: Window) -> npt.NDArray[Any]:
        """See `Pixels`; all of them where the run did not keep its foreground."""
        if self._foreground is None:
            return np.ones((1, 1))
        tissue = self._tissue(self._foreground, window)
        return tissue if self._area is None else tissue * self._area.on_window(window)

    def _tissue(self, foreground: Mask, window: Window) -> Floats:
        """What part of each pixel is foreground, (h, w), or (1, 1) where all are alike."""
        height, width = self._shape
        rows, cols = window.toslices()
        fine, wide = foreground.shape
        row_edges = np.arange(rows.start, rows.stop + 1) * (fine / height)
        col_edges = np.arange(cols.start, cols.stop + 1) * (wide / width)
        first = int(row_edges[0]), int(col_edges[0])
        near = foreground[first[0] : int(np.ceil(row_edges[-1])), first[1] : int(np.ceil(col_edges[-1]))]
        if near.all() or not near.any():
            return np.full((1, 1), float(near.flat[0]))
        return area_mean(near, row_edges - first[0], col_edges - first[1])

    def areas(self, window: Window) -> Floats:
        """See `Pixels`; each is 1."""
        return np.ones((1, 1))


class RasterPixels:
    """Pixels of the result of a raster.

    Parameters
    ----------
    run
        The run.
    mask
        Its map.
    ground
        How areas are measured.
    """

    def __init__(self, run: FinishedRun, mask: MapSeries, ground: GroundMeasure) -> None:
        self._semantic = ResultStore(run.out).array("semantic")
        self._mask, self._ground, self._transform = mask, ground, run.result.transform
        self._last: tuple[Window, npt.NDArray[np.bool_]] | None = None

    def classes(self, window: Window) -> npt.NDArray[np.uint8]:
        """See `Pixels`; background where the raster has none."""
        return np.where(self.analysed(window), np.asarray(self._semantic[window.toslices()]), np.uint8(0))

    def analysed(self, window: Window) -> npt.NDArray[Any]:
        """See `Pixels`: those that are valid."""
        if self._last is None or self._last[0] != window:
            self._last = window, self._mask.read(0, window)[1]
        return self._last[1]

    def areas(self, window: Window) -> Floats:
        """See `Pixels`."""
        return self._ground.pixel_areas_m2(self._transform, window)


@contextmanager
def pixels_of(run: FinishedRun) -> Iterator[tuple[Pixels, GroundMeasure | None]]:
    """The pixels of a run, and how areas on the ground are measured, if it is that of a raster."""
    if not run.is_raster:
        yield SlidePixels(run), None
        return
    spec, result = run.result.spec, run.result
    ground = GroundMeasure.of(result.crs, result.transform, spec.height, spec.width)
    with MapSeries([run.out]) as mask:
        yield RasterPixels(run, mask, ground), ground
