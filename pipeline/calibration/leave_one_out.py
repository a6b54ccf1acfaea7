"""Leave-one-out cross-validation on the support set.

Each patch is predicted from the other K - 1, as the slide will be predicted from all. The held-out predictions give an
honest estimate of the IoU, the threshold and, where objects are outlined, the error of the count. It takes K small
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
from fewscope.pipeline.instances.labelling import label_core
from fewscope.pipeline.predictor import Model, predict_maps, squeeze_single_class

THRESHOLDS = np.arange(0.10, 0.91, 0.05)
"""Candidates for the threshold."""

MAX_FOLDS = 6
"""With more patches, several are held out at once."""

IOU_TOLERANCE = 0.005
"""Mean IoUs closer than this count as equal; of equal thresholds the one nearest to 0.5 is chosen. Five patches do not
resolve smaller differences."""


@dataclass(frozen=True, slots=True, eq=False)
class LeaveOneOut:
    """Result of leave-one-out for one class.

    Attributes
    ----------
    probabilities : np.ndarray
        (K, H, W) float32, patch k predicted without patch k.
    threshold : float
        Smallest probability of an object pixel.
    iou : tuple[float, ...]
        K IoUs at the threshold, over the labelled pixels; NaN for patches without object.
    interval : tuple[float, float] | None
        95 % confidence interval of the mean IoU (Student's t over the patches); None for fewer than two
        patches.
    """

    probabilities: np.ndarray
    threshold: float
    iou: tuple[float, ...]
    interval: tuple[float, float] | None

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the patches that have an object."""
        return float(np.nanmean(self.iou))


def folds_of(n_patches: int, pictures: Sequence[int] = ()) -> list[np.ndarray]:
    """Patches that are held out together: one each, or several where there are more than `MAX_FOLDS`.

    Parameters
    ----------
    pictures : Sequence[int]
        Number of the picture that each patch is cut from; a picture is held out as a whole. Not used if it is empty, or
        all are of one picture.

    >>> [fold.tolist() for fold in folds_of(3)], [fold.tolist() for fold in folds_of(3, (7, 7, 9))]
    ([[0], [1], [2]], [[0, 1], [2]])
    """
    if not n_patches:
        return []
    numbers = np.unique(pictures[:n_patches], return_inverse=True)[1]
    if len(numbers) < n_patches or not numbers.any():
        numbers = np.arange(n_patches)
    n = min(int(numbers.max()) + 1, MAX_FOLDS)
    return [np.flatnonzero(numbers % n == i) for i in range(n)]


def predict_held_out(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    encode: Callable[[np.ndarray, Sequence[int]], Any] | None = None,
    n_threads: int = 1,
    depth: bool = False,
    n_always: int = 0,
    pictures: Sequence[int] = (),
) -> list[np.ndarray | None]:
    """Predict each patch from the others, or from those of other pictures, all classes at once.

    Parameters
    ----------
    images : (K, H, W, 3) uint8
    labels : np.ndarray
        (C, K, H, W) uint8: for each class 0 not of the class, 1 of it, 255 not labelled.
    encode : Callable[[np.ndarray, Sequence[int]], Any] | None
        (indices of patches, classes) -> features; None: `Model.encode` without options.
    n_threads : int
        Folds that are predicted in parallel.
    depth : bool
        Also return the predicted depth of each pixel in its object.
    n_always : int
        So many of the last patches are never held out: all others are predicted from them too. K does not count them
        in what follows.
    pictures : Sequence[int]
        See `folds_of`; not used if a class is in too few of them to be held out.

    Returns
    -------
    C probability maps (K, H, W) float32, with `depth` followed by C depth maps. None for a class that cannot be held
    out: some fold would have no object or no background left to learn from.
    """
    k, n_classes = len(images) - n_always, len(labels)
    found: list[np.ndarray | None] = [None] * (2 * n_classes if depth else n_classes)
    folds, others, usable = _folds(labels, k, pictures)
    if len(usable) < n_classes and pictures:
        folds, others, usable = _folds(labels, k, ())
    if not usable:
        return found

    def encode_plain(used: np.ndarray, classes: Sequence[int]) -> Any:
        return model.encode(images[used], squeeze_single_class(labels[classes][:, used]))

    def predict(held_out: np.ndarray, used: np.ndarray) -> np.ndarray:
        return predict_maps(model, images[held_out], (encode or encode_plain)(used, usable), depth)

    with ThreadPoolExecutor(n_threads) as threads:
        predicted = list(threads.map(predict, folds, others))
    places = [*usable, *(n_classes + c for c in usable if depth)]
    for i, place in enumerate(places):
        of_class = np.empty((k, *images.shape[1:3]), np.float32)
        for held_out, maps in zip(folds, predicted, strict=True):
            of_class[held_out] = maps[:, i]
        found[place] = of_class
    return found


def _folds(
    labels: np.ndarray, k: int, pictures: Sequence[int]
) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """Folds of the first ``k`` patches, the patches to predict each from, and the classes that this suffices for."""
    folds = folds_of(k, pictures)
    others = [np.setdiff1d(np.arange(labels.shape[1]), held_out) for held_out in folds]
    usable = [
        c
        for c in range(len(labels))
        if k > 1 and all((labels[c, o] == 1).any() and (labels[c, o] == 0).any() for o in others)
    ]
    return folds, others, usable


def score_held_out(
    probabilities: np.ndarray, labels: np.ndarray, threshold: float | None = None
) -> LeaveOneOut:
    """Compare the held-out predictions of one class with its labels.

    Parameters
    ----------
    probabilities : np.ndarray
        (K, H, W) float32, from `predict_held_out`.
    labels : np.ndarray
        (K, H, W) uint8: 0 not of the class, 1 of it, 255 not labelled.
    threshold : float | None
        Smallest probability of an object pixel; None: `shrunk_threshold`.
    """
    if threshold is None:
        threshold = shrunk_threshold(probabilities, labels)
    iou = _ious(probabilities, labels, threshold)
    return LeaveOneOut(probabilities, threshold, tuple(iou.tolist()), mean_interval(iou, 0.0, 1.0))


def _area_of_large(mask: np.ndarray, min_area: int, connectivity: int) -> int:
    """Pixels of the connected objects of a mask (H, W) that have at least `min_area` of them."""
    labels, _ = label_core(mask, connectivity)
    areas = np.bincount(labels.ravel())[1:]
    return int(areas[areas >= min_area].sum())


def masked_iou(prediction: np.ndarray, labels: np.ndarray) -> float:
    """IoU of the object over the labelled pixels of (H, W) arrays; NaN where the labels have no object."""
    known = labels != IGNORE_LABEL
    truth = labels == 1
    if not truth.any():
        return float("nan")
    union = (prediction & known) | truth
    return float((prediction & truth).sum() / union.sum())


def agreement(one: np.ndarray, two: np.ndarray) -> float | None:
    """IoU of the masks of two methods, over probabilities of one shape, both at 0.5; None if neither finds anything."""
    found, other = one >= 0.5, two >= 0.5
    either = int((found | other).sum())
    return round(int((found & other).sum()) / either, 3) if either else None


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold with the best mean IoU; of equal ones (`IOU_TOLERANCE`) the one nearest to 0.5."""
    means = np.array([np.nanmean(_ious(probabilities, labels, t)) for t in THRESHOLDS])
    equal = THRESHOLDS[means >= means.max() - IOU_TOLERANCE]
    return round(float(equal[np.argmin(np.abs(equal - 0.5))]), 2)


def shrunk_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """0.5, or the midpoint between 0.5 and `best_threshold` if the latter is better with 95 % confidence (Student's t).

    The best threshold of five patches overfits: on ten unseen classes it loses 0.007 IoU against 0.5, the midpoint
    0.003.
    """
    best = best_threshold(probabilities, labels)
    gain = mean_interval(_ious(probabilities, labels, best) - _ious(probabilities, labels, 0.5), -1.0, 1.0)
    return 0.5 if gain is None or gain[0] <= 0 else shrink_threshold(best)


def shrink_threshold(threshold: float) -> float:
    """Midpoint between 0.5 and a threshold."""
    return round(0.5 + (threshold - 0.5) / 2, 3)


def _ious(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """IoU of each patch at a threshold, (K,) float."""
    return np.array([masked_iou(p >= threshold, y) for p, y in zip(probabilities, labels, strict=True)])


def covered_ratio(
    held_out: LeaveOneOut | None,
    labels: np.ndarray,
    min_area: int = 0,
    connectivity: int = 2,
    min_true_area: int = 0,
) -> tuple[float, float] | None:
    """95 % confidence interval of the ratio of true to found area, from the held-out patches.

    Parameters
    ----------
    labels : np.ndarray
        (K, H, W) uint8 of the class, as in `score_held_out`.
    min_area : int
        Connected objects of fewer pixels are left out, as they are in the result.
    connectivity : int
        As in `label_core`.
    min_true_area : int
        Likewise, of the labelled objects.

    Returns
    -------
    None where `ratio_interval` is None.
    """
    if held_out is None:
        return None
    known = labels != IGNORE_LABEL
    masks = (held_out.probabilities >= held_out.threshold) & known
    found = [_area_of_large(mask, min_area, connectivity) for mask in masks]
    true = [_area_of_large(of_patch == 1, min_true_area, connectivity) for of_patch in labels]
    return ratio_interval(true, found)
