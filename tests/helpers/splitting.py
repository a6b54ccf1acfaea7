"""Touching objects separated in units and on the whole, for the tests of every rule."""

from __future__ import annotations

import numpy as np
from rasterio.windows import Window
from scipy import ndimage

from fewscope.pipeline.instances.labelling import merge_labels, seam_pairs
from fewscope.pipeline.instances.split_rules import DepthRule, SplitRule
from fewscope.pipeline.instances.splitting import split_core
from fewscope.pipeline.tiling.grid import grow, plan_units


def in_units(
    mask: np.ndarray, side: int, rule: DepthRule | SplitRule, depth: np.ndarray | None = None
) -> np.ndarray:
    """Labels of the whole mask, worked through in units that see their core and a halo."""
    units = plan_units(*mask.shape, side)
    index = np.arange(mask.size).reshape(mask.shape)
    labels, borders, n_labels, first, area = [], [], [], [], []
    for unit in units:
        window = grow(unit.core, rule.halo, *mask.shape)
        here = window.toslices()
        of_here = None if depth is None else depth[here]
        of_unit, n, border = split_core(mask[here], window, unit.core, mask.shape, rule, of_here)
        assert n == of_unit.max(initial=0)
        labels.append(of_unit)
        n_labels.append(n)
        borders.append(border if n else None)
        numbers = np.arange(1, n + 1)
        first.append(np.asarray(ndimage.minimum(index[unit.core.toslices()], of_unit, numbers)).reshape(n))
        area.append(np.bincount(of_unit.ravel(), minlength=n + 1)[1:])
    merge = merge_labels(n_labels, seam_pairs(units, borders, n_labels, rule.connectivity), first, area)
    result = np.zeros(mask.shape, np.int64)
    for unit in units:
        result[unit.core.toslices()] = merge.lookup(unit.index)[labels[unit.index]]
    return result


def whole(mask: np.ndarray, rule: DepthRule | SplitRule, depth: np.ndarray | None = None) -> np.ndarray:
    """Labels of the whole mask as one unit."""
    everything = Window(0, 0, mask.shape[1], mask.shape[0])
    return split_core(mask, everything, everything, mask.shape, rule, depth)[0].astype(np.int64)
