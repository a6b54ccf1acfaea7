"""Hot spots on a source: how large they are, and their outlines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.errors import ConfigError
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.regions.hot_spots import Grid, hot_spots
from fewscope.pipeline.regions.instances import Instances, Mask

FIELD_MM2 = 1.0
"""Area of a field on a slide whose tissue is at least ten times as large."""

SLIDE_PART, MAP_PART = 0.1, 0.01
"""Largest part of the searched area that a field is by default, on slides and on rasters."""

MOST_CENTRES = 30_000_000
"""Fields that are compared: with more, it would take minutes, and gigabytes."""

QUARTER_PARTS = 64
"""Segments that a quarter of a circle is divided into: its area is off by 0.01 %."""


@dataclass(frozen=True, slots=True)
class HotSpotOptions:
    """Which hot spots are wanted.

    Attributes
    ----------
    n
        How many.
    area
        Of each: mm2 on slides, km2 on rasters; None: `FIELD_MM2`, or the parts above.
    of
        Objects that count: those of a class, or those positive for a channel; None: all.

    Raises
    ------
    ConfigError
        A number is not above 0.
    """

    n: int = 3
    area: float | None = None
    of: str | None = None

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ConfigError(f"--hot-spots {self.n}: none is asked for; give a number from 1")
        if self.area is not None and not 0 < self.area < math.inf:
            raise ConfigError(f"--field-area {self.area:g} is no area; give mm2, for rasters km2, above 0")


def find_fields(
    run: FinishedRun,
    transform: Affine,
    instances: Instances,
    counted: Mask,
    wanted: HotSpotOptions,
    within: Sequence[BaseGeometry] = (),
) -> tuple[list[BaseGeometry], float]:
    """Outlines of the hot spots in the coordinates of the table, the densest first; and their area, mm2 or km2.

    Parameters
    ----------
    transform
        From pixel corners (col, row) of the grid to the coordinates of the table.
    instances, counted
        All instances, and which of them count, (n,) bool.
    within
        If there are any: the centres lie in one of these polygons, and what reaches beyond them is cut off.

    Raises
    ------
    ConfigError
        There is no such class or channel, no unit of area, no room for a field, or it is too small.
    """
    spec = run.result.spec
    per_mm = _per_unit(run, transform, spec.height, spec.width)
    if wanted.of is not None:
        counted = counted & _objects_of(run, instances, wanted.of)
    corners = [(0, 0), (spec.width, 0), (spec.width, spec.height), (0, spec.height)]
    outline = shapely.Polygon([transform @ corner for corner in corners])
    ground = shapely.union_all(list(within)) if within else None
    searched = outline.area if ground is None else ground.area
    report_area = run.report.get("area_km2" if run.is_raster else "area_mm2")
    if ground is None and report_area:
        searched = report_area / per_mm**2
    area = wanted.area or _default_area(searched * per_mm**2, run.is_raster)
    if area > searched * per_mm**2:
        unit = "km2" if run.is_raster else "mm2"
        raise ConfigError(
            f"--field-area {area:g}: is more than the {searched * per_mm**2:.3g} {unit} that are searched; give less"
        )
    radius = math.sqrt(area / math.pi) / per_mm
    grid = Grid.within(outline.bounds, radius)
    if grid.n_x * grid.n_y > MOST_CENTRES:
        least = 1.05 * area * grid.n_x * grid.n_y / MOST_CENTRES
        raise ConfigError(
            f"--field-area {area:g}: so small fields are too many to compare; give at least {least:.2g}"
        )
    points = np.column_stack([instances.x[counted], instances.y[counted]])
    found = hot_spots(points, radius, wanted.n, outline.bounds, ground)
    circles = [shapely.Point(one.x, one.y).buffer(one.radius, QUARTER_PARTS) for one in found]
    return [one if ground is None else shapely.intersection(one, ground) for one in circles], area


def _objects_of(run: FinishedRun, instances: Instances, name: str) -> Mask:
    """Which objects are of a class, or positive for a channel, (n,) bool."""
    if name in run.class_names:
        return np.asarray(instances.value == run.class_names.index(name) + 1)
    if name in instances.grades:
        return np.asarray(instances.grades[name] > 0)
    known = " or ".join([*run.class_names, *instances.grades])
    raise ConfigError(
        f"--hot-spots-of {name}: {run.out} has no such class, nor a channel with a --positive; give {known}"
    )


def _default_area(searched: float, is_raster: bool) -> float:
    """Area of a field: at most a part of what is searched, rounded down to two digits.

    >>> _default_area(120.0, False), _default_area(3.456, False), _default_area(3456.0, True)
    (1.0, 0.34, 34.0)
    """
    area = searched * (MAP_PART if is_raster else SLIDE_PART)
    if not is_raster and area >= FIELD_MM2:
        return FIELD_MM2
    power = 10.0 ** (math.floor(math.log10(area)) - 1)
    return float(f"{math.floor(area / power * (1 + 1e-9)) * power:.6g}")


def _per_unit(run: FinishedRun, transform: Affine, height: int, width: int) -> float:
    """Millimetres, or kilometres, of a unit of the table's coordinates."""
    if not run.is_raster:
        if not run.result.mpp:
            raise ConfigError(
                f"{run.out}: its source states no resolution, so there are no fields of an area"
            )
        return run.result.mpp / transform.a / 1000
    ground = GroundMeasure.of(run.result.crs, transform, height, width)
    if ground.method != "plane":
        raise ConfigError(
            f"{run.out}: hot spots need a CRS in metres that keeps areas, such as UTM, and it is measured "
            f"{ground.description}; map it again with --crs"
        )
    return ground.metres_per_unit / 1000
