"""Labelled pictures of any size as patches of 224 px: they are cut, not resized, as scale is information."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.support.pictures import Labelled, Picture, PictureFolder
from fewscope.connectors.support.support_set import (
    MAX_PATCHES,
    POINT,
    RoughMark,
    SupportSet,
    doubts,
    joined_rough,
    rough_marks,
)
from fewscope.errors import SupportError

log = logging.getLogger(__name__)

SPARE = 32
"""Pixels of a side that are worth no further patches: of a picture of 256 px the middle is taken."""

NEAR = 72
"""Pixels beside a patch within which the object of a point may reach into it: 1.6 times the largest radius that is
looked for."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tile:
    """A part of a picture that may become a patch: its corner, and its pixels as in `Labelled`, (224, 224).

    `marks` are the points and boxes of the picture in px of the part, of patch 0.
    """

    name: str
    row: int
    col: int
    part: Labelled
    marks: tuple[RoughMark, ...] = ()

    @property
    def n_object_pixels(self) -> int:
        """Number of its pixels that are an object's."""
        return int(((self.part.labels > 0) & (self.part.labels != IGNORE_LABEL)).sum())


def cut_patches(folder: PictureFolder) -> SupportSet:
    """The support set of a folder of pictures: larger ones split, smaller ones padded.

    At most `MAX_PATCHES` patches are kept, but one of each picture: those with objects first, spread evenly over the
    pictures and within each. A pixel that several of them share is labelled in one only, the one whose centre is
    nearest: what is held out, is held out everywhere.

    Raises
    ------
    SupportError
        A picture cannot be read, or all together are no support set.
    """
    n = len(folder.pictures)
    budget = max(MAX_PATCHES, n)
    kept: list[list[_Tile]] = []
    n_found = 0
    for number, picture in enumerate(folder.pictures, start=1):
        tiles = _tiles_of(picture)
        n_found += len(tiles)
        kept.append(_spread(tiles))
        quotas = _quotas(kept, budget - (n - number))
        kept = [of_picture[:quota] for of_picture, quota in zip(kept, quotas, strict=True)]
    tiles = [tile for of_picture in kept for tile in _labelled_once(of_picture)]
    notes = list(folder.notes)
    if n_found > len(tiles):
        notes.append(
            f"{folder.uri}: its {n} {'picture is' if n == 1 else 'pictures are'} split into {n_found} patches of "
            f"{PATCH_SIZE} px; {len(tiles)} of them are learned from, those with objects first."
        )
    n_sparse = sum(len(of_picture) for of_picture in kept[max(0, n - folder.n_sparse) :])
    numbers = [number for number, of_picture in enumerate(kept) for _ in of_picture]
    return _joined(folder, tiles, notes, n_sparse, numbers)


def _joined(
    folder: PictureFolder, tiles: Sequence[_Tile], notes: list[str], n_sparse: int, numbers: Sequence[int]
) -> SupportSet:
    """The support set of patches, each with the number of its picture."""
    groups = folder.groups or (range(len(numbers)) if len(numbers) > len(folder.pictures) else ())
    every = [tile.part.instances for tile in tiles if tile.part.instances is not None]
    if every and len(every) < len(tiles):
        log.info("%s: %d of %d patches have instances; none are used", folder.uri, len(every), len(tiles))
    names = [tile.name for tile in tiles]
    labels = np.stack([tile.part.labels for tile in tiles])
    rough = joined_rough([tile.part.rough for tile in tiles])
    outlined = labels if rough is None else np.where(rough > 0, np.uint8(IGNORE_LABEL), labels)
    some = slice(max(0, len(names) - n_sparse) or None)  # the last ones are labelled in places only
    try:
        return SupportSet(
            images=np.stack([tile.part.image for tile in tiles]),
            labels=labels,
            instances=np.stack(every) if len(every) == len(tiles) else None,
            names=tuple(names),
            mpp=folder.mpp,
            class_names=folder.class_names,
            notes=(*notes, *doubts(folder.uri, outlined[some], folder.class_names, names[some])),
            assumptions=tuple(folder.assumptions),
            n_sparse=n_sparse,
            corrected=folder.corrected,
            ranges=folder.ranges,
            pictures=tuple(groups[number] for number in numbers) if groups else (),
            complete=None if folder.complete is None else folder.complete[numbers],
            rough=rough,
            marks=tuple(replace(mark, patch=k) for k, tile in enumerate(tiles) for mark in tile.marks),
        )
    except SupportError as error:
        raise SupportError(f"{folder.uri}: {error}") from error


def starts_of(side: int) -> list[int]:
    """Where the patches begin that cover a side of a picture, px; negative where it is smaller than a patch.

    >>> starts_of(224), starts_of(512), starts_of(100)
    ([0], [0, 144, 288], [-62])
    """
    n = max(1, math.ceil((side - SPARE) / PATCH_SIZE))
    span = min(side, n * PATCH_SIZE)
    if n == 1:
        return [(side - PATCH_SIZE) // 2 if side >= PATCH_SIZE else -((PATCH_SIZE - side) // 2)]
    return [(side - span) // 2 + round(i * (span - PATCH_SIZE) / (n - 1)) for i in range(n)]


def _tiles_of(picture: Picture) -> list[_Tile]:
    """All patches of a picture, row by row."""
    labelled = picture.read()
    is_object = (labelled.labels > 0) & (labelled.labels != IGNORE_LABEL)
    if not is_object.any() or is_object.all():
        what = "no object: taken as a negative patch" if not is_object.any() else "no background"
        log.info("%s: %s", picture.labelled_by, what)
    height, width = labelled.labels.shape
    rows, cols = starts_of(height), starts_of(width)
    if len(rows) * len(cols) == 1:
        names = [_describe_fit(picture.name, height, width)]
    else:
        names = [f"{picture.name} at ({row}, {col})" for row in rows for col in cols]
    corners = [(row, col) for row in rows for col in cols]
    objects, rough = labelled.instances, labelled.rough
    marks = []
    if objects is not None and rough is not None and max(height, width) > PATCH_SIZE:
        marks = rough_marks(labelled.labels, objects, rough)
    return [
        _Tile(name, row, col, _part(labelled, row, col), tuple(_marks_near(marks, row, col)))
        for name, (row, col) in zip(names, corners, strict=True)
    ]


def _part(labelled: Labelled, row: int, col: int) -> Labelled:
    objects, rough = labelled.instances, labelled.rough
    return Labelled(
        _window(labelled.image, row, col, None),
        _window(labelled.labels, row, col, IGNORE_LABEL),
        None if objects is None else _window(objects, row, col, 0),
        None if rough is None else _window(rough, row, col, 0),
    )


def _marks_near(marks: Sequence[RoughMark], row: int, col: int) -> Iterator[RoughMark]:
    """Those in a patch at a corner, or so near that their objects may reach into it, in its px."""
    for mark in marks:
        near = NEAR if mark.kind == POINT else 0
        top, left, bottom, right = mark.top - row, mark.left - col, mark.bottom - row, mark.right - col
        if min(bottom, right) > -near and max(top, left) < PATCH_SIZE + near:
            yield replace(mark, top=top, left=left, bottom=bottom, right=right)


def _window(array: NDArray[Any], row: int, col: int, fill: int | None) -> NDArray[Any]:
    """(224, 224, ...) of an array from a corner on; beyond its edge ``fill``, or the repeated edge if it is None."""
    height, width = array.shape[:2]
    part = array[max(0, row) : row + PATCH_SIZE, max(0, col) : col + PATCH_SIZE]
    missing = [
        (max(0, -start), max(0, start + PATCH_SIZE - side)) for start, side in ((row, height), (col, width))
    ]
    if not any(map(sum, missing)):
        return part.copy()  # so that the rest of the picture can go
    missing += [(0, 0)] * (array.ndim - 2)
    return np.pad(part, missing, "edge") if fill is None else np.pad(part, missing, constant_values=fill)


def _spread(tiles: Sequence[_Tile]) -> list[_Tile]:
    """Patches of a picture so that the first ones, however many are taken, lie far from each other.

    Those with objects come first, beginning with the one that has most of them.
    """
    if len(tiles) == 1:
        return list(tiles)
    counts = np.array([tile.n_object_pixels for tile in tiles])
    places = np.array([(tile.row, tile.col) for tile in tiles], float)
    apart = np.full(len(tiles), np.inf)
    order: list[int] = []
    for group in (counts > 0, counts == 0):
        left = group.copy()
        while left.any():
            far = np.where(left, apart, -1.0)
            first = np.argmax(np.where(far == far.max(), counts, -1))
            order.append(int(first))
            left[first] = False
            apart = np.minimum(apart, ((places - places[first]) ** 2).sum(axis=1))
    return [tiles[i] for i in order]


def _quotas(of_pictures: Sequence[Sequence[_Tile]], budget: int) -> list[int]:
    """How many patches to keep of each picture: one at least, then those with objects, then the others."""
    sizes = [len(tiles) for tiles in of_pictures]
    if sum(sizes) <= budget:
        return sizes
    with_objects = [max(1, sum(tile.n_object_pixels > 0 for tile in tiles)) for tiles in of_pictures]
    quotas = [1] * len(sizes)
    for limits in (with_objects, sizes):
        while sum(quotas) < budget:
            can = [i for i, quota in enumerate(quotas) if quota < limits[i]]
            if not can:
                break
            least = min(can, key=lambda i: quotas[i])
            quotas[least] += 1
    return quotas


def _labelled_once(tiles: Sequence[_Tile]) -> Iterator[_Tile]:
    """Patches of a picture in the order of rows, each pixel labelled in the one whose centre is nearest."""
    in_order = sorted(tiles, key=lambda tile: (tile.row, tile.col))
    for tile in in_order:
        taken = np.zeros((PATCH_SIZE, PATCH_SIZE), bool)
        for other in in_order:
            down, right = other.row - tile.row, other.col - tile.col
            if other is not tile and max(abs(down), abs(right)) < PATCH_SIZE:
                taken |= _nearer(down, right)
        labels = np.where(taken, np.uint8(IGNORE_LABEL), tile.part.labels)
        objects, rough = tile.part.instances, tile.part.rough
        if objects is not None:
            objects = np.where(taken, np.int32(0), objects)
        if rough is not None:
            rough = np.where(taken, np.uint8(0), rough)
        yield replace(tile, part=Labelled(tile.part.image, labels, objects, rough))


def _nearer(down: int, right: int) -> NDArray[np.bool_]:
    """Pixels (224, 224) of a patch that are also in another one, and nearer to its centre; its corner lies there.

    At the same distance, they are of the upper or left one.
    """
    row, col = np.mgrid[:PATCH_SIZE, :PATCH_SIZE] - (PATCH_SIZE - 1) / 2
    own, others = row**2 + col**2, (row - down) ** 2 + (col - right) ** 2
    shared = (np.abs(row - down) < PATCH_SIZE / 2) & (np.abs(col - right) < PATCH_SIZE / 2)
    is_first = (down, right) < (0, 0)
    nearer: NDArray[np.bool_] = shared & ((others <= own) if is_first else (others < own))
    return nearer


def _describe_fit(name: str, height: int, width: int) -> str:
    if (height, width) == (PATCH_SIZE, PATCH_SIZE):
        return name
    what = (
        "padded"
        if max(height, width) <= PATCH_SIZE
        else "its centre"
        if min(height, width) >= PATCH_SIZE
        else "centre, padded"
    )
    log.info("%s: is %d x %d px, not %d x %d: used %s", name, height, width, PATCH_SIZE, PATCH_SIZE, what)
    return f"{name} ({what}; was {height} x {width})"
