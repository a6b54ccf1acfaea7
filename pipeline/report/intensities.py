"""What objects measure, for the report: a histogram of each channel or stain, and how many objects are positive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fewscope.connectors.source import COLOURS, MeasuredChannel
from fewscope.connectors.stain_options import MOST_GRADES, Positive
from fewscope.pipeline.report.distributions import Histogram

MOST_SHOWN = 12
"""Channels with a histogram; those with thresholds come first."""

BINS = 40
LOW, HIGH = 0.005, 0.995
"""Quantiles between which a histogram lies; values beyond are counted in the outermost bins."""


@dataclass(frozen=True, slots=True)
class Grades:
    """How many objects are positive.

    Attributes
    ----------
    class_name : str
        Of the objects; empty where there is one class.
    negative : int
        Objects below the first threshold.
    positive : tuple[int, ...]
        Objects from each threshold on and below the next: 1+, 2+, 3+.
    """

    class_name: str
    negative: int
    positive: tuple[int, ...]

    @property
    def fraction(self) -> float | None:
        """Part of the objects that is positive; None without objects."""
        total = self.negative + sum(self.positive)
        return sum(self.positive) / total if total else None

    @property
    def h_score(self) -> float | None:
        """Percentages of 1+, 2+ and 3+, times 1, 2 and 3: 0 to 300 (McCarty et al., Arch. Pathol. Lab. Med. 1985); None
        without three grades, or objects."""
        total = self.negative + sum(self.positive)
        if len(self.positive) < MOST_GRADES or not total:
            return None
        return 100 * sum(grade * n for grade, n in enumerate(self.positive, start=1)) / total

    def to_json(self) -> dict[str, Any]:
        """For ``report.json``."""
        return {
            **({"class": self.class_name} if self.class_name else {}),
            "negative": self.negative,
            "positive": list(self.positive),
            "positive_fraction": self.fraction,
            "h_score": self.h_score,
        }


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """Means of a channel or stain over the objects.

    Attributes
    ----------
    name, column, unit : str
        Of the channel; its column in ``instances.parquet``; "optical density", or "stored value".
    histogram : Histogram
        Over the objects.
    thresholds : tuple[float, ...]
        From which an object is positive; empty if nobody asked.
    grades : tuple[Grades, ...]
        Of each class; empty without thresholds.
    """

    name: str
    column: str
    unit: str
    histogram: Histogram
    thresholds: tuple[float, ...] = ()
    grades: tuple[Grades, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For ``report.json``."""
        shown: dict[str, Any] = {
            "name": self.name,
            "column": self.column,
            "unit": self.unit,
            "median": self.histogram.median,
        }
        if self.thresholds:
            shown |= {"thresholds": list(self.thresholds), "grades": [one.to_json() for one in self.grades]}
        return shown


def channel_reports(
    table: Any, measured: Sequence[MeasuredChannel], positive: Sequence[Positive], classes: Sequence[str] = ()
) -> tuple[ChannelReport, ...]:
    """Histograms and grades from the table of instances; holds one channel at a time.

    Those with thresholds come first, in their order. Red, green and blue of ordinary pictures tell nobody anything:
    they are left out unless asked for.

    Parameters
    ----------
    table : pyarrow.dataset.Dataset or pyarrow.Table
        With a column for each channel.
    measured : Sequence[MeasuredChannel]
        The channels.
    positive : Sequence[Positive]
        What counts as positive, of some of them.
    classes : Sequence[str]
        Names of the classes, where there are several.
    """
    thresholds = {one.channel: one.thresholds for one in positive}
    by_name = {one.name: one for one in measured}
    shown = [by_name[name] for name in thresholds if name in by_name]
    shown += [one for one in measured if one.name not in thresholds and one not in COLOURS]
    found = []
    for one in shown[:MOST_SHOWN]:
        values = _column(table, one.column)
        if not len(values):
            continue
        limits = thresholds.get(one.name, ())
        grades: tuple[Grades, ...] = ()
        if limits:
            names = classes or ("",)
            grades = tuple(
                _graded(values if not name else _column(table, one.column, name), limits, name)
                for name in names
            )
        unit = "optical density" if one.quantity == "od" else "stored value"
        found.append(
            ChannelReport(one.name, one.column, unit, _histogram(values, unit, limits), limits, grades)
        )
    return tuple(found)


def _column(table: Any, name: str, class_name: str = "") -> npt.NDArray[np.float64]:
    """The finite values of a column, of one class or of all."""
    chosen = pc.field("class") == class_name if class_name else None
    if isinstance(table, pa.Table):
        rows = table if chosen is None else table.filter(chosen)
    else:
        rows = table.to_table(columns=[name], filter=chosen)
    values: npt.NDArray[np.float64] = rows[name].to_numpy()
    return values[np.isfinite(values)]


def _graded(values: npt.NDArray[np.float64], limits: Sequence[float], class_name: str) -> Grades:
    counts = np.bincount(np.searchsorted(limits, values, side="right"), minlength=len(limits) + 1)
    return Grades(class_name, int(counts[0]), tuple(counts[1:].tolist()))


def _histogram(values: npt.NDArray[np.float64], unit: str, limits: Sequence[float]) -> Histogram:
    """Between quantiles, with all thresholds inside."""
    low, median, high = np.quantile(values, (LOW, 0.5, HIGH)).tolist()
    low, high = min(low, *limits, high), max(high, *limits, low)
    if low >= 0 and low < 0.3 * high:
        low = 0.0
    if high <= low:
        high = low + max(abs(low), 1.0) * 0.1
    edges = np.linspace(low, high, BINS + 1)
    counts, _ = np.histogram(values.clip(low, high), edges)
    return Histogram(unit, edges.tolist(), counts.tolist(), 0, median)
