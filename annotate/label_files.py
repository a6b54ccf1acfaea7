"""``labels.geojson``: labels as plain GeoJSON that QuPath (slides) and QGIS (maps) open, and back.

On slides coordinates are level-0 pixels, counted as ``--geojson-origin`` says, and the class is QuPath's
classification; on maps they are in the raster's CRS, with the class in the property ``class``. What the property
``name`` means is in docs/support-set.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from shapely.geometry.base import BaseGeometry

from fewscope.annotate.shapes import DECIMALS, Kind, Label, Origin, clipped, new_id, tidied
from fewscope.connectors.colours import Colour, class_colour
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.source import SourceInfo
from fewscope.connectors.support.annotation_files import (
    ACCEPTED,
    MARKED_POINT,
    NEGATIVE_CLASS,
    OUTLINED,
    REJECTED,
    SPARSE,
    Annotation,
    read_vector_file,
)
from fewscope.connectors.support.area_files import AreaOptions, read_area
from fewscope.connectors.support.slide_files import read_slide_file
from fewscope.connectors.support.without_regions import stand_in_for_regions
from fewscope.connectors.support_options import SupportOptions
from fewscope.connectors.vectors.placement import LONGITUDE_LATITUDE, Target
from fewscope.connectors.vectors.polygon_files import load_area, polygons_of
from fewscope.errors import LabelError, SourceError, SupportError

AREAS: dict[Kind, tuple[str, Colour]] = {
    "region": ("Region*", (90, 90, 90)),
    "ignore": ("Ignore*", (180, 180, 180)),
    "not": (NEGATIVE_CLASS, (200, 0, 0)),
    "area": ("Area*", (255, 210, 74)),
}
"""Class and colour in files of what has no class of its own."""

MAX_IGNORED = 5000
"""Objects of a file outside all regions, without a mark, that are kept though nothing is learned from them."""

MAX_LABELS = 50_000
AREA_COLOUR: Colour = AREAS["area"][1]


@dataclass(slots=True)
class LabelFile:
    """Labels of one source as text, and back.

    Attributes
    ----------
    info : SourceInfo
        The source.
    options : SupportOptions
        How annotations are read.
    """

    info: SourceInfo
    options: SupportOptions
    _texts: dict[str, tuple[Label, str, Colour, str]] = field(default_factory=dict, repr=False)

    @property
    def image(self) -> BaseGeometry:
        """The image, in image px."""
        return shapely.box(0, 0, *image_size(self.info))

    @property
    def to_file(self) -> Affine:
        """From image px to the file's coordinates."""
        if self.info.kind == "raster":
            return self.info.transform
        x, y = self.info.scan_origin if self.options.geojson_origin == "scan" else (0, 0)
        return Affine.translation(-x, -y)

    def text(self, labels: Sequence[Label], colours: Mapping[str, Colour]) -> bytes:
        """The file's content; the same labels give the same bytes."""
        lines, kept = [], {}
        labels = [one for one in labels if one.kind != "area"]
        for label, mark in zip(labels, self.marks(labels), strict=True):
            colour = colours.get(label.class_name or "", (128, 128, 128))
            known = self._texts.get(label.id)
            if known is None or known[0] is not label or known[1:3] != (mark, colour):
                known = (label, mark, colour, self._feature(label, mark, colour))
            kept[label.id] = known
            lines.append(known[3])
        self._texts = kept
        return (self._head() + ",\n".join(lines) + "\n]}\n").encode()

    def area_text(self, area: BaseGeometry | None) -> bytes:
        """The content of a file with the area that runs segment; None: no polygon."""
        parts = [] if area is None else list(shapely.get_parts(area))
        lines = [
            self._feature(Label(f"area-{k}", part, "area"), "", AREA_COLOUR)
            for k, part in enumerate(parts, 1)
        ]
        return (self._head() + ",\n".join(lines) + "\n]}\n").encode()

    def read_area(self, uri: str, classes: Sequence[str] = (), excluded: Sequence[str] = ()) -> list[Label]:
        """The area that a file outlines, as a run reads it from ``--aoi``.

        Parameters
        ----------
        classes, excluded
            Of slides, as in `AreaOptions`.

        Raises
        ------
        SourceError
            It cannot be read, or lies outside the source.
        """
        if self.info.kind == "raster":
            view, crs = RasterOptions(aoi=uri), _crs(self.info)
            area, _ = load_area(
                self.info.uri, view, crs, self.info.transform, (self.info.height, self.info.width)
            )
        else:
            asked = AreaOptions(uri, tuple(classes), tuple(excluded), self.options.geojson_origin)
            area = read_area(asked, self.info).geometry
        scale = work_scale(self.info)
        try:
            whole = clipped(tidied(shapely.affinity.scale(area, scale, scale, origin=(0, 0))), self.image)
        except LabelError:
            raise SourceError(f"{uri}: does not overlap {self.info.uri}") from None
        return [Label(new_id(), part, "area") for part in shapely.get_parts(whole)]

    def read_area_again(self, uri: str, known: BaseGeometry | None) -> list[Label] | None:
        """The area in a file that another program may have changed; None if it is the one that was known.

        Raises
        ------
        SourceError
            It cannot be read, or lies outside the source.
        """
        try:
            stated = json.loads(Path(uri).read_bytes())
        except (OSError, ValueError) as error:
            raise SourceError(
                f"{uri}: cannot be read as GeoJSON ({error}); the area stays as it was"
            ) from error
        if isinstance(stated, dict) and stated.get("features") == []:
            return None if known is None else []
        try:
            found = self.read_area(uri)
        except SourceError:  # it may hold labels, too
            if self.info.kind == "raster" or f'"{AREAS["area"][0]}"' not in json.dumps(stated):
                raise
            found = self.read_area(uri, (AREAS["area"][0],))
        area = self.area_of(found)
        if known is not None and area is not None:
            apart = shapely.symmetric_difference(area, known).area
            if apart <= 2 * 10**-DECIMALS * known.length:  # coordinates are rounded
                return None
        return found

    def area_of(self, labels: Sequence[Label]) -> BaseGeometry | None:
        """What a run segments, in image px: polygons of the kind "area" without those left out; None: everything.

        Where they overlap, the one drawn later counts. An empty area says that nothing is left.
        """
        areas = [one for one in labels if one.kind == "area"]
        if not areas:
            return None
        whole = self.image if all(one.negative for one in areas) else shapely.MultiPolygon()
        for is_hole, drawn in groupby(areas, lambda one: one.negative):
            polygons = shapely.union_all([one.geometry for one in drawn])
            whole = shapely.difference(whole, polygons) if is_hole else shapely.union(whole, polygons)
        return polygons_of(whole) or shapely.MultiPolygon()

    def read(self, uri: str) -> tuple[list[Label], list[str]]:
        """Labels of a file that another program may have written, and what was left out, one sentence each.

        Raises
        ------
        SupportError
            It cannot be read, or holds too much.
        """
        info = self.info
        if info.kind == "raster":
            target = Target.of(_crs(info), info.transform, info.height, info.width)
            found = read_vector_file(uri, target, self.options.class_names)
        else:
            found = read_slide_file(uri, info, self.options)
        found.take_points(self.options.class_names)
        notes = [f"left out: {what}" for what in found.left_out[:4]]
        notes += found.assumptions if found.program else []
        if not found.regions and not found.has_marks and 0 < len(found.objects) <= MAX_IGNORED:
            n_assumed = len(found.assumptions)
            stand_in_for_regions(uri, found)
            notes += found.assumptions[n_assumed:]
            if found.surroundings:
                notes.append(f"{uri}: has no region; each of its objects counts as one that was drawn here")
        groups: list[tuple[Kind, Sequence[Annotation]]] = [
            ("region", found.regions),
            ("ignore", found.ignored),
            ("object", found.objects),
            ("not", found.negatives),
        ]
        labels: list[Label] = []
        n_drawn = n_outside = 0
        to_image = Affine.identity() if found.from_corner else ~self.to_file
        for kind, drawn in groups:
            for one in drawn:
                of_one = self._labels_of(kind, one, to_image)
                n_drawn, n_outside = n_drawn + 1, n_outside + (not of_one)
                labels += of_one
        if n_outside:
            notes.append(
                f"{uri}: {n_outside} of {n_drawn} labels lie outside the image, or have no area, and were left out; "
                "were they drawn on this one?"
            )
        regions = shapely.union_all([one.geometry for one in labels if one.kind == "region"])
        shapely.prepare(regions)
        idle = {
            one.id
            for one in labels
            if one.kind == "object" and one.source == "file" and not regions.intersects(one.geometry)
        }
        if len(idle) > MAX_IGNORED:
            notes.append(
                f"{len(idle)} objects outside the regions, from which nothing is learned, were left in {uri}"
            )
            labels = [one for one in labels if one.id not in idle]
        if len(labels) > MAX_LABELS:
            raise SupportError(
                f"{uri}: holds {len(labels)} labels, at most {MAX_LABELS}; delete what is not needed"
            )
        return labels, notes

    def _labels_of(self, kind: Kind, one: Annotation, to_image: Affine) -> list[Label]:
        """The labels of an annotation; one for each of several points, none for what lies outside the image."""
        matrix = [to_image.a, to_image.b, to_image.d, to_image.e, to_image.c, to_image.f]
        geometry = shapely.affinity.affine_transform(one.geometry, matrix)
        origins: dict[str, Origin] = {
            ACCEPTED: "accepted",
            REJECTED: "rejected",
            OUTLINED: "drawn",
            SPARSE: "brush",
            MARKED_POINT: "drawn",
        }
        origin = origins.get(one.mark, "file" if kind == "object" else "drawn")
        name = one.name if kind == "object" else None
        if geometry.geom_type in ("Point", "MultiPoint"):
            negative = kind == "not"
            return [
                Label(new_id(), _rounded(point), "point", name, negative, origin)
                for point in shapely.get_parts(geometry)
                if self.image.covers(point)
            ]
        try:
            return [Label(new_id(), clipped(tidied(geometry), self.image), kind, name, source=origin)]
        except LabelError:
            return []

    def marks(self, labels: Sequence[Label]) -> list[str]:
        """What the property ``name`` says of each label in the file; nothing for most."""
        regions = shapely.union_all([one.geometry for one in labels if one.kind == "region"])
        shapely.prepare(regions)
        return [self._mark(label, regions) for label in labels]

    def _mark(self, label: Label, regions: BaseGeometry) -> str:
        """What the property ``name`` says of a label; nothing for what files had before."""
        if label.source == "rejected" and label.kind in ("not", "point"):
            return REJECTED
        if label.kind not in ("object", "point") or label.negative:
            return ""
        if label.source == "accepted":
            return ACCEPTED
        if label.kind == "point":
            return SPARSE if label.source == "brush" else MARKED_POINT
        if label.source == "file" or regions.covers(label.geometry):
            return ""
        return SPARSE if label.source == "brush" else OUTLINED

    def _head(self) -> str:
        crs = _crs(self.info) if self.info.kind == "raster" else None
        named = crs_urn(crs)
        member = "" if named is None else f'"crs":{json.dumps(named, separators=(",", ":"))},'
        return f'{{"type":"FeatureCollection",{member}"features":[\n'

    def _feature(self, label: Label, mark: str, colour: Colour) -> str:
        kind: Kind = "not" if label.negative else label.kind
        name, colour = AREAS.get(kind, (label.class_name or "", colour))
        properties: dict[str, Any]
        if self.info.kind == "raster":
            properties = {"class": name}
        else:
            properties = {"objectType": "annotation", "classification": {"name": name, "color": list(colour)}}
        if mark:
            properties["name"] = mark
        geometry = shapely.geometry.mapping(self._outward(label.geometry))
        if self.info.image_plane is not None:
            geometry["plane"] = self.info.image_plane
        feature = {"type": "Feature", "id": label.id, "geometry": geometry, "properties": properties}
        return json.dumps(feature, ensure_ascii=False, separators=(",", ":"))

    def _outward(self, geometry: BaseGeometry) -> BaseGeometry:
        """A geometry in the file's coordinates."""
        a = self.to_file
        moved = shapely.affinity.affine_transform(geometry, [a.a, a.b, a.d, a.e, a.c, a.f])
        if self.info.kind == "slide":
            return shapely.transform(moved, _round)
        crs = _crs(self.info)
        if crs is None or crs == LONGITUDE_LATITUDE or crs_urn(crs) is not None:
            return moved
        degrees = pyproj.Transformer.from_crs(crs.to_wkt(), "EPSG:4326", always_xy=True)  # no urn names it
        return shapely.transform(moved, lambda xy: np.column_stack(degrees.transform(xy[:, 0], xy[:, 1])))


def image_size(info: SourceInfo) -> tuple[int, int]:
    """(width, height) in image px: of a slide's level 0, of a raster's working grid."""
    return (info.native_width, info.native_height) if info.kind == "slide" else (info.width, info.height)


def work_scale(info: SourceInfo) -> float:
    """Image px per working px."""
    return float(info.transform.a) if info.kind == "slide" else 1.0


def crs_urn(crs: CRS | None) -> dict[str, Any] | None:
    """The ``crs`` member of GeoJSON; None for longitude and latitude, and where no authority names the CRS."""
    authority = crs.to_authority() if crs is not None and crs != LONGITUDE_LATITUDE else None
    if authority is None:
        return None
    return {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"}}


def colours_of(labels: Sequence[Label], known: Mapping[str, Colour]) -> dict[str, Colour]:
    """Colours of the known classes, and of those that labels have besides."""
    colours = dict(known)
    for name in sorted({one.class_name for one in labels if one.class_name}):
        if name not in colours:
            colours[name] = class_colour(len(colours) + 1)
    return colours


def _crs(info: SourceInfo) -> CRS | None:
    return CRS.from_user_input(info.crs) if info.crs else None


def _round(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.round(points, DECIMALS) + 0.0


def _rounded(point: BaseGeometry) -> BaseGeometry:
    return shapely.transform(point, _round)
