"""Support sets from annotations: regions and the objects in them, drawn on slides in QuPath, on rasters in any GIS.

Within a region, all objects of the class are annotated: every other pixel in it is background. Pixels outside regions,
and in areas of class Ignore*, are not labelled. Objects of other classes are background. Where objects of two classes
overlap, the smaller one counts: a nucleus in a gland. An object may extend beyond its region, as a river does. A pixel
belongs to an object if its centre does.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.source import Source, SourceInfo
from fewscope.connectors.support.annotation_files import (
    IGNORED_NAMES,
    REGION_NAMES,
    UNNAMED,
    Annotation,
    AnnotationFile,
    read_qupath,
    read_vector_file,
)
from fewscope.connectors.support.support_set import MAX_CLASSES, SupportSet, alike, choose_classes, doubts
from fewscope.connectors.support_options import SupportOptions
from fewscope.connectors.vectors.placement import Target
from fewscope.connectors.vectors.polygon_files import burn, listed
from fewscope.errors import SupportError

log = logging.getLogger(__name__)

MAX_PATCHES = 32  # a support set is a few patches; more suggests a region around the whole slide
EDGE_TOLERANCE = 1.0  # px that a region may extend past the slide's edge: annotation tools round
HOW_TO = {
    "slide": "in QuPath, draw a rectangle in which every object is drawn, set its class to Region*, and export all "
    "objects as GeoJSON",
    "raster": 'in QGIS, draw about five rectangles in which every object is drawn, with "Region" in a column "class" '
    "(or in a layer named regions), and the objects in them with their own class",
}


def load_annotations(uri: str, source: Source | None, options: SupportOptions) -> SupportSet:
    """Support set from annotations on ``source``; see `connectors.support.load.load_support`."""
    if source is None:
        raise SupportError(
            f"{uri}: annotations need the slide or raster they were drawn on; give it as the source"
        )
    info = source.info
    if info.kind == "raster":
        crs = CRS.from_user_input(info.crs) if info.crs else None
        target = Target.of(crs, info.transform, info.height, info.width)
        annotations = read_vector_file(uri, target, options.class_names)
    else:
        annotations = read_qupath(uri, options)
    how_to = HOW_TO[info.kind]
    left_out = f"; left out: {listed(annotations.left_out)}" if annotations.left_out else ""
    if not annotations.regions:
        raise SupportError(f"{uri}: has no region; {how_to}{left_out}")
    if not annotations.objects:
        n = len(annotations.regions)
        raise SupportError(
            f"{uri}: has {n} region{'s' if n > 1 else ''} but no object; draw the objects in the regions "
            f"too{left_out}"
        )
    chosen_names, values, chosen = _choose_objects(uri, annotations, options.class_names)
    notes = _notes(uri, annotations, chosen)
    origin = info.scan_origin if options.geojson_origin == "scan" else (0, 0)
    to_grid = ~info.transform @ Affine.translation(*origin)
    regions = _onto_grid(annotations.regions, to_grid)
    ignored = _onto_grid(annotations.ignored, to_grid)
    chosen = _onto_grid(chosen, to_grid)
    _check_inside(uri, regions, info, origin)
    assumptions = annotations.assumptions
    if origin != (0, 0):
        assumptions.append(
            f"Coordinates in {uri} start at the corner of the scanned area of the slide it was drawn on, x, y = "
            f"{origin[0]}, {origin[1]}, as QuPath writes them. --geojson-origin file: at the corner of the slide."
        )

    tree = shapely.STRtree([one.geometry for one in chosen])
    images, labels, instances, names = [], [], [], []
    labelled: list[tuple[Window, NDArray[np.bool_]]] = []
    for title, region, window in _windows(uri, regions, info):
        image, valid = source.read(window)
        inside = _burn([region], window) > 0
        inside &= valid & (_burn(ignored, window) == 0)
        for (
            earlier,
            taken,
        ) in labelled:  # a pixel is in one patch only: if held out, it is held out everywhere
            _remove(inside, window, taken, earlier)
        if not inside.any():
            continue
        labelled.append((window, inside))
        corner = window.col_off, window.row_off
        near = np.sort(tree.query(shapely.box(*corner, corner[0] + PATCH_SIZE, corner[1] + PATCH_SIZE)))
        ids = _burn([chosen[index] for index in near], window)
        ids[~inside] = 0
        of_class = np.concatenate([[0], values[near]]).astype(np.uint8)[ids]
        _, compact = np.unique(ids, return_inverse=True)  # 1..n in the order of the file
        ids = (compact.reshape(ids.shape) + (ids.min() > 0)).astype(np.int32)
        images.append(image)
        labels.append(np.where(inside, of_class, np.uint8(IGNORE_LABEL)))
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
        notes += doubts(uri, np.stack(labels), chosen_names, names)
        return SupportSet(
            images=np.stack(images),
            labels=np.stack(labels),
            instances=np.stack(instances) if info.kind == "slide" or _are_whole(regions, chosen) else None,
            names=tuple(names),
            mpp=info.mpp,
            class_names=chosen_names,
            notes=tuple(notes),
            assumptions=tuple(assumptions),
        )
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error


def _choose_objects(
    uri: str, annotations: AnnotationFile, class_names: Sequence[str]
) -> tuple[tuple[str, ...], NDArray[np.int64], list[Annotation]]:
    """The classes to look for, and their objects with the place 1..C of each one's class, in the order to draw in."""
    objects = annotations.objects
    found = sorted({drawn.name for drawn in objects})
    if found == [UNNAMED] and len(class_names) <= 1:
        return tuple(class_names) or (UNNAMED,), np.ones(len(objects), np.int64), objects
    names = [found[i] for i in choose_classes(uri, found, class_names)]
    if len(names) > MAX_CLASSES:
        raise SupportError(
            f"{uri}: has objects of {len(names)} classes ({listed(names, 3)}), at most {MAX_CLASSES}: they were read "
            f"from {annotations.class_source}; give all objects of a kind the same class, or pick some with --class"
        )
    chosen = [drawn for drawn in objects if drawn.name in names]
    if len(names) > 1:  # of one class, the later object wins; of several, the smaller one
        chosen.sort(key=lambda drawn: -drawn.geometry.area)
    values = np.array([names.index(drawn.name) + 1 for drawn in chosen], np.int64)
    return tuple(class_names) or tuple(names), values, chosen


def _notes(uri: str, annotations: AnnotationFile, chosen: list[Annotation]) -> list[str]:
    """What was left out, and what looks wrong; SupportError for an outline without a class that holds everything."""
    notes = []
    if annotations.left_out:
        n = len(annotations.left_out)
        notes.append(f"{uri}: {n} feature{'s' if n > 1 else ''} left out: {listed(annotations.left_out)}.")
    names = sorted({drawn.name for drawn in annotations.objects})
    for name in names:
        if name.casefold().startswith((REGION_NAMES[0], IGNORED_NAMES[0])):
            annotations.assumptions.append(
                f"{uri}: {name!r} was taken as a class of objects; regions are of class Region*, areas to leave out of "
                "class Ignore*, and of no other."
            )
    notes += [f"{uri}: classes {pair} differ in case only; they were taken as two." for pair in alike(names)]
    regions = [region.geometry for region in annotations.regions]
    unstated = [drawn for drawn in chosen if not drawn.stated]
    tree = shapely.STRtree([drawn.geometry for drawn in chosen])
    outlines = np.array([drawn.geometry for drawn in unstated], object)
    pairs = tree.query(outlines, predicate="contains_properly")
    for index, held in zip(*np.unique(pairs[0], return_counts=True), strict=True):
        drawn = unstated[index]
        covered = sum(drawn.geometry.covers(region) for region in regions)
        if covered:
            raise SupportError(
                f"{uri}: {drawn.title} has no class, covers {covered} of {len(regions)} regions, and holds {held} of "
                "the other objects: all that it covers would be object; delete it, or give it a class (Region* or "
                "Ignore*, or one of its own)"
            )
        notes.append(
            f"{uri}: {drawn.title} has no class and holds {held} of the other objects; it was taken as an object."
        )
    return notes


def _remove(mask: NDArray[np.bool_], window: Window, other: NDArray[np.bool_], other_window: Window) -> None:
    """Clear, in one patch's mask (224, 224), the pixels that are set in another's."""
    down, right = other_window.row_off - window.row_off, other_window.col_off - window.col_off
    if abs(down) < PATCH_SIZE and abs(right) < PATCH_SIZE:
        here = (
            slice(max(0, down), PATCH_SIZE + min(0, down)),
            slice(max(0, right), PATCH_SIZE + min(0, right)),
        )
        there = (
            slice(max(0, -down), PATCH_SIZE + min(0, -down)),
            slice(max(0, -right), PATCH_SIZE + min(0, -right)),
        )
        mask[here] &= ~other[there]


def _are_whole(regions: list[Annotation], objects: list[Annotation]) -> bool:
    """Whether no region cuts an object: parts of rivers and lakes are not instances."""
    tree = shapely.STRtree([one.geometry for one in objects])
    return all(
        region.geometry.covers(objects[index].geometry)
        for region in regions
        for index in tree.query(region.geometry, predicate="intersects")
    )


def _onto_grid(annotations: list[Annotation], to_grid: Affine) -> list[Annotation]:
    """Annotations in pixels (col, row) of the working grid."""
    matrix = [to_grid.a, to_grid.b, to_grid.d, to_grid.e, to_grid.c, to_grid.f]
    return [
        replace(one, geometry=shapely.affinity.affine_transform(one.geometry, matrix)) for one in annotations
    ]


def _check_inside(uri: str, regions: list[Annotation], info: SourceInfo, origin: tuple[int, int]) -> None:
    """Raise SupportError for regions outside the source: they belong to another one, or have other coordinates."""
    tolerance = EDGE_TOLERANCE * max(1.0, info.width / info.native_width)
    for region in regions:
        left, top, right, bottom = region.geometry.bounds
        outside = (
            min(left, top) < -tolerance or right > info.width + tolerance or bottom > info.height + tolerance
        )
        if info.kind == "raster":  # on maps, regions may extend beyond an edge on purpose
            outside = right <= 0 or bottom <= 0 or left >= info.width or top >= info.height
        if outside:
            other = (
                "another one, or in a CRS that the file does not state"
                if info.kind == "raster"
                else "another slide"
            )
            raise SupportError(
                f"{uri}: {region.title} reaches from pixel ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}), "
                f"out of the {info.kind} of {info.width} x {info.height} px; is it of {other}?{_other_origin(origin)}"
            )


def _other_origin(origin: tuple[int, int]) -> str:
    if origin == (0, 0):
        return ""
    return (
        f" Its coordinates were taken to start at the scanned area, {origin[0]}, {origin[1]}, as QuPath's do: if they "
        "start at the corner of the slide, give --geojson-origin file"
    )


def _windows(uri: str, regions: list[Annotation], info: SourceInfo) -> list[tuple[str, Annotation, Window]]:
    """Windows of 224 px of the working grid that cover each region, centred on it: (title, region, window)."""
    windows: list[tuple[str, Annotation, Window]] = []
    for region in regions:
        left, top, right, bottom = region.geometry.bounds
        rows, cols = _starts(top, bottom), _starts(left, right)
        if len(windows) + len(rows) * len(cols) > MAX_PATCHES:
            wide = PATCH_SIZE * math.hypot(info.transform.a, info.transform.d)
            unit = "px" if info.kind == "slide" else "units of the CRS"
            raise SupportError(
                f"{uri}: regions take more than {MAX_PATCHES} patches of {PATCH_SIZE} px ({region.title} takes "
                f"{len(rows) * len(cols)}); draw small regions, each about {wide:.4g} {unit} wide"
            )
        for row in rows:
            for col in cols:
                part = "" if len(rows) * len(cols) == 1 else f" at ({row}, {col})"
                windows.append((region.title + part, region, Window(col, row, PATCH_SIZE, PATCH_SIZE)))
    return windows


def _starts(first: float, last: float) -> list[int]:
    """Offsets of the windows that cover ``first..last`` along one axis."""
    n = max(1, math.ceil((last - first) / PATCH_SIZE - 1e-9))
    start = round((first + last - n * PATCH_SIZE) / 2)
    return [start + index * PATCH_SIZE for index in range(n)]


def _burn(annotations: list[Annotation], window: Window) -> NDArray[np.int32]:
    """int32 (224, 224): 1 + index of the last annotation that contains the pixel's centre, 0 for none."""
    shapes = ((one.geometry, index) for index, one in enumerate(annotations, start=1))
    return burn(shapes, (PATCH_SIZE, PATCH_SIZE), Affine.translation(window.col_off, window.row_off))
