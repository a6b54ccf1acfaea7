"""Figures made of query results: per class, per domain and over all, method against method, estimate against truth.

Two metrics of FSS-1000 that are never put into one column (`docs/protocol.md`):

(a) mean image IoU: the IoU of every query at the threshold 0.5, meant per class and then over classes; where all
    classes have as many queries, as FSS-1000 has, that is the mean over all queries, the metric of its paper;
(b) mIoU and FB-IoU: pixels pooled per class before the IoU is taken, and over all classes for FB-IoU, as HSNet has it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

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


@dataclass(frozen=True, slots=True)
class ClassMetrics:
    """One method, one number of shots, one class.

    Attributes
    ----------
    image_iou, chosen_iou : mean over the queries of the IoU at 0.5, and at the threshold that leave-one-out chose
    pixels : of all queries at 0.5
    components, separated : objects of each query
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
class ObjectMetrics:
    """Objects of many pictures, pooled, and how far their counts are off."""

    n_pictures: int
    f1: float
    accuracy: float
    pq: float
    aji: float
    counts: CountError


@dataclass(frozen=True, slots=True)
class MethodMetrics:
    """One method with one number of shots, over some classes.

    Attributes
    ----------
    group : a domain, or "all"
    image_iou : metric (a)
    chosen_iou : the same at the threshold that leave-one-out chose, None without
    class_iou, fb_iou : metric (b), mIoU and FB-IoU
    components, separated : of the classes whose objects are known, None without
    tile_s : seconds per query, median over the classes
    """

    method: str
    shots: int
    group: str
    n_classes: int
    n_queries: int
    image_iou: Mean
    chosen_iou: Mean | None
    class_iou: Mean
    fb_iou: float
    components: ObjectMetrics | None
    separated: ObjectMetrics | None
    tile_s: float


@dataclass(frozen=True, slots=True)
class Difference:
    """One method minus another in mean image IoU on the same episodes, over the same classes.

    Attributes
    ----------
    by : "0.5" or "chosen", the threshold of both
    ahead : classes on which the first is ahead
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
    """How far the leave-one-out estimate of the IoU can be trusted.

    Attributes
    ----------
    over_classes, over_episodes : Pearson's correlation of estimate and true IoU of the queries at the chosen threshold,
        both as means per class, and per episode
    coverage : part of the episodes whose 95 % interval of the mean IoU holds that of the queries; of those that have
        an interval. Few queries have an error of their own, for which the interval has no room
    coverage_with_queries : the same, with room for it: the 95 % prediction interval of the mean of so many queries
    bias : mean of estimate minus true IoU, over classes
    n_counted : episodes with an interval of the count
    count_coverage : part of these whose interval holds the number of objects of all their queries
    points : (class, estimate, true IoU), one per class
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
    """Figures per method, shots and class, in the order of the results."""
    grouped: dict[tuple[str, int, str], list[QueryResult]] = {}
    for result in query_results:
        grouped.setdefault((result.method, result.shots, result.category), []).append(result)
    figures = []
    for (method, shots, category), of_class in grouped.items():
        chosen = [a.at_chosen.iou for a in of_class if a.at_chosen is not None]
        figures.append(
            ClassMetrics(
                method,
                shots,
                category,
                of_class[0].domain,
                len(of_class),
                float(np.mean([a.at_half.iou for a in of_class])),
                float(np.mean(chosen)) if chosen else None,
                reduce(add, (a.at_half for a in of_class)),
                tuple(a.components for a in of_class if a.components is not None),
                tuple(a.separated for a in of_class if a.separated is not None),
                float(np.median([a.tile_s for a in of_class])),
            )
        )
    return figures


def method_metrics(figures: Sequence[ClassMetrics]) -> list[MethodMetrics]:
    """Every method and number of shots over all classes, and over each domain where there are several."""
    found = []
    for group, members in _groups(figures):
        by_method: dict[tuple[int, str], list[ClassMetrics]] = {}
        for f in members:
            by_method.setdefault((f.shots, f.method), []).append(f)
        for (shots, method), classes in by_method.items():
            chosen = [f.chosen_iou for f in classes if f.chosen_iou is not None]
            found.append(
                MethodMetrics(
                    method,
                    shots,
                    group,
                    len(classes),
                    sum(f.n_queries for f in classes),
                    mean_over_classes([f.image_iou for f in classes]),
                    mean_over_classes(chosen) if chosen else None,
                    mean_over_classes([f.pixels.iou for f in classes]),
                    reduce(add, (f.pixels for f in classes)).fb_iou,
                    object_metrics([o for f in classes for o in f.components]),
                    object_metrics([o for f in classes for o in f.separated]),
                    float(np.median([f.tile_s for f in classes])),
                )
            )
    return found


def object_metrics(pictures: Sequence[Objects]) -> ObjectMetrics | None:
    """Objects of some pictures pooled; None without pictures."""
    if not pictures:
        return None
    total = reduce(add, pictures)
    return ObjectMetrics(len(pictures), total.f1, total.accuracy, total.pq, total.aji, count_error(pictures))


def differences(figures: Sequence[ClassMetrics], method: str) -> list[Difference]:
    """`method` against every other, at 0.5 and at the chosen thresholds, over all classes and over each domain."""
    by_threshold: tuple[tuple[str, Callable[[ClassMetrics], float | None]], ...] = (
        ("0.5", lambda f: f.image_iou),
        ("chosen", lambda f: f.chosen_iou),
    )
    found = []
    for group, members in _groups(figures):
        for shots in sorted({f.shots for f in members}):
            for baseline in dict.fromkeys(f.method for f in members if f.method != method):
                for by, iou_of in by_threshold:
                    iou = {(f.method, f.category): iou_of(f) for f in members if f.shots == shots}
                    pairs = [
                        (own, theirs)
                        for (name, category), own in iou.items()
                        if name == method
                        and own is not None
                        and (theirs := iou.get((baseline, category))) is not None
                    ]
                    if pairs:
                        minus = [own - theirs for own, theirs in pairs]
                        ahead = sum(d > 0 for d in minus)
                        found.append(
                            Difference(
                                method,
                                baseline,
                                shots,
                                group,
                                by,
                                len(minus),
                                mean_over_classes(minus),
                                ahead,
                            )
                        )
    return found


def calibration(
    support_results: Sequence[SupportResult], query_results: Iterable[QueryResult], method: str, shots: int
) -> Calibration | None:
    """Estimate against truth of one method; None where leave-one-out was not asked for."""
    true: dict[tuple[str, int], list[float]] = {}
    objects: dict[tuple[str, int], list[Objects]] = {}
    for result in query_results:
        if (result.method, result.shots) == (method, shots) and result.at_chosen is not None:
            true.setdefault((result.category, result.episode), []).append(result.at_chosen.iou)
            if result.separated is not None:
                objects.setdefault((result.category, result.episode), []).append(result.separated)
    rows = [
        (
            episode.category,
            episode.estimate,
            float(np.mean(true[episode.category, episode.episode])),
            episode.interval,
            mean_interval(
                np.array(episode.left_out),
                0.0,
                1.0,
                n_more=len(true[episode.category, episode.episode]),
            ),
        )
        for episode in support_results
        if (episode.method, episode.shots) == (method, shots)
        and episode.estimate is not None
        and not math.isnan(episode.estimate)
    ]
    if not rows:
        return None
    points = []
    for category in dict.fromkeys(row[0] for row in rows):
        of_class = [(estimate, iou) for name, estimate, iou, *_ in rows if name == category]
        estimate, iou = np.mean(of_class, axis=0)
        points.append((category, float(estimate), float(iou)))
    counted = [
        (
            sum(o.true for o in found),
            count_interval(sum(o.found for o in found), episode.counted_ratio),
        )
        for episode in support_results
        if (episode.method, episode.shots) == (method, shots)
        and (found := objects.get((episode.category, episode.episode)))
    ]
    promised = [(iou, interval) for _, _, iou, interval, _ in rows]
    predicted = [(iou, interval) for _, _, iou, _, interval in rows]
    return Calibration(
        method,
        shots,
        len(points),
        len(rows),
        correlation([p[1] for p in points], [p[2] for p in points]),
        correlation([r[1] for r in rows], [r[2] for r in rows]),
        _part_inside(promised),
        _part_inside(predicted),
        float(np.mean([p[1] - p[2] for p in points])),
        sum(interval is not None for _, interval in counted),
        _part_inside(counted),
        tuple(points),
    )


def _part_inside(rows: Sequence[tuple[float, tuple[float, float] | None]]) -> float:
    """Part of the intervals that hold their value; NaN where there is none."""
    inside = [interval[0] <= value <= interval[1] for value, interval in rows if interval is not None]
    return float(np.mean(inside)) if inside else float("nan")


def _groups(figures: Sequence[ClassMetrics]) -> list[tuple[str, list[ClassMetrics]]]:
    domains = sorted({f.domain for f in figures})
    groups = [("all", list(figures))]
    if len(domains) > 1:
        groups += [(d or "no domain", [f for f in figures if f.domain == d]) for d in domains]
    return groups
