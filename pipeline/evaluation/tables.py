"""The tables of an evaluation, as text.

Each table is a tuple of columns: a title and a function from a row to the text of its cell. The metrics in
`results.CLASS_SCORES` and `results.OBJECT_SCORES` are columns by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fewscope.pipeline.evaluation.n_way import NWayMetrics
from fewscope.pipeline.evaluation.results import (
    CLASS_SCORES,
    OBJECT_SCORES,
    Calibration,
    ClassMetrics,
    Difference,
    MethodMetrics,
    ObjectMetrics,
)
from fewscope.pipeline.metrics import Mean

Column = tuple[str, Callable[[Any], str]]
"""Title, and the text of a row's cell."""


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first column is left-aligned, the others are numbers."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, title: str, note: str, columns: Sequence[Column], rows: Sequence[Any]) -> Table:
        """A table with one row per item of `rows`."""
        cells = tuple(tuple(cell(row) for _, cell in columns) for row in rows)
        return cls(title, note, tuple(name for name, _ in columns), cells)

    def as_text(self) -> str:
        """Aligned columns, for a terminal."""
        widths = [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]
        lines = [self.title, ""]
        for row in (self.columns, tuple("-" * w for w in widths), *self.rows):
            first, *others = zip(row, widths, strict=True)
            lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(w) for cell, w in others)]))
        return "\n".join([*lines, "", self.note]) if self.note else "\n".join(lines)


def _mean_columns(title: str, mean: Callable[[Any], Mean | None]) -> tuple[Column, Column]:
    """A mean and its interval."""
    return (
        (title, lambda row: number(m.value) if (m := mean(row)) else "–"),
        ("95 % interval", lambda row: _interval(mean(row), ".3f")),
    )


METHOD: tuple[Column, ...] = (
    ("classes of", lambda m: m.group),
    ("method", lambda m: m.method),
    ("shots", lambda m: str(m.shots)),
)

DIFFERENCE: tuple[Column, ...] = (
    ("classes of", lambda d: d.group),
    ("methods", lambda d: f"{d.method} − {d.baseline}"),
    ("shots", lambda d: str(d.shots)),
    ("threshold", lambda d: d.by),
    ("difference", lambda d: f"{d.mean.value:+.3f}"),
    ("95 % interval", lambda d: _interval(d.mean, "+.3f")),
    ("better on", lambda d: f"{d.ahead} of {d.n_classes}"),
)

CALIBRATION: tuple[Column, ...] = (
    ("method", lambda c: c.method),
    ("shots", lambda c: str(c.shots)),
    ("classes", lambda c: str(c.n_classes)),
    ("correlation", lambda c: _signed(c.over_classes)),
    ("episodes", lambda c: str(c.n_episodes)),
    ("correlation", lambda c: _signed(c.over_episodes)),
    ("coverage", lambda c: _percent(c.coverage)),
    ("coverage, prediction interval", lambda c: _percent(c.coverage_with_queries)),
    ("bias", lambda c: _signed(c.bias)),
    ("counted episodes", lambda c: str(c.n_counted)),
    ("coverage, count", lambda c: _percent(c.count_coverage)),
)

N_WAY: tuple[Column, ...] = (
    ("method", lambda w: w.method),
    ("ways", lambda w: str(w.way)),
    ("shots", lambda w: str(w.shots)),
    ("queries", lambda w: str(w.n_queries)),
    *_mean_columns("(b) mIoU", lambda w: w.class_iou),
    ("FB-IoU", lambda w: number(w.fb_iou)),
    ("ms per query", lambda w: f"{1000 * w.tile_s:.0f}"),
)


def _score(key: str) -> Callable[[MethodMetrics], Mean | None]:
    return lambda metrics: metrics.scores[key]


def _object_score(key: str) -> Callable[[tuple[MethodMetrics, str, ObjectMetrics]], str]:
    return lambda row: number(row[2].scores[key])


def _of_method(
    cell: Callable[[MethodMetrics], str],
) -> Callable[[tuple[MethodMetrics, str, ObjectMetrics]], str]:
    return lambda row: cell(row[0])


def _iou(of: Mapping[tuple[str, str], ClassMetrics], method: str, name: str) -> Callable[[str], str]:
    return lambda category: number(getattr(of[category, method], name))


def overall_table(rows: Sequence[MethodMetrics]) -> Table:
    """Means over classes of all metrics of masks; metrics that no method has are left out."""
    columns = [
        *METHOD,
        ("classes", lambda m: str(m.n_classes)),
        ("queries", lambda m: str(m.n_queries)),
    ]
    for score in CLASS_SCORES:
        if any(m.scores[score.key] for m in rows):
            columns += _mean_columns(score.column, _score(score.key))
    columns += [
        ("FB-IoU", lambda m: number(m.fb_iou)),
        ("(c) pooled IoU", lambda m: number(m.pooled_iou)),
        ("ms per query", lambda m: f"{1000 * m.tile_s:.0f}"),
    ]
    note = (
        "(a), (b) and (c) are different metrics: never compare one with another. (a) is the metric of the FSS-1000 "
        "paper, (b) that of HSNet, PANet and their successors, (c) that of Guided Network's code. Intervals: 95 %, "
        "bootstrap over classes. Times: one tile at a time."
    )
    return Table.of("Mean over classes", note, columns, rows)


def difference_table(rows: Sequence[Difference]) -> Table:
    """The first method against all others."""
    note = "Difference in mean image IoU (a) on the same supports and queries, averaged over classes."
    return Table.of("Comparison of methods", note, DIFFERENCE, rows)


def class_table(metrics: Sequence[ClassMetrics], methods: Sequence[str], shots: int) -> Table:
    """Every class, for one number of shots."""
    of = {(c.category, c.method): c for c in metrics if c.shots == shots}
    with_chosen = {c.method for c in of.values() if c.chosen_iou is not None}
    first = methods[0]
    columns: list[Column] = [
        ("class", lambda category: category),
        ("domain", lambda category: of[category, first].domain or "–"),
        ("queries", lambda category: str(of[category, first].n_queries)),
    ]
    for method in methods:
        columns.append((method, _iou(of, method, "image_iou")))
        if method in with_chosen:
            columns.append((f"{method}, chosen", _iou(of, method, "chosen_iou")))
    columns.append((f"{first}, (b)", lambda category: number(of[category, first].pixels.iou)))
    note = (
        "Mean image IoU (a) at threshold 0.5, and at the threshold chosen by leave-one-out on the support set; "
        "(b): IoU of the pixels pooled over the class."
    )
    categories = list(dict.fromkeys(c.category for c in of.values()))
    return Table.of(f"Results by class, {_shots(shots)}", note, columns, categories)


def object_table(rows: Sequence[MethodMetrics]) -> Table:
    """Objects and counts of the classes with labelled objects."""
    columns: list[Column] = [
        *((title, _of_method(cell)) for title, cell in METHOD),
        ("objects by", lambda row: row[1]),
        ("queries", lambda row: str(row[2].n_pictures)),
        *((score.column, _object_score(score.key)) for score in OBJECT_SCORES),
        ("count error", lambda row: f"{row[2].counts.mean_absolute:.1f}"),
        ("relative", lambda row: _percent(row[2].counts.median_relative)),
        ("bias", lambda row: _percent(row[2].counts.bias, sign=True)),
    ]
    kinds: tuple[tuple[str, Callable[[MethodMetrics], ObjectMetrics | None]], ...] = (
        ("components", lambda m: m.components),
        ("separation", lambda m: m.separated),
    )
    flat = [(m, name, objects) for m in rows for name, of in kinds if (objects := of(m)) is not None]
    note = (
        "Classes with labelled objects, found as connected components or with touching objects separated as a job "
        "does. F1, TP/(TP+FP+FN) and PQ at IoU 0.5, pooled over queries. Count error: mean absolute error in "
        "objects, median of the relative error per query, and bias of the total."
    )
    return Table.of("Objects and counts", note, columns, flat)


def calibration_table(rows: Sequence[Calibration]) -> Table:
    """Estimated against measured IoU, and the coverage of the intervals."""
    note = (
        "The IoU that leave-one-out on the support set estimates, compared with the IoU measured on the queries "
        "at the same threshold: Pearson's correlation over classes and over episodes; the share of episodes whose "
        "95 % interval of the mean IoU contains that of the queries, and the same for the 95 % prediction "
        "interval of a mean over so few queries; the mean of estimated minus measured IoU; and the share of "
        "episodes whose 95 % interval of the count contains the number of objects in the queries."
    )
    return Table.of("Calibration of the estimates", note, CALIBRATION, rows)


def n_way_table(rows: Sequence[NWayMetrics]) -> Table:
    """N-way episodes."""
    note = (
        "Several classes in one support set: every pixel is assigned to the class with the largest probability, "
        "or to none. Pixels are pooled per class, including false positives in queries of other classes. Times "
        "include encoding the support set."
    )
    return Table.of("N-way episodes", note, N_WAY, rows)


def number(value: float | None) -> str:
    """Three decimals; a dash for an unknown value."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _percent(value: float, sign: bool = False) -> str:
    return "–" if math.isnan(value) else f"{100 * value:{'+' if sign else ''}.0f} %"


def _interval(mean: Mean | None, form: str) -> str:
    if mean is None or mean.interval is None:
        return "–"
    return f"{mean.interval[0]:{form}} to {mean.interval[1]:{form}}"


def _shots(shots: int) -> str:
    return f"{shots} shot{'' if shots == 1 else 's'}"
