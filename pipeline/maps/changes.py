"""Changes between dates: water gained and lost, and migration of the centreline. Arrays in, numbers out."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from fewscope.pipeline.geometry.geodesy import total_m2

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

RIVER_SHARE = 0.25
"""Share of the longest river's length from which a river is compared: oxbow lakes beside it are not."""

_DATES = (
    re.compile(r"(?<!\d)((?:19|20)\d{2})-(\d{2})-(\d{2})(?!\d)"),
    re.compile(r"(?<!\d)((?:19|20)\d{2})(\d{2})(\d{2})(?!\d)"),
    re.compile(r"(?<!\d)((?:19|20)\d{2})(?!\d)"),
)


@dataclass(frozen=True, slots=True)
class Change:
    """From one date to the next; areas where both dates are valid.

    Attributes
    ----------
    before, after : str
        Names of the dates.
    years : float | None
        Between them, None where a date is not known.
    gained_km2, lost_km2, kept_km2 : float
        Water that came, went, and stayed.
    compared_km2 : float
        Area that is valid on both dates.
    moved_mean_m, moved_max_m : float | None
        Distance of the later centreline from the earlier one, mean along it and largest; None where one of the
        dates has no river.
    """

    before: str
    after: str
    years: float | None
    gained_km2: float
    lost_km2: float
    kept_km2: float
    compared_km2: float
    moved_mean_m: float | None
    moved_max_m: float | None

    @property
    def moved_m_per_year(self) -> float | None:
        """Mean migration rate of the centreline, m per year."""
        if self.moved_mean_m is None or not self.years:
            return None
        return self.moved_mean_m / self.years


class Date(NamedTuple):
    """When a scene was taken: in words, and as a year with decimals."""

    text: str
    year: float


def date_in(name: str) -> Date | None:
    """The date in a file name; None if there is none. A bare year is the middle of it.

    >>> date_in("LC08_20200702_T1.tif"), date_in("ucayali_1985.tif").year, date_in("scene.tif")
    (Date(text='2020-07-02', year=2020.5), 1985.5, None)
    """
    for pattern in _DATES:
        for found in pattern.finditer(name):
            parts = [int(part) for part in found.groups()]
            if len(parts) == 1:
                return Date(str(parts[0]), parts[0] + 0.5)
            try:
                day = datetime.date(*parts)
            except ValueError:  # digits that are no date
                continue
            first = datetime.date(day.year, 1, 1)
            length = (datetime.date(day.year + 1, 1, 1) - first).days
            return Date(day.isoformat(), round(day.year + (day - first).days / length, 3))
    return None


def changed_areas(before: tuple[Mask, Mask], after: tuple[Mask, Mask], areas: Floats) -> Floats:
    """Areas gained, lost, kept and compared in a window, (4,), in the unit of `areas`. Sums of windows add up.

    Parameters
    ----------
    before, after : (water, valid), bool (h, w) each
    areas : Floats
        (h, 1) or (h, w) area of the pixels.

    Examples
    --------
    >>> all_valid = np.ones((1, 4), bool)
    >>> before, after = np.array([[True, True, False, False]]), np.array([[True, False, True, True]])
    >>> changed_areas((before, all_valid), (after, all_valid), np.array([[2.0]])).tolist()
    [4.0, 2.0, 2.0, 8.0]
    """
    both = before[1] & after[1]
    was, became = before[0] & both, after[0] & both
    return np.array([total_m2(where, areas) for where in (became & ~was, was & ~became, was & became, both)])


def are_long(lengths: Sequence[float]) -> list[bool]:
    """Which of several rivers are compared between dates: those at least `RIVER_SHARE` as long as the longest.

    >>> are_long([100.0, 60.0, 5.0])
    [True, True, False]
    """
    longest = max(lengths, default=0.0)
    return [length >= RIVER_SHARE * longest for length in lengths]


def migration(before: Sequence[Floats], after: Sequence[Floats]) -> tuple[float, float] | None:
    """Mean and largest distance of the later centreline from the earlier one; None where one of them is empty.

    Parameters
    ----------
    before, after : Sequence[Floats]
        Centrelines, (n, 2) points each, in a plane; the mean is along the length of `after`.

    Examples
    --------
    >>> migration([np.array([[0.0, 0.0], [100.0, 0.0]])], [np.array([[0.0, 3.0], [100.0, 7.0]])])
    (5.0, 7.0)
    """
    earlier = [line for line in before if len(line) > 1]
    later = [line for line in after if len(line) > 1]
    if not earlier or not later:
        return None
    target = shapely.multilinestrings([shapely.LineString(line) for line in earlier])
    shapely.prepare(target)
    distances = [np.asarray(shapely.distance(shapely.points(line), target)) for line in later]
    steps = np.concatenate([np.hypot(*np.diff(line, axis=0).T) for line in later])
    between = np.concatenate([(d[1:] + d[:-1]) / 2 for d in distances])
    total = float(steps.sum())
    if total == 0:
        return None
    return float(between @ steps) / total, float(max(d.max() for d in distances))
