"""Leave one out: how good is this support set, and which threshold suits it? Asked of the support set itself.

Every patch is predicted with the other K - 1 as support, as the slide will be. That gives an honest estimate of the
IoU, the threshold, and, where the patches' objects are outlined one by one, how far a count is off. K small
predictions: seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy import stats

IGNORE = 255
THRESHOLDS = np.arange(0.10, 0.91, 0.05)
MOST_FOLDS = 6
EQUAL_IOU = 0.005
"""Mean IoUs closer than this are called equal, and the threshold nearest to 0.5 is taken: five patches tell no more."""


class Model(Protocol):
    """What the pipeline asks of a model (`model.segmenter.Segmenter`, or a fake in tests)."""

    name: str

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Any:
        """Compile a support set: (K, H, W, 3) uint8 and labels as `model.segmenter.Segmenter.encode` takes them."""
        ...

    def predict(self, tiles: np.ndarray, features: Any) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32 in [0, 1]: each class by itself.

        A model with an attribute ``has_depth`` that is True takes ``depth=True``, and gives (N, 2C, H, W): after the
        probabilities the depth of each class, 0 at an object's rim and 1 in its middle.
        """
        ...


def predict_maps(model: Model, tiles: np.ndarray, features: Any, depth: bool) -> np.ndarray:
    """`Model.predict`, with depths or without: (N, 2C or C, H, W) float32."""
    if not depth:
        return model.predict(tiles, features)
    return model.predict(tiles, features, depth=True)  # type: ignore[call-arg]


def has_depth(model: Model) -> bool:
    """Whether a model tells how deep in its object a pixel is."""
    return bool(getattr(model, "has_depth", False))


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


def judged(
    probabilities: np.ndarray | None, labels: np.ndarray, threshold: float | None = None
) -> LeaveOneOut | None:
    """Left-out predictions (K, H, W) of a class at the threshold, or the `careful_threshold`; None of None."""
    if probabilities is None:
        return None
    if threshold is None:
        threshold = careful_threshold(probabilities, labels)
    return judge(probabilities, labels, threshold)


def n_folds(n_patches: int) -> int:
    """Times that patches are left out: each by itself, or with many patches several at once."""
    return min(n_patches, MOST_FOLDS)


def predict_left_out(
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
    others = [np.setdiff1d(np.arange(k), left_out) for left_out in folds]
    usable = [
        c
        for c in range(n_classes)
        if k > 1 and all((labels[c, o] == 1).any() and (labels[c, o] == 0).any() for o in others)
    ]
    if not usable:
        return found

    def as_it_is(used: np.ndarray, classes: Sequence[int]) -> Any:
        return model.encode(images[used], told(labels[classes][:, used]))

    def predict(left_out: np.ndarray, used: np.ndarray) -> np.ndarray:
        return predict_maps(model, images[left_out], (encode or as_it_is)(used, usable), depth)

    with ThreadPoolExecutor(n_threads) as threads:
        predicted = list(threads.map(predict, folds, others))
    places = [*usable, *(n_classes + c for c in usable if depth)]
    for i, place in enumerate(places):
        of_class = np.empty((k, *images.shape[1:3]), np.float32)
        for left_out, maps in zip(folds, predicted, strict=True):
            of_class[left_out] = maps[:, i]
        found[place] = of_class
    return found


def told(labels: np.ndarray) -> np.ndarray:
    """Labels by class (C, K, H, W) as a model takes them: without the first axis where there is but one class."""
    return labels[0] if len(labels) == 1 else labels


def judge(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> LeaveOneOut:
    """How good left-out predictions (K, H, W) of a class are at a threshold, by its labels (K, H, W)."""
    iou = _ious(probabilities, labels, threshold)
    return LeaveOneOut(probabilities, threshold, tuple(iou.tolist()), mean_interval(iou, 0.0, 1.0))


def masked_iou(prediction: np.ndarray, labels: np.ndarray) -> float:
    """IoU of the object over the labelled pixels; NaN where the labels have no object."""
    known = labels != IGNORE
    truth = labels == 1
    if not truth.any():
        return float("nan")
    union = (prediction & known) | truth
    return float((prediction & truth).sum() / union.sum())


def best_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The threshold of the best mean IoU; among equals (`EQUAL_IOU`) the one nearest to 0.5."""
    means = np.array([np.nanmean(_ious(probabilities, labels, t)) for t in THRESHOLDS])
    equal = THRESHOLDS[means >= means.max() - EQUAL_IOU]
    return round(float(equal[np.argmin(np.abs(equal - 0.5))]), 2)


def careful_threshold(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """0.5, or half of the way to `best_threshold` where that is better on the patches beyond doubt (95 %, Student's t).

    What is best for five patches is too far for most others: on ten unseen classes the best of the patches loses 0.007
    IoU against 0.5, and half of the way 0.003.
    """
    best = best_threshold(probabilities, labels)
    gain = mean_interval(_ious(probabilities, labels, best) - _ious(probabilities, labels, 0.5), -1.0, 1.0)
    return 0.5 if gain is None or gain[0] <= 0 else halfway(best)


def halfway(threshold: float) -> float:
    """Half of the way from 0.5 to a threshold."""
    return round(0.5 + (threshold - 0.5) / 2, 3)


def _ious(probabilities: np.ndarray, labels: np.ndarray, threshold: float) -> np.ndarray:
    """(K,) IoU of each patch at a threshold."""
    return np.array([masked_iou(p >= threshold, y) for p, y in zip(probabilities, labels, strict=True)])


def mean_interval(
    values: np.ndarray, low: float, high: float, n_more: int | None = None
) -> tuple[float, float] | None:
    """95 % confidence interval of the mean of a few values (Student's t), cut to [low, high]; None for fewer than 2.

    With `n_more`, the prediction interval of the mean of so many further values, which have an error of their own.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return None
    error = np.sqrt(1 / len(known) + (1 / n_more if n_more else 0))
    half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) * error
    return max(low, float(known.mean() - half)), min(high, float(known.mean() + half))


def covered_ratio(left_out: LeaveOneOut | None, labels: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of true over found area, by the left-out patches; None where that cannot be said.

    `labels` are (K, H, W), as in `predict_left_out`.
    """
    if left_out is None:
        return None
    known = labels != IGNORE
    found = ((left_out.probabilities >= left_out.threshold) & known).sum((1, 2))
    return ratio_interval((labels == 1).sum((1, 2)), found)


def ratio_interval(
    true: Sequence[int] | np.ndarray, found: Sequence[int] | np.ndarray, least: float = 0.0
) -> tuple[float, float] | None:
    """95 % interval of true over found, of K patches; None for fewer than two, or where nothing was found.

    The ratio estimator with Student's t (Cochran, Sampling Techniques, 1977, 6.3): patches with much say more than
    those with little, and one with nothing counts too. `least` is a bound of its relative half width.
    """
    true, found = np.asarray(true, np.float64), np.asarray(found, np.float64)
    if len(true) < 2 or not found.any():
        return None
    ratio = true.sum() / found.sum()
    error = np.sqrt(((true - ratio * found) ** 2).sum() / (len(true) - 1) / len(true)) / found.mean()
    half = max(stats.t.ppf(0.975, len(true) - 1) * error, least * ratio)
    return max(0.0, float(ratio - half)), float(ratio + half)


def count_errors(true: Sequence[int], counted: Sequence[int]) -> np.ndarray:
    """How far the counts of K left-out patches are off: |log((true + 1) / (counted + 1))|, (K,); 1 keeps it finite."""
    return np.abs(np.log((np.array(true) + 1) / (np.array(counted) + 1)))


def counted_ratio(
    true: Sequence[int], counted: Sequence[int], n_unmatched: int
) -> tuple[float, float] | None:
    """95 % interval of true over counted objects, by the left-out patches; None where that cannot be said.

    That of `ratio_interval`, but no narrower than chance leaves it: objects are missed, and found where there are none,
    one by one, and in five patches the two may happen to cancel. Their difference has the error of a Poisson number of
    as many as were seen, and one more.

    Parameters
    ----------
    true, counted : objects of each of K patches
    n_unmatched : objects that were missed and finds that are none, of all patches
    """
    chance = stats.norm.ppf(0.975) * np.sqrt(n_unmatched + 1) / max(1, sum(true))
    return ratio_interval(true, counted, least=float(chance))


def count_interval(count: int, ratio: tuple[float, float] | None) -> tuple[int, int] | None:
    """95 % interval of a count, were it off as it is on the left-out patches (`counted_ratio`)."""
    return None if ratio is None else (int(np.floor(count * ratio[0])), int(np.ceil(count * ratio[1])))
