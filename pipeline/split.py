"""Touching objects told apart by their shape, exactly: any cut into units gives the same objects.

Every pixel of the mask has a height: its distance to the background, smoothed. Walking uphill from pixel to
pixel ends on a summit. A summit and the slopes that lead to it are one object, unless the pass to the next
summit is hardly lower than the summits. In full:

1. height = Euclidean distance to the background, at most ``reach``, smoothed by a binomial filter; in whole
   numbers (1/64 px), so that no order of additions matters;
2. every pixel of the mask is joined to its highest neighbour in the mask, if that is higher than itself (of
   equal heights, the later in raster order is the higher);
3. two neighbours p, q in the mask are joined if ``min(up(p), up(q)) - min(height(p), height(q))`` is at most
   0.4 px or 6% of its first term, where ``up`` is the height after ``climb`` steps of 2: seen from here, the
   lower of the two sides hardly rises;
4. objects are the connected components of these joints.

Whether two pixels are joined is decided by the mask within ``halo`` px of them and by nothing else. So the
objects are a function of the mask of the whole source, and joints across a seam are all that units have to
exchange: the merge of connected components (`pipeline.instances`) does the rest. No seed has to be owned, no
object has to fit into a halo. Objects are parts of components, every pixel of the mask is in exactly one, and
no component is lost. At the edges of the source the mask is taken to go on as in a mirror.
"""

from dataclasses import dataclass

import numpy as np
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.grid import grow, plan_units
from pipeline.instances import Borders, merge_labels, seam_pairs

_SCALE = 64  # heights are whole numbers of 1/64 px
_BLOCK = 512  # px, worked on at a time: the arrays of a block stay in a core's cache

# Rule 3. Chosen on 8,602 nuclei whose outlines people drew (34 sets of images): there the counts of a set are
# off by 4%, those of components by 16%. From 0.3 px and 5% to 0.75 px and 10% they are off by 3% to 6%; half
# or twice the radius changes less.
_TOLERANCE = round(0.4 * _SCALE)
_TOLERANCE_PERCENT = 6

# A pixel and its neighbours, the later in raster order first, so that the first of equals is the highest.
_FROM_LAST = ((1, 1), (1, 0), (1, -1), (0, 1), (0, 0), (0, -1), (-1, 1), (-1, 0), (-1, -1))
_LATER = _FROM_LAST[:4]  # with these, every contact is met once


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How touching objects are told apart.

    Parameters
    ----------
    radius : float
        Radius of a typical object, px, 1..80: of the support set's objects, ``sqrt(area / pi)``, median.
    connectivity : int
        1: pixels that share a side are neighbours; 2: also those that share a corner.

    Raises
    ------
    ValueError
        The radius or the connectivity is out of range.
    """

    radius: float
    connectivity: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.radius <= 80:
            raise ValueError(
                f"object radius {self.radius} px is not in 1..80; choose a coarser mpp or do not split"
            )
        if self.connectivity not in (1, 2):
            raise ValueError(
                f"connectivity {self.connectivity} is neither 1 (sides) nor 2 (sides and corners)"
            )

    @property
    def reach(self) -> int:
        """Largest distance to the background that is told apart, px: larger objects have a flat top."""
        return int(np.ceil(2 * self.radius)) + 2

    @property
    def smoothings(self) -> int:
        """How often the (1, 2, 1) filter runs: ripples of the outline go, necks stay."""
        return min(1 + int(self.radius / 6), 6)

    @property
    def doublings(self) -> int:
        """``climb`` = 2 ** doublings steps: at least 1.25 radii, from a pass to near the summit."""
        return int(np.ceil(np.log2(1.25 * self.radius + 1)))

    @property
    def halo(self) -> int:
        """Pixels of the mask around a core that have to be known."""
        return self.reach + self.smoothings + 2**self.doublings + 1


def split_core(
    mask: np.ndarray, window: Window, core: Window, shape: tuple[int, int], rule: SplitRule
) -> tuple[np.ndarray, int, Borders]:
    """Objects of a unit's core, touching ones apart, and what the neighbours need to know.

    Parameters
    ----------
    mask : (h, w) bool
        The mask on ``window``.
    window : Window
        Holds the core and ``rule.halo`` pixels around it, as far as the source goes: ``grow(core, rule.halo,
        *shape)``.
    core : Window
        What to label.
    shape : (height, width)
        The source's working grid.
    rule : SplitRule

    Returns
    -------
    labels : (core.height, core.width) uint32
        0 outside the mask, 1..n in it, in raster order of first pixels.
    n : int
    borders : Borders
        For `seam_pairs`, which with them (and the rule's connectivity) finds what is one object over a seam.

    Raises
    ------
    ValueError
        The mask is not of the window's size, or the window is too small.
    """
    needed = grow(core, rule.halo, *shape)
    top, left = needed.row_off - window.row_off, needed.col_off - window.col_off
    mask = mask[max(top, 0) : top + needed.height, max(left, 0) : left + needed.width]
    if top < 0 or left < 0 or mask.shape != (needed.height, needed.width):
        raise ValueError(
            f"the mask on {window} does not reach {rule.halo} px beyond {core}; give it on {needed}"
        )
    beyond = [
        _beyond(core.row_off, core.height, rule, shape[0]),
        _beyond(core.col_off, core.width, rule, shape[1]),
    ]
    mirrored = np.pad(mask, beyond, mode="symmetric")
    mask = np.pad(mask, beyond)

    blocks = plan_units(core.height, core.width, max(_BLOCK, 4 * rule.halo))
    labels = np.zeros((core.height, core.width), np.uint32)
    down, across = np.zeros((3, core.width), bool), np.zeros((3, core.height), bool)
    borders: list[Borders | None] = []
    first: list[np.ndarray] = []
    for block in blocks:
        rows, cols = block.core.toslices()
        with_halo = np.s_[rows.start : rows.stop + 2 * rule.halo, cols.start : cols.stop + 2 * rule.halo]
        of_block, links = _split_block(mask[with_halo], mirrored[with_halo], rule)
        labels[rows, cols] = of_block
        down[:, cols], across[:, rows] = links  # the last line of blocks stays: that of the core
        row, col = np.nonzero(of_block)
        of_pixels = of_block[row, col]
        pixel = np.zeros(int(of_pixels.max(initial=0)), np.int64)
        pixel[of_pixels[::-1] - 1] = ((rows.start + row) * core.width + cols.start + col)[
            ::-1
        ]  # the last one stays
        first.append(pixel)
        borders.append(Borders.of(of_block, *links) if len(pixel) else None)

    # The blocks of a unit are merged as the units of a source are.
    n_labels = [len(pixels) for pixels in first]
    pairs = seam_pairs(blocks, borders, n_labels, rule.connectivity)
    merge = merge_labels(n_labels, pairs, first, [np.ones_like(pixels) for pixels in first])
    for block in blocks:
        here = block.core.toslices()
        labels[here] = merge.lookup(block.index)[labels[here]]
    return labels, merge.n_instances, Borders.of(labels, down, across)


def _beyond(start: int, length: int, rule: SplitRule, end: int) -> tuple[int, int]:
    """How many pixels of the halo lie before and after the source, along one axis."""
    return max(rule.halo - start, 0), max(start + length + rule.halo - end, 0)


def _split_block(
    mask: np.ndarray, mirrored: np.ndarray, rule: SplitRule
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Objects of a block, as far as it shows them, and the joints over its lower and its right seam.

    Parameters
    ----------
    mask, mirrored : (h + 2 halo, w + 2 halo) bool
        Beyond the source, the one is empty and the other its mirror image.

    Returns
    -------
    labels : (h, w) uint32
    links : ((3, w) bool, (3, h) bool)
        ``down`` and ``across`` of `Borders`.
    """
    margin = 2**rule.doublings + 1  # so far around the block heights are needed
    trim = rule.halo - margin
    inside = mask[trim:-trim, trim:-trim]
    block = (slice(margin, -margin), slice(margin, -margin))
    rows, cols = inside[block].shape
    labels = np.zeros((rows, cols), np.uint32)
    links = np.zeros((3, cols), bool), np.zeros((3, rows), bool)
    if not inside[block].any():
        return labels, links

    # From here on pixels are indices into the flattened window.
    window_width = inside.shape[1]
    pixels = np.arange(inside.size).reshape(inside.shape)
    height = np.where(inside, _heights(mirrored, rule), -1)
    uphill = _uphill(height, rule.connectivity)
    altitude = height.ravel()
    summit = uphill
    for _ in range(rule.doublings):
        summit = summit[summit]
    up = altitude[summit]
    while not np.array_equal(further := summit[summit], summit):
        summit = further

    def joined(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Rules 2 and 3 for neighbours p and q."""
        side = np.minimum(up[p], up[q])
        rise = side - np.minimum(altitude[p], altitude[q])
        shallow = 100 * rise <= np.maximum(100 * _TOLERANCE, _TOLERANCE_PERCENT * side)
        return (altitude[p] >= 0) & (altitude[q] >= 0) & (shallow | (uphill[p] == q) | (uphill[q] == p))

    # Pixels with one summit are one object, even where the way there leaves the block: each step is a joint.
    # What remains is to join summits, over the contacts inside the block.
    members = pixels[block][inside[block]]
    in_block = np.zeros(inside.size, bool)
    in_block[members] = True
    is_summit = np.zeros(inside.size, bool)
    is_summit[summit[members]] = True
    number = np.cumsum(is_summit) - 1
    one, other = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for row_step, col_step in _LATER:
        if rule.connectivity == 2 or row_step == 0 or col_step == 0:
            q = members + (row_step * window_width + col_step)
            apart = in_block[q] & (summit[members] != summit[q])
            p, q = members[apart], q[apart]
            of_one = joined(p, q)
            one.append(number[summit[p[of_one]]])
            other.append(number[summit[q[of_one]]])
    ends = np.concatenate(one), np.concatenate(other)
    n_summits = int(number[-1]) + 1
    joints = coo_array((np.ones(len(ends[0]), bool), ends), shape=(n_summits, n_summits))
    _, group = connected_components(joints, directed=False)
    labels[inside[block]] = group[number[summit[members]]] + 1

    bottom, right = pixels[block][-1], pixels[block][:, -1]
    for shift in (-1, 0, 1) if rule.connectivity == 2 else (0,):
        links[0][1 + shift] = joined(bottom, bottom + window_width + shift)
        links[1][1 + shift] = joined(right, right + shift * window_width + 1)
    return labels, links


def _heights(mask: np.ndarray, rule: SplitRule) -> np.ndarray:
    """Smoothed distance to the background, int32 in 1/64 px, without the outer ``reach + smoothings`` px."""
    reach = rule.reach
    # Squared distance, at most that of reach + 1, one axis after the other: the smallest of what pixels up to
    # reach away have, plus the square of how far away they are. Below 2^16, as the radius is bounded.
    square = np.where(mask, np.uint16((reach + 1) ** 2), np.uint16(0))
    for axis in (0, 1):
        length = square.shape[axis] - 2 * reach
        nearest = _cut(square, axis, reach, length).copy()
        for offset in range(1, reach + 1):
            before, after = (
                _cut(square, axis, reach - offset, length),
                _cut(square, axis, reach + offset, length),
            )
            np.minimum(nearest, np.minimum(before, after) + np.uint16(offset * offset), out=nearest)
        square = nearest
    np.minimum(square, reach * reach, out=square)
    height = np.rint(_SCALE * np.sqrt(np.arange(reach * reach + 1))).astype(np.int32)[square]
    for _ in range(rule.smoothings):
        height = height[:-2] + 2 * height[1:-1] + height[2:]
        height = (height[:, :-2] + 2 * height[:, 1:-1] + height[:, 2:] + 8) >> 4
    return height


def _cut(array: np.ndarray, axis: int, start: int, length: int) -> np.ndarray:
    """``length`` rows (axis 0) or columns (axis 1) from ``start`` on."""
    return array[start : start + length] if axis == 0 else array[:, start : start + length]


def _uphill(height: np.ndarray, connectivity: int) -> np.ndarray:
    """For each pixel its highest neighbour or itself, flat indices (h * w,); at the window's rim itself."""
    width = height.shape[1]
    pixels = np.arange(height.size).reshape(height.shape)
    inner = height[1:-1, 1:-1]
    best = np.full(inner.shape, -1, height.dtype)
    step = np.zeros(inner.shape, np.int32)
    for row_step, col_step in _FROM_LAST:
        if connectivity == 2 or row_step == 0 or col_step == 0:
            rows = slice(1 + row_step, height.shape[0] - 1 + row_step)
            neighbour = height[rows, 1 + col_step : width - 1 + col_step]
            higher = neighbour > best
            np.copyto(best, neighbour, where=higher)
            step[higher] = row_step * width + col_step
    step[inner < 0] = 0
    pixels[1:-1, 1:-1] += step
    return pixels.ravel()
