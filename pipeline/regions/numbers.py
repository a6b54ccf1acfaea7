"""The numbers of one region: counts, densities, shares, covered areas, sizes, intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import special
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.results.finished_run import FinishedRun
from fewscope.pipeline.regions.instances import Floats, Instances, Ints
from fewscope.pipeline.report.intensities import Grades
from fewscope.pipeline.report.render import Measures

Kind = Literal["region", "hot spot", "total"]


@dataclass(frozen=True, slots=True)
class Units:
    """In which units areas, densities and sizes are told.

    Attributes
    ----------
    area
        "mm2", "um2" of images that only an electron microscope resolves, "km2" or "px".
    area_of_one
        Of one unit of `pixels.Pixels.areas`, in it.
    density
        "mm2", "um2", "km2" or "mpx".
    densities
        How many of it an area of 1 is.
    size
        Of sizes of objects: "um2", "m2" or "px".
    """

    area: str
    area_of_one: float
    density: str
    densities: float
    size: str

    @classmethod
    def of(cls, run: FinishedRun) -> Units:
        """Those of a run, as in its report: where no resolution or CRS is known, pixels."""
        mpp = run.result.mpp
        if mpp and Measures(mpp).is_ultrastructure:
            return cls("um2", mpp**2, "um2", 1.0, "um2")
        if mpp:
            return cls("mm2", mpp**2 / 1e6, "mm2", 1.0, "um2")
        if run.report.get("metres_per_px"):
            return cls("km2", 1e-6, "km2", 1.0, "m2")
        return cls("px", 1.0, "mpx", 1e-6, "px")


@dataclass(frozen=True, slots=True)
class Positives:
    """How many objects are positive for a channel, of those that are measured.

    Attributes
    ----------
    fraction, interval
        Part that is positive, and Wilson's 95 % interval; None without an object.
    h_score
        See `pipeline.report.intensities.Grades`; None without three grades.
    """

    count: int
    fraction: float | None
    interval: tuple[float, float] | None
    h_score: float | None


@dataclass(frozen=True, slots=True)
class ClassNumbers:
    """The objects of one class, or of all, in one region.

    Attributes
    ----------
    density
        Objects for each unit of analysed area; None where that is nothing, or not known.
    share, share_interval
        Part of all objects in the region, and Wilson's 95 % interval; None without an object.
    covered, covered_fraction
        Area that they cover, and its part of the analysed area.
    sizes
        Quartiles of their areas: 25 %, median, 75 %; None without an object.
    intensities
        Column of the table -> mean over the objects; None without one.
    positives
        Name of a channel -> how many are positive.
    """

    name: str
    count: int
    density: float | None
    share: float | None
    share_interval: tuple[float, float] | None
    covered: float
    covered_fraction: float | None
    sizes: tuple[float, float, float] | None
    intensities: Mapping[str, float | None]
    positives: Mapping[str, Positives]


@dataclass(frozen=True, slots=True, eq=False)
class RegionNumbers:
    """One region, hot spot or total.

    Attributes
    ----------
    label
        "1", "2", ... of regions, "H1", ... of hot spots, and the names of totals.
    name, class_name
        As the file states them.
    geometry
        Its part in the source, in the coordinates of the table; None for totals.
    area, analysed
        Of its part in the source, and of what was analysed of that; None where it is not known.
    all
        Objects of all classes.
    classes
        Those of each class of the run, in its order.
    """

    kind: Kind
    label: str
    name: str
    class_name: str
    geometry: BaseGeometry | None
    area: float | None
    analysed: float | None
    all: ClassNumbers
    classes: tuple[ClassNumbers, ...]

    def of(self, class_name: str | None) -> ClassNumbers:
        """The numbers of one class; None: of all."""
        return next((one for one in self.classes if one.name == class_name), self.all)


def wilson(count: int, n: int) -> tuple[float, float] | None:
    """Wilson's 95 % interval of a proportion; None of nothing.

    >>> [round(end, 3) for end in wilson(8, 10)]
    [0.49, 0.943]
    """
    if not n:
        return None
    z2 = float(special.ndtri(0.975)) ** 2
    share = count / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = float(np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2)))) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def numbers_of(
    instances: Instances,
    ids: Ints,
    class_names: Sequence[str],
    units: Units,
    analysed: float | None,
    covered: Sequence[float] | Floats,
    n_grades: Mapping[str, int],
) -> tuple[ClassNumbers, tuple[ClassNumbers, ...]]:
    """The numbers of all objects of a region, and of each class.

    Parameters
    ----------
    ids
        Rows of ``instances`` that lie in the region.
    analysed
        Analysed area of the region, in `Units.area`; None: not known.
    covered
        (C,) area that each class covers, likewise.
    n_grades
        Name of a channel -> number of its thresholds.
    """
    value = instances.value[ids]

    def of(name: str, rows: Ints, area: float) -> ClassNumbers:
        n = len(rows)
        sizes = None
        if n:
            low, median, high = np.quantile(instances.area[rows], (0.25, 0.5, 0.75)).tolist()
            sizes = low, median, high
        return ClassNumbers(
            name=name,
            count=n,
            density=n / (analysed * units.densities) if analysed else None,
            share=n / len(ids) if len(ids) else None,
            share_interval=wilson(n, len(ids)),
            covered=float(area),
            covered_fraction=float(area) / analysed if analysed else None,
            sizes=sizes,
            intensities={
                name: float(column[rows].mean()) if n else None
                for name, column in instances.intensities.items()
            },
            positives={
                name: _positives(grades[rows], n_grades[name]) for name, grades in instances.grades.items()
            },
        )

    classes = [
        of(name, ids[value == i], area)
        for i, (name, area) in enumerate(zip(class_names, covered, strict=True), start=1)
    ]
    return of("", ids, float(sum(covered))), tuple(classes)


def _positives(grades: npt.NDArray[np.int8], n_grades: int) -> Positives:
    counts = np.bincount(grades[grades >= 0], minlength=n_grades + 1)
    graded = Grades("", int(counts[0]), tuple(counts[1:].tolist()))
    n = int(counts[1:].sum())
    return Positives(n, graded.fraction, wilson(n, int(counts.sum())), graded.h_score)
