"""Labels and what is done to them: shapes in image px, brushed, erased, split and merged with shapely."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry
from shapely.ops import split as split_by

from fewscope.connectors.vectors.polygon_files import polygons_of
from fewscope.errors import LabelError

Kind = Literal["region", "object", "ignore", "not", "point", "area"]
Origin = Literal["drawn", "brush", "accepted", "rejected", "wand", "preview", "file"]

KINDS, ORIGINS = get_args(Kind), get_args(Origin)
MAX_VERTICES = 50_000
"""Of one shape; the outline of a lake at full resolution has a few thousand."""

MAX_CLASS_NAME = 100
DECIMALS = 2
"""Of coordinates in image px."""

MIN_AREA = 1.0
"""Image px^2; smaller pieces that erasing leaves are dropped."""

QUADRANT_SEGMENTS = 6
"""Points on a quarter of the brush's circle."""


@dataclass(frozen=True, slots=True)
class Label:
    """One shape that a person has drawn or accepted.

    Attributes
    ----------
    id : str
        Unique within its source.
    geometry : BaseGeometry
        Valid polygon or polygons in image px; a point for the kind "point".
    kind : str
        "region": everything in it is drawn. "object": of a class. "ignore": not labelled. "not": background. "point":
        an object of a class is here, of whose outline nothing is known; or none if `negative`. "area": what a run
        segments; if `negative`, what it leaves out of that.
    class_name : str or None
        Class of an object or point.
    negative : bool
        Of a point: nothing is here. Of an area: it is left out.
    source : str
        How it came to be: "drawn" (its whole outline), "brush" (some of it, perhaps), "accepted" or "rejected" by a
        click, "wand", "preview" (of a proposed region), or "file" (it was in a file that the page did not write).
    """

    id: str
    geometry: BaseGeometry
    kind: Kind
    class_name: str | None = None
    negative: bool = False
    source: Origin = "drawn"

    def feature(self) -> dict[str, Any]:
        """GeoJSON Feature in image px, as the page gets it."""
        return {
            "type": "Feature",
            "id": self.id,
            "geometry": shapely.geometry.mapping(self.geometry),
            "properties": {
                "kind": self.kind,
                "class": self.class_name,
                "negative": self.negative,
                "source": self.source,
            },
        }


def new_id() -> str:
    """A random id, a UUID as QuPath wants it."""
    return str(uuid.uuid4())


def label_of(feature: Any, frame: BaseGeometry | None = None) -> Label:
    """The label that a GeoJSON Feature in image px describes, checked and repaired.

    Parameters
    ----------
    feature : Any
        Parsed JSON; anything may come.
    frame : BaseGeometry or None
        The image, by which shapes are clipped.

    Raises
    ------
    LabelError
        It is no feature, or none of a label's kind.
    """
    if not isinstance(feature, Mapping) or not isinstance(feature.get("properties"), Mapping):
        raise LabelError("a label is not a GeoJSON Feature with properties; draw it again")
    properties = feature["properties"]
    kind: Any = properties.get("kind")
    source: Any = properties.get("source") or "drawn"
    if kind not in KINDS or source not in ORIGINS:
        raise LabelError(
            f"a label is of kind {str(kind)[:40]!r} from {str(source)[:40]!r}; known are {', '.join(KINDS)}"
        )
    negative = properties.get("negative") is True
    name = class_name(properties.get("class")) if kind in ("object", "point") and not negative else None
    if name is None and kind in ("object", "point") and not negative:
        raise LabelError(f"the {kind} has no class; choose one")
    own = feature.get("id")
    origin: Origin = source
    geometry = shape_of(feature.get("geometry"), kind)
    if frame is not None:
        geometry = clipped(geometry, frame)
    return Label(
        id=own if isinstance(own, str) and 0 < len(own) <= 64 and own.isprintable() else new_id(),
        geometry=geometry,
        kind=kind,
        class_name=name,
        negative=negative,
        source=origin,
    )


def class_name(value: Any) -> str | None:
    """A class that the page names; None for none.

    Raises
    ------
    LabelError
        It is no name, or one that files give another meaning.
    """
    if value is None:
        return None
    if (
        not isinstance(value, str)
        or not value.strip()
        or len(value) > MAX_CLASS_NAME
        or not value.isprintable()
    ):
        raise LabelError(f"{str(value)[:40]!r} is no name of a class; give up to {MAX_CLASS_NAME} characters")
    plain = value.strip()
    if plain.endswith("*") or plain.casefold() in ("region", "roi", "ignore"):
        raise LabelError(
            f"{plain!r} is no name of a class: Region, ROI, Ignore and names with a star mean areas"
        )
    return plain


def shape_of(geometry: Any, kind: Kind) -> BaseGeometry:
    """A valid shape of a GeoJSON geometry, in whole hundredths of a px.

    Raises
    ------
    LabelError
        It is none, has no area, or too many vertices.
    """
    try:
        shape = shapely.force_2d(shapely.geometry.shape(geometry))
    except Exception as error:  # shapely raises what comes first
        raise LabelError(f"a shape cannot be read ({type(error).__name__}); draw it again") from error
    coordinates = shapely.get_coordinates(shape)
    if not len(coordinates) or not np.isfinite(coordinates).all() or np.abs(coordinates).max() > 2**40:
        raise LabelError("a shape has no coordinates, or some that are not finite; draw it again")
    if len(coordinates) > MAX_VERTICES:
        raise LabelError(
            f"a shape has {len(coordinates)} vertices, at most {MAX_VERTICES}; draw it in several parts"
        )
    if kind == "point":
        if shape.geom_type != "Point":
            raise LabelError(f"a point is a {shape.geom_type}; click again")
        return shapely.Point(np.round(coordinates[0], DECIMALS))
    return tidied(shape)


def tidied(shape: BaseGeometry) -> BaseGeometry:
    """The polygons of a shape, valid, with rounded coordinates.

    Raises
    ------
    LabelError
        It has no area.
    """
    rounded = shapely.transform(shape, lambda xy: np.round(xy, DECIMALS) + 0.0)
    polygons = polygons_of(rounded)
    if polygons is not None and (not polygons.is_valid or not _is_rounded(polygons)):
        polygons = polygons_of(shapely.set_precision(polygons, 10.0**-DECIMALS))
    if polygons is None:
        raise LabelError("a shape has no area; draw it larger")
    return polygons


def _is_rounded(shape: BaseGeometry) -> bool:
    coordinates = shapely.get_coordinates(shape)
    return bool(np.array_equal(coordinates, np.round(coordinates, DECIMALS)))


def clipped(shape: BaseGeometry, frame: BaseGeometry) -> BaseGeometry:
    """The part of a shape within the image.

    Raises
    ------
    LabelError
        It lies outside.
    """
    if shapely.covers(frame, shape):
        return shape
    inside = shapely.intersection(shape, frame)
    if shape.geom_type == "Point":
        raise LabelError("a point lies outside the image; click on it")
    try:
        return tidied(inside)
    except LabelError:
        raise LabelError("a shape lies outside the image; draw it on it") from None


def line_of(points: Any) -> BaseGeometry:
    """A line, or a point, of [[x, y], ...].

    Raises
    ------
    LabelError
        It is none.
    """
    try:
        array = np.asarray(points, np.float64)
    except (ValueError, TypeError) as error:
        raise LabelError("a stroke is no list of points; draw it again") from error
    if array.ndim != 2 or array.shape[1] != 2 or not 1 <= len(array) <= MAX_VERTICES:
        raise LabelError(f"a stroke has the shape {array.shape}, expected up to {MAX_VERTICES} points x, y")
    if not np.isfinite(array).all():
        raise LabelError("a stroke has coordinates that are not finite; draw it again")
    distinct = array[np.r_[True, (np.diff(array, axis=0) != 0).any(1)]]
    return shapely.Point(distinct[0]) if len(distinct) == 1 else shapely.LineString(distinct)


def stroke(points: Any, radius: Any) -> BaseGeometry:
    """The area that a round brush covers.

    Parameters
    ----------
    points : Any
        [[x, y], ...] in image px.
    radius : Any
        Image px, above 0.

    Raises
    ------
    LabelError
        They are none.
    """
    if isinstance(radius, bool) or not isinstance(radius, int | float) or not 0 < radius < 1e6:
        raise LabelError(f"the radius of the brush is {str(radius)[:40]}; give image px above 0")
    line = line_of(points)
    if line.geom_type == "LineString":
        line = line.simplify(radius / 20)
    return line.buffer(radius, quad_segs=QUADRANT_SEGMENTS)


def brushed(label: Label, area: BaseGeometry) -> Label:
    """A label with the brush's area added."""
    return replace(label, geometry=tidied(shapely.union(label.geometry, area)), source=_edited(label))


def erased(label: Label, area: BaseGeometry) -> list[Label]:
    """What is left of a label where the eraser has been: itself, several if it was cut, or nothing."""
    if label.kind == "point":
        return [] if area.intersects(label.geometry) else [label]
    if not area.intersects(label.geometry):
        return [label]
    return pieces(label, shapely.difference(label.geometry, area))


def pieces(label: Label, shape: BaseGeometry) -> list[Label]:
    """The parts of a label: the largest keeps its id. Regions and areas stay one."""
    left = polygons_of(shape)
    parts = [] if left is None else [p for p in shapely.get_parts(left) if p.area >= MIN_AREA]
    if not parts:
        return []
    if label.kind != "object":
        return [replace(label, geometry=tidied(shapely.union_all(parts)), source=_edited(label))]
    parts.sort(key=lambda part: -part.area)
    found = []
    for number, part in enumerate(parts):
        own = label.id if number == 0 else new_id()
        found.append(replace(label, id=own, geometry=tidied(part), source=_edited(label)))
    return found


def split(label: Label, points: Any) -> list[Label]:
    """A label cut along a line.

    Raises
    ------
    LabelError
        The line does not cut it.
    """
    line = line_of(points)
    if line.geom_type != "LineString" or label.kind == "point":
        raise LabelError("a split needs a line through a shape; draw one across it")
    parts: list[BaseGeometry] = []
    for polygon in shapely.get_parts(label.geometry):
        parts += list(split_by(polygon, line).geoms)
    if len(parts) == len(shapely.get_parts(label.geometry)):
        raise LabelError("the line does not cut the object in two; draw it from one side to the other")
    found = [replace(label, geometry=part) for part in parts]
    found.sort(key=lambda one: -one.geometry.area)
    return [
        replace(
            one,
            id=label.id if number == 0 else new_id(),
            geometry=tidied(one.geometry),
            source=_edited(label),
        )
        for number, one in enumerate(found)
    ]


def merged(labels: Sequence[Label]) -> Label:
    """Several labels of one kind as one, with the id and class of the first.

    Raises
    ------
    LabelError
        They are of different kinds, or fewer than two.
    """
    if len(labels) < 2 or len({one.kind for one in labels}) > 1 or labels[0].kind == "point":
        raise LabelError("only two or more shapes of one kind can be merged; select them")
    whole = shapely.union_all([one.geometry for one in labels])
    return replace(labels[0], geometry=tidied(whole), source=_edited(labels[0]))


def relabelled(labels: Iterable[Label], name: str) -> list[Label]:
    """The labels as objects (or points) of another class."""
    found = []
    for one in labels:
        if one.kind not in ("object", "point"):
            raise LabelError(f"a {one.kind} has no class; select objects")
        found.append(replace(one, class_name=name, negative=False, source=_edited(one)))
    return found


def _edited(label: Label) -> Origin:
    """Where an edited label comes from: one of a file, or of the preview, is then drawn by hand."""
    return "drawn" if label.source in ("file", "preview") else label.source
