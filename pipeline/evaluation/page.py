"""The result of an evaluation: tables for a terminal, JSON, and one HTML page with example images."""

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
    n_way_table,
    number,
    object_table,
    overall_table,
)
from fewscope.pipeline.report.html import fill, write_files

JSON_KEYS = {"baseline": "rival", "separated": "told_apart"}
"""Attributes whose key in ``evaluation.json`` is older than their name."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """All metrics of an evaluation, and the results they are computed from.

    Attributes
    ----------
    settings : dict[str, str]
        Data, split, model, episodes, machine..., as the page shows them.
    methods : tuple[str, ...]
        Names; the first is compared with the others.
    methods_overall : list[MethodMetrics]
        Each method and number of shots, over all classes and per domain.
    """

    settings: dict[str, str]
    methods: tuple[str, ...]
    shots: tuple[int, ...]
    methods_overall: list[MethodMetrics]
    classes: list[ClassMetrics]
    differences: list[Difference]
    calibrations: list[Calibration]
    support_results: list[SupportResult]
    query_results: list[QueryResult]
    examples: list[Example]
    n_way: tuple[NWayMetrics, ...]

    @classmethod
    def of(
        cls,
        settings: dict[str, str],
        methods: Sequence[str],
        shots: Sequence[int],
        evaluated: Sequence[ClassEvaluation],
        n_way: Sequence[NWayMetrics] = (),
    ) -> Evaluation:
        """Compute all metrics from the results of at least one class.

        Raises
        ------
        ValueError
            No class was evaluated.
        """
        support_results = [r for e in evaluated for r in e.support_results]
        query_results = [r for e in evaluated for r in e.query_results]
        if not query_results:
            raise ValueError("no class has enough images for the requested shots; use fewer --shots")
        classes = class_metrics(query_results)
        calibrations = [calibration(support_results, query_results, m, k) for k in shots for m in methods]
        return cls(
            settings=settings,
            methods=tuple(methods),
            shots=tuple(shots),
            methods_overall=method_metrics(classes),
            classes=classes,
            differences=differences(classes, methods[0]),
            calibrations=[c for c in calibrations if c is not None],
            support_results=support_results,
            query_results=query_results,
            examples=[example for e in evaluated for example in e.examples],
            n_way=tuple(n_way),
        )

    def tables(self) -> list[Table]:
        """All metrics, as tables of text."""
        tables = [overall_table(self.methods_overall)]
        if self.differences:
            tables.append(difference_table(self.differences))
        tables += [class_table(self.classes, self.methods, k) for k in self.shots]
        if any(m.components for m in self.methods_overall):
            tables.append(object_table(self.methods_overall))
        if self.calibrations:
            tables.append(calibration_table(self.calibrations))
        if self.n_way:
            tables.append(n_way_table(self.n_way))
        return tables

    def as_text(self) -> str:
        """Settings and tables, for a terminal."""
        head = "\n".join(f"{name}: {value}" for name, value in self.settings.items())
        return "\n\n\n".join([head, *(table.as_text() for table in self.tables())])

    def as_json(self) -> str:
        """Every metric and every result; NaN becomes null. Keys are those of the first release: see `JSON_KEYS`."""
        queries = [
            dataclasses.asdict(r)
            | {"iou": r.at_half.iou, "chosen_iou": r.at_chosen.iou if r.at_chosen else None}
            for r in self.query_results
        ]
        classes = [
            {
                "method": c.method,
                "shots": c.shots,
                "class": c.category,
                "domain": c.domain,
                "queries": c.n_queries,
                "mean_image_iou": c.image_iou,
                "mean_image_iou_at_chosen_threshold": c.chosen_iou,
                "class_iou": c.pixels.iou,
                "fb_iou": c.pixels.fb_iou,
            }
            for c in self.classes
        ]
        content = {
            "what": self.settings,
            "standings": [dataclasses.asdict(m) for m in self.methods_overall],
            "differences": [dataclasses.asdict(d) for d in self.differences],
            "calibration": [dataclasses.asdict(c) for c in self.calibrations],
            "ways": [dataclasses.asdict(w) for w in self.n_way],
            "classes": classes,
            "lessons": [dataclasses.asdict(r) for r in self.support_results],
            "answers": queries,
        }
        return json.dumps(_json_value(content), indent=1, allow_nan=False)

    def as_html(self) -> str:
        """One self-contained page; all text from outside is escaped."""
        examples: dict[str, list[Example]] = {}
        for example in self.examples:
            examples.setdefault(example.category, []).append(example)
        return fill("evaluation.html.j2", e=self, tables=self.tables(), examples=examples, number=number)

    def write(self, out: Path) -> None:
        """Write ``evaluation.html``, ``evaluation.txt`` and, last, ``evaluation.json`` into a folder, atomically."""
        files = {
            "evaluation.html": self.as_html(),
            "evaluation.txt": self.as_text() + "\n",
            "evaluation.json": self.as_json(),
        }
        write_files(str(out), {name: text.encode() for name, text in files.items()})


def _json_value(value: Any) -> Any:
    """The value with the keys of ``evaluation.json``; floats that JSON does not know become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        flat: dict[Any, Any] = {}
        for key, item in value.items():
            if key == "scores":
                flat |= item
            else:
                flat[JSON_KEYS.get(key, key)] = item
        return {key: _json_value(item) for key, item in flat.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return value
