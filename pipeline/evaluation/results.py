"""Metrics of an evaluation: per class, per domain and over all classes, method against method, estimate against truth.

Metrics that are never put into one column (`docs/protocol.md`):

(a) mean image IoU: the IoU of every query at threshold 0.5, averaged per class and then over classes. Where all classes
    have equally many queries, as in FSS-1000, this is the mean over all queries, the metric of its paper.
(b) mIoU and FB-IoU: pixels are pooled per class before the IoU is computed, and over all classes for FB-IoU, as in
    HSNet. One class at a time, PANet's mIoU and binary IoU are these two: a class counts where its object is, which is
    every query.
(c) pooled IoU: of the objects of all classes together, as Guided Network's code reports it.

A new metric of masks is a property of `pipeline.metrics.Pixels` and a line in `CLASS_SCORES`; a new metric of objects
is a property of `pipeline.metrics.Objects` and a line in `OBJECT_SCORES`. Tables and ``evaluation.json`` follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Generic, TypeVar

import numpy as np

from fewscope.pipeline.calibration.intervals import count_interval, mean_interval
from fewscope.pipeline.evaluation.runner import QueryResult, SupportResult
from fewscope.pipeline.metrics import (
    CountError,
    Mean,
    Objects,
    Pixels,
    correlation,
    count_error,
    mean_over_classes,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One method, one number of shots, one class.

    Attributes
    ----------
    image_iou, chosen_iou : float, float | None
        Mean over the queries of the IoU at 0.5, and at the threshold chosen by leave-one-out.
    pixels : Pixels
        Pixels of all queries at threshold 0.5, pooled.
    components, separated : tuple[Objects, ...]
        Objects of each query, by connected components and by the rule that leave-one-out chose.
    tile_s : float
        Seconds per query, median.
    """

    method: str
    shots: int
    category: str
    domain: str
    n_queries: int
    image_iou: float
    chosen_iou: float | None
    pixels: Pixels
    components: tuple[Objects, ...]
    separated: tuple[Objects, ...]
    tile_s: float


@dataclass(frozen=True, slots=True)
class Score(Generic[T]):
    """A metric: its key in ``evaluation.json``, the head of its column, and its value; None where it is unknown."""

    key: str
    column: str
    value: Callable[[T], float | None]


CLASS_SCORES: tuple[Score[ClassMetrics], ...] = (
    Score("image_iou", "(a) image IoU", lambda c: c.image_iou),
    Score("chosen_iou", "at chosen threshold", lambda c: c.chosen_iou),
    Score("class_iou", "(b) mIoU", lambda c: c.pixels.iou),
)
"""Metrics of one class, averaged over the classes, with an interval."""

OBJECT_SCORES: tuple[Score[Objects], ...] = (
    Score("f1", "F1", lambda o: o.f1),
    Score("accuracy", "TP/(TP+FP+FN)", lambda o: o.accuracy),
    Score("pq", "PQ", lambda o: o.pq),
    Score("aji", "AJI", lambda o: o.aji),
)
"""Metrics of objects, pooled over all images."""


@dataclass(frozen=True, slots=True)
class ObjectMetrics:
    """Objects of many images, pooled: `OBJECT_SCORES` by key, and the error of the counts."""

    n_pictures: int
    scores: dict[str, float | None]
    counts: CountError


@dataclass(frozen=True, slots=True)
class MethodMetrics:
    """One method with one number of shots, over some classes.

    Attributes
    ----------
    group : str
        A domain, or "all".
    scores : dict[str, Mean | None]
        `CLASS_SCORES` by key; None where no class has the metric.
    fb_iou, pooled_iou : float
        FB-IoU and IoU of the objects, of the pixels of all classes.
    components, separated : ObjectMetrics | None
        Metrics of the classes with labelled objects, None without any.
    tile_s : float
        Seconds per query, median over the classes.
    """

    method: str
    shots: int
    group: str
    n_classes: int
    n_queries: int
    scores: dict[str, Mean | None]
    fb_iou: float
    components: ObjectMetrics | None
    separated: ObjectMetrics | None
    tile_s: float
    pooled_iou: float = math.nan


@dataclass(frozen=True, slots=True)
class Difference:
    """One method minus a baseline in mean image IoU, on the same episodes of the same classes.

    Attributes
    ----------
    by : str
        "0.5" or "chosen", the threshold of both.
    ahead : int
        Number of classes on which the method is better.
    """

    method: str
    baseline: str
    shots: int
    group: str
    by: str
    n_classes: int
    mean: Mean
    ahead: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of the leave-one-out estimate of the IoU.

    Attributes
    ----------
    over_classes, over_episodes : float
        Pearson's correlation of estimated and measured IoU of the queries, both at the chosen threshold; of
        means per class, and per episode.
    coverage : float
        Share of the episodes whose 95 % interval of the mean IoU contains the mean of the queries, of those
        with an interval. The interval makes no allowance for the sampling error of a few queries.
    coverage_with_queries : float
        The same for the 95 % prediction interval of the mean of that many queries.
    bias : float
        Mean of estimated minus measured IoU, over classes.
    n_counted : int
        Episodes with an interval of the count.
    count_coverage : float
        Share of these whose interval contains the number of objects in all their queries.
    points : tuple[tuple[str, float, float], ...]
        (class, estimated IoU, measured IoU), one per class.
    """

    method: str
    shots: int
    n_classes: int
    n_episodes: int
    over_classes: float
    over_episodes: float
    coverage: float
    coverage_with_queries: float
    bias: float
    n_counted: int
    count_coverage: float
    points: tuple[tuple[str, float, float], ...]


def class_metrics(query_results: Iterable[QueryResult]) -> list[ClassMetrics]:
    """Metrics per method, number of shots and class, in the order of the results."""
    grouped: dict[tuple[str, int, str], list[QueryResult]] = {}
    for result in query_results:
        grouped.setdefault((result.method, result.shots, result.category), []).append(result)
    metrics = []
    for (method, shots, category), results in grouped.items():
        chosen = [r.at_chosen.iou for r in results if r.at_chosen is not None]
        metrics.append(
            ClassMetrics(
                method=method,
                shots=shots,
                category=category,
                domain=results[0].domain,
                n_queries=len(results),
                image_iou=float(np.mean([r.at_half.iou for r in results])),
                chosen_iou=float(np.mean(chosen)) if chosen else None,
                pixels=reduce(add, (r.at_half for r in results)),
                components=tuple(r.components for r in results if r.components is not None),
                separated=tuple(r.separated for r in results if r.separated is not None),
                tile_s=float(np.median([r.tile_s for r in results])),
            )
        )
    return metrics


def method_metrics(metrics: Sequence[ClassMetrics]) -> list[MethodMetrics]:
    """Every method and number of shots over all classes, and over each domain if there are several."""
    rows = []
    for group, members in _groups(metrics):
        by_method: dict[tuple[int, str], list[ClassMetrics]] = {}
        for of_class in members:
            by_method.setdefault((of_class.shots, of_class.method), []).append(of_class)
        for (shots, method), classes in by_method.items():
            rows.append(
                MethodMetrics(
                    method=method,
                    shots=shots,
                    group=group,
                    n_classes=len(classes),
                    n_queries=sum(c.n_queries for c in classes),
                    scores={score.key: _mean(score, classes) for score in CLASS_SCORES},
                    fb_iou=reduce(add, (c.pixels for c in classes)).fb_iou,
                    components=object_metrics([o for c in classes for o in c.components]),
                    separated=object_metrics([o for c in classes for o in c.separated]),
                    tile_s=float(np.median([c.tile_s for c in classes])),
                    pooled_iou=reduce(add, (c.pixels for c in classes)).iou,
                )
            )
    return rows


def _mean(score: Score[ClassMetrics], classes: Sequence[ClassMetrics]) -> Mean | None:
    values = [value for c in classes if (value := score.value(c)) is not None]
    return mean_over_classes(values) if values else None


def object_metrics(images: Sequence[Objects]) -> ObjectMetrics | None:
    """Metrics of the objects of some images, pooled; None without images."""
    if not images:
        return None
    total = reduce(add, images)
    scores = {score.key: score.value(total) for score in OBJECT_SCORES}
    return ObjectMetrics(len(images), scores, count_error(images))


def differences(metrics: Sequence[ClassMetrics], method: str) -> list[Difference]:
    """`method` minus every other one, at 0.5 and at the chosen thresholds, over all classes and over each domain."""
    by_threshold: tuple[tuple[str, Callable[[ClassMetrics], float | None]], ...] = (
        ("0.5", lambda c: c.image_iou),
        ("chosen", lambda c: c.chosen_iou),
    )
    rows = []
    for group, members in _groups(metrics):
        for shots in sorted({c.shots for c in members}):
            for baseline in dict.fromkeys(c.method for c in members if c.method != method):
                for by, iou_of in by_threshold:
                    iou = {(c.method, c.category): iou_of(c) for c in members if c.shots == shots}
                    pairs = [
                        (own, other)
                        for (name, category), own in iou.items()
                        if name == method
                        and own is not None
                        and (other := iou.get((baseline, category))) is not None
                    ]
                    if pairs:
                        minus = [own - other for own, other in pairs]
                        mean, ahead = mean_over_classes(minus), sum(d > 0 for d in minus)
                        rows.append(Difference(method, baseline, shots, group, by, len(minus), mean, ahead))
    return rows


def calibration(
    support_results: Sequence[SupportResult], query_results: Iterable[QueryResult], method: str, shots: int
) -> Calibration | None:
    """Estimated against measured IoU and counts of one method; None where leave-one-out was not run."""
    measured: dict[tuple[str, int], list[float]] = {}  # (class, episode): IoU of the queries
    objects: dict[tuple[str, int], list[Objects]] = {}
    for result in query_results:
        if (result.method, result.shots) == (method, shots) and result.at_chosen is not None:
            measured.setdefault((result.category, result.episode), []).append(result.at_chosen.iou)
            if result.separated is not None:
                objects.setdefault((result.category, result.episode), []).append(result.separated)
    own = [s for s in support_results if (s.method, s.shots) == (method, shots)]
    supports = [s for s in own if s.estimate is not None and not math.isnan(s.estimate)]
    if not supports:
        return None
    estimates = [float(s.estimate) for s in supports if s.estimate is not None]
    queries = [measured[s.category, s.episode] for s in supports]
    truths = [float(np.mean(ious)) for ious in queries]
    of_mean = [s.interval for s in supports]
    of_queries = [
        mean_interval(np.array(s.left_out), 0.0, 1.0, n_more=len(ious))
        for s, ious in zip(supports, queries, strict=True)
    ]
    points = []
    for category in dict.fromkeys(s.category for s in supports):
        rows = [k for k, s in enumerate(supports) if s.category == category]
        estimate, iou = np.mean([(estimates[k], truths[k]) for k in rows], axis=0)
        points.append((category, float(estimate), float(iou)))
    counted = [
        (sum(o.true for o in found), count_interval(sum(o.found for o in found), s.counted_ratio))
        for s in own
        if (found := objects.get((s.category, s.episode)))
    ]
    return Calibration(
        method=method,
        shots=shots,
        n_classes=len(points),
        n_episodes=len(supports),
        over_classes=correlation([p[1] for p in points], [p[2] for p in points]),
        over_episodes=correlation(estimates, truths),
        coverage=_coverage(zip(truths, of_mean, strict=True)),
        coverage_with_queries=_coverage(zip(truths, of_queries, strict=True)),
        bias=float(np.mean([p[1] - p[2] for p in points])),
        n_counted=sum(interval is not None for _, interval in counted),
        count_coverage=_coverage(counted),
        points=tuple(points),
    )


def _coverage(rows: Iterable[tuple[float, tuple[float, float] | None]]) -> float:
    """Share of the intervals that contain their value; NaN without intervals."""
    inside = [interval[0] <= value <= interval[1] for value, interval in rows if interval is not None]
    return float(np.mean(inside)) if inside else float("nan")


def _groups(metrics: Sequence[ClassMetrics]) -> list[tuple[str, list[ClassMetrics]]]:
    domains = sorted({c.domain for c in metrics})
    groups = [("all", list(metrics))]
    if len(domains) > 1:
        groups += [(d or "no domain", [c for c in metrics if c.domain == d]) for d in domains]
    return groups
