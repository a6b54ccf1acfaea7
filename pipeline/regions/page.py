"""The page of regions: where they lie, and their numbers, the densest first; of maps, the most covered first."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from PIL import Image
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.pipeline.regions.numbers import RegionNumbers
from fewscope.pipeline.regions.summary import RegionSummary
from fewscope.pipeline.report.drawing import Picture
from fewscope.pipeline.report.formatting import percent, short
from fewscope.pipeline.report.html import fill
from fewscope.pipeline.report.render import whole

MAX_ROWS = 500
"""Regions in the table of the page; the others are in ``regions.csv``."""

MAX_NUMBERED = 300
"""Regions that get their number in the picture."""

TOLERANCE = 0.25  # of an outline in the picture, px


@dataclass(frozen=True, slots=True)
class Outline:
    """A region in the picture: SVG path, place of its number, and how large that is, in px of the picture."""

    label: str
    name: str
    kind: str
    path: str
    x: float
    y: float
    size: float


def page_text(summary: RegionSummary, transform: Affine) -> str:
    """The page.

    Parameters
    ----------
    transform
        From pixel corners (col, row) of the run's grid to the coordinates of the regions.
    """
    run, report = summary.run, summary.run.report
    overview = _overview(run.out)
    by_cover = run.is_raster  # of a map, the area counts: a river may be one object

    def of_rank(row: RegionNumbers) -> float:
        return (row.all.covered_fraction if by_cover else row.all.density) or 0.0

    regions = sorted(summary.regions, key=lambda row: -of_rank(row))
    shown = regions[:MAX_ROWS]
    return fill(
        "regions.html.j2",
        {"short": short, "percent": percent, "whole": whole, "words": unit_words, "diameter": _diameter},
        s=summary,
        r=report,
        u=summary.units,
        overview=overview,
        outlines=_outlines(summary, transform, overview) if overview else (),
        regions=shown,
        n_left_out=len(regions) - len(shown),
        top=max(map(of_rank, (*summary.regions, *summary.hot_spots)), default=0.0),
        by_cover=by_cover,
        several=len(run.class_names) > 1,
        stains=list(summary.rows[0].all.positives),
        graded=[name for name, one in summary.totals[-1].all.positives.items() if one.h_score is not None],
        noun=report.get("noun") or report["kind"],
    )


def unit_words(unit: str) -> str:
    """A unit as people write it.

    >>> unit_words("mm2"), unit_words("um2"), unit_words("px"), unit_words("mpx")
    ('mm²', 'µm²', 'px', 'megapixel')
    """
    return {"mpx": "megapixel"}.get(unit, unit.replace("um", "µm").replace("2", "²"))


def _diameter(area: float) -> float:
    """Diameter of the circle of an area."""
    return 2 * math.sqrt(area / math.pi)


def _overview(out: str) -> Picture | None:
    """The picture of the run's report; None without one."""
    filesystem, root = find_filesystem(out)
    try:
        content = filesystem.cat_file(f"{root}/overview.jpg")
        with Image.open(io.BytesIO(content)) as opened:
            width, height = opened.size
    except OSError:
        return None
    uri = "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
    return Picture(uri, width, height, 0.0)


def _outlines(summary: RegionSummary, transform: Affine, picture: Picture) -> list[Outline]:
    spec = summary.run.result.spec
    to_picture = Affine.scale(picture.width / spec.width, picture.height / spec.height) @ ~transform
    rows = [
        row
        for row in (*summary.regions, *summary.hot_spots)
        if row.geometry is not None and not row.geometry.is_empty
    ]
    numbered = len(rows) <= MAX_NUMBERED
    return [_outline(row, to_picture, picture, numbered) for row in rows]


def _outline(row: RegionNumbers, to_picture: Affine, picture: Picture, numbered: bool) -> Outline:
    assert row.geometry is not None
    drawn = shapely.transform(row.geometry, lambda points: place_points(points, to_picture))
    simple = shapely.simplify(drawn, TOLERANCE)
    middle = shapely.point_on_surface(max(shapely.get_parts(drawn), key=lambda part: part.area))
    side = max(picture.width, picture.height)
    size = 0.0
    if numbered:
        size = float(
            np.clip(0.45 * math.sqrt(drawn.area) / max(1, len(row.label) * 0.5), side / 110, side / 45)
        )
    return Outline(row.label, row.name, row.kind, _path(simple), middle.x, middle.y, size)


def _path(geometry: BaseGeometry) -> str:
    """Outlines and holes as an SVG path."""
    rings: Sequence[BaseGeometry] = shapely.get_rings(shapely.get_parts(geometry)).tolist()
    return "".join(
        "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in shapely.get_coordinates(ring)[:-1]) + "Z"
        for ring in rings
    )
