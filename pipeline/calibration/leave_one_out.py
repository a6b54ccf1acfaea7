"""Leave one out: how good is this support set, and which threshold suits it? Asked of the support set itself.

Every patch is predicted with the other K - 1 as support, as the slide will be. That gives an honest estimate of the
IoU, the threshold, and, where the patches' objects are outlined one by one, how far a count is off. K small
predictions: seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.pipeline.calibration.intervals import mean_interval, ratio_interval
from fewscope.pipeline.predictor import Model, predict_maps, squeeze_single_class

THRESHOLDS = np.arange(0.10, 0.91, 0.05)
MAX_FOLDS = 6
IOU_TOLERANCE = 0.005
"""Mean IoUs closer than this are called equal, and the threshold nearest to 0.5 is taken: five patches tell no more."""


@dataclass(frozen=True, slots=True, eq=False)
class LeaveOneOut:
    """What leaving out each patch in turn has shown.

    Attributes
    ----------
    probabilities : (K, H, W) float32, patch k predicted without patch k
    threshold : probability from which on a pixel is object
    iou : IoU of each patch at the threshold, over its labelled pixels; NaN where there is no object
    interval : 95 % confidence interval of the mean IoU (Student's t over the patches), or None
    """

    probabilities: np.ndarray
    threshold: float
    iou: tuple[float, ...]
    interval: tuple[float, float] | None

    @property
    def mean_iou(self) -> float:
        """Mean over the patches that have an object."""
        return float(np.nanmean(self.iou))


def n_folds(n_patches: int) -> int:
    """Times that patches are left out: each by itself, or with many patches several at once."""
    return min(n_patches, MAX_FOLDS)


def predict_held_out(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    encode: Callable[[np.ndarray, Sequence[int]], Any] | None = None,
    n_threads: int = 1,
    depth: bool = False,
) -> list[np.ndarray | None]:
    """Predict every patch with the others as support, all classes at once.

    Parameters
    ----------
    images, labels : (K, H, W, 3) uint8 and (C, K, H, W) uint8: for each class 0 not of it, 1 of it, 255 not known
    encode : makes features of some patches (their indices) and classes; None: the model's, with nothing else
    n_threads : folds that are done at a time
    depth : also how deep in its object each pixel is

    Returns
    -------
    For each class (K, H, W) float32, and with `depth` then the depth of each likewise; None where fewer than two
    patches would each be left with object and background to learn from.
    """
    k, n_classes = len(images), len(labels)
    found: list[np.ndarray | None] = [None] * (2 * n_classes if depth else n_classes)
    folds = [np.arange(i, k, n_folds(k)) for i in range(n_folds(k))]
    others = [np.setdiff1d(np.arange(k), held_out) for held_out in folds]
    usable = [
        c
        for c in range(n_classes)
        if k > 1 and all((labels[c, o] == 1).any() and (labels[c, o] == 0).any() for o in others)
    ]
    if not usable:
        return found

    def as_it_is(used: np.ndarray, classes: Sequence[int]) -> Any:
        return model.encode(images[used], squeeze_single_class(labels[classes][:, used]))

    def predict(held_out: np.ndarray, used: np.ndarray) -> np.ndarray:
        return predict_maps(model, images[held_out], (encode or as_it_is)(used, usable), depth)

    with ThreadPoolExecutor(n_threads) as threads:
        predicted = list(threads.map(predict, folds, others))
    places = [*usable, *(n_classes + c for c in usable if depth)]
    for i, place in enumerate(places):
        of_class = np.empty((k, *images.shape[1:3]), np.float32)
        for held_out, maps in zip(folds, predicted, strict=True):
            of_class[held_out] = maps[:, i]
        found[place] = of_class
    return found


def score_held_out(
    probabilities: np.ndarray, labels: np.ndarray, threshold: float | None = None
) -> LeaveOneOut:
    """Score the held-out predictions of one class against its labels.

    Parameters
    ----------
    probabilities : (K, H, W) float32, from `predict_held_out`
    labels : (K, H, W) uint8: 0 not of the class, 1 of it, 255 not labelled
    threshold : probability from which on a pixel is object; None: the `shrunk_threshold`
    """
    if threshold is None:
        threshold = shrunk_threshold(probabilities, labels)
    iou = _ious(probabilities, labels, threshold)
    return LeaveOneOut(probabilities, threshold, tuple(iou.tolist()), mean_interval(iou, 0.0, 1.0))


def masked_iou(prediction: np.ndarray, labels: np.ndarray) -> float:
    """IoU of the object over the labelled pixels; NaN where the labels have no object."""
    known = labels != IGNORE_LABEL
    truth = labels == 1
    if not truth.any():
        return float("nan")
    union = (prediction & known) | truth
    return float((prediction & truth).sum() / union.sum())


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold of the best mean IoU; among equals (`IOU_TOLERANCE`) the one nearest to 0.5."""
    means = np.array([np.nanmean(_ious(probabilities, labels, t)) for t in THRESHOLDS])
    equal = THRESHOLDS[means >= means.max() - IOU_TOLERANCE]
    return round(float(equal[np.argmin(np.abs(equal - 0.5))]), 2)


def shrunk_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """0.5, or half of the way to `best_threshold` where that is better on the patches beyond doubt (95 %, Student's t).

    What is best for five patches is too far for most others: on ten unseen classes the best of the patches loses 0.007
    IoU against 0.5, and half of the way 0.003.
    """
    best = best_threshold(probabilities, labels)
    gain = mean_interval(_ious(probabilities, labels, best) - _ious(probabilities, labels, 0.5), -1.0, 1.0)
    return 0.5 if gain is None or gain[0] <= 0 else shrink_threshold(best)


def shrink_threshold(threshold: float) -> float:
    """Half of the way from 0.5 to a threshold."""
    return round(0.5 + (threshold - 0.5) / 2, 3)


def _ious(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """(K,) IoU of each patch at a threshold."""
    return np.array([masked_iou(p >= threshold, y) for p, y in zip(probabilities, labels, strict=True)])


def covered_ratio(held_out: LeaveOneOut | None, labels: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of true over found area, by the held-out patches; None where that cannot be said.

    `labels` are (K, H, W), as in `predict_held_out`.
    """
    if held_out is None:
        return None
    known = labels != IGNORE_LABEL
    found = ((held_out.probabilities >= held_out.threshold) & known).sum((1, 2))
    return ratio_interval((labels == 1).sum((1, 2)), found)
