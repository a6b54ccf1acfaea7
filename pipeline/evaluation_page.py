"""The result of an evaluation: as tables for a terminal, as JSON, and as one page with pictures."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from pipeline.evaluate import Answer, Example, Findings, Lesson
from pipeline.scores import Mean
from pipeline.standings import (
    Calibration,
    ClassFigures,
    Difference,
    Standing,
    calibration,
    differences,
    figures_of_classes,
    standings,
)
from pipeline.ways import WayStanding


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


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All figures of an evaluation, and what they are made of.

    Attributes
    ----------
    what : what was asked of what: data, split, model, episodes, machine; in the page's words
    methods : the first is the one that is tested
    """

    what: dict[str, str]
    methods: tuple[str, ...]
    shots: tuple[int, ...]
    standings: list[Standing]
    classes: list[ClassFigures]
    differences: list[Difference]
    calibrations: list[Calibration]
    lessons: list[Lesson]
    answers: list[Answer]
    examples: list[Example]
    ways: tuple[WayStanding, ...]

    @classmethod
    def of(
        cls,
        what: dict[str, str],
        methods: Sequence[str],
        shots: Sequence[int],
        findings: Sequence[Findings],
        ways: Sequence[WayStanding] = (),
    ) -> Evaluation:
        """Figures of what was found, at least one class.

        Raises
        ------
        ValueError
            Nothing was asked.
        """
        lessons = [lesson for f in findings for lesson in f.lessons]
        answers = [answer for f in findings for answer in f.answers]
        if not answers:
            raise ValueError(
                "no class has pictures enough for the shots that are asked for; ask for fewer --shots"
            )
        figures = figures_of_classes(answers)
        calibrations = [calibration(lessons, answers, m, k) for k in shots for m in methods]
        return cls(
            what,
            tuple(methods),
            tuple(shots),
            standings(figures),
            figures,
            differences(figures, methods[0]),
            [c for c in calibrations if c is not None],
            lessons,
            answers,
            [example for f in findings for example in f.examples],
            tuple(ways),
        )

    def tables(self) -> list[Table]:
        """All figures in words."""
        tables = [_overall(self.standings)]
        if self.differences:
            tables.append(_differences(self.differences))
        tables += [_classes(self.classes, self.methods, k) for k in self.shots]
        if any(s.components for s in self.standings):
            tables.append(_objects(self.standings))
        if self.calibrations:
            tables.append(_calibrations(self.calibrations))
        if self.ways:
            tables.append(_ways(self.ways))
        return tables

    def as_text(self) -> str:
        """What the command prints."""
        head = "\n".join(f"{name}: {value}" for name, value in self.what.items())
        return "\n\n\n".join([head, *(table.as_text() for table in self.tables())])

    def as_json(self) -> str:
        """Every figure and every answer; NaN becomes null."""
        answers = [
            dataclasses.asdict(a)
            | {"iou": a.at_half.iou, "chosen_iou": a.at_chosen.iou if a.at_chosen else None}
            for a in self.answers
        ]
        classes = [
            {
                "method": f.method,
                "shots": f.shots,
                "class": f.category,
                "domain": f.domain,
                "queries": f.n_queries,
                "mean_image_iou": f.image_iou,
                "mean_image_iou_at_chosen_threshold": f.chosen_iou,
                "class_iou": f.pixels.iou,
                "fb_iou": f.pixels.fb_iou,
            }
            for f in self.classes
        ]
        content = {
            "what": self.what,
            "standings": [dataclasses.asdict(s) for s in self.standings],
            "differences": [dataclasses.asdict(d) for d in self.differences],
            "calibration": [dataclasses.asdict(c) for c in self.calibrations],
            "ways": [dataclasses.asdict(w) for w in self.ways],
            "classes": classes,
            "lessons": [dataclasses.asdict(lesson) for lesson in self.lessons],
            "answers": answers,
        }
        return json.dumps(_finite(content), indent=1, allow_nan=False)

    def as_html(self) -> str:
        """One self-contained page; every string from outside is escaped."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        pictures: dict[str, list[Example]] = {}
        for example in self.examples:
            pictures.setdefault(example.category, []).append(example)
        return environment.get_template("evaluation.html.j2").render(
            e=self, tables=self.tables(), pictures=pictures, iou=_figure
        )

    def write(self, out: Path) -> None:
        """``evaluation.html``, ``evaluation.txt`` and, last, ``evaluation.json`` in a folder; each appears whole."""
        out.mkdir(parents=True, exist_ok=True)
        for name, content in (
            ("evaluation.html", self.as_html()),
            ("evaluation.txt", self.as_text() + "\n"),
            ("evaluation.json", self.as_json()),
        ):
            part = out / f"{name}.part"
            part.write_text(content, encoding="utf-8")
            os.replace(part, out / name)


def _overall(rows: Sequence[Standing]) -> Table:
    chosen = any(s.chosen_iou for s in rows)
    columns = ["classes of", "method", "shots", "classes", "queries", "(a) image IoU", "95 % interval"]
    columns += ["at chosen threshold", "95 % interval"] if chosen else []
    columns += ["(b) mIoU", "95 % interval", "FB-IoU", "ms per query"]
    cells = []
    for s in rows:
        row = [s.group, s.method, str(s.shots), str(s.n_classes), str(s.n_queries), *_mean(s.image_iou)]
        row += (_mean(s.chosen_iou) if s.chosen_iou else ("–", "–")) if chosen else ()
        cells.append((*row, *_mean(s.class_iou), _figure(s.fb_iou), f"{1000 * s.tile_s:.0f}"))
    note = (
        "(a) and (b) are different metrics: never compare one with the other. (a) is that of the FSS-1000 paper, (b) "
        "that of HSNet and its successors. Intervals: 95 %, bootstrap over classes."
    )
    return Table("Mean over classes", note, tuple(columns), tuple(cells))


def _differences(rows: Sequence[Difference]) -> Table:
    cells = tuple(
        (
            d.group,
            f"{d.method} − {d.rival}",
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


def _classes(figures: Sequence[ClassFigures], methods: Sequence[str], shots: int) -> Table:
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
            row.append(_figure(f.image_iou))
            if method in chosen:
                row.append(_figure(f.chosen_iou))
        cells.append((*row, _figure(first.pixels.iou)))
    note = (
        "Mean image IoU (a) at the threshold 0.5, and at the one chosen by leave-one-out on the support; (b): pooled "
        "over the class."
    )
    return Table(f"Class by class, {_shots(shots)}", note, tuple(columns), tuple(cells))


def _objects(rows: Sequence[Standing]) -> Table:
    cells = []
    for s in rows:
        for how, figures in (("components", s.components), ("told apart", s.told_apart)):
            if figures is not None:
                counts = figures.counts
                cells.append(
                    (
                        s.group,
                        s.method,
                        str(s.shots),
                        how,
                        str(figures.n_pictures),
                        *map(_figure, (figures.f1, figures.accuracy, figures.pq, figures.aji)),
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


def _calibrations(rows: Sequence[Calibration]) -> Table:
    cells = tuple(
        (
            c.method,
            str(c.shots),
            str(c.n_classes),
            _signed(c.over_classes),
            str(c.n_episodes),
            _signed(c.over_episodes),
            _percent(c.coverage),
            _signed(c.bias),
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
        "bias",
    )
    note = (
        "The IoU that leave-one-out on the support promises, against that of the queries at the same threshold: "
        "Pearson's correlation over classes and over episodes; how often the promised 95 % interval holds the truth; "
        "and the mean of promise minus truth."
    )
    return Table("Is the promise kept?", note, columns, cells)


def _ways(rows: Sequence[WayStanding]) -> Table:
    cells = tuple(
        (
            w.method,
            str(w.way),
            str(w.shots),
            str(w.n_queries),
            *_mean(w.class_iou),
            _figure(w.fb_iou),
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


def _figure(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def _signed(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:+.2f}"


def _percent(value: float, sign: bool = False) -> str:
    return "–" if math.isnan(value) else f"{100 * value:{'+' if sign else ''}.0f} %"


def _mean(mean: Mean) -> tuple[str, str]:
    return _figure(mean.value), _interval(mean, ".3f")


def _interval(mean: Mean, form: str) -> str:
    return "–" if mean.interval is None else f"{mean.interval[0]:{form}} to {mean.interval[1]:{form}}"


def _shots(shots: int) -> str:
    return f"{shots} shot{'' if shots == 1 else 's'}"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
