"""Metrics of masks and of objects: counts that add up, and the scores computed from them.

Pixels and objects are counted per image. Every score is a function of such counts or of their sums, so scores per
image, per class and per data set are comparable. Masks and label images are (H, W) arrays, 0 = background.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

MATCH_IOU = 0.5
"""Smallest IoU of a true positive."""

N_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Pixels:
    """Pixel counts of one image, or of several: true positives, false positives, false negatives, true negatives."""

    both: int
    only_found: int
    only_true: int
    neither: int

    def __add__(self, other: Pixels) -> Pixels:
        return Pixels(
            self.both + other.both,
            self.only_found + other.only_found,
            self.only_true + other.only_true,
            self.neither + other.neither,
        )

    @property
    def iou(self) -> float:
        """Intersection over union of the object; 1 if there is none and none is found."""
        return _ratio(self.both, self.both + self.only_found + self.only_true)

    @property
    def background_iou(self) -> float:
        """Intersection over union of the background."""
        return _ratio(self.neither, self.neither + self.only_found + self.only_true)

    @property
    def fb_iou(self) -> float:
        """FB-IoU: mean IoU of foreground and background (Rakelly et al. 2018)."""
        return (self.iou + self.background_iou) / 2


def compare_masks(found: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_]) -> Pixels:
    """Compare two masks, (H, W) bool."""
    both, n_found, n_true = int((found & true).sum()), int(found.sum()), int(true.sum())
    return Pixels(both, n_found - both, n_true - both, true.size - n_found - n_true + both)


@dataclass(frozen=True, slots=True)
class Objects:
    """Object counts of one image, or of several.

    Attributes
    ----------
    true, found : int
        Number of true and of found objects.
    matched : int
        True positives: pairs with an IoU of at least `MATCH_IOU`, by one-to-one (Hungarian) matching.
    matched_iou : float
        Sum of the IoUs of these pairs.
    shared_px, joined_px : int
        Numerator and denominator of the aggregated Jaccard index (Kumar et al. 2017): intersection and union of
        each true object with the found one of largest IoU; `joined_px` includes unmatched found objects.
    """

    true: int
    found: int
    matched: int
    matched_iou: float
    shared_px: int
    joined_px: int

    def __add__(self, other: Objects) -> Objects:
        return Objects(
            self.true + other.true,
            self.found + other.found,
            self.matched + other.matched,
            self.matched_iou + other.matched_iou,
            self.shared_px + other.shared_px,
            self.joined_px + other.joined_px,
        )

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN) at IoU 0.5."""
        return _ratio(2 * self.matched, self.true + self.found)

    @property
    def accuracy(self) -> float:
        """TP / (TP + FP + FN) at IoU 0.5, as in the 2018 Data Science Bowl at one threshold."""
        return _ratio(self.matched, self.true + self.found - self.matched)

    @property
    def pq(self) -> float:
        """Panoptic quality (Kirillov et al. 2019): F1 times the mean IoU of the matched objects."""
        return _ratio(2 * self.matched_iou, self.true + self.found)

    @property
    def aji(self) -> float:
        """Aggregated Jaccard index (Kumar et al. 2017)."""
        return _ratio(self.shared_px, self.joined_px)


def compare_objects(found: npt.NDArray[np.integer], true: npt.NDArray[np.integer]) -> Objects:
    """Compare the objects of two label images, (H, W) int."""
    true_ids, true_of = np.unique(true, return_inverse=True)
    found_ids, found_of = np.unique(found, return_inverse=True)
    shape = len(true_ids), len(found_ids)
    pairs = coo_array((np.ones(true.size, np.int64), (true_of.ravel(), found_of.ravel())), shape=shape)
    overlap = pairs.toarray()[true_ids != 0][:, found_ids != 0]
    true_px = np.bincount(true_of.ravel())[true_ids != 0]
    found_px = np.bincount(found_of.ravel())[found_ids != 0]
    union = true_px[:, None] + found_px[None] - overlap
    iou = overlap / union
    n_true, n_found = iou.shape
    if not n_true or not n_found:
        return Objects(n_true, n_found, 0, 0.0, 0, int(true_px.sum() + found_px.sum()))

    # the largest number of matches, and among those the largest sum of IoUs
    row, col = linear_sum_assignment((iou >= MATCH_IOU) + iou / (2 * min(iou.shape)), maximize=True)
    matched = iou[row, col][iou[row, col] >= MATCH_IOU]

    best = iou.argmax(axis=1)
    own = np.arange(n_true)
    missed = iou[own, best] == 0
    shared = overlap[own, best][~missed].sum()
    joined = union[own, best][~missed].sum() + true_px[missed].sum()
    nobodys = np.setdiff1d(np.arange(n_found), best[~missed])
    joined += found_px[nobodys].sum()
    return Objects(n_true, n_found, len(matched), float(matched.sum()), int(shared), int(joined))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 1.0


@dataclass(frozen=True, slots=True)
class CountError:
    """Errors of counts over several images.

    Attributes
    ----------
    mean_absolute : float
        Mean absolute error, objects.
    median_relative : float
        Median of |found - true| / true over the images with objects; NaN without any.
    bias : float
        sum(found) / sum(true) - 1: above 0 if too many are counted; NaN without objects.
    """

    mean_absolute: float
    median_relative: float
    bias: float


def count_error(pictures: Iterable[Objects]) -> CountError:
    """Errors of the counts of one or more images."""
    counts = np.array([(picture.found, picture.true) for picture in pictures], np.float64)
    found, true = counts.T
    off = np.abs(found - true)
    known = true > 0
    return CountError(
        float(off.mean()),
        float(np.median(off[known] / true[known])) if known.any() else float("nan"),
        float(found.sum() / true.sum() - 1) if known.any() else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over classes with its 95 % bootstrap interval (percentiles), which is None for fewer than two classes."""

    value: float
    interval: tuple[float, float] | None


def mean_over_classes(values: Sequence[float]) -> Mean:
    """Mean with its interval; classes are resampled with replacement 10,000 times from a fixed seed."""
    from scipy import stats  # a second of an import, for evaluations alone

    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return Mean(float(array.mean()), None)
    bootstrap = stats.bootstrap(
        (array,), np.mean, n_resamples=N_RESAMPLES, method="percentile", vectorized=True, rng=0, batch=1000
    )
    low, high = bootstrap.confidence_interval
    return Mean(float(array.mean()), (float(low), float(high)))


def correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Pearson correlation; NaN for fewer than three pairs, or if one side is constant."""
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
