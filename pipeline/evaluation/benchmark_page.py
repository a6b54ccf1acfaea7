"""The result of a benchmark: tables for a terminal, JSON, and one page with charts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.pipeline.evaluation.benchmark_measure import Cell, Rounds, SupportSpread
from fewscope.pipeline.evaluation.benchmark_tables import Missing, count
from fewscope.pipeline.evaluation.tables import Table
from fewscope.pipeline.report.drawing import Picture, agreement, outlined, picture
from fewscope.pipeline.report.html import fill, write_files

COLOURS = ("#0b5a6a", "#d55e00", "#7a5195", "#bc8f00", "#56b4e9", "#555f6b", "#cc79a7", "#009e73")

MOST_WIDE_BARS = 48
"""Up to so many bars of a chart have their value above them."""

LETTER_PX, SLANT = 6.5, 40
"""Width of a letter of the chart, and slant of its labels, degrees."""


@dataclass(frozen=True, slots=True)
class Bars:
    """A chart of grouped bars, in SVG units.

    Attributes
    ----------
    bars : tuple[tuple[float, float, float, float, str, str], ...]
        (x, y, width, height, colour, text).
    groups : tuple[tuple[float, str], ...]
        (x of the middle, name).
    legend : tuple[tuple[str, str], ...]
        (colour, name).
    values : tuple[tuple[float, float, str], ...]
        (x of the middle, y of the foot, text) above the bars; none where there are too many bars.
    """

    title: str
    note: str
    width: int
    height: int
    base: float
    ticks: tuple[tuple[float, str], ...]
    bars: tuple[tuple[float, float, float, float, str, str], ...]
    groups: tuple[tuple[float, str], ...]
    legend: tuple[tuple[str, str], ...]
    values: tuple[tuple[float, float, str], ...] = ()

    @classmethod
    def of(cls, title: str, note: str, series: Mapping[str, Mapping[str, float]]) -> Bars:
        """Bars of values in 0..1: series -> group -> value."""
        groups = list(dict.fromkeys(group for values in series.values() for group in values))
        few = len(groups) * len(series) <= MOST_WIDE_BARS
        left, top, base, bar = 40, 16, 256, 30 if few else 16
        step = bar * len(series) + 22
        bars, marks, values_shown = [], [], []
        for g, group in enumerate(groups):
            x = left + 12 + g * step
            marks.append((round(x + bar * len(series) / 2, 1), group or "none"))
            for s, (name, values) in enumerate(series.items()):
                if group in values and math.isfinite(values[group]):
                    height = round(values[group] * (base - top), 1)
                    text = f"{name}, {group or 'none'}: {values[group]:.3f}"
                    colour = COLOURS[s % len(COLOURS)]
                    bars.append(
                        (round(x + s * bar, 1), round(base - height, 1), bar - 2.0, height, colour, text)
                    )
                    if few:
                        middle = round(x + s * bar + bar / 2 - 1, 1)
                        values_shown.append((middle, round(base - height - 4, 1), f"{values[group]:.2f}"))
        ticks = tuple((base - share * (base - top), f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1))
        legend = tuple((COLOURS[s % len(COLOURS)], name) for s, name in enumerate(series))
        width = max(360, left + 24 + len(groups) * step)
        longest = max((len(name) for _, name in marks), default=0)
        height = base + 26 + round(longest * LETTER_PX * math.sin(math.radians(SLANT)))
        return cls(
            title,
            note,
            width,
            height,
            base,
            ticks,
            tuple(bars),
            tuple(marks),
            legend,
            tuple(values_shown),
        )


@dataclass(frozen=True, slots=True)
class SpreadPictures:
    """Figure 9: a query with its best and its worst support."""

    category: str
    query: Picture
    supports: tuple[Picture, Picture]
    found: tuple[Picture, Picture]
    ious: tuple[float, float]


@dataclass(slots=True)
class Benchmark:
    """Everything that a benchmark shows.

    Attributes
    ----------
    settings : dict[str, str]
        Data, runs, seeds, machine, as the page shows them.
    measured : list[dict[str, Any]]
        Cells for ``benchmark.json``.
    rounds, charts_of_rounds : list[Table], list[Bars]
        Figure 11, which comes after figure 9.
    spreads_of : str
        Name of the run of figure 9.
    """

    settings: dict[str, str]
    tables: list[Table] = field(default_factory=list)
    charts: list[Bars] = field(default_factory=list)
    rounds: list[Table] = field(default_factory=list)
    charts_of_rounds: list[Bars] = field(default_factory=list)
    spreads: list[SpreadPictures] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    measured: list[dict[str, Any]] = field(default_factory=list)
    spreads_of: str = ""

    @staticmethod
    def unfilled(row: Sequence[str]) -> bool:
        """Whether nothing was measured in a row of a table: most of its cells are dashes."""
        return 2 * sum(cell == "–" or cell.endswith("| –") for cell in row) > len(row)

    def add_cells(self, data: str, cells: Mapping[tuple[str, int], Cell]) -> None:
        """Keep cells for ``benchmark.json``."""
        for (run, shots), cell in cells.items():
            self.measured.append(
                {
                    "data": data,
                    "run": run,
                    "shots": shots,
                    "mean_image_iou": cell.image_iou.value,
                    "mean_image_iou_interval": cell.image_iou.interval,
                    "over_seeds": cell.over_seeds,
                    "miou": cell.class_iou.value,
                    "miou_interval": cell.class_iou.interval,
                    "classes": cell.n_classes,
                    "queries": cell.n_queries,
                    "by_class": {name: iou for name, _, iou in cell.by_class},
                }
            )

    def as_text(self) -> str:
        """Settings, tables and missing cells, for a terminal."""
        head = "\n".join(f"{name}: {value}" for name, value in self.settings.items())
        parts = [head, *(table.as_text() for table in (*self.tables, *self.rounds))]
        if self.missing:
            lines = [
                f"{m.table}, {m.label}: {m.command or 'weights of others, see convert'}" for m in self.missing
            ]
            parts.append("\n".join(["Cells without a run", "", *lines]))
        return "\n\n\n".join(parts)

    def as_json(self) -> str:
        """Settings, cells, tables and missing cells."""
        content = {
            "settings": self.settings,
            "measured": self.measured,
            "tables": [
                {"title": t.title, "note": t.note, "columns": t.columns, "rows": t.rows}
                for t in (*self.tables, *self.rounds)
            ],
            "missing": [{"table": m.table, "cell": m.label, "command": m.command} for m in self.missing],
        }
        return json.dumps(content, indent=1, allow_nan=False)

    def as_html(self) -> str:
        """One self-contained page; all text from outside is escaped."""
        return fill("benchmark.html.j2", b=self)

    def write(self, out: Path) -> None:
        """Write ``benchmark.html``, ``.txt`` and, last, ``.json`` into a folder, atomically."""
        files = {
            "benchmark.html": self.as_html(),
            "benchmark.txt": self.as_text() + "\n",
            "benchmark.json": self.as_json(),
        }
        write_files(str(out), {name: text.encode() for name, text in files.items()})


def bars_by_run(cells: Mapping[tuple[str, int], Cell], shots: int) -> Bars:
    """Figure 6: every run by super-category."""
    series = {name: _by_domain(cell) for (name, k), cell in cells.items() if k == shots}
    note = f"Mean image IoU (a) of the classes of each super-category, {count(shots, 'shot')}."
    return Bars.of("Figure 6: super-categories", note, series)


def bars_by_shots(cells: Mapping[tuple[str, int], Cell], run: str) -> Bars:
    """Figure 8: every number of shots by super-category, for one run."""
    series = {count(k, "shot"): _by_domain(cell) for (name, k), cell in cells.items() if name == run}
    note = f"Mean image IoU (a) of {run} by super-category and number of supports."
    return Bars.of("Figure 8: shots", note, series)


def bars_of_rounds(rounds: Sequence[Rounds], run: str) -> Bars:
    """Figure 11: both rounds of every class, for one run."""
    shown = sorted(rounds, key=lambda r: r.first - r.second)[:40]
    series = {
        "round 1": {r.category: r.first for r in shown},
        "round 2": {r.category: r.second for r in shown},
    }
    note = (
        f"Mean image IoU of {run} on the same queries before and after its worst went into the support set."
    )
    return Bars.of("Figure 11: two rounds", note, series)


def _by_domain(cell: Cell) -> dict[str, float]:
    by_domain: dict[str, list[float]] = {}
    for _, domain, iou in cell.by_class:
        by_domain.setdefault(domain, []).append(iou)
    return {domain: float(np.mean(values)) for domain, values in sorted(by_domain.items())}


def pictures_of(spread: SupportSpread) -> SpreadPictures:
    """Figure 9 of one class as images."""
    images, labels, _ = spread.category.arrays()
    query = images[spread.query], labels[spread.query]
    supports = [outlined(images[k], labels[k] == 1, 1) for k in (spread.best, spread.worst)]
    found = [agreement(*query, mask) for mask in spread.masks]
    return SpreadPictures(
        spread.category.name,
        _small(outlined(query[0], query[1] == 1, 1)),
        (_small(supports[0]), _small(supports[1])),
        (_small(found[0]), _small(found[1])),
        spread.ious,
    )


def _small(canvas: np.ndarray, side: int = 168) -> Picture:
    shrunk = Image.fromarray(canvas).resize((side, side), Image.Resampling.LANCZOS)
    return picture(np.asarray(shrunk), PATCH_SIZE, lines=True)
