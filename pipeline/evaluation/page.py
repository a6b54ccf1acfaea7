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
from fewscope.pipeline.evaluation.n_way import NWayMetrics
from fewscope.pipeline.evaluation.results import (
    Calibration,
    ClassMetrics,
    Difference,
    MethodMetrics,
    calibration,
    class_metrics,
    differences,
    method_metrics,
)
from fewscope.pipeline.evaluation.runner import ClassEvaluation, QueryResult, SupportResult
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

JSON_KEYS = {"baseline": "baseline", "separated": "separated"}
"""Attributes whose key in ``evaluation.json`` is older than their name."""


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
    method_metrics: list[MethodMetrics]
    classes: list[ClassMetrics]
    differences: list[Difference]
    calibrations: list[Calibration]
    support_results: list[SupportResult]
    query_results: list[QueryResult]
    examples: list[Example]
    ways: tuple[NWayMetrics, ...]

    @classmethod
    def of(
        cls,
        what: dict[str, str],
        methods: Sequence[str],
        shots: Sequence[int],
        evaluated: Sequence[ClassEvaluation],
        ways: Sequence[NWayMetrics] = (),
    ) -> Evaluation:
        """Figures of what was found, at least one class.

        Raises
        ------
        ValueError
            Nothing was asked.
        """
        support_results = [r for f in evaluated for r in f.support_results]
        query_results = [r for f in evaluated for r in f.query_results]
        if not query_results:
            raise ValueError(
                "no class has pictures enough for the shots that are asked for; ask for fewer --shots"
            )
        figures = class_metrics(query_results)
        calibrations = [calibration(support_results, query_results, m, k) for k in shots for m in methods]
        return cls(
            what,
            tuple(methods),
            tuple(shots),
            method_metrics(figures),
            figures,
            differences(figures, methods[0]),
            [c for c in calibrations if c is not None],
            support_results,
            query_results,
            [example for f in evaluated for example in f.examples],
            tuple(ways),
        )

    def tables(self) -> list[Table]:
        """All figures in words."""
        tables = [overall_table(self.method_metrics)]
        if self.differences:
            tables.append(difference_table(self.differences))
        tables += [class_table(self.classes, self.methods, k) for k in self.shots]
        if any(s.components for s in self.method_metrics):
            tables.append(object_table(self.method_metrics))
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
        """Every number and every query; NaN becomes null. Keys are those of the first release: see `JSON_KEYS`."""
        query_results = [
            dataclasses.asdict(r)
            | {"iou": r.at_half.iou, "chosen_iou": r.at_chosen.iou if r.at_chosen else None}
            for r in self.query_results
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
            "standings": [dataclasses.asdict(s) for s in self.method_metrics],
            "differences": [dataclasses.asdict(d) for d in self.differences],
            "calibration": [dataclasses.asdict(c) for c in self.calibrations],
            "ways": [dataclasses.asdict(w) for w in self.ways],
            "classes": classes,
            "lessons": [dataclasses.asdict(r) for r in self.support_results],
            "answers": query_results,
        }
        return json.dumps(_json_value(content), indent=1, allow_nan=False)

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


def _json_value(value: Any) -> Any:
    """The value with the keys of ``evaluation.json``, None for every float that JSON does not know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {JSON_KEYS.get(key, key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return value
