"""The result of an evaluation: as tables for a terminal, as JSON, and as one page with pictures."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewscope.pipeline.evaluation.figures import Example
from fewscope.pipeline.evaluation.n_way import WayStanding
from fewscope.pipeline.evaluation.results import (
    Calibration,
    ClassFigures,
    Difference,
    Standing,
    calibration,
    differences,
    figures_of_classes,
    standings,
)
from fewscope.pipeline.evaluation.runner import Answer, Findings, Lesson
from fewscope.pipeline.evaluation.tables import (
    Table,
    calibration_table,
    class_table,
    difference_table,
    figure,
    object_table,
    overall_table,
    way_table,
)
from fewscope.pipeline.report.html import fill, write_files


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
        tables = [overall_table(self.standings)]
        if self.differences:
            tables.append(difference_table(self.differences))
        tables += [class_table(self.classes, self.methods, k) for k in self.shots]
        if any(s.components for s in self.standings):
            tables.append(object_table(self.standings))
        if self.calibrations:
            tables.append(calibration_table(self.calibrations))
        if self.ways:
            tables.append(way_table(self.ways))
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
        pictures: dict[str, list[Example]] = {}
        for example in self.examples:
            pictures.setdefault(example.category, []).append(example)
        return fill("evaluation.html.j2", e=self, tables=self.tables(), pictures=pictures, iou=figure)

    def write(self, out: Path) -> None:
        """``evaluation.html``, ``evaluation.txt`` and, last, ``evaluation.json`` in a folder; each appears whole."""
        files = {
            "evaluation.html": self.as_html(),
            "evaluation.txt": self.as_text() + "\n",
            "evaluation.json": self.as_json(),
        }
        write_files(str(out), {name: text.encode() for name, text in files.items()})


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
