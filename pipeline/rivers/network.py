"""The river network of a water mask: centrelines, lengths in metres, widths along them, braiding.

The graph of the skeleton (``skeleton.py``) is pruned, each of its paths becomes a centreline (``centreline.py``), and
connected ones form a river: one main channel from end to end, side channels around islands, and branches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cc3d
import networkx as nx
import numpy as np
import shapely
from affine import Affine
from skimage.morphology import remove_small_holes

from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.rivers.centreline import (
    Banks,
    Centreline,
    Floats,
    Frame,
    Mask,
    make_centreline,
    nearest_areas,
)
from fewscope.pipeline.rivers.skeleton import Node, path_from, prune, skeleton_graph

MIN_ELONGATION = 5.0
"""Ratio of length to mean width of a river; below it the object is a lake, which has no centreline."""

MIN_INNER_ELONGATION = 10.0
"""The same of an object that ends inside the raster at both ends: most short ones are lakes, not pieces of a river."""

LOOP_DEGREES = 150.0
"""An object that ends inside the raster and turns so far in one direction, and hardly back, is an oxbow lake."""

COUNTER_TURN = 0.2
"""Largest share of the turning that is in the other direction, in such an object."""

MIN_ISLAND_PX = 25
"""Holes of up to this many pixels are noise and do not split the river into two channels."""

Role = Literal["main", "side", "branch"]


@dataclass(frozen=True, slots=True, eq=False)
class Reach:
    """The river between two junctions or ends.

    Attributes
    ----------
    river : int
        Number of the river that it belongs to, from 1.
    role : Role
        "main" (on the path from end to end along the widest channels), "side" (a channel around an island), or
        "branch" (a tributary, a backwater)
    line : Floats
        (n, 2) x, y of the centreline in the raster's CRS.
    lengths_m : Floats
        (n,) the length represented by each point; px if the raster has no CRS.
    widths_m : Floats
        (n,) the width at each point, likewise.
    """

    river: int
    role: Role
    line: Floats
    lengths_m: Floats
    widths_m: Floats

    @property
    def length_m(self) -> float:
        """Along the centreline."""
        return float(self.lengths_m.sum())

    @property
    def width_m(self) -> float:
        """Mean along the centreline."""
        return float(np.average(self.widths_m, weights=self.lengths_m))


@dataclass(frozen=True, slots=True)
class River:
    """One connected river.

    Attributes
    ----------
    length_m : float
        Length of all channels.
    main_length_m : float
        Length of the main channel.
    width_m : float
        Mean over all channels.
    braiding : float
        Length of the main and the side channels over that of the main one (Friend and Sinha 1993, "Braiding and
        meandering parameters"); 1: a single thread.
    sinuosity : float | None
        Length of the main channel over the straight-line distance between its ends; None for a ring.
    """

    id: int
    length_m: float
    main_length_m: float
    width_m: float
    braiding: float
    sinuosity: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """All rivers of a mask, the longest first; lengths and widths are in px where the raster has no CRS.

    ``n_water_bodies`` counts elongated objects that are no rivers by their shape: oxbow lakes, long lakes, sounds.
    """

    rivers: tuple[River, ...]
    reaches: tuple[Reach, ...]
    n_water_bodies: int = 0

    @property
    def length_m(self) -> float:
        """Of all channels of all rivers."""
        return sum(river.length_m for river in self.rivers)

    @property
    def main_length_m(self) -> float:
        """Of the main channels of all rivers."""
        return sum(river.main_length_m for river in self.rivers)

    @property
    def in_words(self) -> str:
        """How many rivers there are, and how many elongated objects that are none, as the page says it."""
        return rivers_in_words(len(self.rivers), self.n_water_bodies)

    def widths(self) -> tuple[Floats, Floats]:
        """Widths along all centrelines, and the length represented by each: both (n,)."""
        nothing = np.zeros(0)
        return (
            np.concatenate([nothing, *(reach.widths_m for reach in self.reaches)]),
            np.concatenate([nothing, *(reach.lengths_m for reach in self.reaches)]),
        )

    @property
    def width_m(self) -> float | None:
        """Mean along all centrelines; None without rivers."""
        widths, lengths = self.widths()
        return float(np.average(widths, weights=lengths)) if len(widths) else None


def rivers_in_words(n_rivers: int, n_water_bodies: int) -> str:
    """Numbers of rivers and of other elongated water bodies, for log and page.

    >>> rivers_in_words(1, 1), rivers_in_words(0, 0)
    ('1 river, and 1 elongated water body that is no river', '0 rivers')
    """
    text = f"{n_rivers:,} {'river' if n_rivers == 1 else 'rivers'}"
    if n_water_bodies == 1:
        return f"{text}, and 1 elongated water body that is no river"
    return (
        f"{text}, and {n_water_bodies:,} elongated water bodies that are no rivers"
        if n_water_bodies
        else text
    )


def trace_network(water: Mask, transform: Affine, ground: GroundMeasure) -> Network:
    """Find the rivers in a water mask and measure them. Holds about 20 bytes per pixel.

    Parameters
    ----------
    water : (H, W) bool
    transform : Affine
        Pixel corner (col, row) -> x, y.
    ground : GroundMeasure
        How to measure; without a CRS lengths and widths are in pixels.

    Returns
    -------
    Network
        Objects less than `MIN_ELONGATION` times as long as wide are not in it, nor others that are no rivers by their
        shape (`_is_river`). A river ends where the water, or the raster, ends.
    """
    water = remove_specks(remove_small_holes(water, max_size=MIN_ISLAND_PX))
    graph = skeleton_graph(water)
    if not graph.number_of_edges() or water.all():  # without a bank there is no river
        return Network((), ())
    height, width = water.shape
    frame = Frame.of((height, width), transform, ground)
    centrelines = _centrelines(graph, water, frame)
    nodes = np.array(graph.nodes, np.int64).reshape(-1, 2)
    areas = nearest_areas(
        water, centrelines, nodes[[not graph.degree(tuple(n)) for n in nodes.tolist()]], frame
    )
    elongated = [
        river
        for members in _connected(centrelines)
        if (river := _elongated(centrelines, areas, members, frame))
    ]
    found = [
        river
        for river in elongated
        if _is_river(river[0], [(centrelines[k], role) for k, role in river[1].items()], water.shape)
    ]
    found.sort(key=lambda river: -river[0].main_length_m)
    rivers = [
        River(i, r.length_m, r.main_length_m, r.width_m, r.braiding, r.sinuosity)
        for i, (r, _) in enumerate(found, start=1)
    ]
    reaches = [
        Reach(
            i,
            role,
            frame.to_world(centrelines[k].points),
            centrelines[k].shares(),
            centrelines[k].widths(areas[k]),
        )
        for i, (_, roles) in enumerate(found, start=1)
        for k, role in roles.items()
    ]
    return Network(tuple(rivers), tuple(reaches), len(elongated) - len(found))


def remove_specks(water: Mask) -> Mask:
    """Remove objects from `water` (H, W) that are too small to be a river one pixel wide.

    There may be very many ponds, and each takes kilobytes while it is processed.
    """
    labels, n = cc3d.connected_components(water.view(np.uint8), connectivity=8, return_N=True)
    if not n:
        return water
    boxes = cc3d.statistics(labels, no_slice_conversion=True)["bounding_boxes"].astype(np.int64)
    longest = np.maximum(boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]) + 1
    large = longest >= MIN_ELONGATION
    large[0] = False
    kept: Mask = large[labels]
    return kept


def _centrelines(graph: nx.MultiGraph, water: Mask, frame: Frame) -> list[Centreline]:
    """Prune a graph and turn its edges into centrelines, from top to bottom."""
    banks = Banks(water, frame.pixel)
    prune(graph, lambda node: float(banks.half_width(np.array([node]))[0]), frame.pixel)
    edges = sorted((min(a, b), max(a, b), key) for a, b, key in graph.edges(keys=True))
    return [
        make_centreline(
            (one, other),
            (graph.degree(one) == 1, graph.degree(other) == 1),
            path_from(graph, one, other, key),
            water,
            banks,
            frame,
        )
        for one, other, key in edges
    ]


def _connected(centrelines: Sequence[Centreline]) -> list[list[int]]:
    """Indices of the centrelines of each connected component."""
    graph = nx.MultiGraph()
    graph.add_edges_from((*centreline.ends, {"centreline": k}) for k, centreline in enumerate(centrelines))
    return [
        sorted(k for *_, k in graph.subgraph(nodes).edges(data="centreline"))
        for nodes in nx.connected_components(graph)
    ]


def _is_river(river: River, channels: Sequence[tuple[Centreline, Role]], shape: tuple[int, ...]) -> bool:
    """Whether an elongated object is a river by its own shape, whatever else is on the map.

    It is not if it is somewhere so wide that it is a lake or the sea with an arm (elongation by the largest width), or
    if it lies inside the raster and is short (`MIN_INNER_ELONGATION`) or a single loop (`LOOP_DEGREES`).
    """
    main = [centreline for centreline, role in channels if role == "main"]
    if river.main_length_m < MIN_ELONGATION * max(centreline.widest for centreline in main):
        return False
    if any(_leaves_raster(centreline, shape) for centreline, _ in channels):
        return True
    if river.main_length_m < MIN_INNER_ELONGATION * river.width_m:
        return False
    return len(channels) > 1 or not _is_loop(main[0])


def _leaves_raster(centreline: Centreline, shape: tuple[int, ...]) -> bool:
    """Whether a free end of a channel lies on the edge of the raster."""
    ends = centreline.path[[0, -1]]
    at_edge = (ends <= 0) | (ends >= np.array(shape) - 1)
    return bool((at_edge.any(axis=1) & np.array(centreline.is_free)).any())


def _is_loop(centreline: Centreline) -> bool:
    """Whether a channel turns in one direction only, as an abandoned bend does; a river turns to and fro."""
    # steps of pixels and small wiggles are no turning
    tolerance = centreline.approximate_width / 4 * len(centreline.steps) / centreline.length
    line = shapely.get_coordinates(shapely.LineString(centreline.points).simplify(tolerance))
    steps = np.diff(line, axis=0)
    headings = np.arctan2(steps[:, 1], steps[:, 0])
    turns = np.degrees((np.diff(headings) + np.pi) % (2 * np.pi) - np.pi)
    one, other = sorted((float(turns[turns > 0].sum()), float(-turns[turns < 0].sum())))
    return other >= LOOP_DEGREES and one <= COUNTER_TURN * other


def _elongated(
    centrelines: Sequence[Centreline], areas: Sequence[Floats], members: list[int], frame: Frame
) -> tuple[River, dict[int, Role]] | None:
    """One elongated object, and the role of each of its reaches; None if it is not `MIN_ELONGATION` times as long."""
    total = sum(centrelines[k].length for k in members)
    width = sum(float(areas[k].sum()) for k in members) / total
    if total < MIN_ELONGATION * width:  # nor is a part of it; most ponds end here, and there are many
        return None
    graph = nx.MultiGraph()
    for k in members:
        centreline = centrelines[k]
        own_width = max(float(areas[k].sum()) / centreline.length, 1e-9)
        graph.add_edge(*centreline.ends, key=k, length=centreline.length, cost=centreline.length / own_width)
    main, ends = _main_path(graph)
    main_length = sum(centrelines[k].length for k in main)
    if main_length < MIN_ELONGATION * width:
        return None
    bridges = {frozenset(edge) for edge in nx.bridges(graph)}
    roles: dict[int, Role] = {}
    for one, other, k in graph.edges(keys=True):
        is_bridge = one != other and frozenset((one, other)) in bridges
        roles[k] = "main" if k in main else "branch" if is_bridge else "side"
    side_length = sum(centrelines[k].length for k, role in roles.items() if role == "side")
    straight = 0.0
    if ends[0] != ends[1]:  # nor is the main reach of a ring always at its end
        reached = [_end_of(end, [centrelines[k] for k in sorted(main)]) for end in ends]
        straight = float(frame.steps(np.array(reached))[0])
    river = River(
        id=0,
        length_m=total,
        main_length_m=main_length,
        width_m=width,
        braiding=(main_length + side_length) / main_length,
        sinuosity=main_length / straight if straight > 0 else None,
    )
    return river, roles


def _end_of(node: Node, main: Sequence[Centreline]) -> Floats:
    """Where the main channel ends, (row, col): beyond the node, as a free end reaches to that of the water."""
    at_node = next(one for one in main if node in one.ends)
    return at_node.points[0 if at_node.ends[0] == node else -1]


def _main_path(graph: nx.MultiGraph) -> tuple[set[int], tuple[Node, Node]]:
    """Indices of the path between the two most distant ends that prefers wide reaches, and these ends."""
    nodes = sorted(graph.nodes)
    ends = [node for node in nodes if graph.degree(node) == 1] or nodes

    def farthest(start: Node) -> Node:
        distance = nx.single_source_dijkstra_path_length(graph, start, weight="length")
        return max(ends, key=lambda node: (distance[node], node))

    one = farthest(ends[0])
    other = farthest(one)
    if one == other:  # a ring
        return {max((length, k) for *_, k, length in graph.edges(keys=True, data="length"))[1]}, (one, other)
    route = nx.dijkstra_path(graph, one, other, weight="cost")
    main = {
        min((data["cost"], k) for k, data in graph[a][b].items())[1] for a, b in itertools.pairwise(route)
    }
    return main, (one, other)
