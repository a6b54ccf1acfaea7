"""Annotation files: regions, the objects in them, areas to ignore. From QuPath, or any vector file on a map."""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

import shapely
from rasterio.crs import CRS
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.connectors.support.image_files import read_bytes
from fewscope.connectors.vectors.polygon_files import Feature, polygons_of, read_features
from fewscope.errors import SourceError, SupportError

log = logging.getLogger(__name__)

MAX_JSON_BYTES = 512 * 2**20
UNNAMED = "object"
CLASS_COLUMNS = ("classification", "class", "class_name", "label", "category", "type", "name")
"""Properties that may hold the class of a polygon on a map, in order of precedence."""

Kind = Literal["region", "object", "ignored area"]


@dataclass(frozen=True, slots=True)
class Annotation:
    """One annotation: a valid Polygon or MultiPolygon, its class, and a title for messages."""

    geometry: BaseGeometry
    name: str
    title: str


@dataclass(frozen=True, slots=True)
class AnnotationFile:
    """All annotations of a file by their kind, in the order of the file."""

    regions: list[Annotation] = field(default_factory=list)
    objects: list[Annotation] = field(default_factory=list)
    ignored: list[Annotation] = field(default_factory=list)

    def add(self, kind: Kind, annotation: Annotation) -> None:
        """Append an annotation to those of its kind."""
        {"region": self.regions, "object": self.objects, "ignored area": self.ignored}[kind].append(
            annotation
        )


def kind_of(name: str) -> Kind:
    """Kind of a class name: QuPath's Region* and Ignore* (with or without the star, in any case), else an object."""
    plain = name.lower().rstrip("*")
    if plain.startswith("region") or plain == "roi":
        return "region"
    return "ignored area" if plain.startswith("ignore") else "object"


def read_vector_file(uri: str, crs: str | None) -> AnnotationFile:
    """Read annotations from a GeoJSON, GeoPackage, shapefile or other vector file, in the coordinates of ``crs``.

    The class of a polygon is its first property of `CLASS_COLUMNS`, else the name of its layer if the file has several.

    Raises
    ------
    SupportError
        The file cannot be read, or a feature has no area.
    """
    try:
        features = read_features(uri, CRS.from_user_input(crs) if crs else None)
    except SourceError as error:
        raise SupportError(str(error)) from error
    several = len({feature.layer for feature in features}) > 1
    annotations = AnnotationFile()
    for number, feature in enumerate(features, start=1):
        name = _class_of(feature) or (feature.layer if several else UNNAMED)
        kind = kind_of(name)
        title = f"{kind} (feature {number})"
        geometry = polygons_of(feature.geometry)
        if geometry is None:
            raise SupportError(
                f"{uri}: {title} is a {feature.geometry.geom_type} without an area, expected a Polygon: draw an area"
            )
        annotations.add(kind, Annotation(geometry, name, title))
    return annotations


def _class_of(feature: Feature) -> str | None:
    """The class in a feature's properties; None without."""
    by_name = {name.lower(): value for name, value in feature.properties.items()}
    stated = next((by_name[column] for column in CLASS_COLUMNS if by_name.get(column)), None)
    if stated is None or not stated.startswith("{"):
        return stated
    try:  # QuPath's GeoJSON holds an object
        return str(json.loads(stated)["name"])
    except (ValueError, KeyError, TypeError):
        return stated


def read_qupath(uri: str) -> AnnotationFile:
    """Read annotations from GeoJSON exported by QuPath, in level-0 pixels.

    Raises
    ------
    SupportError
        The file is missing, too large or not GeoJSON, or a feature has no area.
    """
    annotations = AnnotationFile()
    for number, feature in enumerate(_features(uri), start=1):
        if not isinstance(feature, dict) or feature.get("type") != "Feature":
            raise SupportError(f"{uri}: entry {number} is not a GeoJSON Feature; export it again")
        properties = feature.get("properties") or {}
        classification = properties.get("classification")
        if isinstance(classification, dict):
            names = classification.get("names")
            classification = classification.get("name") or (": ".join(names) if names else None)
        own_name = properties.get("name")
        name = str(classification or own_name or UNNAMED)
        kind = kind_of(name)
        title = f"{kind} {own_name!r} (feature {number})" if own_name else f"{kind} (feature {number})"
        annotations.add(kind, Annotation(_area(uri, title, feature.get("geometry")), name, title))
    return annotations


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
        parsed = json.loads(content)
    except SupportError:
        raise
    except (ValueError, OSError, EOFError, zlib.error, RecursionError) as error:
        raise SupportError(
            f"{uri}: is not GeoJSON ({' '.join(str(error).split())}); export it again"
        ) from error
    if isinstance(parsed, dict) and parsed.get("type") == "Feature":
        return [parsed]
    features = parsed.get("features") if isinstance(parsed, dict) else parsed
    if not isinstance(features, list):
        raise SupportError(
            f"{uri}: is JSON, but not a GeoJSON FeatureCollection; export it from QuPath as GeoJSON"
        )
    return features


def _area(uri: str, title: str, geometry: Any) -> BaseGeometry:
    """Valid Polygon or MultiPolygon of a feature; self-intersections are repaired."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise SupportError(
            f"{uri}: {title} is a {kind or 'feature without geometry'}, expected a Polygon: draw an area"
        )
    try:
        shape = shapely.force_2d(shapely.geometry.shape(geometry))
        if not all(math.isfinite(value) for value in shape.bounds):
            raise ValueError("coordinates that are not finite")
        if not shape.is_valid:
            log.info("%s: %s intersects itself, repaired", uri, title)
            shape = shapely.make_valid(shape)
    except (
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        KeyError,
        shapely.errors.ShapelyError,
    ) as error:
        reason = " ".join(str(error).split())
        raise SupportError(f"{uri}: {title} is not a polygon ({reason}); draw it again") from error
    polygons = polygons_of(shape)
    if polygons is None:
        raise SupportError(f"{uri}: {title} has no area; delete it or draw it again")
    return polygons
