"""Counts over time: of the sources of one run, those that are time points of one file."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewscope.pipeline.report.charts import TimedCount, time_chart

UNITS = (
    ("s", 1.0, 180.0),
    ("min", 60.0, 180 * 60.0),
    ("h", 3600.0, 96 * 3600.0),
    ("d", 86400.0, float("inf")),
)
"""Of time, with their seconds, and up to how many seconds a series is shown in them."""


@dataclass(frozen=True, slots=True)
class Done:
    """A source of the run.

    Attributes
    ----------
    source
        Its path or address, as given.
    folder
        Name of its folder in the output folder.
    report
        Content of its ``report.json``; None where it failed.
    error
        Why it failed, in one line; empty where it did not.
    time_point
        Of a series, counted from 1; None for a source without.
    """

    source: str
    folder: str
    report: Mapping[str, Any] | None
    error: str = ""
    time_point: int | None = None


def series_of(done: Sequence[Done]) -> list[dict[str, Any]]:
    """For each file with several finished time points, and each class: its name, and the chart of its counts."""
    by_source: dict[str, list[Mapping[str, Any]]] = {}
    for one in done:
        if one.report is not None and one.report.get("time_point") is not None:
            by_source.setdefault(one.source, []).append(one.report)
    found = []
    for source, reports in by_source.items():
        reports = sorted(reports, key=lambda report: report["time_point"])
        if len(reports) < 2:
            continue
        label, times = _times(reports)
        name = posixpath.basename(source.replace("\\", "/").rstrip("/"))
        names = [one["name"] for one in reports[0].get("classes") or ()]
        for number in range(len(names) or 1):
            of_class = [(report.get("classes") or [report])[number] for report in reports]
            counts = [
                TimedCount(time, one["count"], one["count_estimate"], one["count_interval"])
                for time, one in zip(times, of_class, strict=True)
            ]
            found.append(
                {
                    "name": name,
                    "class_name": names[number] if names else reports[0]["class_name"],
                    "n": len(reports),
                    "first": counts[0].count,
                    "last": counts[-1].count,
                    "chart": time_chart(counts, label),
                }
            )
    return found


def _times(reports: Sequence[Mapping[str, Any]]) -> tuple[str, list[float]]:
    """What the axis of a chart says, and the time of each report in its unit."""
    seconds = [report.get("time_s") for report in reports]
    known = [float(one) for one in seconds if one is not None]
    if len(known) < len(seconds):
        return "time point", [float(report["time_point"]) for report in reports]
    unit, size, _ = next(one for one in UNITS if max(known) <= one[2])
    return f"time, {unit}", [one / size for one in known]
