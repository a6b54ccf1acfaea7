"""Annotations of QuPath: GeoJSON with classifications, nuclei in cells, names of older versions."""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.support.annotation_files import (
    UNNAMED,
    Annotation,
    AnnotationFile,
    Kind,
    kind_of,
    mark_of,
    name_of_class,
    text_of,
)
from fewscope.connectors.support_options import CellPart, SupportOptions
from fewscope.connectors.vectors.polygon_files import polygons_of
from fewscope.errors import SupportError

log = logging.getLogger(__name__)

NUCLEI = re.compile(r"(?<![a-z])(nucleus|nuclei|nuclear)(?![a-z])")
TMA_CORE = "TMA core"
"""Class of the cores of a tissue microarray, where they are asked for."""

LEGACY_TYPES = {
    "PathTileObject": "tile",
    "PathCellObject": "cell",
    "TMACoreObject": "tmaCore",
    "PathDetectionObject": "detection",
    "PathRootObject": "root",
    "PathAnnotationObject": "annotation",
}
"""QuPath 0.2 wrote these as ids of features."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One feature of QuPath's, before it is known which of its outlines is wanted."""

    kind: Kind
    name: str
    title: str
    stated: bool
    object_type: str
    geometry: Any
    nucleus: Any
    mark: str = ""
    own: str = ""
    is_missing: bool = False

    @property
    def is_unstated_core(self) -> bool:
        """Whether it is a core of a tissue microarray that is there, and has no class."""
        return self.object_type == "tmaCore" and not self.stated and not self.is_missing


def json_text(uri: str, content: bytes) -> str:
    """JSON in any of its encodings as text; SupportError if it is in none."""
    try:
        return content.decode(json.detect_encoding(content))
    except ValueError as error:
        raise _not_geojson(uri, error) from error


def read_qupath(
    uri: str,
    text: str,
    options: SupportOptions,
    cores: bool = False,
    time: int | None = None,
    plane: int | None = None,
) -> AnnotationFile:
    """Annotations of GeoJSON exported by QuPath, in level-0 pixels from the corner that QuPath counts from.

    ``cores``: those of a tissue microarray that are not missing are of the class `TMA_CORE`, if of no other.
    ``time``: of a series, counted from 1; what was drawn on other time points is left out.
    ``plane``: the one of a z-stack that is read, counted from 1; None of a projection. It is said if they were drawn on
    others.
    """
    annotations = AnnotationFile()
    drawn = [
        _parse_feature(uri, number, feature) for number, feature in enumerate(_features(uri, text), start=1)
    ]
    if cores:
        drawn = [replace(one, name=TMA_CORE, stated=True) if one.is_unstated_core else one for one in drawn]
    if time is not None:
        drawn = _drawn_at(uri, drawn, time, annotations)
    if plane is not None:
        _tell_planes(uri, drawn, plane, annotations)
    has_nuclei = any(_is_there(one.nucleus) for one in drawn)
    taken, named_by = Counter[tuple[str, str]](), Counter[str]()
    for one in drawn:
        if one.object_type in ("root", "tmaCore") and one.kind == "object" and not one.stated:
            annotations.left_out.append(f"{one.title} is the {one.object_type} that QuPath adds")
            continue
        outline = one.geometry
        if one.kind == "object" and has_nuclei:
            wants_nucleus = _means_nucleus(one, options)
            if _is_there(one.nucleus):
                outline = one.nucleus if wants_nucleus else one.geometry
                taken[one.name, "nucleus" if wants_nucleus else "cell"] += 1
            elif wants_nucleus and one.object_type == "cell":
                annotations.left_out.append(f"{one.title} is a cell without a nucleus")
                continue
        geometry, lacking = _area(uri, one.title, outline)
        if geometry is None and (one.mark or one.kind == "background"):
            geometry = _points_or_line(outline)
        if geometry is None:
            points = _points_or_line(outline) if one.kind == "object" else None
            if points is None:
                annotations.left_out.append(f"{one.title} {lacking}")
            else:
                annotations.leave_out(
                    Annotation(points, one.name, one.title, one.stated, own=one.own), lacking
                )
            continue
        if one.kind == "object":
            named_by["the classification" if one.stated else "their names"] += 1
        annotations.add(one.kind, Annotation(geometry, one.name, one.title, one.stated, one.mark, one.own))
    for (name, part), n in sorted(taken.items()):
        other = "cell" if part == "nucleus" else "nucleus"
        annotations.assumptions.append(
            f"Class {name}: of {n} {'cell' if n == 1 else 'cells'} that have both outlines, the one of the {part} was "
            f"learned from. --cell-part {other}: the other one."
        )
    if named_by["their names"] > named_by["the classification"]:
        annotations.class_source = "the names of the objects, which have no classification"
    return annotations


def _drawn_at(uri: str, drawn: list[_Drawn], time: int, annotations: AnnotationFile) -> list[_Drawn]:
    """What was drawn on a time point: all, if the file does not say on which."""
    times = [_number_in_stack(one.geometry, "t") for one in drawn]
    if not any(times):
        return drawn
    known = [of_one or 1 for of_one in times]  # QuPath leaves out the first
    if time not in known:
        found = ", ".join(map(str, sorted(set(known))[:6]))
        raise SupportError(
            f"{uri}: was drawn on time point {found}, but time point {time} is read; give --support-time, or to "
            "`fewscope annotate` --time or another --out"
        )
    annotations.left_out += [
        f"{one.title} is on time point {of_one}"
        for one, of_one in zip(drawn, known, strict=True)
        if of_one != time
    ]
    return [one for one, of_one in zip(drawn, known, strict=True) if of_one == time]


def _tell_planes(uri: str, drawn: list[_Drawn], plane: int, annotations: AnnotationFile) -> None:
    """Say so if the file states that it was drawn on other planes than the one that is read."""
    planes = {_number_in_stack(one.geometry, "z") or 1 for one in drawn}  # QuPath leaves out the first
    others = sorted(planes - {plane})
    if planes == {1} or not others:  # the first may be that of a projection
        return
    shown = ", ".join(map(str, others[:6])) + (", ..." if len(others) > 6 else "")
    cure = f"{others[0]} reads that one" if len(others) == 1 else "max reads all"
    annotations.assumptions.append(
        f"{uri}: was drawn on plane {shown} of the stack, and learned from on plane {plane}, where objects may look "
        f"different; --plane {cure}."
    )


def stated_times(uri: str, text: str) -> set[int]:
    """Time points, counted from 1, that GeoJSON was drawn on; empty if it does not say it."""
    times = [
        _number_in_stack(_parse_feature(uri, n, one).geometry, "t")
        for n, one in enumerate(_features(uri, text), 1)
    ]
    return {of_one or 1 for of_one in times} if any(times) else set()


def _means_nucleus(one: _Drawn, options: SupportOptions) -> bool:
    part: CellPart = options.cell_part
    if part != "auto":
        return part == "nucleus"
    name = one.name
    if name == UNNAMED and len(options.class_names) == 1:  # which only names what has no class
        name = options.class_names[0]
    return NUCLEI.search(name.lower()) is not None


def _is_there(geometry: Any) -> bool:
    return isinstance(geometry, _Outline) and geometry.shape is not None and not geometry.shape.is_empty


def _parse_feature(uri: str, number: int, feature: Any) -> _Drawn:
    """What a feature says of itself."""
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise SupportError(f"{uri}: entry {number} is not a GeoJSON Feature; export it again")
    properties = feature.get("properties")
    if properties is None:
        properties = {}
    if not isinstance(properties, dict):
        raise SupportError(
            f"{uri}: entry {number} is not a GeoJSON Feature: its properties are a {type(properties).__name__}, "
            "expected names and values; export it again"
        )
    own_name = text_of(properties.get("name"))
    classification = name_of_class(properties.get("classification"))
    name = classification or own_name or UNNAMED
    kind = kind_of(name)
    mark = mark_of(kind, "classification" if classification else "", own_name)
    return _Drawn(
        kind=kind,
        name=name,
        title=f"{kind} {own_name!r} (feature {number})" if own_name else f"{kind} (feature {number})",
        stated=classification is not None,
        object_type=text_of(properties.get("objectType"))
        or text_of(properties.get("object_type"))
        or LEGACY_TYPES.get(str(feature.get("id")), ""),
        geometry=feature.get("geometry"),
        nucleus=feature.get("nucleusGeometry"),
        mark=mark,
        own=own_name or "",
        is_missing=properties.get("isMissing") is True,
    )


def _features(uri: str, text: str) -> list[Any]:
    try:
        parsed = json.loads(text, object_hook=_condensed)
    except (ValueError, RecursionError) as error:
        raise _not_geojson(uri, error) from error
    if isinstance(parsed, dict) and parsed.get("type") == "Feature":
        return [parsed]
    features = parsed.get("features") if isinstance(parsed, dict) else parsed
    if not isinstance(features, list):
        raise SupportError(
            f"{uri}: is JSON, but not a GeoJSON FeatureCollection; export it from QuPath as GeoJSON"
        )
    return features


def _not_geojson(uri: str, error: Exception) -> SupportError:
    reason = " ".join(str(error).split())[:200]
    return SupportError(
        f"{uri}: is not GeoJSON ({reason}) nor another file of annotations that is read on slides (XML of ImageScope "
        "or ASAP, .ndpa of NDP.view, ROIs of ImageJ); export it again"
    )


@dataclass(frozen=True, slots=True)
class _Outline:
    """A geometry with an area, as it was read: its shape, or why it is none; and its time point and plane, from 1, if
    stated."""

    kind: str
    shape: BaseGeometry | None
    error: str = ""
    time: int | None = None
    plane: int | None = None


def _condensed(read: dict[str, Any]) -> Any:
    """A JSON object in little memory: lists of coordinates as shapes, features without their measurements."""
    kind = read.get("type")
    if kind in ("Polygon", "MultiPolygon") and "coordinates" in read:
        time, plane = _number_in_stack(read, "t"), _number_in_stack(read, "z")
        return replace(_outline(str(kind), read), time=time, plane=plane)
    if kind == "GeometryCollection":
        parts = read.get("geometries")
        if not isinstance(parts, list):
            return _Outline(kind, None, "no list of geometries")
        broken = next((part.error for part in parts if isinstance(part, _Outline) and part.error), "")
        shapes = [part.shape for part in parts if isinstance(part, _Outline) and part.shape is not None]
        time, plane = _number_in_stack(read, "t"), _number_in_stack(read, "z")
        return _Outline(kind, shapely.GeometryCollection(shapes), broken, time, plane)
    if kind == "Feature" and isinstance(read.get("properties"), dict):
        read["properties"].pop("measurements", None)
    return read


def _number_in_stack(geometry: Any, axis: Literal["t", "z"]) -> int | None:
    """The time point or the plane, counted from 1, that a geometry states to lie in; None where it states none."""
    if isinstance(geometry, _Outline):
        return geometry.time if axis == "t" else geometry.plane
    stated = geometry.get("plane") if isinstance(geometry, dict) else None
    number = stated.get(axis) if isinstance(stated, dict) else None
    return number + 1 if isinstance(number, int) and number >= 0 else None


def _outline(kind: str, geometry: dict[str, Any]) -> _Outline:
    try:
        return _Outline(kind, shapely.force_2d(shapely.geometry.shape(geometry)))
    except RecursionError:
        return _Outline(kind, None, "coordinates nested too deep")
    except (
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        OverflowError,
        shapely.errors.ShapelyError,
    ) as error:
        return _Outline(kind, None, " ".join(str(error).split())[:200])


def _points_or_line(geometry: Any) -> BaseGeometry | None:
    """Points or lines of a feature that may have no area; None for anything else."""
    if not isinstance(geometry, dict) or geometry.get("type") not in (
        "Point",
        "MultiPoint",
        "LineString",
        "MultiLineString",
    ):
        return None
    shape = _outline(str(geometry["type"]), geometry).shape
    if shape is None or shape.is_empty or not all(math.isfinite(value) for value in shape.bounds):
        return None
    return shape


def _area(uri: str, title: str, geometry: Any) -> tuple[BaseGeometry | None, str]:
    """Valid Polygon or MultiPolygon of a feature, self-intersections repaired; or None, and why it has no area."""
    if not isinstance(geometry, _Outline):
        kind = geometry.get("type") if isinstance(geometry, dict) else None
        return None, "has no geometry" if kind is None else f"is a {str(kind)[:40]} without an area"
    shape, error = geometry.shape, geometry.error
    if shape is not None and shape.is_empty and not error:
        return None, f"is an empty {geometry.kind}"
    if shape is None or error or not all(math.isfinite(value) for value in shape.bounds):
        reason = error or "coordinates that are not finite"
        raise SupportError(f"{uri}: {title} is not a polygon ({reason}); draw it again")
    if not shape.is_valid:
        log.info("%s: %s intersects itself, repaired", uri, title)
    return polygons_of(shape), "has no area"
