"""Outlines of the objects in a label image, in world coordinates; simplified where wanted."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from shapely.geometry import MultiPolygon, Polygon

from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.vectors.layers import Geometries
from fewscope.pipeline.geometry.contours import trace_parts


def footprints(
    labels: npt.NDArray[Any],
    origin: tuple[int, int],
    transform: Affine,
    ids: npt.ArrayLike | None = None,
    simplify_px: float = 0.0,
) -> Iterator[tuple[int, Polygon | MultiPolygon]]:
    """Outlines of the objects in a label image, along the pixel edges, in world coordinates.

    Parts of one id that touch at most at corners are gathered in a MultiPolygon. An object that lies wholly
    in the window has the same footprint whatever the window. **Objects that the window cuts are cut.**

    Parameters
    ----------
    labels : npt.NDArray[Any]
        (H, W) array of any integer dtype 0 is background.
    origin : tuple[int, int]
        (int, int) (row, col) of ``labels[0, 0]`` on the grid that ``transform`` belongs to.
    transform : Affine
        Pixel corner (col, row) -> world (x, y).
    ids : npt.ArrayLike | None
        Array-like of int, optional Only these ids; all when None.
    simplify_px : float
        Outlines may be off by this many pixels, to have fewer points; each stays valid. 0: exact.

    Yields
    ------
    (int, Polygon or MultiPolygon)
        In the order of the ids; valid and normalised (`shapely.normalize`).

    Examples
    --------
    >>> [(instance, outline)] = footprints(np.array([[0, 7, 7]]), (10, 20), Affine.scale(2))
    >>> instance, outline.wkt
    (7, 'POLYGON ((42 20, 42 22, 46 22, 46 20, 42 20))')
    """
    found, geometries = _trace(labels, origin, ids)
    if not len(found):
        return
    geometries = shapely.normalize(geometries)
    yield from zip(found.tolist(), to_world(simplify(geometries, simplify_px), transform), strict=True)


def simplify(geometries: Geometries, tolerance: float) -> Geometries:
    """Outlines with fewer points, off by at most ``tolerance``; one that would not stay valid is left as it is."""
    if tolerance <= 0:
        return geometries
    # Three times as fast, but it may lose holes and parts, and cross itself: then again, with more care.
    simple = shapely.simplify(geometries, tolerance, preserve_topology=False)
    is_polygon = shapely.get_type_id(geometries) == shapely.GeometryType.POLYGON
    same_holes = shapely.get_num_interior_rings(simple) == shapely.get_num_interior_rings(geometries)
    again = ~(is_polygon & same_holes & _is_usable(simple))
    careful = shapely.simplify(geometries[again], tolerance, preserve_topology=True)
    simple[again] = np.where(_is_usable(careful), careful, geometries[again])
    return simple


def _is_usable(geometries: Geometries) -> npt.NDArray[np.bool_]:
    usable: npt.NDArray[np.bool_] = shapely.is_valid(geometries) & ~shapely.is_empty(geometries)
    return usable


def to_world(geometries: Geometries, transform: Affine) -> Geometries:
    """Geometries in pixels (x = col, y = row) taken to the world, normalised.

    Element by element: from whole-numbered global pixels, the window of a trace cannot show in the last bit.
    """
    world: Geometries = shapely.transform(geometries, lambda points: place_points(points, transform))
    return shapely.normalize(world)


def _trace(
    labels: npt.NDArray[Any], origin: tuple[int, int], ids: npt.ArrayLike | None
) -> tuple[npt.NDArray[np.int64], Geometries]:
    """Sorted ids and their valid geometries in global pixel coordinates (x = col, y = row)."""
    wanted = None if ids is None else np.asarray(ids, np.int64)
    if wanted is not None and len(wanted) == 1:
        labels = np.where(labels == wanted[0], labels, 0)
    of_parts, parts = trace_parts(labels)
    if wanted is not None:
        here = np.isin(of_parts, wanted)
        of_parts, parts = of_parts[here], parts[here]
    if not len(of_parts):
        return of_parts, parts
    parts = shapely.transform(parts, lambda points: points + np.array([origin[1], origin[0]]))
    found, start, count = np.unique(of_parts, return_index=True, return_counts=True)
    geometries = parts[start]
    several = np.flatnonzero(count > 1)
    if len(several):
        member = np.repeat(count > 1, count)
        index = np.repeat(np.arange(len(several)), count[several])
        geometries[several] = shapely.multipolygons(parts[member], indices=index)
    invalid = ~shapely.is_valid(geometries)
    if invalid.any():
        geometries[invalid] = shapely.make_valid(geometries[invalid])
    return found, geometries
