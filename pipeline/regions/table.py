"""The table of regions: a row for each region and class."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from fewscope.pipeline.regions.numbers import ClassNumbers, RegionNumbers, Units
from fewscope.pipeline.regions.summary import RegionSummary
from fewscope.pipeline.report.study import cell

SHARES = ("share", "share_low", "share_high")


def region_table(summaries: Sequence[RegionSummary], several_sources: bool = False) -> pa.Table:
    """A row for each region and class; see ``docs/results.md``.

    Parameters
    ----------
    several_sources
        Whether the first column names the source; of time series, the second is the time point.
    """
    rows = [row for summary in summaries for row in _rows(summary)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not several_sources:
        names.remove("source")
    if not several_sources or not any(row["time_point"] for row in rows):
        names.remove("time_point")
    if not any(row["share"] != 1 for row in rows if row["share"] is not None):
        names = [name for name in names if name not in SHARES]
    return pa.table({name: typed([row.get(name) for row in rows]) for name in names})


def typed(values: Sequence[Any]) -> pa.Array:
    """A column of text, of counts (int64), or of measures (float64), any of which may be None."""
    types = {str: pa.string(), int: pa.int64()}
    kinds = {type(value) for value in values if value is not None}
    return pa.array(values, types.get(kinds.pop(), pa.float64()) if len(kinds) == 1 else pa.float64())


def csv_text(table: pa.Table) -> str:
    """A table as CSV: commas, points, numbers of six digits, UTF-8."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(cell, table.schema.names))
    for row in table.to_pylist():
        writer.writerow("" if value is None else cell(value) for value in row.values())
    return text.getvalue()


def _rows(summary: RegionSummary) -> list[dict[str, Any]]:
    """All rows of a run, whose regions come in the order of their numbers."""
    units = summary.units
    return [
        {
            "source": summary.run.source,
            "time_point": summary.run.time_point,
            "region": row.label,
            "name": row.name,
            "region_class": row.class_name,
            "class": of_class.name,
            **measures(row, of_class, units),
        }
        for row in summary.rows
        for of_class in row.classes
    ]


def measures(row: RegionNumbers, of_class: ClassNumbers, units: Units) -> dict[str, Any]:
    """The numbers of one class in one region by their columns; None where one is not known."""
    low, high = of_class.share_interval or (None, None)
    lower, median, upper = of_class.sizes or (None, None, None)
    diameter = {}
    if units.size == "um2":
        diameter = {"median_diameter_um": None if median is None else 2 * (median / math.pi) ** 0.5}
    return {
        "count": of_class.count,
        f"density_per_{units.density}": of_class.density,
        "share": of_class.share,
        "share_low": low,
        "share_high": high,
        f"area_{units.area}": row.area,
        f"analysed_{units.area}": row.analysed,
        f"covered_{units.area}": of_class.covered,
        "covered_fraction": of_class.covered_fraction,
        f"area_{units.size}_q25": lower,
        f"median_area_{units.size}": median,
        f"area_{units.size}_q75": upper,
        **diameter,
        **of_class.intensities,
        **_positives(of_class),
    }


def _positives(of_class: ClassNumbers) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name, one in of_class.positives.items():
        low, high = one.interval or (None, None)
        columns |= {
            f"positive_{name}": one.count,
            f"positive_fraction_{name}": one.fraction,
            f"positive_fraction_{name}_low": low,
            f"positive_fraction_{name}_high": high,
        }
        if one.h_score is not None:
            columns[f"h_score_{name}"] = one.h_score
    return columns
