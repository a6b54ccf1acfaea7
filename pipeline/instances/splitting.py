"""Separates touching objects by shape or learned depth, exactly: any cut into units gives the same objects.

The method is a watershed by steepest ascent. Each pixel of the mask has a height; the ascent from pixel to pixel ends
on a peak. A peak and the slopes that lead to it are one object; two peaks merge if the saddle between them is hardly
lower than the peaks. In detail:

1. the height is that of the rule (`pipeline.instances.split_rules`): distance to the background, or predicted depth in
   the object, smoothed by a binomial filter, in integers, so that the order of additions does not matter;
2. each pixel of the mask is joined to its highest neighbour in the mask, if that is higher (of equal heights, the later
   in raster order counts as higher);
3. two neighbours p, q in the mask are joined if ``min(up(p), up(q)) - min(height(p), height(q))`` does not exceed the
   tolerance of the rule, where ``up`` is the height after ``2 ** n_doublings`` steps of 2: the lower of the two sides
   hardly rises above the saddle;
4. objects are the connected components of these joints.

Whether two pixels are joined depends only on mask and depth within ``halo`` px of them. So the objects are a function
of the maps of the whole source, and units exchange nothing but the joints across seams, which are merged like connected
components (`pipeline.instances.labelling`). No unit owns a seed, and no object has to fit into a halo. Each pixel of
the mask is in exactly one object, objects are parts of components, and no component is lost. The maps are mirrored at
the edges of the source.
"""

import numpy as np
from rasterio.windows import Window
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fewscope.pipeline.instances.labelling import Borders, merge_labels, seam_pairs
from fewscope.pipeline.instances.split_rules import Rule, SplitRule
from fewscope.pipeline.tiling.grid import grow, plan_units

_BLOCK = 512  # px; the arrays of a block stay in a core's cache

# A pixel and its neighbours, the later in raster order first: the first of equal heights counts as the highest.
_FROM_LAST = ((1, 1), (1, 0), (1, -1), (0, 1), (0, 0), (0, -1), (-1, 1), (-1, 0), (-1, -1))
_LATER = _FROM_LAST[:4]  # these visit each contact once


def split_core(
    mask: np.ndarray,
    window: Window,
    core: Window,
    shape: tuple[int, int],
    rule: Rule,
    depth: np.ndarray | None = None,
) -> tuple[np.ndarray, int, Borders]:
    """Label the objects in the core of a unit, with touching ones separated.

    Parameters
    ----------
    mask : (h, w) bool
        The mask on ``window``.
    window : Window
        Contains ``grow(core, rule.halo, *shape)``.
    core : Window
        The window to label.
    shape : tuple[int, int]
        (height, width) The source's working grid.
    rule : Rule
        SplitRule or DepthRule.
    depth : (h, w) uint8
        On ``window``, for a DepthRule: 255 at the centre of an object, 0 at its boundary.

    Returns
    -------
    labels : (core.height, core.width) uint32
        0 background, 1..n in raster order of first pixels.
    n : int
    borders : Borders
        For `seam_pairs`, with the connectivity of the rule.

    Raises
    ------
    ValueError
        The mask does not have the size of the window, the window is too small, or a DepthRule has no depth.
    """
    needed = grow(core, rule.halo, *shape)
    top, left = needed.row_off - window.row_off, needed.col_off - window.col_off
    here = slice(max(top, 0), top + needed.height), slice(max(left, 0), left + needed.width)
    relief = mask if isinstance(rule, SplitRule) else depth
    if relief is None or relief.shape != mask.shape:
        raise ValueError(
            f"{rule} needs the depth map of the mask's shape {mask.shape}; predict with depth=True"
        )
    mask, relief = mask[here], relief[here]
    if top < 0 or left < 0 or mask.shape != (needed.height, needed.width):
        raise ValueError(
            f"the mask on {window} does not reach {rule.halo} px beyond {core}; give it on {needed}"
        )
    missing = [
        _missing_halo(core.row_off, core.height, rule, shape[0]),
        _missing_halo(core.col_off, core.width, rule, shape[1]),
    ]
    relief = np.pad(relief, missing, mode="symmetric")
    mask = np.pad(mask, missing)

    blocks = plan_units(core.height, core.width, max(_BLOCK, 4 * rule.halo))
    labels = np.zeros((core.height, core.width), np.uint32)
    down, across = np.zeros((3, core.width), bool), np.zeros((3, core.height), bool)
    borders: list[Borders | None] = []
    first: list[np.ndarray] = []
    for block in blocks:
        rows, cols = block.core.toslices()
        with_halo = np.s_[rows.start : rows.stop + 2 * rule.halo, cols.start : cols.stop + 2 * rule.halo]
        of_block, links = _split_block(mask[with_halo], relief[with_halo], rule)
        labels[rows, cols] = of_block
        down[:, cols], across[:, rows] = links  # the last row of blocks remains: that of the core
        row, col = np.nonzero(of_block)
        of_pixels = of_block[row, col]
        pixel = np.zeros(int(of_pixels.max(initial=0)), np.int64)
        pixel[of_pixels[::-1] - 1] = ((rows.start + row) * core.width + cols.start + col)[
            ::-1
        ]  # the last one stays
        first.append(pixel)
        borders.append(Borders.of(of_block, *links) if len(pixel) else None)

    # The blocks of a unit are merged like the units of a source.
    n_labels = [len(pixels) for pixels in first]
    pairs = seam_pairs(blocks, borders, n_labels, rule.connectivity)
    merge = merge_labels(n_labels, pairs, first, [np.ones_like(pixels) for pixels in first])
    for block in blocks:
        here = block.core.toslices()
        labels[here] = merge.lookup(block.index)[labels[here]]
    return labels, merge.n_instances, Borders.of(labels, down, across)


def _missing_halo(start: int, length: int, rule: Rule, end: int) -> tuple[int, int]:
    """Pixels of the halo before and after the source, along one axis."""
    return max(rule.halo - start, 0), max(start + length + rule.halo - end, 0)


def _split_block(
    mask: np.ndarray, relief: np.ndarray, rule: Rule
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Label the objects of a block, and find the joints across its lower and its right seam.

    Parameters
    ----------
    mask : (h + 2 halo, w + 2 halo) bool
        Empty beyond the source.
    relief : np.ndarray
        (h + 2 halo, w + 2 halo) Input of ``rule.heights``: mask or depth, mirrored beyond the source.

    Returns
    -------
    labels : (h, w) uint32
    links : ((3, w) bool, (3, h) bool)
        ``down`` and ``across`` of `Borders`.
    """
    margin = 2**rule.n_doublings + 1  # width of the border on which heights are needed
    trim = rule.halo - margin
    inside = mask[trim:-trim, trim:-trim]
    block = (slice(margin, -margin), slice(margin, -margin))
    rows, cols = inside[block].shape
    labels = np.zeros((rows, cols), np.uint32)
    links = np.zeros((3, cols), bool), np.zeros((3, rows), bool)
    if not inside[block].any():
        return labels, links

    # From here on, pixels are indices into the flattened window.
    window_width = inside.shape[1]
    pixels = np.arange(inside.size).reshape(inside.shape)
    height = np.where(inside, rule.heights(relief), -1)
    uphill = _uphill(height, rule.connectivity)
    altitude = height.ravel()
    peak = uphill
    for _ in range(rule.n_doublings):
        peak = peak[peak]
    up = altitude[peak]
    while not np.array_equal(further := peak[peak], peak):
        peak = further

    def joined(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """Rules 2 and 3 for neighbours p and q."""
        side = np.minimum(up[p], up[q])
        rise = side - np.minimum(altitude[p], altitude[q])
        one = rule.is_shallow(rise, side) | (uphill[p] == q) | (uphill[q] == p)
        return (altitude[p] >= 0) & (altitude[q] >= 0) & one

    # Pixels with one peak are one object, even if the ascent leaves the block: each step is a joint. What remains is
    # to join peaks, across the contacts inside the block.
    members = pixels[block][inside[block]]
    in_block = np.zeros(inside.size, bool)
    in_block[members] = True
    is_peak = np.zeros(inside.size, bool)
    is_peak[peak[members]] = True
    number = np.cumsum(is_peak) - 1
    one, other = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for row_step, col_step in _LATER:
        if rule.connectivity == 2 or row_step == 0 or col_step == 0:
            q = members + (row_step * window_width + col_step)
            apart = in_block[q] & (peak[members] != peak[q])
            p, q = members[apart], q[apart]
            of_one = joined(p, q)
            one.append(number[peak[p[of_one]]])
            other.append(number[peak[q[of_one]]])
    ends = np.concatenate(one), np.concatenate(other)
    n_peaks = int(number[-1]) + 1
    joints = coo_array((np.ones(len(ends[0]), bool), ends), shape=(n_peaks, n_peaks))
    _, group = connected_components(joints, directed=False)
    labels[inside[block]] = group[number[peak[members]]] + 1

    bottom, right = pixels[block][-1], pixels[block][:, -1]
    for shift in (-1, 0, 1) if rule.connectivity == 2 else (0,):
        links[0][1 + shift] = joined(bottom, bottom + window_width + shift)
        links[1][1 + shift] = joined(right, right + shift * window_width + 1)
    return labels, links


def _uphill(height: np.ndarray, connectivity: int) -> np.ndarray:
    """Highest neighbour of each pixel, or itself, as flat indices (h * w,); itself at the edge of the window."""
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
