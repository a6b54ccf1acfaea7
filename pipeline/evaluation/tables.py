"""The tables of an evaluation, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fewscope.pipeline.evaluation.n_way import NWayMetrics
from fewscope.pipeline.evaluation.results import Calibration, ClassMetrics, Difference, MethodMetrics
from fewscope.pipeline.metrics import Mean


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first column is words, the others are numbers."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def as_text(self) -> str:
        """Columns aligned, for a terminal."""
        widths = [max(len(row[i]) for row in (self.columns, *self.rows)) for i in range(len(self.columns))]
        lines = [self.title, ""]
        for row in (self.columns, tuple("-" * w for w in widths), *self.rows):
            first, *others = zip(row, widths, strict=True)
            lines.append("  ".join([first[0].ljust(first[1]), *(cell.rjust(w) for cell, w in others)]))
        return "\n".join([*lines, "", self.note]) if self.note else "\n".join(lines)


def overall_table(rows: Sequence[MethodMetrics]) -> Table:
    """Means over classes, both metrics."""
    chosen = any(s.chosen_iou for s in rows)
    columns = ["classes of", "method", "shots", "classes", "queries", "(a) image IoU", "95 % interval"]
    columns += ["at chosen threshold", "95 % interval"] if chosen else []
    columns += ["(b) mIoU", "95 % interval", "FB-IoU", "ms per query"]
    cells = []
    for s in rows:
        row = [s.group, s.method, str(s.shots), str(s.n_classes), str(s.n_queries), *_mean(s.image_iou)]
        row += (_mean(s.chosen_iou) if s.chosen_iou else ("–", "–")) if chosen else ()
        cells.append((*row, *_mean(s.class_iou), figure(s.fb_iou), f"{1000 * s.tile_s:.0f}"))
    note = (
        "(a) and (b) are different metrics: never compare one with the other. (a) is that of the FSS-1000 paper, (b) "
        "that of HSNet and its successors. Intervals: 95 %, bootstrap over classes. Times: one tile at a time."
    )
    return Table("Mean over classes", note, tuple(columns), tuple(cells))


def difference_table(rows: Sequence[Difference]) -> Table:
    """Method against method."""
    cells = tuple(
        (
            d.group,
            f"{d.method} − {d.baseline}",
            str(d.shots),
            d.by,
            f"{d.mean.value:+.3f}",
            _interval(d.mean, "+.3f"),
            f"{d.ahead} of {d.n_classes}",
        )
        for d in rows
    )
    columns = ("classes of", "methods", "shots", "threshold", "difference", "95 % interval", "ahead on")
    note = "Mean image IoU on the same supports and queries, class by class."
    return Table("Method against method", note, columns, cells)


def class_table(figures: Sequence[ClassMetrics], methods: Sequence[str], shots: int) -> Table:
    """Every class, for one number of shots."""
    of = {(f.category, f.method): f for f in figures if f.shots == shots}
    chosen = {m for m in methods if any(f.chosen_iou is not None for f in of.values() if f.method == m)}
    columns = ["class", "domain", "queries"]
    for method in methods:
        columns += [method, *([f"{method}, chosen"] if method in chosen else [])]
    columns.append(f"{methods[0]}, (b)")
    cells = []
    for category in dict.fromkeys(f.category for f in of.values()):
        first = of[category, methods[0]]
        row = [category, first.domain or "–", str(first.n_queries)]
        for method in methods:
            f = of[category, method]
            row.append(figure(f.image_iou))
            if method in chosen:
                row.append(figure(f.chosen_iou))
        cells.append((*row, figure(first.pixels.iou)))
    note = (
        "Mean image IoU (a) at the threshold 0.5, and at the one chosen by leave-one-out on the support; (b): pooled "
        "over the class."
    )
    return Table(f"Class by class, {_shots(shots)}", note, tuple(columns), tuple(cells))


def object_table(rows: Sequence[MethodMetrics]) -> Table:
    """Objects and counts, where objects are known."""
    cells = []
    for s in rows:
        for how, figures in (("components", s.components), ("told apart", s.separated)):
            if figures is not None:
                counts = figures.counts
                cells.append(
                    (
                        s.group,
                        s.method,
                        str(s.shots),
                        how,
                        str(figures.n_pictures),
                        *map(figure, (figures.f1, figures.accuracy, figures.pq, figures.aji)),
                        f"{counts.mean_absolute:.1f}",
                        _percent(counts.median_relative),
                        _percent(counts.bias, sign=True),
                    )
                )
    columns = (
        *("classes of", "method", "shots", "objects are", "queries", "F1", "TP/(TP+FP+FN)", "PQ", "AJI"),
        *("count off by", "median relative", "bias"),
    )
    note = (
        "Classes whose objects are known one by one. F1, TP/(TP+FP+FN) and PQ at IoU 0.5, pooled over queries. Count: "
        "mean absolute error in objects, median of the relative error per query, and bias of the total."
    )
    return Table("Objects and counts", note, columns, tuple(cells))


def calibration_table(rows: Sequence[Calibration]) -> Table:
    """The promised IoU against the true one."""
    cells = tuple(
        (
            c.method,
            str(c.shots),
            str(c.n_classes),
            _signed(c.over_classes),
            str(c.n_episodes),
            _signed(c.over_episodes),
            _percent(c.coverage),
            _percent(c.coverage_with_queries),
            _signed(c.bias),
            str(c.n_counted),
            _percent(c.count_coverage),
        )
        for c in rows
    )
    columns = (
        "method",
        "shots",
        "classes",
        "correlation",
        "episodes",
        "correlation",
        "interval holds",
        "with the queries' error",
        "bias",
        "counted episodes",
        "interval of the count holds",
    )
    note = (
        "The IoU that leave-one-out on the support promises, against that of the queries at the same threshold: "
        "Pearson's correlation over classes and over episodes; how often the promised 95 % interval of the mean "
        "holds that of the queries, and how often it does when it is widened for their own error; the mean of promise "
        "minus truth; and how often the 95 % interval of the count holds the number of objects in the queries."
    )
    return Table("Is the promise kept?", note, columns, cells)


def way_table(rows: Sequence[NWayMetrics]) -> Table:
    """Episodes of several classes."""
    cells = tuple(
        (
            w.method,
            str(w.way),
            str(w.shots),
            str(w.n_queries),
            *_mean(w.class_iou),
            figure(w.fb_iou),
            f"{1000 * w.tile_s:.0f}",
        )
        for w in rows
    )
    columns = ("method", "ways", "shots", "queries", "(b) mIoU", "95 % interval", "FB-IoU", "ms per query")
    note = (
        "Several classes shown at once: every pixel is of the one with the largest probability, or of none. Pixels are "
        "pooled per class, with those wrongly taken for it in queries of other classes. Time: encoding the support "
        "included."
    )
    return Table("Several classes at once", note, columns, cells)


def figure(value: float | None) -> str:
    """Three digits; a dash for what is not known."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _percent(value: float, sign: bool = False) -> str:
    return "–" if math.isnan(value) else f"{100 * value:{'+' if sign else ''}.0f} %"


def _mean(mean: Mean) -> tuple[str, str]:
    return figure(mean.value), _interval(mean, ".3f")


def _interval(mean: Mean, form: str) -> str:
    return "–" if mean.interval is None else f"{mean.interval[0]:{form}} to {mean.interval[1]:{form}}"


def _shots(shots: int) -> str:
    return f"{shots} shot{'' if shots == 1 else 's'}"
