"""Annotations of Aperio ImageScope and eSlide Manager: XML with layers of regions, in level-0 pixels.

Layers are ``Annotation`` elements, whose name states the class; what ImageScope calls a region is any outline. Regions
drawn with the negative pen (``NegativeROA="1"``) are cut out of the others of their layer.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.source import SourceInfo
from fewscope.connectors.storage.safe_xml import child, children
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.program_files import (
    Shape,
    annotations_of,
    ellipse,
    name_in,
    number_of,
    outline,
)
from fewscope.connectors.vectors.polygon_files import polygons_of

RECTANGLE, ELLIPSE = "1", "2"
WITHOUT_AREA = {"3": "is an arrow", "4": "is a ruler"}
SAME_MPP = 0.05  # part that a scanner's and a slide's statement may differ by
CORNERS = 4  # a rectangle or an ellipse has as many vertices, or two; of more, they are the outline itself


def read_imagescope(uri: str, root: ElementTree.Element, info: SourceInfo) -> AnnotationFile:
    """Annotations of an ``Annotations`` element, on the slide of ``info``."""
    shapes: list[Shape] = []
    number = n_inscribed = 0
    for layer in children(root, "Annotation"):
        group = _layer_name(layer)
        drawn: list[Shape] = []
        holes: list[Shape] = []
        for region in children(child(layer, "Regions"), "Region"):
            number += 1
            shape, is_inscribed = _shape(uri, number, group, region)
            n_inscribed += is_inscribed
            (holes if region.get("NegativeROA") == "1" else drawn).append(shape)
        shapes += _cut_out(drawn, holes)
    annotations = annotations_of("ImageScope", "the names of its layers", shapes)
    if n_inscribed:
        annotations.assumptions.append(
            f"{uri}: {n_inscribed} ellipse{'s' if n_inscribed > 1 else ''} of ImageScope were taken as inscribed in "
            "the rectangle around their vertices."
        )
    annotations.assumptions += _other_resolution(uri, root.get("MicronsPerPixel"), info)
    return annotations


def _other_resolution(uri: str, stated: str | None, info: SourceInfo) -> list[str]:
    """One sentence if the file states another resolution than the slide has, as one of another slide would."""
    try:
        mpp = float(stated or "0")
    except ValueError:
        return []
    if info.native_mpp is None or not 0 < mpp < math.inf or abs(mpp / info.native_mpp - 1) < SAME_MPP:
        return []
    return [
        f"{uri} states {mpp:.4g} um per px, the slide has {info.native_mpp:.4g}; its coordinates were taken as pixels "
        "of this slide. If it was drawn on another one, give that as --support-slide."
    ]


def _layer_name(layer: ElementTree.Element) -> str:
    """The class that a layer states: its name, else its description, else the name of another attribute."""
    name = name_in(layer.get("Name"))
    if name:
        return name
    for attribute in children(child(layer, "Attributes"), "Attribute"):
        stated, value = name_in(attribute.get("Name")), name_in(attribute.get("Value"))
        if value or stated.casefold() not in ("", "description"):
            return value or stated
    return ""


def _shape(uri: str, number: int, group: str, region: ElementTree.Element) -> tuple[Shape, bool]:
    """A shape, and whether it is an ellipse that its vertices only bound."""
    own, kind = name_in(region.get("Text")), region.get("Type", "0").strip()
    if kind in WITHOUT_AREA:
        return Shape(None, number, group, own, WITHOUT_AREA[kind]), False
    what = f"annotation {number}"
    points = np.array(
        [
            (number_of(uri, what, vertex.get("X")), number_of(uri, what, vertex.get("Y")))
            for vertex in children(child(region, "Vertices"), "Vertex")
        ],
        np.float64,
    ).reshape(-1, 2)
    n_distinct = len(np.unique(points, axis=0))
    is_inscribed = kind == ELLIPSE and 2 <= n_distinct <= CORNERS
    geometry: BaseGeometry | None
    if is_inscribed:
        geometry = ellipse(*points.min(axis=0), *points.max(axis=0))
    elif kind == RECTANGLE and n_distinct == 2:
        geometry = shapely.box(*points.min(axis=0), *points.max(axis=0))
    else:
        geometry = outline(points)
    return Shape(geometry, number, group, own), is_inscribed


def _cut_out(drawn: list[Shape], holes: list[Shape]) -> list[Shape]:
    """The shapes of a layer without its negative ones, and negative ones that cut nothing as what is left out."""
    areas = [None if one.geometry is None else polygons_of(one.geometry) for one in drawn]
    tree = shapely.STRtree([shapely.Point() if area is None else area for area in areas])
    idle: list[Shape] = []
    for hole in holes:
        cut = None if hole.geometry is None else polygons_of(hole.geometry)
        met = [] if cut is None else tree.query(cut, predicate="intersects").tolist()
        for i in met:
            areas[i] = shapely.difference(areas[i], cut)
        if not met:
            what = "is a negative region that lies on no other of its layer"
            idle.append(replace(hole, geometry=None, what=what))
    kept = [
        one if area is None else replace(one, geometry=area) for one, area in zip(drawn, areas, strict=True)
    ]
    return kept + idle
