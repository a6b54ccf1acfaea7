"""Outlines of instances as rings of points, for the files of programs that know no polygons with holes."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

Ring = NDArray[np.float64]
"""(n, 2) points x, y; the first is not repeated at the end."""

Bounds = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Outline:
    """An instance of a result.

    Attributes
    ----------
    instance
        Its id, as in the table of instances.
    value
        Of its class: 1, 2...
    name
        Of its class.
    probability
        Mean over its pixels, 0 to 1.
    polygons
        Its parts, each a ring and those of its holes.
    """

    instance: int
    value: int
    name: str
    probability: float
    polygons: tuple[tuple[Ring, ...], ...]

    @property
    def title(self) -> str:
        """Class and id, by which people find it in the table: ``nucleus-12``."""
        return f"{self.name}-{self.instance}"

    @property
    def bounds(self) -> Bounds:
        """The box around all parts."""
        return bounds_of(np.concatenate([rings[0] for rings in self.polygons]))

    @property
    def area(self) -> float:
        """Without the holes."""
        return sum(
            abs(signed_area(rings[0])) - sum(abs(signed_area(hole)) for hole in rings[1:])
            for rings in self.polygons
        )


def bounds_of(points: Ring) -> Bounds:
    """The box around points."""
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right, bottom


def signed_area(ring: Ring) -> float:
    """Area of a ring, positive if it turns from the x axis to the y axis.

    >>> signed_area(np.array([[0.0, 0], [2, 0], [2, 3], [0, 3]]))
    6.0
    """
    x, y = (ring - ring[0]).T  # far from the origin, products would lose digits
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def length_of(ring: Ring) -> float:
    """Length of a closed ring."""
    return float(np.hypot(*(ring - np.roll(ring, 1, axis=0)).T).sum())


def keyhole(rings: tuple[Ring, ...]) -> Ring:
    """A polygon with holes as one ring: it goes to each hole, around it, and back the way it came.

    Its area is that of the polygon, whether programs fill by winding or by parity.

    >>> square = np.array([[0.0, 0], [0, 6], [6, 6], [6, 0]])
    >>> hole = np.array([[2.0, 2], [4, 2], [4, 4], [2, 4]])
    >>> keyhole((square, hole))[:4].tolist()
    [[0.0, 0.0], [0.0, 2.0], [2.0, 2.0], [4.0, 2.0]]
    >>> abs(signed_area(keyhole((square, hole))))
    32.0
    """
    whole, *holes = rings
    turn = np.sign(signed_area(whole))
    for hole in sorted(holes, key=lambda ring: float(ring[:, 0].min())):
        start = np.lexsort((hole[:, 1], hole[:, 0]))[0]
        around = np.roll(hole, -start, axis=0)
        if np.sign(signed_area(around)) == turn:
            around = np.roll(around[::-1], 1, axis=0)
        after, bridge = _to_the_left(whole, around[0])
        whole = np.concatenate(
            [whole[: after + 1], [bridge], around, around[:1], [bridge], whole[after + 1 :]]
        )
    return whole


def _to_the_left(ring: Ring, point: NDArray[np.float64]) -> tuple[int, NDArray[np.float64]]:
    """Where a ring is first met on the way to the left: number of the point before, and the place.

    Holes are joined from left to right, so that nothing but the ring lies on the way. Where it is met at most at a
    corner, the nearest point.
    """
    ends = np.roll(ring, -1, axis=0)
    crosses = (ring[:, 1] <= point[1]) != (ends[:, 1] <= point[1])
    at = np.flatnonzero(crosses)
    (x0, y0), (x1, y1) = ring[at].T, ends[at].T
    x = x0 + (point[1] - y0) * (x1 - x0) / (y1 - y0)
    at, x = at[x <= point[0]], x[x <= point[0]]
    if not len(at):
        nearest = int(np.hypot(*(ring - point).T).argmin())
        return nearest, ring[nearest]
    last = int(x.argmax())
    return int(at[last]), np.array([x[last], point[1]])


def attribute(text: str) -> str:
    """A text as the value of an XML attribute, in quotes; what XML cannot hold is left out."""
    return quoteattr("".join(c for c in text if c.isprintable()))


def hexadecimal(colour: tuple[int, int, int]) -> str:
    """RGB as ``#e6550d``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
