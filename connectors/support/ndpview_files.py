"""Annotations of Hamamatsu's NDP.view: ``.ndpa``, XML in nanometres from the centre of the glass slide.

The slide states where the centre of its image lies (`SourceInfo.from_glass_nm`). The title of an annotation is its
class.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.source import SourceInfo
from fewscope.connectors.storage.safe_xml import child, children, text_in
from fewscope.connectors.support.annotation_files import MARKS, AnnotationFile
from fewscope.connectors.support.program_files import (
    Shape,
    annotations_of,
    ellipse,
    name_in,
    number_of,
    outline,
)
from fewscope.errors import SupportError

UNIT = "nanometers"
WITHOUT_AREA = {"linearmeasure": "is a measurement", "pointer": "is an arrow"}


def read_ndpview(uri: str, root: ElementTree.Element, info: SourceInfo) -> AnnotationFile:
    """Annotations of an ``annotations`` element, on the slide of ``info``."""
    place = info.from_glass_nm
    if place is None:
        raise SupportError(
            f"{uri}: NDP.view counts from the centre of the glass slide, and {info.uri} ({info.vendor}) does not state "
            "where that is; give the NDPI file that it was drawn on, or export the annotations from QuPath as GeoJSON"
        )
    matrix = [place.a, place.b, place.d, place.e, place.c, place.f]
    shapes = []
    for number, state in enumerate(children(root, "ndpviewstate"), start=1):
        shape = _shape(uri, number, state)
        if shape.geometry is not None:
            shape = replace(shape, geometry=shapely.affinity.affine_transform(shape.geometry, matrix))
        shapes.append(shape)
    return annotations_of("NDP.view", "their titles", shapes)


def _shape(uri: str, number: int, state: ElementTree.Element) -> Shape:
    """A shape in nanometres; its title states the class, its details may be a mark."""
    group, details = name_in(text_in(state, "title")), name_in(text_in(state, "details"))
    own = details if details.casefold() in MARKS else ""
    unit = name_in(text_in(state, "coordformat")).casefold() or UNIT
    if unit != UNIT:
        raise SupportError(
            f"{uri}: annotation {number} is in {unit[:40]!r}, expected {UNIT}; save it in NDP.view again"
        )
    drawn = child(state, "annotation")
    kind = "" if drawn is None else (drawn.get("type") or "").strip().casefold()
    if drawn is None or kind in WITHOUT_AREA:
        return Shape(None, number, group, own, WITHOUT_AREA.get(kind, "is a view without an annotation"))
    return Shape(_geometry(uri, f"annotation {number}", kind, drawn), number, group, own)


def _geometry(uri: str, what: str, kind: str, drawn: ElementTree.Element) -> BaseGeometry | None:
    if kind == "pin":
        return shapely.Point(*_position(uri, what, drawn))
    if kind == "circle":
        x, y = _position(uri, what, drawn)
        radius = number_of(uri, what, text_in(drawn, "radius"))
        return ellipse(x - radius, y - radius, x + radius, y + radius)
    points = np.array(
        [_position(uri, what, point) for point in children(child(drawn, "pointlist"), "point")], np.float64
    ).reshape(-1, 2)
    is_open = name_in(text_in(drawn, "closed")) == "0" and "rectangle" not in (
        (drawn.get("displayname") or "").casefold() + name_in(text_in(drawn, "specialtype")).casefold()
    )
    return shapely.LineString(points) if is_open and len(points) > 1 else outline(points)


def _position(uri: str, what: str, element: ElementTree.Element) -> tuple[float, float]:
    return number_of(uri, what, text_in(element, "x")), number_of(uri, what, text_in(element, "y"))
