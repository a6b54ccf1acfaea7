"""Outlines of all objects of a label image at once, along the pixel edges, in a few passes over arrays.

A slide may have a million nuclei, so a loop over objects in Python would dominate the run time. Every edge between a
pixel and another label points to the edge that follows it around the object; the rings are the cycles of that
permutation, and one walk along all of them, hooked together into a single path, puts every edge in its place.
"""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
import numpy.typing as npt
import shapely
from scipy import sparse
from scipy.sparse import csgraph

from fewscope.connectors.vectors.layers import Geometries

EAST, SOUTH, WEST, NORTH = range(4)
"""Directions of an edge, with the object on its right: along the top, right, bottom and left side of its pixel."""

STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])
"""(row, col) of each direction."""

START = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
"""Corner of its pixel, (row, col), that an edge of each direction starts at."""


def trace_parts(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[np.int64], Geometries]:
    """Polygons of the 4-connected parts of each label.

    Parameters
    ----------
    labels : npt.NDArray[Any]
        (H, W) integers; 0 is background.

    Returns
    -------
    ids : (P,) int64, the label of each part, ascending; parts of one label in the order of their first pixels
    parts : (P,) polygons, x = col and y = row of pixel corners, points only where an outline turns. A ring may touch
        itself at a corner, where two holes meet: such a polygon is not valid in the sense of OGC.

    Examples
    --------
    >>> ids, parts = trace_parts(np.array([[7, 7, 0], [0, 0, 2]]))
    >>> ids.tolist(), [shapely.normalize(part).wkt for part in parts]
    ([2, 7], ['POLYGON ((2 1, 2 2, 3 2, 3 1, 2 1))', 'POLYGON ((0 0, 0 1, 2 1, 2 0, 0 0))'])
    """
    padded = np.pad(labels, 1)
    pixel, direction, follower = _edges(padded)
    if not len(pixel):
        return np.zeros(0, np.int64), np.zeros(0, object)
    order, starts = _walk(follower)
    pixel, direction = pixel[order], direction[order]
    width = padded.shape[1]
    # back from the padded image: its pixel (1, 1) is pixel (0, 0)
    rows = pixel // width - 1 + START[direction, 0]
    cols = pixel % width - 1 + START[direction, 1]

    lengths = np.diff(np.append(starts, len(order)))
    before = np.arange(-1, len(order) - 1)
    before[starts] = starts + lengths - 1  # of a ring's first edge, the last one
    turns = direction != direction[before]
    ring_of = np.repeat(np.arange(len(starts)), lengths)
    points, point_ring = np.stack([cols[turns], rows[turns]], axis=1).astype(np.float64), ring_of[turns]
    n_points = np.bincount(point_ring, minlength=len(starts))
    # clockwise around an object, as rows count downwards; the other way around a hole
    right = np.add.reduceat(
        np.where(direction == SOUTH, cols, np.where(direction == NORTH, -cols, 0)), starts
    )
    is_hole = right < 0
    return _polygons(padded, pixel[starts], points, n_points, is_hole)


def _edges(
    padded: npt.NDArray[Any],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Edges between a pixel and another label: flat index of the pixel, direction, and place of the edge after it."""
    flat = padded.ravel()
    width = padded.shape[1]
    ahead = STEPS @ (width, 1)  # in flat indices
    # where a pixel and the one to its right, or below it, differ: a side of the one, of the other, or of both
    across = _places(padded[:, 1:] != padded[:, :-1], width)
    down = _places(padded[1:] != padded[:-1], width)
    pixels = [down + width, across, down, across + 1]  # to the east along the top of the lower one, and so on
    pixels = [of_side[flat[of_side] != 0] for of_side in pixels]
    pixel = np.concatenate(pixels)
    direction = np.repeat(np.arange(4, dtype=np.int8), [len(p) for p in pixels])
    label = flat[pixel]
    front = pixel + ahead[direction]
    beyond = front + ahead[(direction - 1) % 4]  # in front, to the left
    goes_on = flat[front] == label
    turns_left = goes_on & (flat[beyond] == label)
    next_pixel = np.where(turns_left, beyond, np.where(goes_on, front, pixel))
    next_direction = np.where(turns_left, direction - 1, np.where(goes_on, direction, direction + 1)) % 4
    first = np.cumsum([0, *(len(p) for p in pixels)])
    follower = np.empty(len(pixel), np.int64)
    for d in range(4):
        here = next_direction == d
        follower[here] = first[d] + np.searchsorted(pixels[d], next_pixel[here])
    return pixel, direction, follower


def _places(where: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.int64]:
    """Flat indices, in an array of that width, of what is True in its upper left part."""
    found = np.flatnonzero(where)
    n = where.shape[1]
    return found if n == width else found // n * width + found % n


def _walk(follower: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Elements of a permutation, cycle by cycle, each in its order from its least element; and where cycles begin."""
    n = len(follower)
    every = np.arange(n)
    links = sparse.csr_array((np.ones(n, np.int8), follower, np.arange(n + 1)), shape=(n, n))
    n_cycles, cycle = csgraph.connected_components(links, directed=True, connection="weak")
    first = np.full(n_cycles, n)
    np.minimum.at(first, cycle, every)
    first = np.sort(first)
    # the last element of each cycle leads to the first of the next one, and the very last nowhere
    path = follower.copy()
    last = np.empty(n, np.int64)
    last[follower] = every
    path[last[first[:-1]]] = first[1:]
    is_end = last[first[-1]]
    indptr = np.arange(n + 1)
    indptr[is_end + 1 :] -= 1
    links = sparse.csr_array((np.ones(n - 1, np.int8), np.delete(path, is_end), indptr), shape=(n, n))
    order = csgraph.depth_first_order(links, first[0], directed=True, return_predecessors=False)
    place = np.empty(n, np.int64)
    place[order] = every
    return order.astype(np.int64), place[first]


def _polygons(
    padded: npt.NDArray[Any],
    pixel: npt.NDArray[np.int64],
    points: npt.NDArray[np.float64],
    n_points: npt.NDArray[np.int64],
    is_hole: npt.NDArray[np.bool_],
) -> tuple[npt.NDArray[np.int64], Geometries]:
    """Rings gathered into polygons; `pixel` is one of the object beside each ring."""
    ids = padded.ravel()[pixel].astype(np.int64)
    part: npt.NDArray[np.int64] = ids
    shells = np.sort(ids[~is_hole])
    if is_hole.any() and np.isin(ids[is_hole], shells[1:][shells[1:] == shells[:-1]]).any():
        # a label of several parts has a hole: whose?
        parts = cc3d.connected_components(np.ascontiguousarray(padded), connectivity=4)
        part = parts.ravel()[pixel].astype(np.int64)
    # shells by label and first pixel; every hole behind the shell of its part
    shell_at = np.flatnonzero(~is_hole)
    shell_at = shell_at[np.lexsort((pixel[shell_at], ids[shell_at]))]
    by_part = np.argsort(part[shell_at], kind="stable")
    rank = np.empty(len(ids), np.int64)
    rank[shell_at] = np.arange(len(shell_at))
    holes = np.flatnonzero(is_hole)
    rank[holes] = by_part[np.searchsorted(part[shell_at], part[holes], sorter=by_part)]
    order = np.lexsort((pixel, is_hole, rank))

    starts = np.concatenate([[0], np.cumsum(n_points)])
    closed = n_points[order] + 1  # the first point again
    ring_offsets = np.concatenate([[0], np.cumsum(closed)])
    within = np.arange(ring_offsets[-1]) - np.repeat(ring_offsets[:-1], closed)
    taken = np.repeat(starts[order], closed) + within % np.repeat(n_points[order], closed)
    part_offsets = np.append(np.flatnonzero(~is_hole[order]), len(order))
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON, points[taken], (ring_offsets, part_offsets)
    )
    return ids[shell_at], polygons
