"""The summary of several sources of one run: a table with a row for each source and class, and a page with pictures."""

from __future__ import annotations

import base64
import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.pipeline.report.drawing import Picture
from fewscope.pipeline.report.formatting import percent, short
from fewscope.pipeline.report.html import fill, write_files
from fewscope.pipeline.report.render import Measures
from fewscope.pipeline.report.series import Done, series_of

TABLE, PAGE = "summary.csv", "index.html"

THUMBNAIL_PX = 320
"""Longer side of a picture on the page."""

MAX_THUMBNAILS = 500
"""Sources beyond are on the page without a picture: of some 15 kB each."""

COLUMNS = {
    "source": True,
    "time_point": False,
    "time_s": False,
    "class": True,
    "count": True,
    "count_estimate": True,
    "count_low": True,
    "count_high": True,
    "area_px": False,
    "area_mm2": False,
    "area_km2": False,
    "density_per_mm2": False,
    "density_per_mpx": False,
    "density_per_km2": False,
    "covered_fraction": False,
    "covered_mm2": False,
    "covered_km2": False,
    "positive_fraction": False,
    "h_score": False,
    "median_diameter_um": False,
    "median_area_px": False,
    "estimated_iou": False,
    "unread_fraction": False,
    "n_warnings": True,
    "report": True,
    "error": True,
}
"""Of the table, and whether they are there also if no row has a value."""


def write_study(out: str, done: Sequence[Done]) -> None:
    """Write ``summary.csv`` and ``index.html`` into `out`, a folder or an fsspec URL.

    Raises
    ------
    OutputError
        They cannot be written.
    """
    thumbnails = [_thumbnail(f"{out}/{one.folder}") for one in done if one.report][:MAX_THUMBNAILS]
    write_files(
        out,
        {
            TABLE: table_text(done).encode("utf-8", "replace"),
            PAGE: _page(done, thumbnails).encode("utf-8", "replace"),
        },
    )


def table_text(done: Sequence[Done]) -> str:
    """``summary.csv``: a row for each source, or for each of its classes where there are several."""
    rows = [row for one in done for row in _rows(one)]
    kept = [
        name for name, always in COLUMNS.items() if always or any(row.get(name) is not None for row in rows)
    ]
    text = io.StringIO()
    table = csv.DictWriter(text, kept, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({name: cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _rows(one: Done) -> list[dict[str, Any]]:
    whole = one.report
    if whole is None:
        return [{"source": one.source, "time_point": one.time_point, "error": one.error}]
    rows = []
    channels: Sequence[Mapping[str, Any]] = whole.get("channels", ())
    graded: Sequence[Mapping[str, Any]] = next((one["grades"] for one in channels if "grades" in one), ())
    for of_class in whole.get("classes") or [whole]:
        low, high = of_class.get("count_interval") or (None, None)
        sizes = of_class.get("sizes") or {}
        quality = of_class.get("quality") or {}
        rows.append(
            {name: of_class.get(name, whole.get(name)) for name in COLUMNS}
            | {
                "source": one.source,
                "class": of_class.get("class_name") or of_class.get("name"),
                "count_low": low,
                "count_high": high,
                "median_diameter_um": sizes.get("median_diameter_um"),
                "median_area_px": (sizes.get("area_px") or {}).get("median"),
                "estimated_iou": quality.get("iou_mean"),
                **next((of for of in graded if of.get("class") in (None, of_class.get("name"))), {}),
                "n_warnings": len(whole["notes"]),
                "report": f"{one.folder}/report.html",
                "error": one.error or None,
            }
        )
    return rows


def cell(value: Any) -> Any:
    """A value as the table has it; text that a spreadsheet would take for a formula is made harmless."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _thumbnail(folder: str) -> Picture | None:
    """The overview of a run, smaller; None without one."""
    filesystem, root = find_filesystem(folder)
    try:
        content = filesystem.cat_file(f"{root}/overview.jpg")
        with Image.open(io.BytesIO(content)) as overview:
            span = float(overview.width)
            overview.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
            buffer = io.BytesIO()
            overview.save(buffer, "JPEG", quality=85)
    except OSError:
        return None
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, overview.width, overview.height, span)


def _density(report: Mapping[str, Any]) -> str:
    """How dense the objects of a report are, in words, per pixels where no resolution is known; empty of nothing."""
    if report["density_per_mm2"] is not None:
        measures = Measures(report["mpp"])
        return f"{measures.density(report['density_per_mm2'] * report['mpp'] ** 2)} {measures.density_unit}"
    for column, unit in (("density_per_km2", "km²"), ("density_per_mpx", "megapixel")):
        if report.get(column) is not None:
            return f"{short(report[column])} per {unit}"
    return ""


def _page(done: Sequence[Done], thumbnails: Sequence[Picture | None]) -> str:
    found = [one for one in done if one.report]
    reports = [one.report for one in found if one.report]
    several = "classes" in reports[0] if reports else False
    estimates = [report["count_estimate"] for report in reports]
    times = Counter(one.source for one in done if one.time_point is not None)
    # an object is found again at the next time point: no totals
    n_series = sum(n > 1 for n in times.values())
    n_sources = len(reports) if not n_series else len({one.source for one in found})
    is_series = n_series == 1 and n_sources == 1
    return fill(
        "study.html.j2",
        {"density": _density, "percent": percent, "short": short},
        series=series_of(done),
        sources=[(one, thumbnails[i] if i < len(thumbnails) else None) for i, one in enumerate(found)],
        failed=[one for one in done if not one.report],
        series_name=reports[0]["title"].partition(", time point")[0] if is_series else "",
        n_series=n_series,
        n_sources=n_sources,
        total=sum(report["count"] for report in reports),
        estimate=None if several or n_series or None in estimates else sum(estimates),
        unit="" if several or not reports else reports[0]["class_name"],
        table=TABLE,
    )
