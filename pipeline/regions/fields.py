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
from fewscope.pipeline.regions.numbers import Units

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
        Of each, in `numbers.Units.area`: mm2 on slides, km2 on rasters; None: `FIELD_MM2`, or the parts above.
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
    """Outlines of the hot spots in the coordinates of the table, the densest first; and their area, in ``Units.area``.

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
    spec, units = run.result.spec, Units.of(run)
    side = _side_of_unit(run, units, transform, spec.height, spec.width)
    if wanted.of is not None:
        counted = counted & _objects_of(run, instances, wanted.of)
    corners = [(0, 0), (spec.width, 0), (spec.width, spec.height), (0, spec.height)]
    outline = shapely.Polygon([transform @ corner for corner in corners])
    ground = shapely.union_all(list(within)) if within else None
    searched = outline.area if ground is None else ground.area
    searched *= side**2
    analysed = run.report.get("area_km2") if run.is_raster else run.report["area_px"] * units.area_of_one
    if ground is None and analysed:
        searched = analysed
    area = wanted.area or _default_area(searched, units.area)
    if area > searched:
        raise ConfigError(
            f"--field-area {area:g}: is more than the {searched:.3g} {units.area} that are searched; give less"
        )
    radius = math.sqrt(area / math.pi) / side
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


def _default_area(searched: float, unit: str) -> float:
    """Area of a field: at most a part of what is searched, rounded down to two digits.

    >>> _default_area(120.0, "mm2"), _default_area(3.456, "mm2"), _default_area(3456.0, "km2")
    (1.0, 0.34, 34.0)
    """
    area = searched * (MAP_PART if unit == "km2" else SLIDE_PART)
    if unit == "mm2" and area >= FIELD_MM2:
        return FIELD_MM2
    power = 10.0 ** (math.floor(math.log10(area)) - 1)
    return float(f"{math.floor(area / power * (1 + 1e-9)) * power:.6g}")


def _side_of_unit(run: FinishedRun, units: Units, transform: Affine, height: int, width: int) -> float:
    """A unit of the table's coordinates, in the side of a square of one `Units.area`: mm, um, px or km."""
    if not run.is_raster:
        return math.sqrt(units.area_of_one) / transform.a
    ground = GroundMeasure.of(run.result.crs, transform, height, width)
    if ground.method != "plane":
        raise ConfigError(
            f"{run.out}: hot spots need a CRS in metres that keeps areas, such as UTM, and it is measured "
            f"{ground.description}; map it again with --crs"
        )
    return ground.metres_per_unit / 1000
