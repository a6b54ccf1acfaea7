"""Labels outside regions: single objects, strokes, points. Everything around them is not labelled.

They become patches of their own, beside those of the regions, so that regions mean what they always meant. An object
counts outside regions only if the file marks it (`annotation_files.MARKS`): files may hold the detections of a whole
slide, from which nothing is to be learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.source import Source
from fewscope.connectors.support.annotation_files import ACCEPTED, OUTLINED, Annotation
from fewscope.connectors.support.support_set import MAX_PATCHES
from fewscope.connectors.vectors.polygon_files import burn

POINT_RADIUS = 3.0
"""Working px around a point, or along a line, that count as labelled."""

RIM = 8.0
"""Working px around an object that are background if its outline is whole (`WHOLE`)."""

WHOLE = (OUTLINED, ACCEPTED)
"""Marks of objects whose outline is right all around, drawn or accepted."""

MAX_SPARSE_PATCHES = MAX_PATCHES
"""As many again as of regions."""

MAX_PER_LABEL = 9
"""Of one label: a river's whole course would take them all."""

Labelled = tuple[Window, NDArray[np.bool_]]
"""A window and which of its pixels are labelled, bool (224, 224)."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """One labelled patch, as in `SupportSet`: image, labels, instances, what is rough, and where it is from."""

    title: str
    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32]
    rough: NDArray[np.uint8]


class Drawn:
    """Annotations in pixels (col, row) of the working grid.

    Parameters
    ----------
    regions, ignored, objects, negatives : list of Annotation
        Polygons.
    values : (n,) int
        Class 1..C of each object.
    surroundings : float
        See `AnnotationFile.surroundings`.
    """

    def __init__(
        self,
        regions: list[Annotation],
        ignored: list[Annotation],
        objects: list[Annotation],
        values: NDArray[np.int64],
        negatives: list[Annotation],
        surroundings: float = 0.0,
    ) -> None:
        self.regions, self.ignored, self.objects, self.negatives = regions, ignored, objects, negatives
        self.surroundings, self.rim = surroundings, surroundings or RIM
        self._values = values
        self._tree = shapely.STRtree([one.geometry for one in objects])

    def ids(self, window: Window) -> NDArray[np.int32]:
        """int32 (224, 224): 1 + index of the object at each pixel, 0 for none."""
        corner = window.col_off, window.row_off
        near = np.sort(self._tree.query(shapely.box(*corner, corner[0] + PATCH_SIZE, corner[1] + PATCH_SIZE)))
        ids = burn_all([self.objects[index] for index in near], window)
        return np.concatenate([[0], near + 1]).astype(np.int32)[ids]

    def patch(self, title: str, image: NDArray[np.uint8], known: NDArray[np.bool_], window: Window) -> Patch:
        """The patch of a window whose ``known`` pixels are labelled."""
        ids = self.ids(window)
        ids[~known] = 0
        if self.negatives:
            ids[burn_all(self.negatives, window) > 0] = 0
        of_class = np.concatenate([[0], self._values]).astype(np.uint8)[ids]
        _, compact = np.unique(ids, return_inverse=True)  # 1..n in the order of the file
        numbers = (compact.reshape(ids.shape) + (ids.min() > 0)).astype(np.int32)
        rough = np.array([0, *(one.rough for one in self.objects)], np.uint8)[ids]
        return Patch(title, image, np.where(known, of_class, np.uint8(IGNORE_LABEL)), numbers, rough)


def sparse_patches(drawn: Drawn, source: Source, labelled: Sequence[Labelled]) -> tuple[list[Patch], int]:
    """Patches of what is labelled outside regions, and how many labels found no place.

    Parameters
    ----------
    drawn : Drawn
        All annotations.
    source : Source
        Gives the pixels.
    labelled : sequence of Labelled
        Pixels that patches of regions have labelled: each pixel is in one patch only.
    """
    taken, patches = list(labelled), []
    windows, n_left_out = sparse_windows(drawn, (source.info.height, source.info.width))
    with_rim = _Tree([one.geometry.buffer(drawn.rim) for one in drawn.objects if one.mark in WHOLE])
    marked = _Tree([one.geometry for one in drawn.objects if one.mark and not one.rough])
    for window in windows:
        image, valid = source.read(window)
        known = marked.burnt(window)
        known |= with_rim.burnt(window) & (drawn.ids(window) == 0)
        known |= burn_all(drawn.negatives, window) > 0
        known &= valid & (burn_all(drawn.ignored, window) == 0)
        for earlier, pixels in taken:
            remove(known, window, pixels, earlier)
        if known.any():
            taken.append((window, known))
            title = f"{'objects' if drawn.surroundings else 'labels'} at ({window.row_off}, {window.col_off})"
            patches.append(drawn.patch(title, image, known, window))
    return patches, n_left_out


class _Tree:
    """Shapes of which there may be many more than a window shows."""

    def __init__(self, shapes: list[BaseGeometry]) -> None:
        self._shapes, self._tree = shapes, shapely.STRtree(shapes)

    def burnt(self, window: Window) -> NDArray[np.bool_]:
        """Which pixels of a window they cover, (224, 224)."""
        corner = window.col_off, window.row_off
        near = self._tree.query(shapely.box(*corner, corner[0] + PATCH_SIZE, corner[1] + PATCH_SIZE))
        return burn_shapes([self._shapes[index] for index in near], window) > 0


def sparse_windows(drawn: Drawn, size: tuple[int, int]) -> tuple[list[Window], int]:
    """Windows of 224 px around what is labelled outside regions, and how many labels are in none of them.

    Labels are taken from the last in the file to the first, or, without regions, in an order drawn by lot, so that they
    are spread over the source; each window begins with one that has no window yet, and grows over its neighbours in
    that order as long as they fit.
    """
    image = shapely.box(0, 0, size[1], size[0])
    regions = shapely.union_all([one.geometry for one in drawn.regions])
    shapely.prepare(regions)
    shapes = []
    for one in (*(one for one in drawn.objects if one.mark and not one.rough), *drawn.negatives):
        if not regions.covers(one.geometry):
            outside = shapely.intersection(one.geometry.difference(regions), image)
            if outside.area > 0:
                shapes.append(outside.buffer(drawn.rim) if one.mark in WHOLE else outside)
    order = (
        np.random.default_rng(0).permutation(len(shapes)) if drawn.surroundings else range(len(shapes))[::-1]
    )
    waiting = [shapes[index] for index in order]
    boxes = shapely.bounds(np.array(waiting, object)).reshape(-1, 4)
    windows: list[Window] = []
    while waiting:
        box = boxes[0]
        sides = np.maximum(boxes[1:, 2:], box[2:]) - np.minimum(boxes[1:, :2], box[:2])
        for other in boxes[1:][(sides <= PATCH_SIZE - 1).all(1)]:
            both = np.r_[np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])]
            if (both[2:] - both[:2]).max() <= PATCH_SIZE - 1:
                box = both
        found = _cover(waiting[0], box)
        if len(windows) + len(found) > MAX_SPARSE_PATCHES:
            return windows, len(waiting)
        windows += found
        low = np.array([found[0].col_off, found[0].row_off])
        inside = (boxes[:, :2] >= low).all(1) & (boxes[:, 2:] <= low + PATCH_SIZE).all(1)
        inside[0] = True
        waiting = [shape for shape, done in zip(waiting, inside, strict=True) if not done]
        boxes = boxes[~inside]
    return windows, 0


def _cover(shape: BaseGeometry, box: NDArray[np.float64]) -> list[Window]:
    """Windows of a box that a shape touches; of a large one, `MAX_PER_LABEL` spread over it."""
    windows = [
        Window(col, row, PATCH_SIZE, PATCH_SIZE)
        for row in starts(box[1], box[3])
        for col in starts(box[0], box[2])
    ]
    if len(windows) > 1:
        tiles = shapely.box(
            *np.array([(w.col_off, w.row_off) for w in windows]).T,
            *np.array([(w.col_off + PATCH_SIZE, w.row_off + PATCH_SIZE) for w in windows]).T,
        )
        shapely.prepare(shape)
        windows = [w for w, hit in zip(windows, shapely.intersects(shape, tiles), strict=True) if hit]
    if len(windows) > MAX_PER_LABEL:
        chosen = np.linspace(0, len(windows) - 1, MAX_PER_LABEL).round().astype(int)
        windows = [windows[i] for i in chosen]
    return windows


def starts(first: float, last: float) -> list[int]:
    """Offsets of the windows that cover ``first..last`` along one axis."""
    n = max(1, math.ceil((last - first) / PATCH_SIZE - 1e-9))
    start = round((first + last - n * PATCH_SIZE) / 2)
    return [start + index * PATCH_SIZE for index in range(n)]


def remove(mask: NDArray[np.bool_], window: Window, other: NDArray[np.bool_], other_window: Window) -> None:
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


def burn_all(annotations: Sequence[Annotation], window: Window) -> NDArray[np.int32]:
    """int32 (224, 224): 1 + index of the last annotation that contains the pixel's centre, 0 for none."""
    return burn_shapes([one.geometry for one in annotations], window)


def burn_shapes(shapes: Sequence[BaseGeometry], window: Window) -> NDArray[np.int32]:
    """`burn_all` of geometries."""
    numbered = ((shape, index) for index, shape in enumerate(shapes, start=1))
    return burn(numbered, (PATCH_SIZE, PATCH_SIZE), Affine.translation(window.col_off, window.row_off))
