"""Several classes on one map: the class of each pixel, and the objects of each class.

Classes are exclusive. A pixel is assigned to the class with the largest probability among those that reach their own
threshold. Objects are labelled in each class separately, so touching objects of different classes never merge.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rasterio.windows import Window

from fewscope.pipeline.instances.labelling import Borders, label_core
from fewscope.pipeline.instances.split_rules import Rule
from fewscope.pipeline.instances.splitting import split_core


def assign_classes(probability: np.ndarray, thresholds: Sequence[int]) -> np.ndarray:
    """Assign each pixel to a class.

    Parameters
    ----------
    probability : np.ndarray
        (C, h, w) uint8, as stored.
    thresholds : Sequence[int]
        C smallest stored probabilities (1..255) of pixels of the class.

    Returns
    -------
    (h, w) uint8: 0 background, 1..C. Of equal probabilities, the first class wins.

    >>> assign_classes(np.array([[[9, 200, 200, 150]], [[9, 210, 200, 190]]], np.uint8), [128, 200])
    array([[0, 2, 1, 1]], dtype=uint8)
    """
    classes = np.zeros(probability.shape[1:], np.uint8)
    highest = np.zeros(probability.shape[1:], np.uint8)
    for value, (of_class, threshold) in enumerate(zip(probability, thresholds, strict=True), start=1):
        wins = (of_class >= threshold) & (of_class > highest)
        highest[wins] = of_class[wins]
        classes[wins] = value
    return classes


def winning_probability(probability: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Probability of each pixel's class, or the largest on background: (h, w) uint8 from (C, h, w) and (h, w)."""
    if len(probability) == 1:
        return np.ascontiguousarray(probability[0])
    winner = np.take_along_axis(probability, np.maximum(classes, 1)[None] - 1, axis=0)[0]
    won: np.ndarray = np.where(classes > 0, winner, probability.max(axis=0))
    return won


def label_classes(
    classes: np.ndarray,
    window: Window,
    core: Window,
    shape: tuple[int, int],
    rules: Sequence[Rule | None],
    connectivity: int,
    depths: Sequence[np.ndarray] = (),
) -> tuple[np.ndarray, list[int], Borders]:
    """Label the objects in the core of a unit, class by class.

    Parameters
    ----------
    classes : np.ndarray
        (h, w) uint8 on `window`, from `assign_classes`.
    window : Window
        Contains the core and the largest halo of the rules, clipped to the source.
    shape : tuple[int, int]
        (height, width) of the source's working grid.
    rules : Sequence[Rule | None]
        For each class, how touching objects are separated; None: connected components.
    depths : Sequence[np.ndarray]
        For each class (h, w) uint8 on `window`; needed for a `DepthRule`.

    Returns
    -------
    labels : (core.height, core.width) uint32
        0 background, then the objects of class 1, then those of class 2, ...; consecutive.
    n_labels : number of objects of each class
    borders : Borders
        For `pipeline.instances.labelling.seam_pairs`; discard its pairs of different classes.
    """
    top, left = core.row_off - window.row_off, core.col_off - window.col_off
    mine = classes[top : top + core.height, left : left + core.width]
    labels = np.zeros(mine.shape, np.uint32)
    n_labels: list[int] = []
    links: list[tuple[np.ndarray, np.ndarray]] = []
    for value, rule in enumerate(rules, start=1):
        if rule is None:
            of_class, n = label_core(mine == value, connectivity)
            down, across = np.ones((3, core.width), bool), np.ones((3, core.height), bool)
        else:
            depth = depths[value - 1] if len(depths) else None
            of_class, n, borders = split_core(classes == value, window, core, shape, rule, depth)
            assert borders.down is not None
            assert borders.across is not None
            down, across = borders.down, borders.across
        if n_labels:
            of_class[of_class > 0] += np.uint32(sum(n_labels))
        np.maximum(labels, of_class, out=labels)
        n_labels.append(n)
        links.append((down, across))
    if not any(rules):
        return labels, n_labels, Borders.of(labels)
    # a contact across a seam has the class of its pixel on this side
    down, across = np.zeros((3, core.width), bool), np.zeros((3, core.height), bool)
    for value, (of_class_down, of_class_across) in enumerate(links, start=1):
        down |= of_class_down & (mine[-1] == value)
        across |= of_class_across & (mine[:, -1] == value)
    return labels, n_labels, Borders.of(labels, down, across)
