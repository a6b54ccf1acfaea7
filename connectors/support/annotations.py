"""Support sets from annotations: regions and objects in them, drawn on slides in QuPath and others, on maps in a GIS.

Within a region, all objects of the class are annotated: every other pixel in it is background. Pixels outside regions,
and in areas of class Ignore*, are not labelled. Objects of other classes are background. Where objects of two classes
overlap, the smaller one counts: a nucleus in a gland. An object may extend beyond its region, as a river does. A pixel
belongs to an object if its centre does. What is of class Not*, or has a mark (`annotation_files.MARKS`), counts outside
regions too (`connectors.support.sparse`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.windows import Window

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.source import Source, SourceInfo
from fewscope.connectors.support.annotation_files import (
    ACCEPTED,
    IGNORED_NAMES,
    REGION_NAMES,
    REJECTED,
    UNNAMED,
    Annotation,
    AnnotationFile,
    read_vector_file,
)
from fewscope.connectors.support.slide_files import read_slide_file
from fewscope.connectors.support.sparse import (
    MAX_SPARSE_PATCHES,
    POINT_RADIUS,
    Drawn,
    Patch,
    burn_all,
    remove,
    sparse_patches,
    starts,
)
from fewscope.connectors.support.support_set import (
    MAX_CLASSES,
    MAX_PATCHES,
    SupportSet,
    alike,
    choose_classes,
    doubts,
    joined_rough,
)
from fewscope.connectors.support.without_regions import note_on_surroundings, stand_in_for_regions
from fewscope.connectors.support_options import SupportOptions
from fewscope.connectors.vectors.placement import Target
from fewscope.connectors.vectors.polygon_files import listed
from fewscope.errors import SupportError

log = logging.getLogger(__name__)

EDGE_TOLERANCE = 1.0  # px that a region may extend past the slide's edge: annotation tools round
HOW_TO = {
    "slide": "in QuPath, draw a rectangle in which every object is drawn, set its class to Region*, and export all "
    "objects as GeoJSON",
    "raster": 'in QGIS, draw about five rectangles in which every object is drawn, with "Region" in a column "class" '
    "(or in a layer named regions), and the objects in them with their own class",
    "ImageScope": "in ImageScope, draw a rectangle in which every object is drawn in a layer named Region, and the "
    "objects in a layer named after their class",
    "ASAP": "in ASAP, draw a rectangle in which every object is drawn and put it in a group named Region, and the "
    "objects in a group named after their class",
    "NDP.view": "in NDP.view, draw a rectangle in which every object is drawn with the title Region, and the objects "
    "with the name of their class as title",
    "ImageJ": "in ImageJ, add a rectangle in which every object is drawn to the ROI Manager under the name Region, and "
    "the objects under the name of their class",
}
"""What to do where there is no region, by the kind of the source or by the program that wrote the file."""

AnnotationReader = Callable[[str, Source, SupportOptions], AnnotationFile]
"""Gives the annotations in a file, as `read_annotations` does."""


def load_annotations(
    uri: str, source: Source | None, options: SupportOptions, read: AnnotationReader | None = None
) -> SupportSet:
    """Support set from annotations on ``source``; see `connectors.support.load.load_support`.

    Parameters
    ----------
    read
        Instead of `read_annotations`.
    """
    if source is None:
        raise SupportError(
            f"{uri}: annotations need the slide or raster they were drawn on; give it as the source"
        )
    info = source.info
    annotations = (read or read_annotations)(uri, source, options)
    how_to = HOW_TO[annotations.program or info.kind]
    left_out = f"; left out: {listed(annotations.left_out)}" if annotations.left_out else ""
    if not annotations.regions and not annotations.has_marks:
        if not annotations.objects:
            raise SupportError(f"{uri}: has no region; {how_to}{left_out}")
        stand_in_for_regions(uri, annotations)
    if annotations.has_only_points:
        raise SupportError(
            f"{uri}: has objects that are marked by points, and no region: what is around them is not known; "
            f"{how_to}{left_out}"
        )
    if not annotations.objects and not annotations.regions:
        raise SupportError(f"{uri}: has no object; {how_to}{left_out}")
    if not annotations.objects:
        n = len(annotations.regions)
        raise SupportError(
            f"{uri}: has {n} region{'s' if n > 1 else ''} but no object; draw the objects in the regions "
            f"too{left_out}"
        )
    chosen_names, values, chosen = _choose_objects(uri, annotations, options.class_names)
    notes = _notes(uri, annotations, chosen)
    if annotations.surroundings:
        notes.append(note_on_surroundings(uri, how_to))
    found = patches_on(uri, source, annotations, chosen, values, options)
    patches, n_dense = found.patches, found.n_dense
    notes += found.notes
    if not patches:
        raise SupportError(
            f"{uri}: none of its labels lies on a pixel that could be read; draw them elsewhere"
        )
    names = [patch.title for patch in patches]
    labels = np.stack([patch.labels for patch in patches])
    log.info(
        "%s: %d regions, %d objects of class %s, %d patches%s",
        uri,
        len(annotations.regions),
        len(chosen),
        ", ".join(chosen_names),
        n_dense,
        f" and {len(patches) - n_dense} with single labels" if len(patches) > n_dense else "",
    )
    try:
        some = slice(n_dense or None)
        notes += doubts(uri, labels[some], chosen_names, names[some])
        rough = joined_rough([patch.rough for patch in patches])
        are_whole = found.are_whole or rough is not None
        return SupportSet(
            images=np.stack([patch.image for patch in patches]),
            labels=labels,
            instances=np.stack([patch.instances for patch in patches]) if are_whole else None,
            names=tuple(names),
            mpp=info.mpp,
            class_names=chosen_names,
            notes=tuple(notes),
            assumptions=tuple(annotations.assumptions),
            n_sparse=len(patches) - n_dense,
            corrected=corrections(annotations),
            ranges=info.ranges,
            rough=rough,
        )
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error


@dataclass(frozen=True, slots=True, eq=False)
class FilePatches:
    """Patches of one file: of its regions first, then of single labels.

    Attributes
    ----------
    are_whole : bool
        Whether objects are whole, so that they can be counted.
    """

    patches: list[Patch]
    n_dense: int
    are_whole: bool
    notes: list[str]


def read_annotations(uri: str, source: Source, options: SupportOptions) -> AnnotationFile:
    """Annotations in a file that was drawn on ``source``."""
    info = source.info
    if info.kind == "raster":
        crs = CRS.from_user_input(info.crs) if info.crs else None
        target = Target.of(crs, info.transform, info.height, info.width)
        annotations = read_vector_file(uri, target, options.class_names)
    else:
        annotations = read_slide_file(uri, info, options)
    annotations.take_points(options.class_names)
    annotations.take_marked_points()
    return annotations


def corrections(annotations: AnnotationFile) -> tuple[int, int]:
    """How many objects were accepted and rejected by hand."""
    return (
        sum(one.mark == ACCEPTED for one in annotations.objects),
        sum(one.mark == REJECTED for one in annotations.negatives),
    )


def patches_on(
    uri: str,
    source: Source,
    annotations: AnnotationFile,
    chosen: list[Annotation],
    values: NDArray[np.int64],
    options: SupportOptions,
) -> FilePatches:
    """Patches of a file's annotations.

    Parameters
    ----------
    chosen, values
        Objects in the order to draw in, and the class 1..C of each, (n,) int64.

    Raises
    ------
    SupportError
        Regions lie outside the source, are too large, or cannot be read.
    """
    info = source.info
    origin = annotations.origin(info, options)
    to_grid = ~info.transform @ Affine.translation(*origin)
    regions = _onto_grid(annotations.regions, to_grid)
    ignored = _onto_grid(annotations.ignored, to_grid)
    objects = _onto_grid(chosen, to_grid)
    _check_inside(uri, regions, info, origin)
    if annotations.surroundings and info.kind == "slide":
        _check_inside(uri, objects, info, origin)
    notes: list[str] = []
    annotations.tell_scan_origin(uri, origin)

    negatives = _onto_grid(annotations.negatives, to_grid)
    drawn = Drawn(regions, ignored, objects, values, negatives, annotations.surroundings)
    patches, labelled = _region_patches(uri, drawn, source)
    n_dense = len(patches)
    if regions and not patches:
        raise SupportError(
            f"{uri}: no pixel of the {len(regions)} regions could be read; draw them elsewhere"
        )
    if annotations.negatives or any(one.mark for one in chosen):
        more, too_many = sparse_patches(drawn, source, labelled)
        patches += more
        if too_many:
            which = "spread over all" if annotations.surroundings else "the last in the file"
            notes.append(
                f"{uri}: {too_many} label{'s' if too_many > 1 else ''} outside regions left out: at most "
                f"{MAX_SPARSE_PATCHES} patches of them are learned from, {which}."
            )
    if annotations.surroundings:
        n_dense = len(patches)
    are_whole = info.kind == "slide" or _are_whole(regions, objects)
    return FilePatches(patches, n_dense, are_whole, notes)


def _region_patches(
    uri: str, drawn: Drawn, source: Source
) -> tuple[list[Patch], list[tuple[Window, NDArray[np.bool_]]]]:
    """Patches that cover the regions, and the labelled pixels of each, with their windows."""
    patches: list[Patch] = []
    labelled: list[tuple[Window, NDArray[np.bool_]]] = []
    for title, region, window in _windows(uri, drawn.regions, source.info):
        image, valid = source.read(window)
        inside = burn_all([region], window) > 0
        inside &= valid & (burn_all(drawn.ignored, window) == 0)
        for (
            earlier,
            taken,
        ) in labelled:  # a pixel is in one patch only: if held out, it is held out everywhere
            remove(inside, window, taken, earlier)
        if inside.any():
            labelled.append((window, inside))
            patches.append(drawn.patch(title, image, inside, window))
    return patches, labelled


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


def _are_whole(regions: list[Annotation], objects: list[Annotation]) -> bool:
    """Whether no region or patch cuts an object: parts of rivers and lakes are not instances."""
    if not regions:
        boxes = np.array([one.geometry.bounds for one in objects]).reshape(-1, 4)
        return bool((boxes[:, 2:] - boxes[:, :2] <= PATCH_SIZE).all())
    outlined = [one for one in objects if not one.rough]
    tree = shapely.STRtree([one.geometry for one in outlined])
    return all(
        region.geometry.covers(outlined[index].geometry)
        for region in regions
        for index in tree.query(region.geometry, predicate="intersects")
    )


def _onto_grid(annotations: list[Annotation], to_grid: Affine) -> list[Annotation]:
    """Annotations in pixels (col, row) of the working grid; points and lines get the width of a stroke."""
    matrix = [to_grid.a, to_grid.b, to_grid.d, to_grid.e, to_grid.c, to_grid.f]
    moved = [
        replace(one, geometry=shapely.affinity.affine_transform(one.geometry, matrix)) for one in annotations
    ]
    return [
        one
        if "Polygon" in one.geometry.geom_type
        else replace(one, geometry=one.geometry.buffer(POINT_RADIUS))
        for one in moved
    ]


def _check_inside(uri: str, regions: list[Annotation], info: SourceInfo, origin: tuple[int, int]) -> None:
    """Raise SupportError for outlines outside the source: they belong to another one, or have other coordinates."""
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
        rows, cols = starts(top, bottom), starts(left, right)
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
