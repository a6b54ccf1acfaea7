"""Annotations of ASAP, as of the CAMELYON challenges: XML with groups, in level-0 pixels."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.storage.safe_xml import child, children
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.program_files import Shape, annotations_of, name_in, number_of, outline

POINTS = ("dot", "pointset")
LINES = ("measurement",)
SPLINE = "spline"
NO_GROUP = "None"


def read_asap(uri: str, root: ElementTree.Element) -> AnnotationFile:
    """Annotations of an ``ASAP_Annotations`` element."""
    shapes: list[Shape] = []
    n_splines = 0
    for number, drawn in enumerate(children(child(root, "Annotations"), "Annotation"), start=1):
        kind = drawn.get("Type", "").strip().casefold()
        n_splines += kind == SPLINE
        group, own = name_in(drawn.get("PartOfGroup")), name_in(drawn.get("Name"))
        shapes.append(
            Shape(
                _geometry(uri, number, kind, drawn),
                number,
                "" if group == NO_GROUP else group,
                own,
                "is a measurement" if kind in LINES else "",
            )
        )
    annotations = annotations_of("ASAP", "the names of its groups", shapes)
    if n_splines:
        annotations.assumptions.append(
            f"{uri}: {n_splines} spline{'s' if n_splines > 1 else ''} of ASAP were taken as polygons through their "
            "points."
        )
    return annotations


def _geometry(uri: str, number: int, kind: str, drawn: ElementTree.Element) -> BaseGeometry | None:
    what = f"annotation {number}"
    ordered = sorted(
        (
            number_of(uri, what, point.get("Order", str(place))),
            number_of(uri, what, point.get("X")),
            number_of(uri, what, point.get("Y")),
        )
        for place, point in enumerate(children(child(drawn, "Coordinates"), "Coordinate"))
    )
    points = np.array(ordered, np.float64).reshape(-1, 3)[:, 1:]
    if kind in LINES or not len(points):
        return None
    return shapely.MultiPoint(points) if kind in POINTS else outline(points)
