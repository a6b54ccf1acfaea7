"""Hot spots: the circles of a given area with the most objects, as pathologists choose fields to count in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from scipy.spatial import cKDTree
from shapely.geometry.base import BaseGeometry

STEPS = 8
"""Circles are tried around the points of a grid whose spacing is the radius divided by this."""

BATCH = 256
"""Circles that are counted at once, the most promising first."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HotSpot:
    """A circle: its centre and radius, in the unit of the points, and how many of them it holds."""

    x: float
    y: float
    radius: float
    count: int


@dataclass(frozen=True, slots=True)
class Grid:
    """Centres that are tried: ``x0 + i * step``, ``y0 + j * step``, for i below ``n_x`` and j below ``n_y``."""

    x0: float
    y0: float
    step: float
    n_x: int
    n_y: int

    @classmethod
    def within(cls, bounds: tuple[float, float, float, float], radius: float) -> Grid:
        """Of circles that lie in a rectangle (left, top, right, bottom); its middle, along a side too short for one."""
        left, top, right, bottom = bounds
        step = radius / STEPS
        x0, n_x = _along(left, right, radius, step)
        y0, n_y = _along(top, bottom, radius, step)
        return cls(x0, y0, step, n_x, n_y)


def _along(low: float, high: float, radius: float, step: float) -> tuple[float, int]:
    """The first centre along a side, and how many there are."""
    room = high - low - 2 * radius
    n = int(room / step * (1 + 1e-12)) + 1 if room > 0 else 1
    return low + radius + (room - (n - 1) * step) / 2, n


def hot_spots(
    points: Floats,
    radius: float,
    n: int,
    bounds: tuple[float, float, float, float],
    within: BaseGeometry | None = None,
) -> list[HotSpot]:
    """The circle that holds the most points, then the one that does of those that do not overlap it, and so on.

    The maximum over all circles of the `Grid` is exact: a circle is left out only if the cells that it touches hold too
    few. Of circles with as many points, the one whose centre is nearest to their mean is taken, then the uppermost,
    then the leftmost.

    Parameters
    ----------
    points
        (n, 2) float64 x, y.
    radius
        Of the circles.
    n
        How many at most; fewer are returned where no other holds a point.
    bounds
        Circles lie in this rectangle: left, top, right, bottom.
    within
        Their centres lie in this polygon, too; None: anywhere.

    Examples
    --------
    >>> crowd = np.array([[2.0, 2.0], [3.0, 2.0], [9.0, 9.0]])
    >>> [(spot.x, spot.y, spot.count) for spot in hot_spots(crowd, 1.0, 5, (0, 0, 12, 12))]
    [(2.5, 2.0, 2), (9.0, 9.0, 1)]
    """
    if not len(points) or n < 1:
        return []
    grid = Grid.within(bounds, radius)
    most = _most(points, grid)
    order = np.flatnonzero(most)
    order = order[np.argsort(-most[order], kind="stable")]
    rows, cols = np.divmod(order, grid.n_x)
    centres = np.column_stack([grid.x0 + cols * grid.step, grid.y0 + rows * grid.step])
    most = most[order]
    if within is not None:
        shapely.prepare(within)
        inside = shapely.contains_xy(within, *centres.T)
        centres, most = centres[inside], most[inside]
    tree = cKDTree(points)
    counts = np.full(len(centres), -1, np.int64)
    found: list[HotSpot] = []
    while len(found) < n and len(centres):
        best = _best(tree, centres, most, counts, radius)
        if best is None:
            break
        x, y = centres[best].tolist()
        found.append(HotSpot(x, y, radius, int(counts[best])))
        apart = np.hypot(centres[:, 0] - x, centres[:, 1] - y) >= 2 * radius
        centres, most, counts = centres[apart], most[apart], counts[apart]
    return found


def _most(points: Floats, grid: Grid) -> Ints:
    """For each circle of a grid, row by row, at least how many points it can hold: those of all cells it touches.

    Cells are squares of one step around the points of the grid.
    """
    reach = STEPS + 1
    cols = np.floor((points[:, 0] - grid.x0) / grid.step + 0.5).astype(np.int64) + reach
    rows = np.floor((points[:, 1] - grid.y0) / grid.step + 0.5).astype(np.int64) + reach
    height, width = grid.n_y + 2 * reach, grid.n_x + 2 * reach
    near = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    cells = np.bincount(rows[near] * width + cols[near], minlength=height * width).reshape(height, width)
    sums = np.pad(cells.cumsum(axis=1), ((0, 0), (1, 0)))
    most = np.zeros((grid.n_y, grid.n_x), np.int64)
    for down in range(-reach, reach + 1):
        nearest = max(0.0, abs(down) - 0.5)  # steps from the centre to this row of cells
        if nearest > STEPS + 1e-6:
            continue
        half = min(reach, int(np.floor(np.sqrt(max(0.0, STEPS**2 - nearest**2)) + 0.5 + 1e-6)))
        of_row = sums[down + reach : down + reach + grid.n_y]
        most += of_row[:, reach + half + 1 :][:, : grid.n_x] - of_row[:, reach - half :][:, : grid.n_x]
    return most.ravel()


def _best(tree: cKDTree, centres: Floats, most: Ints, counts: Ints, radius: float) -> int | None:
    """Which circle holds the most points; None if none holds any. ``counts`` (n,) gets those that are counted.

    Centres are in the order of ``most``, the number that each can hold, the largest first.
    """
    top = int(counts.max(initial=0))
    end = int(np.searchsorted(-most, -max(1, top), "right"))
    todo = np.flatnonzero(counts[:end] < 0)
    for start in range(0, len(todo), BATCH):
        batch = todo[start : start + BATCH]
        if most[batch[0]] < max(1, top):
            break
        counts[batch] = tree.query_ball_point(centres[batch], radius, return_length=True)
        top = max(top, int(counts[batch].max()))
    if top < 1:
        return None
    tied = np.flatnonzero(counts == top)
    if len(tied) == 1:
        return int(tied[0])
    inside = tree.query_ball_point(centres[tied], radius)
    means = np.array([tree.data[sorted(rows)].mean(axis=0) for rows in inside])
    off = np.round(np.hypot(*(means - centres[tied]).T) / radius, 9)
    x, y = centres[tied].T
    return int(tied[np.lexsort((x, y, off))[0]])
