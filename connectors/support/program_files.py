"""What files of other programs than QuPath have in common: shapes with a name of their own, in layers or groups.

Their coordinates start at the corner of the slide's file, as OpenSlide counts, not at the scanned area.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.source import SourceInfo
from fewscope.connectors.support.annotation_files import (
    UNNAMED,
    Annotation,
    AnnotationFile,
    kind_of,
    mark_of,
)
from fewscope.connectors.vectors.polygon_files import polygons_of
from fewscope.errors import SupportError

NUMBERED = re.compile(r"(layer|annotation)\s*\d*", re.IGNORECASE)
"""What programs call a layer or an annotation that nobody named."""

QUARTER_PARTS = 32  # segments that a quarter of an ellipse is divided into: 0.03 % of its radius


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape of a file.

    Attributes
    ----------
    geometry
        In level-0 pixels from the corner of the file; a polygon, points or a line. None: nothing to learn from.
    number
        Its place in the file, from 1.
    group
        Name of its layer or group, which states its class; nothing where it has none.
    own
        Its own name or text.
    what
        What it is, where that is why it has no area: "is an arrow".
    """

    geometry: BaseGeometry | None
    number: int
    group: str = ""
    own: str = ""
    what: str = ""


def annotations_of(program: str, class_source: str, shapes: Sequence[Shape]) -> AnnotationFile:
    """Annotations of a file from its shapes.

    A name of its own that means a role (Region, Ignore, Not*) decides; else the group does, else the own name.

    Parameters
    ----------
    program
        Name of the program, as in `connectors.support.annotations.HOW_TO`.
    class_source
        What states the classes, in words.
    """
    annotations = AnnotationFile(class_source=class_source, program=program, from_corner=True)
    for shape in shapes:
        own_role = kind_of(shape.own) != "object"
        stated = shape.own if own_role else shape.group or shape.own
        name = stated or UNNAMED
        kind = kind_of(name)
        called = f" {shape.own!r}" if shape.own not in ("", name) else ""
        title = f"{kind}{called} (number {shape.number})"
        mark = mark_of(kind, "" if own_role or not shape.group else "group", shape.own)
        geometry = None if shape.geometry is None else polygons_of(shape.geometry)
        if geometry is None and (mark or kind == "background"):
            geometry = shape.geometry
        if geometry is None:
            lacking = shape.what or _lacking(shape.geometry)
            if kind == "object" and shape.geometry is not None:
                points = Annotation(shape.geometry, name, title, bool(stated), own=shape.own)
                annotations.leave_out(points, lacking)
            else:
                annotations.left_out.append(f"{title} {lacking}")
            continue
        annotations.add(kind, Annotation(geometry, name, title, bool(stated), mark, shape.own))
    return annotations


def outline(points: NDArray[np.float64]) -> BaseGeometry | None:
    """Closed shape through points (n, 2): a polygon; a line through two, a point of one, None of none.

    Where an outline crosses itself, what it goes around belongs to it, once or several times. One that goes to a hole
    and back on the same line has that hole: programs that know none write them so, Fewscope among them.
    """
    distinct = np.unique(points, axis=0)
    if len(distinct) > 2:
        polygon = shapely.Polygon(points)
        if polygon.is_valid:
            return polygon
        repaired = shapely.make_valid(polygon, method="structure", keep_collapsed=False)
        return polygon if repaired.is_empty else repaired
    if len(distinct) == 2:
        return shapely.LineString(distinct)
    return shapely.Point(distinct[0]) if len(distinct) else None


def ellipse(left: float, top: float, right: float, bottom: float) -> BaseGeometry:
    """The ellipse inscribed in a rectangle, as a polygon."""
    circle = shapely.Point(0, 0).buffer(1, QUARTER_PARTS)
    half = ((right - left) / 2, (bottom - top) / 2)
    matrix = [half[0], 0, 0, half[1], (left + right) / 2, (top + bottom) / 2]
    return shapely.affinity.affine_transform(circle, matrix)


def number_of(uri: str, what: str, text: str | None) -> float:
    """A coordinate as a file states it, also with a decimal comma.

    Raises
    ------
    SupportError
        It is no finite number.
    """
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise SupportError(
            f"{uri}: {what} has the coordinate {(text or '')[:40]!r}, expected a number; draw it again"
        )
    return value


def name_in(text: str | None) -> str:
    """A name in one line; nothing where there is none, or only one that a program counted out."""
    name = " ".join((text or "").split())
    return "" if NUMBERED.fullmatch(name) else name


def tell_origin(uri: str, annotations: AnnotationFile, info: SourceInfo) -> None:
    """Add where coordinates were taken to start, if the slide leaves more than one place."""
    if info.scan_origin != (0, 0):
        x, y = info.scan_origin
        annotations.assumptions.append(
            f"Coordinates in {uri} start at the corner of the slide it was drawn on, as {annotations.program} writes "
            f"them, not at the corner of its scanned area, x, y = {x}, {y}. If they start there, "
            "export them from QuPath as GeoJSON."
        )


def _lacking(geometry: BaseGeometry | None) -> str:
    if geometry is None or geometry.is_empty:
        return "has no points"
    if "Polygon" in geometry.geom_type:
        return "has no area"
    return f"is a {geometry.geom_type} without an area"
