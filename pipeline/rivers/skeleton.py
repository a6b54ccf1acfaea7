"""The skeleton of a mask as a graph: junctions and ends joined by paths of pixels, spurs pruned.

Nodes are (row, col) of their pixel; edges carry ``path``, the pixels (n, 2) from one node to the other, both included.
A `networkx.MultiGraph`, because two channels round an island join the same two nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import networkx as nx
import numpy as np
import numpy.typing as npt
from skimage.morphology import skeletonize

Ints = npt.NDArray[np.int64]
Node = tuple[int, int]


def skeleton_graph(mask: npt.NDArray[np.bool_]) -> nx.MultiGraph:
    """The graph of a mask's skeleton.

    Parameters
    ----------
    mask : (H, W) bool

    Returns
    -------
    networkx.MultiGraph
        One component for each 8-connected object of the mask; a ring without junctions has one node, at which its
        path begins and ends.

    Examples
    --------
    >>> graph = skeleton_graph(np.array([[1, 0, 0, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]], bool))
    >>> sorted(graph.nodes)
    [(0, 0), (0, 4), (2, 2), (3, 2)]
    """
    pixels = np.argwhere(skeletonize(mask)).astype(np.int64)
    graph = nx.MultiGraph()
    neighbours = _neighbours(pixels, mask.shape)
    degree = np.array([len(n) for n in neighbours], np.int64)
    is_node = degree != 2
    seen = np.zeros(len(pixels), bool)

    def add(chain: list[int]) -> None:
        path = pixels[chain]
        graph.add_edge(_node(path[0]), _node(path[-1]), path=path)

    for start in np.flatnonzero(is_node).tolist():
        graph.add_node(_node(pixels[start]))
        for step in neighbours[start]:
            if is_node[step]:
                if start < step:
                    add([start, step])
            elif not seen[step]:
                add(_walk(start, step, neighbours, is_node, seen))
    for start in range(len(pixels)):  # rings
        if not is_node[start] and not seen[start]:
            is_node[start] = seen[start] = True
            graph.add_node(_node(pixels[start]))
            add(_walk(start, neighbours[start][0], neighbours, is_node, seen))
    contract(graph)
    return graph


def contract(graph: nx.MultiGraph) -> None:
    """Join the two paths at every node where exactly two meet, in place; rings keep one node."""
    for node in [n for n, degree in graph.degree() if degree == 2]:
        edges = list(graph.edges(node, keys=True))
        if len(edges) != 2:  # one ring, which begins and ends here
            continue
        one, other = (path_from(graph, node, neighbour, key) for _, neighbour, key in edges)
        ends = [neighbour for _, neighbour, _ in edges]
        graph.remove_node(node)
        graph.add_edge(*ends, path=np.concatenate([one[::-1], other[1:]]))


def path_from(graph: nx.MultiGraph, node: Node, neighbour: Node, key: int) -> Ints:
    """The pixels of an edge, from ``node`` to ``neighbour``."""
    path: Ints = graph.edges[node, neighbour, key]["path"]
    return path if _node(path[0]) == node else path[::-1]


def prune(graph: nx.MultiGraph, half_width: Callable[[Node], float], pixel: tuple[float, float]) -> None:
    """Remove spurs shorter than the local width, in place, until there are none.

    Where a river ends, thinning forks into its corners: both go at once, so that neither becomes the river's end.

    Parameters
    ----------
    graph : nx.MultiGraph
        networkx.MultiGraph Of `skeleton_graph`.
    half_width : callable
        A node's distance to the nearest bank, in the unit of ``pixel``.
    pixel : tuple[float, float]
        (float, float) Height and width of a pixel.
    """
    while ends := _spur_ends(graph, half_width, pixel):
        graph.remove_nodes_from(ends)
        contract(graph)


def _spur_ends(
    graph: nx.MultiGraph, half_width: Callable[[Node], float], pixel: tuple[float, float]
) -> list[Node]:
    """The free ends of all spurs to be removed now."""
    spurs: dict[Node, list[tuple[float, Node]]] = {}
    for end in [n for n, degree in graph.degree() if degree == 1]:
        ((_, junction, key),) = graph.edges(end, keys=True)
        length = path_length(graph.edges[end, junction, key]["path"], pixel)
        if graph.degree(junction) > 2 and length < 2 * half_width(junction):
            spurs.setdefault(junction, []).append((length, end))
    ends: list[Node] = []
    for junction, found in spurs.items():
        if len(found) == graph.degree(junction):  # a blob, which keeps its two longest arms
            found = sorted(found)[:-2]
        ends += [end for _, end in found]
    return ends


def path_length(path: npt.NDArray[Any], pixel: tuple[float, float]) -> float:
    """Length from pixel to pixel, in the unit of ``pixel``: 8 % too long where it runs askew."""
    return float(np.hypot(*(np.diff(path, axis=0) * pixel).T).sum())


def _node(pixel: Ints) -> Node:
    return int(pixel[0]), int(pixel[1])


def _walk(
    start: int,
    step: int,
    neighbours: list[list[int]],
    is_node: npt.NDArray[np.bool_],
    seen: npt.NDArray[np.bool_],
) -> list[int]:
    """From a node along a chain of ordinary pixels to the next node; marks them as seen."""
    chain = [start, step]
    while not is_node[chain[-1]]:
        here = chain[-1]
        seen[here] = True
        one, other = neighbours[here]
        chain.append(other if one == chain[-2] else one)
    return chain


def _neighbours(pixels: Ints, shape: tuple[int, ...]) -> list[list[int]]:
    """For each pixel of the skeleton the indices of its neighbours.

    Two pixels that touch at a corner are neighbours only where no third one joins them along edges; otherwise every
    bend would be a triangle. Of the four edges round a block of 2 x 2, which thinning leaves at crossings, the lower
    one is left out: a loop goes round an island.
    """
    width = shape[1] + 2
    flat = (pixels[:, 0] + 1) * width + pixels[:, 1] + 1  # ascending, as argwhere has them

    def find(offset: int) -> tuple[npt.NDArray[np.bool_], Ints]:
        index = np.minimum(np.searchsorted(flat, flat + offset), len(flat) - 1)
        return flat[index] == flat + offset, index

    found: list[list[int]] = [[] for _ in flat]
    if not len(flat):
        return found
    is_right, right = find(1)
    is_left, _ = find(-1)
    is_above, _ = find(-width)
    is_above_right, _ = find(-width + 1)
    is_below, below = find(width)
    is_below_right, below_right = find(width + 1)
    is_below_left, below_left = find(width - 1)
    for exists, index in (
        (is_right & ~(is_above & is_above_right), right),
        (is_below, below),
        (is_below_right & ~is_right & ~is_below, below_right),
        (is_below_left & ~is_left & ~is_below, below_left),
    ):
        for here in np.flatnonzero(exists):
            found[here].append(int(index[here]))
            found[index[here]].append(int(here))
    return found
