"""The FSS-1000 paper's tables, filled with measurements, and the commands that would fill what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.pipeline.evaluation.benchmark_measure import SHARES, Cell, Labelling, Rounds
from fewscope.pipeline.evaluation.benchmark_published import (
    OF_FSS,
    TABLE_2,
    TABLE_3,
    TABLE_4,
    TABLE_5,
    TABLE_6,
    THIRD_PARTY,
    Row,
)
from fewscope.pipeline.evaluation.benchmark_runs import ARROW, Run
from fewscope.pipeline.evaluation.tables import Column, Table

FSS = "FSS-1000"

N_FOLDS = 4
"""Of PASCAL-5i."""

Cells = Mapping[tuple[str, int], Cell]
"""By (name of the run, shots)."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A cell without a run, and the command that would make one; "" if it takes weights of others."""

    table: str
    label: str
    command: str


@dataclass(frozen=True, slots=True)
class _Line:
    row: Row
    run: Run | None
    cell: Cell | None


def fits(row: Row, run: Run) -> bool:
    """Whether a run belongs into a row."""
    return run.kind in row.networks and row.loss in ("", run.loss)


def command_of(row: Row, data: Path, runs: Path) -> str:
    """The training that would fill a row; "" if it is not trained."""
    if not row.train:
        return ""
    network = row.networks[0]
    name = network + (f"-{row.loss}" if row.loss else "")
    source = f"--data {quote(str(data))} --split train --validate val"
    out = quote(str(runs / name))
    return f"fewscope train {source} --network {network} {row.train} --out {out}"


def table_of_methods(number: int, runs: Sequence[Run], cells: Cells) -> Table:
    """Table 2 (encoders and losses) or 3 (methods)."""
    lines = []
    for row in _rows(number, cells):
        of_row = [run for run in runs if fits(row, run)]
        lines += [_Line(row, run, cells.get((run.name, row.shots))) for run in of_row]
        if not of_row:
            lines.append(_Line(row, None, None))
    title, note = {
        2: ("Table 2: encoders and losses", ""),
        3: ("Table 3: methods on FSS-1000", THIRD_PARTY),
    }[number]
    return Table.of(title, f"{METRICS} {note}".strip(), _METHODS, lines)


METRICS = (
    "Percent. (a): mean image IoU, the paper's metric; (b): HSNet's mIoU; never compare one with the other. Intervals: "
    "95 %, bootstrap over classes. ± seeds: standard deviation of (a) over the seeds of the episodes."
)


def _rows(number: int, cells: Cells) -> list[Row]:
    asked = {shots for _, shots in cells}
    rows = {2: TABLE_2, 3: TABLE_3}[number]
    return [row for row in rows if not asked or row.shots in asked]


def missing_methods(number: int, runs: Sequence[Run], data: Path, folder: Path) -> list[Missing]:
    """Rows of table 2 or 3 without a run, each once for all shots."""
    named = f"table {number}"
    rows = {row.label: row for row in _rows(number, {}) if not any(fits(row, run) for run in runs)}
    return [Missing(named, label, command_of(row, data, folder)) for label, row in rows.items()]


def _of_cell(value: Callable[[Cell], str]) -> Callable[[_Line], str]:
    return lambda line: "–" if line.cell is None else value(line.cell)


_METHODS: tuple[Column, ...] = (
    ("method", lambda line: line.row.label),
    ("shots", lambda line: str(line.row.shots)),
    ("paper (a)", lambda line: percent(line.row.paper)),
    ("here (a)", _of_cell(lambda cell: percent(100 * cell.image_iou.value))),
    ("95 % interval", _of_cell(lambda cell: _interval(cell.image_iou.interval))),
    ("± seeds", _of_cell(lambda cell: "–" if cell.over_seeds is None else f"{100 * cell.over_seeds:.2f}")),
    ("here (b)", _of_cell(lambda cell: percent(100 * cell.class_iou.value))),
    ("95 % interval", _of_cell(lambda cell: _interval(cell.class_iou.interval))),
    ("weights", lambda line: "–" if line.run is None else line.run.name),
    ("trained on", lambda line: "–" if line.run is None else _training(line.run)),
    ("differs", lambda line: _differs(line)),
)


def _differs(line: _Line) -> str:
    said = [line.row.differs] if line.row.differs else []
    resized = line.run is not None and line.run.kind != line.run.network
    if line.row.side is not None and not resized:
        said.append(f"{PATCH_SIZE} px, not {line.row.side}")
    return ", ".join(said) or "–"


def _training(run: Run) -> str:
    if run.weights is None:
        return "shipped"
    return run.provenance + (f", {run.steps:,} steps" if run.steps else "")


def table_of_folds(
    runs: Sequence[Run], folds: Sequence[Path], cells: Mapping[tuple[str, int], Cell], fss: Path | None
) -> tuple[Table, list[Missing]]:
    """Table 4, and what is missing of it. Runs that belong into none of the paper's rows come after them.

    Parameters
    ----------
    folds : Sequence[Path]
        Folders of the folds that were measured.
    cells : Mapping[tuple[str, int], Cell]
        5 shots, by (run, fold).
    fss : Path | None
        FSS-1000's folder: a run that was trained on it is the same for all folds.
    """
    rows: list[tuple[str, ...]] = []
    missing: list[Missing] = []
    placed: set[str] = set()
    for label, networks, papers, mean in TABLE_4:
        values: list[float | None] = []
        names = set()
        for i, fold in enumerate(folds):
            wanted = fss if label == OF_FSS else fold
            of_fold = [
                run
                for run in runs
                if run.kind in networks and wanted is not None and same_folder(run.data, wanted)
            ]
            cell = cells.get((of_fold[0].name, i)) if of_fold else None
            values.append(None if cell is None else 100 * cell.class_iou.value)
            names |= {of_fold[0].name} if of_fold else set()
            if not of_fold and wanted is not None:
                command = (
                    f"fewscope train --data {quote(str(wanted))} --split train --network {networks[0]} --recipe paper "
                    f"--out {quote(f'runs/{networks[0]}-{wanted.name}')}"
                )
                if not any(m.command == command for m in missing):
                    missing.append(Missing("table 4", f"{label}, fold {i}", command))
        placed |= names
        rows.append(_row_of_folds(label, papers[: len(folds)], values, mean, ", ".join(sorted(names))))
    for run in runs:
        found = [cells.get((run.name, i)) for i in range(len(folds))]
        if run.name not in placed and any(found):
            trained = "shipped weights" if run.weights is None else f"trained on {_training(run)}"
            values = [None if cell is None else 100 * cell.class_iou.value for cell in found]
            rows.append(
                _row_of_folds(f"{run.network}, {trained}", (None,) * len(folds), values, None, run.name)
            )
    columns = ("method", *(f"fold {i}" for i in range(len(folds))), "mean", "weights")
    note = (
        "Paper | here; (b), 5 shots, percent; void not counted; episodes shared evenly by the five classes of a fold. "
        "224 px, where the papers use 321 to 500. Guided Network's code reports another metric, (c), and its best "
        "snapshot. Below the paper's rows: runs that were trained on none of the folds."
    )
    return Table("Table 4: PASCAL-5i", note, columns, tuple(rows)), missing


def _row_of_folds(
    label: str, papers: Sequence[float | None], values: Sequence[float | None], mean: float | None, names: str
) -> tuple[str, ...]:
    known = [value for value in values if value is not None]
    ours = sum(known) / N_FOLDS if len(known) == N_FOLDS else None
    pairs = [*zip(papers, values, strict=True), (mean, ours)]
    return label, *(f"{tenth(paper)} | {tenth(value)}" for paper, value in pairs), names or "–"


def same_folder(one: str, other: Path) -> bool:
    """Whether two paths are of one folder."""
    return bool(one) and Path(one).resolve() == other.resolve()


def table_of_pretraining(
    runs: Sequence[Run], cells: Mapping[str, Cells], fss: Path
) -> tuple[Table, list[Missing]]:
    """Table 5: what runs were trained on, and each test set, with the largest number of shots.

    Parameters
    ----------
    cells : Mapping[str, Cells]
        By the name of the test set.
    fss : Path
        FSS-1000's folder, whatever its name is: what was trained on it was trained on FSS-1000.
    """
    rows, printed = [], dict(TABLE_5)
    own = fss.resolve().name
    chains = {run.name: tuple(run.provenance.split(ARROW)) for run in runs}
    labels = {name: ARROW.join(FSS if part == own else part for part in c) for name, c in chains.items()}
    for run in runs:
        line = [ARROW.join(chains[run.name]) if run.weights else "shipped weights", run.name, run.network]
        line.append(percent(printed.get(labels[run.name])))
        for of_set in cells.values():
            shots = max((k for name, k in of_set if name == run.name), default=0)
            cell = of_set.get((run.name, shots))
            text = "–" if cell is None else f"{percent(100 * cell.image_iou.value)}"
            line.append(text + ("" if cell is None else f" [{_interval(cell.image_iou.interval)}]"))
        rows.append(tuple(line))
    there = set(labels.values())
    trained = next((r.weights for r in runs if r.kind == "vgg16-paper" and labels[r.name] == FSS), None)
    start = quote(str(trained or Path("runs/vgg16-paper/weights.safetensors")))
    train = "--split train --network vgg16-paper --recipe paper"
    commands = {
        "ImageNet → FSS-1000": f"fewscope train --data {quote(str(fss))} {train} --imagenet --out runs/imagenet-fss",
        "FSS-1000 → fsCOCO": f"fewscope train --data fsCOCO {train} --initial-weights {start} --out runs/fss-fscoco",
    }
    missing = [Missing("table 5", label, commands[label]) for label, _ in TABLE_5 if label not in there]
    rows += [
        (label, "–", "–", percent(figure), *("–" for _ in cells))
        for label, figure in TABLE_5
        if label not in there
    ]
    columns = ("trained on", "run", "network", "paper (a)", *(f"here (a), {name}" for name in cells))
    note = (
        "Percent, with the largest number of shots. A run's training data is the name of its folder; runs that were "
        "trained on the data of this benchmark have the paper's figure for FSS-1000. fsCOCO is what convert coco "
        "--clean-up --train-classes 60 writes, into a folder of that name."
    )
    return Table("Table 5: pre-training", note, columns, tuple(rows)), missing


def table_of_labelling(found: Sequence[Labelling], machine: str) -> Table:
    """Table 6: time and quality of labelling images."""
    columns: tuple[Column, ...] = (
        ("method", lambda row: row.method),
        ("images", lambda row: str(row.n_images)),
        ("seconds", lambda row: f"{row.seconds:.1f}"),
        ("ms per image", lambda row: f"{1000 * row.seconds / row.n_images:.0f}"),
        ("mean IoU", lambda row: percent(100 * row.mean_iou)),
        *((f"IoU ≥ {bound:g}", _share(i)) for i, bound in enumerate(SHARES)),
    )
    note = (
        f"{TABLE_6} Here: {machine}; with the support sets, without reading files. GrabCut is given the box of the "
        "true object. Time of people is not measured."
    )
    return Table.of("Table 6: labelling images", note, columns, list(found))


def _share(i: int) -> Callable[[Labelling], str]:
    return lambda row: f"{100 * row.shares[i]:.0f} %"


def table_of_rounds(rounds: Mapping[str, Sequence[Rounds]], shots: int) -> Table:
    """Figure 11 in numbers: the remaining queries before and after the worst were added."""
    rows: list[Any] = [(name, of_run) for name, of_run in rounds.items() if of_run]
    columns: tuple[Column, ...] = (
        ("run", lambda row: row[0]),
        ("classes", lambda row: str(len(row[1]))),
        ("queries", lambda row: str(sum(r.n_queries for r in row[1]))),
        ("round 1", lambda row: percent(100 * _mean([r.first for r in row[1]]))),
        ("round 2", lambda row: percent(100 * _mean([r.second for r in row[1]]))),
        ("better on", lambda row: f"{sum(r.second > r.first for r in row[1])} of {len(row[1])}"),
    )
    note = (
        f"Mean image IoU (a), percent, of the queries that remain. Round 1: {count(shots, 'support')}; round 2: the "
        f"same and the {count(shots, 'query', 'queries')} with the lowest IoU in round 1, with true masks. The same "
        "queries are scored in both."
    )
    return Table.of("Figure 11: the worst results go back into the support set", note, columns, rows)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def count(n: int, one: str, many: str = "") -> str:
    """A number of things: "1 support", "5 supports"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def percent(value: float | None) -> str:
    """Two decimals; a dash for an unknown value."""
    return "–" if value is None else f"{value:.2f}"


def tenth(value: float | None) -> str:
    """One decimal; a dash for an unknown value."""
    return "–" if value is None else f"{value:.1f}"


def _interval(interval: tuple[float, float] | None) -> str:
    return "–" if interval is None else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}"
