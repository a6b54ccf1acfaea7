"""Support sets drawn on a slide: QuPath's GeoJSON of regions and of the objects in them.

A region says "everything of the class in here is drawn": inside it what is not object is background, outside and
under areas of class Ignore* nothing is known. Objects of the other classes are background. Where objects of two
classes overlap, the smaller one counts: a nucleus in a gland. Coordinates are level-0 pixels; a pixel is object if
its centre is.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import fsspec
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.windows import Window
from shapely.geometry import MultiPolygon, Polygon
from shapely.geometry.base import BaseGeometry

from connectors.patches import IGNORE, PATCH, SupportError, read_bytes
from connectors.source import Source
from connectors.support import SupportSet, choose_classes

log = logging.getLogger(__name__)

MAX_PATCHES = 32  # a support set is a few patches; more is a sign of a region drawn round the whole slide
MAX_JSON_BYTES = 512 * 2**20
EDGE_TOLERANCE = 1.0  # level-0 px a region may reach past the slide: annotation tools round
UNNAMED = "object"
HOW_TO = (
    "in QuPath, draw a rectangle in which every object is drawn, set its class to Region*, "
    "and export all objects as GeoJSON"
)


@dataclass(frozen=True, slots=True)
class _Drawn:
    geometry: BaseGeometry  # Polygon or MultiPolygon, world coordinates, valid
    name: str  # class, or UNNAMED
    title: str  # for people


def load_annotations(uri: str, source: Source | None, class_names: Sequence[str]) -> SupportSet:
    """Support set from annotations on ``source``; see `connectors.support.load_support`."""
    if source is None:
        raise SupportError(f"{uri}: annotations need the slide they were drawn on; give it as the source")
    regions, objects, ignored = _parse(uri)
    if not regions:
        raise SupportError(f"{uri}: holds no region to learn from; {HOW_TO}")
    if not objects:
        raise SupportError(
            f"{uri}: holds {len(regions)} regions but no object; draw the objects in the regions too"
        )
    chosen_names, values, chosen = _choose_objects(uri, objects, class_names)
    info = source.info
    for region in regions:
        left, top, right, bottom = region.geometry.bounds
        limit_x, limit_y = info.native_width + EDGE_TOLERANCE, info.native_height + EDGE_TOLERANCE
        if min(left, top) < -EDGE_TOLERANCE or right > limit_x or bottom > limit_y:
            raise SupportError(
                f"{uri}: {region.title} reaches from ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}), "
                f"out of the slide of {info.native_width} x {info.native_height} px; is it of another slide?"
            )

    windows = _windows(uri, regions, info.transform)
    tree = shapely.STRtree([drawn.geometry for drawn in chosen])
    images, labels, instances, names = [], [], [], []
    labelled: list[tuple[Window, NDArray[np.bool_]]] = []
    for title, region, window in windows:
        image, valid = source.read(window)
        x, y = _apply(info.transform, window.col_off, window.row_off)
        to_world = Affine(info.transform.a, info.transform.b, x, info.transform.d, info.transform.e, y)
        inside = _burn([region.geometry], to_world) > 0
        inside &= valid & (_burn([drawn.geometry for drawn in ignored], to_world) == 0)
        for earlier, taken in labelled:  # a pixel has one patch: left out, it must be left out everywhere
            _remove(inside, window, taken, earlier)
        if not inside.any():
            continue
        labelled.append((window, inside))
        near = np.sort(tree.query(shapely.box(x, y, *_apply(to_world, PATCH, PATCH))))
        ids = _burn([chosen[index].geometry for index in near], to_world)
        ids[~inside] = 0
        of_class = np.concatenate([[0], values[near]]).astype(np.uint8)[ids]
        _, compact = np.unique(ids, return_inverse=True)  # 1..n in the order drawn
        ids = (compact.reshape(ids.shape) + (ids.min() > 0)).astype(np.int32)
        images.append(image)
        labels.append(np.where(inside, of_class, np.uint8(IGNORE)))
        instances.append(ids)
        names.append(title)
    if not images:
        raise SupportError(
            f"{uri}: no pixel of the {len(regions)} regions could be read; draw them elsewhere"
        )
    log.info(
        "%s: %d regions, %d objects of class %s, %d patches",
        uri,
        len(regions),
        len(chosen),
        ", ".join(chosen_names),
        len(images),
    )
    try:
        return SupportSet(
            images=np.stack(images),
            labels=np.stack(labels),
            instances=np.stack(instances),
            names=tuple(names),
            mpp=info.mpp,
            class_names=chosen_names,
        )
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error


def _parse(uri: str) -> tuple[list[_Drawn], list[_Drawn], list[_Drawn]]:
    """Regions, objects, and areas of QuPath's class Ignore* of a file, in its order."""
    found: dict[str, list[_Drawn]] = {"region": [], "object": [], "ignored area": []}
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
        plain = name.lower().rstrip("*")
        is_region = plain.startswith("region") or plain == "roi"
        kind = "region" if is_region else "ignored area" if plain == "ignore" else "object"
        title = f"{kind} {own_name!r} (feature {number})" if own_name else f"{kind} (feature {number})"
        found[kind].append(_Drawn(_area(uri, title, feature.get("geometry")), name, title))
    return found["region"], found["object"], found["ignored area"]


def _features(uri: str) -> list[Any]:
    try:
        filesystem, path = fsspec.core.url_to_fs(uri)
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
            f"{uri}: is JSON but no GeoJSON FeatureCollection; export it from QuPath as GeoJSON"
        )
    return features


def _area(uri: str, title: str, geometry: Any) -> BaseGeometry:
    """Valid Polygon or MultiPolygon of a feature; shapes that cross themselves are repaired."""
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise SupportError(
            f"{uri}: {title} is a {kind or 'feature without geometry'}, expected a Polygon: draw an area"
        )
    try:
        shape = shapely.force_2d(shapely.geometry.shape(geometry))
        if not all(math.isfinite(value) for value in shape.bounds):
            raise ValueError("coordinates that are no numbers")
        if not shape.is_valid:
            log.info("%s: %s crosses itself, repaired", uri, title)
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
    parts = [part for part in shapely.get_parts(shape, return_index=False) if part.area > 0]
    polygons = [
        polygon
        for part in parts
        for polygon in (part.geoms if isinstance(part, MultiPolygon) else [part])
        if isinstance(polygon, Polygon)
    ]
    if not polygons:
        raise SupportError(f"{uri}: {title} has no area; delete it or draw it again")
    return polygons[0] if len(polygons) == 1 else MultiPolygon(polygons)


def _choose_objects(
    uri: str, objects: list[_Drawn], class_names: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int64], list[_Drawn]]:
    """The classes to look for, and their objects with the place 1..C of each one's class, in the order to draw in."""
    found = sorted({drawn.name for drawn in objects})
    if found == [UNNAMED] and len(class_names) <= 1:
        return tuple(class_names) or (UNNAMED,), np.ones(len(objects), np.int64), objects
    names = [found[i] for i in choose_classes(uri, found, class_names)]
    chosen = [drawn for drawn in objects if drawn.name in names]
    if len(names) > 1:  # of one class, the later object wins; of several, the smaller one
        chosen.sort(key=lambda drawn: -drawn.geometry.area)
    values = np.array([names.index(drawn.name) + 1 for drawn in chosen], np.int64)
    return tuple(class_names) or tuple(names), values, chosen


def _remove(mask: NDArray[np.bool_], window: Window, other: NDArray[np.bool_], other_window: Window) -> None:
    """Clear, in the mask of one patch, what is set in that of another; both (224, 224)."""
    down, right = other_window.row_off - window.row_off, other_window.col_off - window.col_off
    if abs(down) < PATCH and abs(right) < PATCH:
        here = slice(max(0, down), PATCH + min(0, down)), slice(max(0, right), PATCH + min(0, right))
        there = slice(max(0, -down), PATCH + min(0, -down)), slice(max(0, -right), PATCH + min(0, -right))
        mask[here] &= ~other[there]


def _windows(uri: str, regions: list[_Drawn], transform: Affine) -> list[tuple[str, _Drawn, Window]]:
    """224 px windows of the working grid that cover each region, centred on it: (title, region, window)."""
    windows: list[tuple[str, _Drawn, Window]] = []
    for region in regions:
        left, top, right, bottom = region.geometry.bounds
        first_col, first_row = _apply(~transform, left, top)
        last_col, last_row = _apply(~transform, right, bottom)
        rows, cols = _starts(first_row, last_row), _starts(first_col, last_col)
        if len(windows) + len(rows) * len(cols) > MAX_PATCHES:
            wide = PATCH * abs(transform.a)
            raise SupportError(
                f"{uri}: regions take more than {MAX_PATCHES} patches of {PATCH} px ({region.title} takes "
                f"{len(rows) * len(cols)}); draw small regions, each about {wide:.0f} px wide"
            )
        for row in rows:
            for col in cols:
                part = "" if len(rows) * len(cols) == 1 else f" at ({row}, {col})"
                windows.append((region.title + part, region, Window(col, row, PATCH, PATCH)))
    return windows


def _apply(transform: Affine, x: float, y: float) -> tuple[float, float]:
    """The point through the transform; spelled out, because affine 2 and 3 differ in the operator for it."""
    return (
        transform.a * x + transform.b * y + transform.c,
        transform.d * x + transform.e * y + transform.f,
    )


def _starts(first: float, last: float) -> list[int]:
    """Offsets of the windows that cover ``first..last`` along one axis."""
    n = max(1, math.ceil((last - first) / PATCH - 1e-9))
    start = round((first + last - n * PATCH) / 2)
    return [start + index * PATCH for index in range(n)]


def _burn(geometries: list[BaseGeometry], to_world: Affine) -> NDArray[np.int32]:
    """int32 (224, 224): 1 + index of the last geometry that holds the pixel's centre, 0 for none."""
    if not geometries:
        return np.zeros((PATCH, PATCH), np.int32)
    shapes = ((geometry, index) for index, geometry in enumerate(geometries, start=1))
    burnt: NDArray[np.int32] = rasterize(shapes, (PATCH, PATCH), transform=to_world, dtype="int32")
    return burnt
