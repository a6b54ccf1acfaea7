"""Which instances lie in a region: by their centroids, each instance once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.connectors.source import measured_title
from fewscope.pipeline.geometry.geodesy import GroundMeasure

PLACES = 100_000
"""Instances around which pixels are measured on the ellipsoid at once."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Instances:
    """The columns of the table of instances that regions need, for n instances in the order of their ids.

    Attributes
    ----------
    x, y
        (n,) float64: centroids as in the table, full-resolution px of a slide or units of the raster's CRS.
    area
        (n,) float64: areas in `Units.size`.
    value
        (n,) uint8: class 1..C.
    intensities
        Column of the table -> (n,) float64: mean of a channel or stain over each instance.
    grades
        Name of a channel -> (n,) int8: 0 negative, 1 to 3 positive, -1 not measured. Of those that the run has
        thresholds of.
    """

    x: Floats
    y: Floats
    area: Floats
    value: npt.NDArray[np.uint8]
    intensities: dict[str, Floats]
    grades: dict[str, npt.NDArray[np.int8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x)

    @classmethod
    def of(cls, run: FinishedRun) -> Instances:
        """Read them from the table of a run, whose other columns are not read."""
        names = run.schema().names

        def column(name: str) -> pa.ChunkedArray:  # one at a time: there may be millions of rows
            return run.result.table.to_table(columns=[name])[name]

        x, y = column("x").to_numpy(), column("y").to_numpy()
        intensities = {name: column(name).to_numpy() for name in names if measured_title(name)}
        return cls(
            x=x,
            y=y,
            area=column("area_px").to_numpy() * _size_of_px(run, x, y),
            value=_values(column("class"), run.class_names)
            if "class" in names
            else np.ones(len(x), np.uint8),
            intensities=intensities,
            grades={
                name: np.where(
                    np.isfinite(intensities[column]),
                    np.searchsorted(limits, intensities[column], side="right"),
                    -1,
                ).astype(np.int8)
                for name, (column, limits) in thresholds_of(run).items()
            },
        )


def thresholds_of(run: FinishedRun) -> dict[str, tuple[str, list[float]]]:
    """Name of a channel -> its column, and from which means objects are 1+, 2+, 3+: as the run was asked for."""
    return {
        one["name"]: (one["column"], one["thresholds"])
        for one in run.report.get("channels", ())
        if one.get("thresholds")
    }


def _values(names: pa.ChunkedArray, class_names: Sequence[str]) -> npt.NDArray[np.uint8]:
    """Classes 1..C of rows from their names."""
    classes = pa.array(class_names, pa.string())
    found = [pc.index_in(chunk.cast(pa.string()), classes).to_numpy() for chunk in names.iterchunks()]
    return np.concatenate([np.zeros(0, np.uint8), *(1 + one.astype(np.uint8) for one in found)])


def _size_of_px(run: FinishedRun, x: Floats, y: Floats) -> float | Floats:
    """Area of a working pixel in `Units.size`, where the CRS distorts it at each (x, y)."""
    if not run.is_raster:
        return run.result.mpp**2 if run.result.mpp else 1.0
    result = run.result
    ground = GroundMeasure.of(result.crs, result.transform, result.spec.height, result.spec.width)
    if ground.method != "ellipsoid":
        return float(ground.pixel_areas_at_m2(result.transform, np.zeros(1), np.zeros(1))[0])
    cols, rows = place_points(np.column_stack([x, y]), ~result.transform).T
    parts = [slice(i, i + PLACES) for i in range(0, len(x), PLACES)]
    areas = [ground.pixel_areas_at_m2(result.transform, rows[part], cols[part]) for part in parts]
    return np.concatenate([np.zeros(0), *areas])


class Centroids:
    """Points, sorted so that those in a region are found without looking at all others.

    Parameters
    ----------
    x, y
        (n,) float64.
    """

    def __init__(self, x: Floats, y: Floats) -> None:
        self._order = np.argsort(x, kind="stable")
        self._x, self._y = x[self._order], y[self._order]

    def inside(self, region: BaseGeometry) -> Ints:
        """Which points lie in a region, ascending.

        A point on the edge is in the region to its right, or below it, as y counts downwards: of regions that share
        the edge, in one of them.

        Parameters
        ----------
        region
            A valid polygon or multipolygon.

        >>> points = Centroids(np.array([1.0, 5.0, 2.0]), np.array([1.0, 1.0, 1.0]))
        >>> points.inside(shapely.box(0, 0, 2, 2)).tolist(), points.inside(shapely.box(2, 0, 9, 2)).tolist()
        ([0], [1, 2])
        """
        if region.is_empty:
            return np.zeros(0, np.int64)
        left, top, right, bottom = region.bounds
        start, stop = np.searchsorted(self._x, left, "left"), np.searchsorted(self._x, right, "right")
        rows = np.flatnonzero((self._y[start:stop] >= top) & (self._y[start:stop] <= bottom)) + start
        x, y = self._x[rows], self._y[rows]
        shapely.prepare(region)
        touched = shapely.intersects_xy(region, x, y)
        on_edge = touched.copy()
        on_edge[touched] = ~shapely.contains_xy(region, x[touched], y[touched])
        touched[on_edge] = _crossings_are_odd(region, x[on_edge], y[on_edge])
        return np.sort(self._order[rows[touched]])


def _crossings_are_odd(region: BaseGeometry, x: Floats, y: Floats) -> Mask:
    """Whether a ray to the right of each point crosses the edges of a region an odd number of times, (n,) bool.

    Edges are half open, and computed alike in whichever direction they are drawn.
    """
    if not len(x):
        return np.zeros(0, bool)
    rings = shapely.get_rings(shapely.get_parts(region))
    points, ring = shapely.get_coordinates(rings, return_index=True)
    same = ring[1:] == ring[:-1]
    first, last = points[:-1][same], points[1:][same]
    swap = first[:, 1] > last[:, 1]
    low, high = np.where(swap[:, None], last, first), np.where(swap[:, None], first, last)
    odd = np.zeros(len(x), bool)
    for i in range(len(x)):  # of few: points exactly on an edge
        crossed = (low[:, 1] <= y[i]) & (y[i] < high[:, 1])
        a, b = low[crossed], high[crossed]
        at = a[:, 0] + (y[i] - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
        odd[i] = np.count_nonzero(at > x[i]) % 2 == 1
    return odd
