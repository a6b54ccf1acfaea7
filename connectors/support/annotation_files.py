"""Annotation files: regions, the objects in them, areas to ignore. From QuPath, or any vector file on a map."""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.connectors.support.image_files import read_bytes
from fewscope.connectors.support_options import CellPart, SupportOptions
from fewscope.connectors.vectors.placement import Target
from fewscope.connectors.vectors.polygon_files import Feature, listed, polygons_of, read_features
from fewscope.errors import SourceError, SupportError

log = logging.getLogger(__name__)

MAX_JSON_BYTES = 512 * 2**20
UNNAMED = "object"
CLASS_COLUMNS = ("classification", "class", "class_name", "classname", "label", "category", "type", "name")
"""Properties that may hold the class of a polygon on a map, in order of precedence."""

CERTAIN_COLUMNS = ("classification", "class", "class_name", "classname")
"""Those of them that can mean nothing else; of the others, the report says that they were taken."""

SHAPEFILE_LETTERS = 10  # of a column's name
REGION_NAMES = ("region", "roi")
IGNORED_NAMES = ("ignore",)
NEGATIVE_CLASS = "Not*"
"""Class of what is background, also outside regions. Only with the star: "Not" is a class like any other."""

SPARSE, ACCEPTED, REJECTED = "sparse*", "accepted*", "rejected*"
MARKS = (SPARSE, ACCEPTED, REJECTED)
"""What the property ``name`` of a feature with a class says: it counts outside regions too."""

LAYER_ROLES = {"regions": "region", "rois": "region"}
"""Names of layers that mean a role, beside those of classes."""

PLAIN_LAYERS = (
    "object",
    "annotation",
    "feature",
    "polygon",
    "drawing",
    "label",
    "shape",
    "layer",
    "data",
    "support",
)
"""Names of layers, with or without an s, that say nothing of a class."""

NUCLEI = re.compile(r"(?<![a-z])(nucleus|nuclei|nuclear)(?![a-z])")
LEGACY_TYPES = {
    "PathTileObject": "tile",
    "PathCellObject": "cell",
    "TMACoreObject": "tmaCore",
    "PathDetectionObject": "detection",
    "PathRootObject": "root",
    "PathAnnotationObject": "annotation",
}
"""QuPath 0.2 wrote these as ids of features."""

Kind = Literal["region", "object", "ignored area", "background"]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One polygon (or several as one), valid, with its class and a title for people.

    Attributes
    ----------
    stated
        Whether the file gives it a class.
    mark
        One of `MARKS`, or nothing. What is marked may also be a point or a line, as may be what is background.
    """

    geometry: BaseGeometry
    name: str
    title: str
    stated: bool = True
    mark: str = ""


@dataclass(slots=True)
class AnnotationFile:
    """All annotations of a file by their kind, in the order of the file.

    Attributes
    ----------
    left_out
        What has no area or is no annotation: a title and why, for each.
    assumptions
        What the file says in more than one way, and what was taken.
    class_source
        What the classes were read from, in words.
    """

    regions: list[Annotation] = field(default_factory=list)
    objects: list[Annotation] = field(default_factory=list)
    ignored: list[Annotation] = field(default_factory=list)
    negatives: list[Annotation] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    class_source: str = "the classification"

    def add(self, kind: Kind, annotation: Annotation) -> None:
        """Append an annotation to those of its kind."""
        kinds: dict[Kind, list[Annotation]] = {
            "region": self.regions,
            "object": self.objects,
            "ignored area": self.ignored,
            "background": self.negatives,
        }
        kinds[kind].append(annotation)


def kind_of(name: str) -> Kind:
    """Kind of a class name: QuPath's Region* and Ignore* (with or without the star, in any case), Not*, or an object.

    >>> [kind_of(name) for name in ("Region*", "roi", "IGNORE", "Regional lymph node", "not*", "Not")]
    ['region', 'region', 'ignored area', 'object', 'background', 'object']
    """
    if name.strip().casefold() == NEGATIVE_CLASS.casefold():
        return "background"
    plain = name.strip().removesuffix("*").casefold()
    if plain in REGION_NAMES:
        return "region"
    return "ignored area" if plain in IGNORED_NAMES else "object"


def read_vector_file(uri: str, target: Target, class_names: Sequence[str]) -> AnnotationFile:
    """Read annotations from a GeoJSON, GeoPackage, shapefile or other vector file, in the coordinates of ``target``.

    The class of a polygon is that of the first of `CLASS_COLUMNS` that it has, else the name of its layer where the
    file has several. The layer's name comes first where it means regions or areas to ignore, where it is one of
    ``class_names``, and where it is no plain word and another layer of the file means regions.
    """
    try:
        features = read_features(uri, target)
    except SourceError as error:
        raise SupportError(str(error)) from error
    layers = list(dict.fromkeys(feature.layer for feature in features))
    in_layers = len(layers) > 1
    first = _layers_that_say_the_class(layers, class_names) if in_layers else {}
    annotations, read_from, overruled = AnnotationFile(), Counter[str](), Counter[str]()
    for feature in features:
        column, stated = _stated_class(feature)
        name = stated or (feature.layer if in_layers else UNNAMED)
        if feature.layer in first:
            meant = first[feature.layer]
            if (
                stated
                and stated.casefold() != meant.casefold()
                and (kind_of(stated), kind_of(meant)) != ("region",) * 2
            ):
                overruled[f"{feature.layer!r}, not from its column {column!r}"] += 1
            name, column = meant, ""
        kind = kind_of(name)
        title = f"{kind} (feature {feature.number})"
        mark = _mark_of(kind, column, feature.properties.get("name", ""))
        geometry = polygons_of(feature.geometry) if feature.geometry is not None else None
        if geometry is None and feature.geometry is not None and (mark or kind == "background"):
            geometry = feature.geometry
        if geometry is None:
            annotations.left_out.append(f"{title} {_lacking(feature)}")
            continue
        if kind == "object":
            read_from[column or ("layer" if in_layers else "")] += 1
        annotations.add(kind, Annotation(geometry, name, title, bool(stated) or in_layers, mark))
    if overruled:
        listed_layers = listed([f"{what} ({n} polygons)" for what, n in overruled.items()])
        annotations.assumptions.append(
            f"{uri}: classes were read from the name of the layer {listed_layers}."
        )
    doubtful = [c for c in read_from if c and c != "layer" and _full_name(c) not in CERTAIN_COLUMNS]
    if doubtful:
        annotations.assumptions.append(
            f"{uri}: classes were read from the column {', '.join(map(repr, doubtful))}. A column 'class' comes first."
        )
    used = [f"the column {c!r}" if c != "layer" else "the names of its layers" for c in read_from if c]
    annotations.class_source = " and ".join(used) or "nothing"
    return annotations


def _mark_of(kind: Kind, class_from: str, name: str | None) -> str:
    """The mark of an object, or of background; of objects only where another column than the name states the class."""
    mark = (name or "").strip().casefold()
    if mark not in MARKS or (kind == "object" and _full_name(class_from) in ("", "name")):
        return ""
    return mark if kind in ("object", "background") else ""


def _layers_that_say_the_class(layers: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Layers whose name comes before their columns, and the class that each means."""
    wanted = {name.casefold() for name in class_names}
    roles = {
        layer: LAYER_ROLES.get(layer.strip().casefold(), layer)
        for layer in layers
        if kind_of(LAYER_ROLES.get(layer.strip().casefold(), layer)) != "object"
    }
    has_regions = any(kind_of(name) == "region" for name in roles.values())
    named = {
        layer: layer
        for layer in layers
        if layer not in roles
        and (
            layer.casefold() in wanted
            or (has_regions and layer.strip().casefold().removesuffix("s") not in PLAIN_LAYERS)
        )
    }
    return roles | named


def _full_name(column: str) -> str:
    """The column of `CLASS_COLUMNS` that a name means, in any case, cut short by a shapefile; or the name itself."""
    plain = column.strip().lower().replace(" ", "_")
    cut = {known[:SHAPEFILE_LETTERS]: known for known in CLASS_COLUMNS}
    return cut.get(plain, plain)


def _stated_class(feature: Feature) -> tuple[str, str | None]:
    """The column that states a feature's class, and the class; ("", None) where none does."""
    by_name: dict[str, tuple[str, str]] = {}
    for column, value in feature.properties.items():
        if value:
            by_name.setdefault(_full_name(column), (column, value))
    column, stated = next((by_name[known] for known in CLASS_COLUMNS if known in by_name), ("", None))
    if stated is None or not stated.startswith("{"):
        return column, stated
    try:  # QuPath's, as it stands in GeoJSON
        return column, _name_of_class(json.loads(stated)) or stated
    except ValueError:
        return column, stated


def _lacking(feature: Feature) -> str:
    """Why a feature of a map has no area, as the end of a sentence."""
    if feature.geometry is None:
        return "has no geometry"
    if "Polygon" in feature.geometry.geom_type:
        return "has no area"
    return f"is a {feature.geometry.geom_type} without an area"


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


def read_qupath(uri: str, options: SupportOptions) -> AnnotationFile:
    """Read annotations from GeoJSON exported by QuPath, in level-0 pixels from the corner that QuPath counts from."""
    annotations = AnnotationFile()
    drawn = [_parse_feature(uri, number, feature) for number, feature in enumerate(_features(uri), start=1)]
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
            annotations.left_out.append(f"{one.title} {lacking}")
            continue
        if one.kind == "object":
            named_by["the classification" if one.stated else "their names"] += 1
        annotations.add(one.kind, Annotation(geometry, one.name, one.title, one.stated, one.mark))
    for (name, part), n in sorted(taken.items()):
        other = "cell" if part == "nucleus" else "nucleus"
        annotations.assumptions.append(
            f"Class {name}: of {n} {'cell' if n == 1 else 'cells'} that have both outlines, the one of the {part} was "
            f"learned from. --cell-part {other}: the other one."
        )
    if named_by["their names"] > named_by["the classification"]:
        annotations.class_source = "the names of the objects, which have no classification"
    return annotations


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
    own_name = _text(properties.get("name"))
    classification = _name_of_class(properties.get("classification"))
    name = classification or own_name or UNNAMED
    kind = kind_of(name)
    mark = _mark_of(kind, "classification" if classification else "", own_name)
    return _Drawn(
        kind=kind,
        name=name,
        title=f"{kind} {own_name!r} (feature {number})" if own_name else f"{kind} (feature {number})",
        stated=classification is not None,
        object_type=_text(properties.get("objectType"))
        or _text(properties.get("object_type"))
        or LEGACY_TYPES.get(str(feature.get("id")), ""),
        geometry=feature.get("geometry"),
        nucleus=feature.get("nucleusGeometry"),
        mark=mark,
    )


def _name_of_class(classification: Any) -> str | None:
    """A class as QuPath writes it: a name, or names that derive from each other."""
    if isinstance(classification, dict):
        names = classification.get("names")
        joined = ": ".join(map(str, names)) if isinstance(names, list) else None
        return _text(classification.get("name")) or _text(joined)
    return _text(classification)


def _text(value: Any) -> str | None:
    """A name, None where there is none; numbers are names too."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None


def _features(uri: str) -> list[Any]:
    try:
        filesystem, path = find_filesystem(uri)
    except Exception as error:  # unknown protocol, missing driver: each its own exception
        raise SupportError(f"{uri}: cannot be reached ({' '.join(str(error).split())})") from error
    content = read_bytes(filesystem, path, uri, MAX_JSON_BYTES)
    try:
        if content[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(content)) as unpacked:
                content = unpacked.read(MAX_JSON_BYTES + 1)
            if len(content) > MAX_JSON_BYTES:
                raise SupportError(
                    f"{uri}: unpacks to more than {MAX_JSON_BYTES // 2**20} MiB; export fewer objects"
                )
        text = content.decode(json.detect_encoding(content))
        del content
        parsed = json.loads(text, object_hook=_condensed)
    except SupportError:
        raise
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise SupportError(
            f"{uri}: is not GeoJSON ({reason}), which annotations on a slide must be; export it from QuPath again"
        ) from error
    if isinstance(parsed, dict) and parsed.get("type") == "Feature":
        return [parsed]
    features = parsed.get("features") if isinstance(parsed, dict) else parsed
    if not isinstance(features, list):
        raise SupportError(
            f"{uri}: is JSON, but not a GeoJSON FeatureCollection; export it from QuPath as GeoJSON"
        )
    return features


@dataclass(frozen=True, slots=True)
class _Outline:
    """A geometry with an area, as it was read: its shape, or why it is none."""

    kind: str
    shape: BaseGeometry | None
    error: str = ""


def _condensed(read: dict[str, Any]) -> Any:
    """A JSON object in little memory: lists of coordinates as shapes, features without their measurements."""
    kind = read.get("type")
    if kind in ("Polygon", "MultiPolygon") and "coordinates" in read:
        return _outline(str(kind), read)
    if kind == "GeometryCollection":
        parts = read.get("geometries")
        if not isinstance(parts, list):
            return _Outline(kind, None, "no list of geometries")
        broken = next((part.error for part in parts if isinstance(part, _Outline) and part.error), "")
        shapes = [part.shape for part in parts if isinstance(part, _Outline) and part.shape is not None]
        return _Outline(kind, shapely.GeometryCollection(shapes), broken)
    if kind == "Feature" and isinstance(read.get("properties"), dict):
        read["properties"].pop("measurements", None)
    return read


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
