"""Objects of probability maps, separated as on a slide, and the rule that counts those of held-out patches best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rasterio.windows import Window

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.calibration import intervals
from fewscope.pipeline.instances.labelling import label_core
from fewscope.pipeline.instances.split_rules import Rule
from fewscope.pipeline.instances.splitting import split_core
from fewscope.pipeline.metrics import compare_objects
from fewscope.pipeline.plan import cut_objects
from fewscope.pipeline.tiling.blending import to_uint8


def choose_rule(
    support: SupportSet,
    probabilities: np.ndarray,
    threshold: float,
    rules: Sequence[Rule | None],
    *,
    connectivity: int,
    min_area: int,
    min_true_area: int = 0,
    depths: np.ndarray | None = None,
) -> tuple[Rule | None, intervals.CountRatio | None]:
    """The separation rule with the smallest count error on the held-out patches, and its `intervals.counted_ratio`.

    Objects are compared with those that are `countable`. Ties are broken by the F1 score at an IoU of 0.5, then by the
    order of the rules.

    Parameters
    ----------
    support : SupportSet
        With outlined objects.
    probabilities : np.ndarray
        (K, H, W) float32, held-out predictions.
    rules : Sequence[Rule | None]
        The candidates; None: connected components.
    min_area : int
        Smaller objects are dropped, px.
    min_true_area : int
        Smaller outlined objects are not counted, px.
    depths : np.ndarray | None
        (K, H, W) float32, held-out depths, for a `DepthRule`.
    """
    assert support.instances is not None
    known = support.labels[: support.n_dense] != IGNORE_LABEL
    true = [
        _large(countable(objects, of_patch, min_area), min_true_area)
        for of_patch, objects in zip(known, support.instances[: support.n_dense], strict=True)
    ]
    best: tuple[tuple[float, float], Rule | None, intervals.CountRatio | None] | None = None
    for rule in rules:
        found = [
            label_objects(
                np.where(known[k], p, np.float32(0)),
                threshold,
                rule,
                connectivity,
                min_area,
                None if depths is None else depths[k],
            )
            for k, p in enumerate(probabilities)
        ]
        of_patches = [compare_objects(labels, objects) for labels, objects in zip(found, true, strict=True)]
        total = sum(of_patches[1:], of_patches[0])
        counts = [p.true for p in of_patches], [p.found for p in of_patches]
        rank = round(float(intervals.count_errors(*counts).mean()), 6), -total.f1
        if best is None or rank < best[0]:
            n_unmatched = total.true + total.found - 2 * total.matched
            best = rank, rule, intervals.counted_ratio(*counts, n_unmatched)
    assert best is not None
    return best[1:]


def countable(objects: np.ndarray, known: np.ndarray, min_area: int) -> np.ndarray:
    """The objects of a labelled area that can be counted there: without slivers that its edge leaves of larger ones.

    A slide has no such edges. There, objects are dropped as too small if they are small as a whole; slivers in a patch
    that are dropped like them would pass for objects that the network misses.

    Parameters
    ----------
    objects : (H, W) int
        0 = background, 1..n = one object each.
    known : (H, W) bool
        The labelled area.
    min_area : int
        Parts of objects that the edge cuts off are left out if they have fewer pixels.
    """
    inside = np.where(known, objects, 0)
    small = np.bincount(inside.ravel()) < min_area
    cut = cut_objects(inside, known)
    return np.where(np.isin(inside, cut[small[cut]]), 0, inside)


def count_objects(
    probability: np.ndarray, threshold: float, rule: Rule | None, connectivity: int, min_area: int = 0
) -> int:
    """Number of objects in a probability map (H, W), separated and filtered as on a slide."""
    labels = label_objects(probability, threshold, rule, connectivity, min_area)
    return len(np.unique(labels[labels > 0]))


def label_objects(
    probability: np.ndarray,
    threshold: float,
    rule: Rule | None,
    connectivity: int,
    min_area: int = 0,
    depth: np.ndarray | None = None,
) -> np.ndarray:
    """Label image (H, W) uint32 of a probability map, its objects separated and filtered as on a slide.

    Parameters
    ----------
    probability : np.ndarray
        (H, W) float32, 0..1.
    depth : np.ndarray | None
        (H, W) float32, 0..1, for a `DepthRule`.
    """
    mask = to_uint8(probability) >= threshold_level(threshold)
    if rule is None:
        labels, _ = label_core(mask, connectivity)
    else:
        whole = Window(0, 0, mask.shape[1], mask.shape[0])
        stored = None if depth is None else to_uint8(depth)
        labels, _, _ = split_core(mask, whole, whole, mask.shape, rule, stored)
    return _large(labels, min_area)


def _large(labels: np.ndarray, min_area: int) -> np.ndarray:
    """A label image (H, W) without the objects of fewer than `min_area` pixels."""
    if not min_area:
        return labels
    kept = np.bincount(labels.ravel()) >= min_area
    return np.where(kept[labels], labels, labels.dtype.type(0))


def threshold_level(threshold: float) -> int:
    """Smallest stored probability (uint8) of an object pixel: the mask is a function of the stored probabilities."""
    return max(1, int(np.ceil(threshold * 255 - 1e-9)))
