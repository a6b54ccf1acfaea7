"""Connected-component labelling that is exact across seams, however the source is cut into units.

Each unit labels its own core. Labels that touch at a seam are read from the label lines along it, and a union of these
few labels gives the objects: the same as labelling the whole image at once. Objects are numbered 1..N in raster order
of their first pixel, so the ids do not depend on the units either.

Time and memory are linear in the number of labels, in a few integer arrays; there is no loop over objects.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Literal

import cc3d
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fewscope.pipeline.tiling.grid import Unit, grid_shape

_NEIGHBOURS: dict[int, Literal[4, 8]] = {
    1: 4,
    2: 8,
}  # connectivity as scikit-image and scipy count it -> as cc3d does


@dataclass(frozen=True, slots=True, eq=False)
class Borders:
    """Labels along the four sides of a unit's core, uint32: what its neighbours need for merging.

    ``down`` (3, w) and ``across`` (3, h), bool, are True where a contact across the lower or the right seam belongs to
    one object: ``down[1 + k, j]`` is the contact of bottom pixel j with pixel j + k of the line below (which may belong
    to a diagonal neighbour), k = -1, 0, 1; ``across`` likewise for the right side. None: all contacts do.
    """

    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray
    down: np.ndarray | None = None
    across: np.ndarray | None = None

    @classmethod
    def of(
        cls, labels: np.ndarray, down: np.ndarray | None = None, across: np.ndarray | None = None
    ) -> "Borders":
        """The borders of a label image (h, w), copied."""
        sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        top, bottom, left, right = (side.astype(np.uint32) for side in sides)
        return cls(top, bottom, left, right, down, across)

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name, for a file: ``Borders(**borders.arrays())`` gives the same borders."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in named.items() if array is not None}


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """Final id of each label of each unit.

    Attributes
    ----------
    n_instances : int
        N; ids are 1..N in raster order of the objects' first pixels.
    offsets : (n_units + 1,) int64
        Label l of unit u has the entry ``offsets[u] + l - 1`` of `ids`.
    ids : (n_labels of all units,) uint32
        Id of the object that a label belongs to; 0: dropped.
    shared : (N + 1,) bool
        True for objects of more than one label.
    n_dropped, dropped_px : int
        Number of the objects that were dropped as too small, and their total area in px.
    """

    n_instances: int
    offsets: np.ndarray
    ids: np.ndarray
    shared: np.ndarray
    n_dropped: int = 0
    dropped_px: int = 0

    def lookup(self, unit_index: int) -> np.ndarray:
        """Lookup table (n + 1,) uint32 from the labels of a unit to ids: ``lookup[labels]``."""
        start, stop = self.offsets[unit_index], self.offsets[unit_index + 1]
        return np.concatenate([np.zeros(1, np.uint32), self.ids[start:stop]])


def label_core(mask: np.ndarray, connectivity: int = 2) -> tuple[np.ndarray, int]:
    """Connected components of a mask.

    Parameters
    ----------
    mask : (h, w) bool
    connectivity : int
        As in scipy: 1: pixels that share a side are connected; 2: also those that share a corner.

    Returns
    -------
    labels : (h, w) uint32
        0 background, 1..n in raster order of the components' first pixels.
    n : int
    """
    neighbours = _neighbours(connectivity)
    if not mask.any():
        return np.zeros(mask.shape, np.uint32), 0
    # uint8, not bool: cc3d 4.1.1's special case for binary images is wrong where a side is odd.
    pixels = np.ascontiguousarray(mask).view(np.uint8)
    labels, n = cc3d.connected_components(pixels, connectivity=neighbours, return_N=True, out_dtype=np.uint32)
    return labels, int(n)


def seam_pairs(
    units: Sequence[Unit],
    borders: Sequence[Borders | None],
    n_labels: Sequence[int],
    connectivity: int = 2,
) -> np.ndarray:
    """Pairs of labels of different units that touch across a seam, or at the corner of four units.

    The sides of a whole row (or column) of units are concatenated, so corners need no special case.

    Parameters
    ----------
    units : sequence of Unit
        The plan, in raster order.
    borders : sequence of Borders or None
        One per unit; None for a unit without labels.
    n_labels : sequence of int
        Number of labels of each unit.
    connectivity : int
        As in `label_core`.

    Returns
    -------
    (n, 2) int64, unique rows: indices into `Merge.ids`.

    Raises
    ------
    ValueError
        A unit has labels and no borders.
    """
    _neighbours(connectivity)
    offsets = _offsets(n_labels)
    for unit in units:
        if borders[unit.index] is None and n_labels[unit.index]:
            raise ValueError(
                f"unit {unit.name} has {n_labels[unit.index]} labels and no borders; run it again"
            )
    n_rows, n_cols = grid_shape(units)
    lines = [[units[row * n_cols + col] for col in range(n_cols)] for row in range(n_rows)]
    columns = [list(column) for column in zip(*lines, strict=True)]
    found = [np.zeros((0, 2), np.int64)]
    for before, after in pairwise(lines):
        one, other = (
            _labels_along(before, borders, offsets, "bottom"),
            _labels_along(after, borders, offsets, "top"),
        )
        found.append(_touching_pairs(one, other, _links_along(before, borders, "down"), connectivity))
    for before, after in pairwise(columns):
        one, other = (
            _labels_along(before, borders, offsets, "right"),
            _labels_along(after, borders, offsets, "left"),
        )
        found.append(_touching_pairs(one, other, _links_along(before, borders, "across"), connectivity))
    return _unique_pairs(np.concatenate(found))


def merge_labels(
    n_labels: Sequence[int],
    pairs: np.ndarray,
    first: Iterable[np.ndarray],
    area: Iterable[np.ndarray],
    min_area: int | np.ndarray = 0,
) -> Merge:
    """Merge labels that belong to one object, drop small objects, number the rest in raster order.

    Parameters
    ----------
    n_labels : sequence of int
        Number of labels of each unit.
    pairs : (n, 2) int64
        From `seam_pairs`.
    first : Iterable[np.ndarray]
        Iterable of (n_labels[u],) int64 For each unit, in label order: the first pixel of each label, ``row *
        width + col`` in the source.
    area : Iterable[np.ndarray]
        Iterable of (n_labels[u],) int64 Likewise, the area in px.
    min_area : int or (n_labels of all units,) int64
        Objects with a smaller total area are dropped, px; one value, or one for each label.

    Raises
    ------
    ValueError
        The arrays do not have one entry per label.
    """
    offsets = _offsets(n_labels)
    total = int(offsets[-1])
    object_first = _concatenate(first, total, "first")
    object_area = _concatenate(area, total, "area")

    # Only labels at seams can share an object, so the union is over them alone. The label with an object's first
    # pixel represents it.
    touching, numbered = np.unique(pairs, return_inverse=True)
    numbered = numbered.reshape(-1, 2)
    edges = (np.ones(len(numbered), np.int8), (numbered[:, 0], numbered[:, 1]))
    n_groups, group = connected_components(coo_array(edges, shape=(len(touching),) * 2), directed=False)
    group_first = np.full(n_groups, np.iinfo(np.int64).max)
    np.minimum.at(group_first, group, object_first[touching])
    group_area = np.zeros(n_groups, np.int64)
    np.add.at(group_area, group, object_area[touching])
    represents = object_first[touching] == group_first[group]
    representative = np.zeros(n_groups, np.int64)
    representative[group[represents]] = touching[represents]
    object_area[touching] = group_area[group]

    large = object_area >= min_area
    is_object = np.ones(total, bool)
    is_object[touching[~represents]] = False
    small = is_object & ~large
    large &= is_object
    kept = np.flatnonzero(large)
    n_instances = len(kept)
    ids = np.zeros(total, np.uint32)
    ids[kept[np.argsort(object_first[kept])]] = np.arange(1, n_instances + 1, dtype=np.uint32)
    ids[touching] = ids[representative[group]]
    shared = np.zeros(n_instances + 1, bool)
    shared[ids[touching]] = True
    shared[0] = False
    return Merge(n_instances, offsets, ids, shared, int(small.sum()), int(object_area[small].sum()))


def _neighbours(connectivity: int) -> Literal[4, 8]:
    if connectivity not in _NEIGHBOURS:
        raise ValueError(f"connectivity {connectivity} is neither 1 (sides) nor 2 (sides and corners)")
    return _NEIGHBOURS[connectivity]


def _offsets(n_labels: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(n_labels, dtype=np.int64)]).astype(np.int64)


def _concatenate(parts: Iterable[np.ndarray], total: int, name: str) -> np.ndarray:
    """The arrays of all units concatenated, (total,) int64; always a copy."""
    joined = np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64, copy=False)
    if len(joined) != total:
        raise ValueError(
            f"{len(joined)} values of {name} for {total} labels; one per label is needed, in label order"
        )
    return joined


def _length(unit: Unit, side: str) -> int:
    return unit.core.width if side in ("top", "bottom", "down") else unit.core.height


def _labels_along(
    units: Sequence[Unit], borders: Sequence[Borders | None], offsets: np.ndarray, side: str
) -> np.ndarray:
    """Labels along one side of a row of units, int64: indices into `Merge.ids`, -1 for background."""
    parts = []
    for unit in units:
        border = borders[unit.index]
        if border is None:
            parts.append(np.full(_length(unit, side), -1, np.int64))
        else:
            labels = getattr(border, side).astype(np.int64)
            parts.append(np.where(labels > 0, labels + (offsets[unit.index] - 1), -1))
    return np.concatenate(parts)


def _links_along(units: Sequence[Unit], borders: Sequence[Borders | None], side: str) -> np.ndarray:
    """``down`` or ``across`` along a row of units, (3, n) bool."""
    parts = []
    for unit in units:
        border = borders[unit.index]
        links = None if border is None else getattr(border, side)
        parts.append(np.ones((3, _length(unit, side)), bool) if links is None else links)
    return np.concatenate(parts, axis=1)


def _touching_pairs(one: np.ndarray, other: np.ndarray, links: np.ndarray, connectivity: int) -> np.ndarray:
    """Pairs that touch across one seam, (n, 2) int64, unique rows."""
    n = len(one)
    found = []
    for shift in (-1, 0, 1) if connectivity == 2 else (0,):
        here = slice(max(0, -shift), n - max(0, shift))
        there = slice(max(0, shift), n - max(0, -shift))
        touch = (one[here] >= 0) & (other[there] >= 0) & links[1 + shift, here]
        found.append(np.stack([one[here][touch], other[there][touch]], axis=1))
    return _unique_pairs(np.concatenate(found))


def _unique_pairs(pairs: np.ndarray) -> np.ndarray:
    """Unique rows of (n, 2) int64, sorted; much faster than ``np.unique(axis=0)``."""
    base = int(pairs.max(initial=0)) + 1  # its square fits int64 for up to 3e9 labels
    keys = np.unique(pairs[:, 0] * base + pairs[:, 1])
    return np.stack(np.divmod(keys, base), axis=1)
