"""Annotation files: regions, the objects in them, areas to ignore. Vector files on maps; on slides: `slide_files`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.source import SourceInfo
from fewscope.connectors.support.support_set import POINT
from fewscope.connectors.support_options import SLIDES_ONLY, SupportOptions
from fewscope.connectors.vectors.placement import Target
from fewscope.connectors.vectors.polygon_files import Feature, listed, polygons_of, read_features
from fewscope.errors import SourceError, SupportError

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

SPARSE, OUTLINED, ACCEPTED, REJECTED = "sparse*", "outlined*", "accepted*", "rejected*"
MARKED_POINT = "point*"
"""Of a point: there is an object, whose outline is to be inferred if the point lies in a region, whatever else the file
holds. Elsewhere it is as if `SPARSE`: what is around it is not known."""

MARKS = (SPARSE, OUTLINED, ACCEPTED, REJECTED, MARKED_POINT)
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
    own
        Its own name in the file, beside its class; nothing where it has none.
    rough
        `support_set.POINT` or `BOX`, if only a point of the object is known, or a box around it; 0 for an outline.
    """

    geometry: BaseGeometry
    name: str
    title: str
    stated: bool = True
    mark: str = ""
    own: str = ""
    rough: int = 0


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
    program
        Name of the program that wrote it, where that is another one than QuPath or a GIS.
    from_corner
        Whether its coordinates start at the corner of the slide's file, also where QuPath's start elsewhere.
    points
        Points of objects, and the entry of `left_out` of each, which `take_points` may take.
    surroundings
        Working px around every object that are background, in a file without regions; 0 where it has some.
    """

    regions: list[Annotation] = field(default_factory=list)
    objects: list[Annotation] = field(default_factory=list)
    ignored: list[Annotation] = field(default_factory=list)
    negatives: list[Annotation] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    class_source: str = "the classification"
    program: str = ""
    from_corner: bool = False
    surroundings: float = 0.0
    points: list[tuple[str, Annotation]] = field(default_factory=list)

    def copy(self) -> AnnotationFile:
        """The same annotations in lists of their own."""
        return replace(
            self,
            regions=[*self.regions],
            objects=[*self.objects],
            ignored=[*self.ignored],
            negatives=[*self.negatives],
            left_out=[*self.left_out],
            assumptions=[*self.assumptions],
            points=[*self.points],
        )

    def add(self, kind: Kind, annotation: Annotation) -> None:
        """Append an annotation to those of its kind."""
        kinds: dict[Kind, list[Annotation]] = {
            "region": self.regions,
            "object": self.objects,
            "ignored area": self.ignored,
            "background": self.negatives,
        }
        kinds[kind].append(annotation)

    def leave_out(self, annotation: Annotation, why: str) -> None:
        """Leave out an object without an area; if it is points, `take_points` may take them nevertheless."""
        left_out = f"{annotation.title} {why}"
        self.left_out.append(left_out)
        if annotation.geometry.geom_type in ("Point", "MultiPoint"):
            parts = [point for point in shapely.get_parts(annotation.geometry) if not point.is_empty]
            self.points += [(left_out, replace(annotation, geometry=point, rough=POINT)) for point in parts]

    def take_points(self, class_names: Sequence[str]) -> None:
        """Take points for objects: those of the classes that are asked for by name, or all of a file that has no
        outline of an object. Beside outlines, a point is more often a slip of the hand; beside outlines without a
        class, which may be regions, points with one are taken."""
        wanted = {name.casefold() for name in class_names}
        outlined = {one.name for one in self.objects if one.mark != MARKED_POINT}
        are_stated = any(one.stated for one in self.objects if one.mark != MARKED_POINT)
        taken = [
            (left_out, point)
            for left_out, point in self.points
            if not outlined
            or (point.name.casefold() in wanted and point.name not in outlined)
            or (point.stated and not are_stated)
        ]
        self.objects += [point for _, point in taken]
        gone = {left_out for left_out, _ in taken}
        self.left_out = [text for text in self.left_out if text not in gone]

    def take_marked_points(self) -> None:
        """Make rough objects of marked points in regions, but for those on an outlined object of their class."""
        if not any(one.mark == MARKED_POINT for one in self.objects):
            return
        regions = shapely.union_all([one.geometry for one in self.regions])
        shapely.prepare(regions)
        outlined = [one for one in self.objects if "Polygon" in one.geometry.geom_type]
        tree = shapely.STRtree([one.geometry for one in outlined])
        objects = []
        for one in self.objects:
            if one.mark != MARKED_POINT or one.geometry.geom_type not in ("Point", "MultiPoint"):
                objects.append(one)
                continue
            for point in shapely.get_parts(one.geometry):
                on = {outlined[index].name for index in tree.query(point, predicate="intersects")}
                if not point.is_empty and one.name not in on:
                    in_region = regions.covers(point)
                    objects.append(replace(one, geometry=point, rough=POINT if in_region else 0))
        self.objects = objects

    @property
    def has_only_points(self) -> bool:
        """Whether nothing says what is background: no region nor stroke, only points of objects, some with the
        surroundings of outlines."""
        points = [one.rough == POINT or one.mark == MARKED_POINT for one in self.objects]
        if self.regions or self.negatives or not any(points):
            return False
        return all(points) or self.surroundings > 0

    @property
    def has_marks(self) -> bool:
        """Whether anything in it counts outside regions."""
        return bool(self.negatives) or any(one.mark for one in self.objects)

    def origin(self, info: SourceInfo, options: SupportOptions) -> tuple[int, int]:
        """Level-0 (x, y) of the source at which its coordinates start."""
        return (0, 0) if self.from_corner or options.geojson_origin == "file" else info.scan_origin

    def tell_scan_origin(self, uri: str, origin: tuple[int, int]) -> None:
        """Add that its coordinates were taken to start at the corner of the scanned area, if they were."""
        if origin != (0, 0):
            self.assumptions.append(
                f"Coordinates in {uri} start at the corner of the scanned area of the slide it was drawn on, x, y = "
                f"{origin[0]}, {origin[1]}, as QuPath writes them. --geojson-origin file: at the corner of the slide."
            )


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
    if uri.lower().removesuffix(".gz").endswith(SLIDES_ONLY):
        raise SupportError(
            f"{uri}: is read on slides only; on a raster give GeoJSON, GPKG or a shapefile, as QGIS writes them"
        )
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
        mark = mark_of(kind, column, feature.properties.get("name", ""))
        geometry = polygons_of(feature.geometry) if feature.geometry is not None else None
        if geometry is None and feature.geometry is not None and (mark or kind == "background"):
            geometry = feature.geometry
        if geometry is None:
            if kind == "object" and feature.geometry is not None:
                point = Annotation(feature.geometry, name, title, bool(stated) or in_layers)
                annotations.leave_out(point, _lacking(feature))
            else:
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


def mark_of(kind: Kind, class_from: str, name: str | None) -> str:
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
        return column, name_of_class(json.loads(stated)) or stated
    except ValueError:
        return column, stated


def _lacking(feature: Feature) -> str:
    """Why a feature of a map has no area, as the end of a sentence."""
    if feature.geometry is None:
        return "has no geometry"
    if "Polygon" in feature.geometry.geom_type:
        return "has no area"
    return f"is a {feature.geometry.geom_type} without an area"


def name_of_class(classification: Any) -> str | None:
    """A class as QuPath writes it: a name, or names that derive from each other."""
    if isinstance(classification, dict):
        names = classification.get("names")
        joined = ": ".join(map(str, names)) if isinstance(names, list) else None
        return text_of(classification.get("name")) or text_of(joined)
    return text_of(classification)


def text_of(value: Any) -> str | None:
    """A name, None where there is none; numbers are names too."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value).strip() or None
