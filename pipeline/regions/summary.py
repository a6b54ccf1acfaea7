"""What a finished run has found in each region, in all of them, and outside: counts, areas, hot spots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.connectors.support.region_files import Region
from fewscope.connectors.vectors.polygon_files import listed, polygons_of
from fewscope.errors import SourceError
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.regions.fields import HotSpotOptions, find_fields
from fewscope.pipeline.regions.instances import Centroids, Instances, Ints, thresholds_of
from fewscope.pipeline.regions.numbers import Kind, RegionNumbers, Units, numbers_of
from fewscope.pipeline.regions.pixels import RegionPixels, measure_pixels, n_blocks, pixels_of

IN_ANY, OUTSIDE, WHOLE = "in any region", "outside all regions", "whole source"
"""What totals are called in place of the number of a region."""

SLIVER = 1e-6
"""Part of a region that may lie outside the source without a word: outlines are rounded."""

NO_FOREGROUND = (
    "The run does not say where the tissue lies, as its version did not keep it: densities are of the whole area of a "
    "region, glass included. Run it again with --overwrite for those of the tissue."
)

UNREADABLE = (
    "Part of the source could not be read. In the regions it counts as analysed, but not in the whole source."
)

Progress = Callable[[int], Callable[[int], object]]


@dataclass(frozen=True, slots=True, eq=False)
class RegionSummary:
    """All regions of a run.

    Attributes
    ----------
    regions, hot_spots, totals
        In the order of their numbers; the last total is the whole source.
    field_area
        Of each hot spot, in ``units.area``; None without any.
    notes
        What a reader must know, one sentence each.
    hot_spots_of
        Class, or channel whose positive objects make hot spots; None: all objects do.
    """

    run: FinishedRun
    units: Units
    regions: tuple[RegionNumbers, ...]
    hot_spots: tuple[RegionNumbers, ...]
    totals: tuple[RegionNumbers, ...]
    field_area: float | None
    notes: tuple[str, ...]
    hot_spots_of: str | None = None

    @property
    def rows(self) -> tuple[RegionNumbers, ...]:
        """Regions, hot spots and totals."""
        return (*self.regions, *self.hot_spots, *self.totals)


def summarise(
    run: FinishedRun,
    transform: Affine,
    regions: Sequence[Region],
    wanted: HotSpotOptions | None = None,
    notes: Sequence[str] = (),
    progress: Progress = lambda n_blocks: lambda n_done: None,
) -> RegionSummary:
    """Count in regions, and find hot spots.

    Parameters
    ----------
    transform
        From pixel corners (col, row) of the run's grid to the coordinates x, y of its table.
    regions
        In these coordinates; they may overlap, and reach beyond the source.
    wanted
        Hot spots, in the regions if there are any; None: none.
    notes
        Of whoever read the regions, told with the others.
    progress
        Called with the number of blocks of pixels; what it returns is called with the number of those done.

    Raises
    ------
    SourceError
        All regions lie outside the source.
    ConfigError
        Hot spots cannot be found, see `fields.find_fields`.
    """
    grid = _Grid(run, transform)
    inside, told = _in_source(run, regions, grid.outline)
    instances = Instances.of(run)
    centroids = Centroids(instances.x, instances.y)
    found = [centroids.inside(region) for region in inside]
    in_any = np.zeros(len(instances), bool)
    for ids in found:
        in_any[ids] = True
    fields, field_area = list[BaseGeometry](), None
    if wanted is not None:
        counted = in_any if regions else np.ones(len(instances), bool)
        fields, field_area = find_fields(run, transform, instances, counted, wanted, inside)
        found += [ids[counted[ids]] for ids in map(centroids.inside, fields)]
        if len(fields) < wanted.n:
            told.append(
                f"{len(fields)} of {wanted.n} hot spots: no further field of that area holds an object."
            )
    geometries = [*inside, *fields]
    areas = grid.measure(geometries, len(regions), progress)
    if not areas.is_exact:
        told.append(NO_FOREGROUND)
    if run.report["unread_fraction"]:
        told.append(UNREADABLE)

    n_grades = {name: len(limits) for name, (_, limits) in thresholds_of(run).items()}

    def numbers(
        kind: Kind, label: str, name: tuple[str, str], geometry: BaseGeometry | None, area: _Area, ids: Ints
    ) -> RegionNumbers:
        every, classes = numbers_of(
            instances, ids, run.class_names, grid.units, area.analysed, area.covered, n_grades
        )
        return RegionNumbers(kind, label, *name, geometry, area.area, area.analysed, every, classes)

    n = len(regions)
    of_regions = [
        numbers("region", str(i + 1), (one.name, one.class_name), inside[i], areas.each[i], found[i])
        for i, one in enumerate(regions)
    ]
    hot = [
        numbers("hot spot", f"H{i + 1}", (f"Hot spot {i + 1}", ""), one, areas.each[n + i], found[n + i])
        for i, one in enumerate(fields)
    ]
    totals = [numbers("total", WHOLE, ("", ""), None, areas.whole, np.arange(len(instances)))]
    if regions:
        totals[:0] = [
            numbers("total", IN_ANY, ("", ""), None, areas.joined, np.flatnonzero(in_any)),
            numbers("total", OUTSIDE, ("", ""), None, areas.outside, np.flatnonzero(~in_any)),
        ]
    return RegionSummary(
        run=run,
        units=grid.units,
        regions=tuple(of_regions),
        hot_spots=tuple(hot),
        totals=tuple(totals),
        field_area=field_area,
        notes=(*notes, *told),
        hot_spots_of=wanted.of if wanted else None,
    )


def _in_source(
    run: FinishedRun, regions: Sequence[Region], source: BaseGeometry
) -> tuple[list[BaseGeometry], list[str]]:
    """The part of each region in the source, and which of them reach beyond it."""
    empty = shapely.Polygon()
    inside = [
        one.geometry
        if shapely.covers(source, one.geometry)
        else polygons_of(shapely.intersection(one.geometry, source)) or empty
        for one in regions
    ]
    outside = [i for i, one in enumerate(inside) if one.is_empty]
    what = "raster" if run.is_raster else run.report.get("noun", "slide")
    if outside and len(outside) == len(regions):
        left, top, right, bottom = shapely.total_bounds([one.geometry for one in regions])
        raise SourceError(
            f"all {len(regions)} regions (x {left:.6g} to {right:.6g}, y {top:.6g} to {bottom:.6g}) lie outside the "
            f"{what} of {run.out}; give those that were drawn on it"
        )
    partly = [
        i
        for i, one in enumerate(inside)
        if not one.is_empty and one.area < regions[i].geometry.area * (1 - SLIVER)
    ]
    notes = []
    for which, how in ((outside, f"outside the {what}"), (partly, f"partly outside the {what}")):
        if which:
            named = listed([f"{i + 1} ({regions[i].name})" for i in which])
            rest = "" if which is outside else "; numbers are of the part inside"
            notes.append(f"{len(which)} of {len(regions)} regions lie {how}: {named}{rest}.")
    return inside, notes


@dataclass(frozen=True, slots=True)
class _Area:
    """Of a region, in `Units.area`: the part in the source, what was analysed of it, and (C,) what is covered."""

    area: float | None
    analysed: float | None
    covered: np.ndarray


@dataclass(frozen=True, slots=True)
class _Areas:
    each: list[_Area]
    joined: _Area
    outside: _Area
    whole: _Area
    is_exact: bool


class _Grid:
    """The working grid of a run, and the areas of its pixels."""

    def __init__(self, run: FinishedRun, transform: Affine) -> None:
        self.run, self.transform = run, transform
        self.units = Units.of(run)
        self.shape = run.result.spec.height, run.result.spec.width

    @property
    def outline(self) -> BaseGeometry:
        height, width = self.shape
        corners = [(0, 0), (width, 0), (width, height), (0, height)]
        return shapely.Polygon([self.transform @ corner for corner in corners])

    def measure(self, regions: Sequence[BaseGeometry], n_joined: int, progress: Progress) -> _Areas:
        """Areas of each region, of all of the first ``n_joined``, of the rest of the source, and of all of it."""
        run, n_classes = self.run, len(self.run.class_names)
        to_pixels = ~self.transform
        on_grid = [shapely.transform(one, lambda points: place_points(points, to_pixels)) for one in regions]
        is_exact = run.is_raster or run.analysed is not None or not regions
        with pixels_of(run) as (pixels, ground):
            by_pixels = ground is not None and ground.method == "ellipsoid" and n_classes > 1
            if by_pixels:  # the report has no area of each class
                on_grid.append(shapely.box(0, 0, self.shape[1], self.shape[0]))
            advance = progress(n_blocks(on_grid, self.shape))
            measured, joined = measure_pixels(pixels, on_grid, self.shape, n_classes, n_joined, advance)
            exact = [self._area(one, on_grid[i], ground) for i, one in enumerate(regions)]
        each = [self._of(one, area) for one, area in zip(measured, exact, strict=False)]
        of_joined = self._of(joined, joined.inside * self.units.area_of_one)
        whole = self._whole(ground, measured[-1] if by_pixels else None)
        outside = _Area(
            max(0.0, (whole.area or 0.0) - (of_joined.area or 0.0)),
            max(0.0, (whole.analysed or 0.0) - (of_joined.analysed or 0.0)) if is_exact else None,
            np.maximum(0.0, whole.covered - of_joined.covered),
        )
        return _Areas(each, of_joined, outside, whole, is_exact)

    def _of(self, measured: RegionPixels, area: float | None) -> _Area:
        one = self.units.area_of_one
        return _Area(area, measured.analysed * one, measured.covered * one)

    def _area(self, region: BaseGeometry, on_grid: BaseGeometry, ground: GroundMeasure | None) -> float:
        if ground is None or ground.method == "pixels":
            return float(on_grid.area) * self.units.area_of_one
        return float(ground.area_m2(np.array([region], object))[0]) * self.units.area_of_one

    def _whole(self, ground: GroundMeasure | None, measured: RegionPixels | None) -> _Area:
        """Of the whole source, as its report has them."""
        report, one = self.run.report, self.units.area_of_one
        if ground is None or ground.method == "pixels":
            covered_px = self._covered_px()
            area, analysed = self.shape[0] * self.shape[1] * one, report["area_px"] * one
            return _Area(area, analysed, covered_px * one)
        area = self._area(self.outline, self.outline, ground)
        if measured is not None:
            return _Area(area, report["area_km2"], measured.covered * one)
        covered_px = self._covered_px()
        covered = covered_px / max(1, covered_px.sum()) * report["covered_km2"]
        return _Area(area, report["area_km2"], covered)

    def _covered_px(self) -> np.ndarray:
        classes = self.run.report.get("classes") or [self.run.report]
        return np.array([one["covered_px"] for one in classes], np.float64)
