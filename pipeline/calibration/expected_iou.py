"""What the network's own probabilities say of the IoU on a source, compared with held-out patches.

Of a pixel of probability p, p is expected to be object. So the expected IoU of a mask is known without labels. As such
it is wrong by what the probabilities are wrong; but its difference between the source and the held-out patches, whose
IoU has been measured, tells how much better or worse the source is segmented than they are. That is the difference of
confidences [1]_, of IoU instead of accuracy.

References
----------
.. [1] Guillory et al., Predicting with confidence on unseen distributions, ICCV 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fewscope.connectors.conventions import IGNORE_LABEL

LEAST = 0.1
"""Pixels below are not expected to be missed: ground without objects is large, and its small probabilities sum up."""

NEARLY_NOTHING = 0.01
"""A class is hardly found where it covers less of the source than this part of its share of the labelled ground."""


@dataclass(frozen=True, slots=True)
class ExpectedIou:
    """Expected IoU of one class.

    Attributes
    ----------
    held_out : float
        Of the held-out patches.
    source : float | None
        Of a sample of the source; None where hardly any of the class is found there (`NEARLY_NOTHING`): if the source
        has any, it is missed.
    """

    held_out: float
    source: float | None

    @property
    def change(self) -> float | None:
        """From the held-out patches to the source, -1 to 1; None if the source is not known."""
        return None if self.source is None else self.source - self.held_out


def expected_iou(probabilities: np.ndarray, threshold: float) -> float:
    """IoU of the mask of probabilities (n,) that are at least `threshold`, if the probabilities are true.

    The mask holds the sum of its probabilities of object; missed is the sum of those below, from `LEAST` on. 0 where
    nothing is found.

    >>> round(expected_iou(np.array([0.9, 0.7, 0.4, 0.01]), 0.5), 6)
    0.666667
    """
    found = probabilities >= threshold
    missed = float(probabilities[~found & (probabilities >= LEAST)].sum())
    union = int(found.sum()) + missed
    return float(probabilities[found].sum()) / union if union else 0.0


def compare_with_source(
    held_out: np.ndarray, labels: np.ndarray, tiles: np.ndarray, known: np.ndarray, threshold: float
) -> ExpectedIou | None:
    """Expected IoU of one class on held-out patches and on tiles of a source.

    Parameters
    ----------
    held_out : np.ndarray
        (K, H, W) float32, probabilities of the held-out patches.
    labels : np.ndarray
        (K, H, W) uint8 of the class: 0 not of the class, 1 of it, 255 not labelled.
    tiles : np.ndarray
        (n, h, w) float32, probabilities of the tiles.
    known : np.ndarray
        (n, h, w) bool, pixels of the tiles that count.
    threshold : float
        Smallest probability of an object pixel.

    Returns
    -------
    None without any pixel of the source, or of the class in the labels.
    """
    labelled, on_source = held_out[labels != IGNORE_LABEL], tiles[known]
    if not len(on_source) or not (labels == 1).any():
        return None
    share = (labels == 1).sum() / len(labelled)
    hardly = (on_source >= threshold).mean() < NEARLY_NOTHING * share
    source = None if hardly else round(expected_iou(on_source, threshold), 4)
    return ExpectedIou(round(expected_iou(labelled, threshold), 4), source)


def expected_to_array(expected: Sequence[ExpectedIou | None]) -> np.ndarray:
    """Numbers of C classes, (C, 2) float64, NaN for None: for the working folder."""
    rows = [(np.nan, np.nan) if e is None else (e.held_out, np.nan if e.source is None else e.source)
            for e in expected]  # fmt: skip
    return np.array(rows, np.float64).reshape(-1, 2)


def expected_from_array(array: np.ndarray) -> tuple[ExpectedIou | None, ...]:
    """The inverse of `expected_to_array`."""
    return tuple(
        None if np.isnan(held_out) else ExpectedIou(held_out, None if np.isnan(source) else source)
        for held_out, source in array.tolist()
    )
