"""Reproduce the tables and figures of the FSS-1000 paper with one's own runs. Also ``fewscope benchmark``."""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope._version import __version__
from fewscope.errors import ConfigError
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, typed
from fewscope.pipeline.evaluation.names import BASELINES

if TYPE_CHECKING:
    from fewscope.connectors.datasets.class_folders import ClassImages
    from fewscope.model.segmenter import Segmenter
    from fewscope.pipeline.evaluation.benchmark_measure import Cell, Rounds
    from fewscope.pipeline.evaluation.benchmark_page import Benchmark
    from fewscope.pipeline.evaluation.benchmark_runs import Run
    from fewscope.pipeline.evaluation.benchmark_tables import Missing
    from fewscope.pipeline.evaluation.measurement_store import MeasurementStore
    from fewscope.pipeline.evaluation.tables import Table

log = logging.getLogger("fewscope.benchmark")

PROG = "python jobs/benchmark.py"
DESCRIPTION = """\
Reproduce the tables and figures of the FSS-1000 paper with one's own runs, beside the paper's figures.

Examples:
    %(prog)s --data ~/fewshot_data --runs runs --tables 2 3 --seeds 1000 1001 1002 --out out/paper
    %(prog)s --data ~/fewshot_data --runs runs --shipped compact prototype-compact --figures 6 8 9 11 --out out/figures
    %(prog)s --data ~/fewshot_data --runs runs --pascal ~/voc-0 ~/voc-1 ~/voc-2 ~/voc-3 --tables 4 --out out/voc
    %(prog)s --data ~/fewshot_data --runs runs --missing

A run is a folder that train wrote, or weights that convert wrote. Nothing is trained: cells without a run list the
command that would fill them, and --missing lists nothing else. What is measured is kept in OUT: a stopped command
resumes, and another run is measured alone. docs/protocol.md describes the protocol.
"""
TABLES, FIGURES = (2, 3, 4, 5, 6), (6, 8, 9, 11)


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    made = JobParser(prog, DESCRIPTION, "--data DIR --runs RUN [RUN ...] (--out OUT | --missing) [options]")
    add = made.group["input"].add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="FSS-1000, or a folder of its layout")
    add("--split", default="test", help="split of DIR to evaluate (default %(default)s)")
    add(
        "--supercategories", type=Path, metavar="FILE", help="class,supercategory (.csv), for figures 6 and 8"
    )
    add(
        "--runs",
        type=Path,
        nargs="+",
        default=[],
        metavar="RUN",
        help="folders of runs, folders of such folders, or weights (.safetensors)",
    )
    add(
        "--shipped",
        nargs="+",
        default=[],
        choices=("compact", "prototype-compact"),
        help="also models whose weights are shipped",
    )
    add(
        "--pascal",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="table 4: folds of PASCAL-5i, as converted",
    )
    add(
        "--also",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="table 5: other test sets, such as fsCOCO; their split test",
    )
    add("--shots", type=int, nargs="+", default=[1, 5], metavar="K", help="numbers of supports (default 1 5)")
    add(
        "--seeds",
        type=int,
        nargs="+",
        default=[1000],
        metavar="N",
        help="seeds of the episodes (default 1000)",
    )
    add(
        "--episodes",
        type=int,
        metavar="N",
        help="episodes of 5 queries per class (default: every image once)",
    )
    add("--total-episodes", type=int, default=1000, metavar="N", help="table 4: per fold (default 1000)")
    add("--images", type=int, default=500, metavar="N", help="table 6: images to label (default 500)")
    add("--example-classes", type=int, default=12, metavar="N", help="figure 9: classes to show (default 12)")
    add("--tables", type=int, nargs="+", choices=TABLES, default=[], help="tables to make (default 3)")
    add("--figures", type=int, nargs="+", choices=FIGURES, default=[], help="figures to make")
    add("--baselines", nargs="*", choices=BASELINES, default=[], help="table 6: baselines to compare with")
    add = made.group["output"].add_argument
    add("--out", type=Path, help="folder for benchmark.html, .txt and .json")
    add(
        "--missing", action="store_true", help="list the cells without a run, and the commands that fill them"
    )
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    made = parser(prog)
    args = made.parse_args(argv)
    if args.out is None and not args.missing:
        made.error("give --out, a folder for the result, or --missing")
    if not args.tables and not args.figures:
        args.tables = [3]
    if 4 in args.tables and not args.pascal and not args.missing:
        made.error("table 4 needs --pascal, the folds that convert voc --fold made")
    if len(args.pascal) > 4:
        made.error(f"--pascal has {len(args.pascal)} folders; PASCAL-5i has 4 folds")
    return args


def missing_cells(args: argparse.Namespace, runs: Sequence[Run]) -> list[Missing]:
    """Cells of the tables asked for that no run fills."""
    from fewscope.pipeline.evaluation.benchmark_runs import WEIGHTS
    from fewscope.pipeline.evaluation.benchmark_tables import (
        missing_methods,
        table_of_folds,
        table_of_pretraining,
    )

    folders = (path.parent if (path / WEIGHTS).is_file() else path for path in args.runs if path.is_dir())
    folder = next(folders, Path("runs"))
    found: list[Missing] = []
    for number in (2, 3):
        if number in args.tables:
            found += missing_methods(number, runs, args.data, folder)
    if 4 in args.tables:
        found += table_of_folds(runs, args.pascal, {}, args.data)[1]
    if 5 in args.tables:
        found += table_of_pretraining(runs, {}, args.data)[1]
    return found


def measure_all(args: argparse.Namespace) -> Benchmark:
    """Measure what the tables and figures need, and write the page."""
    from fewscope.connectors.datasets.class_folders import (
        FSS1000_TEST,
        ClassFolders,
        class_names,
        fingerprint,
    )
    from fewscope.model.segmenter import load_segmenter
    from fewscope.pipeline.evaluation.baselines import load_baseline
    from fewscope.pipeline.evaluation.benchmark_measure import (
        label_images,
        measure,
        mine_worst,
        spread_of_supports,
    )
    from fewscope.pipeline.evaluation.benchmark_page import (
        Benchmark,
        bars_by_run,
        bars_by_shots,
        bars_of_rounds,
        pictures_of,
    )
    from fewscope.pipeline.evaluation.benchmark_runs import find_runs
    from fewscope.pipeline.evaluation.benchmark_tables import (
        table_of_labelling,
        table_of_methods,
        table_of_pretraining,
        table_of_rounds,
    )
    from fewscope.pipeline.evaluation.measurement_store import MeasurementStore, identity_of
    from fewscope.pipeline.evaluation.runner import EvaluationConfig

    runs = find_runs(args.runs, args.shipped)
    if not runs:
        raise ConfigError("there is no run; give --runs, or --shipped compact prototype-compact")
    shots = tuple(dict.fromkeys(args.shots))
    config = EvaluationConfig(shots, args.episodes, seed=args.seeds[0])
    models: list[Segmenter] = []
    for run in runs:
        model = load_segmenter(run.model, None if run.weights is None else str(run.weights), batch_size=1)
        model.name = run.name
        models.append(model)
    data = ClassFolders(args.data, args.supercategories)
    identities = {m.name: identity_of(run.network, m) for run, m in zip(runs, models, strict=True)}
    store = MeasurementStore(args.out, identities)
    names = class_names(args.data, args.split)

    def classes() -> Iterator[ClassImages]:
        return data.classes(args.split)

    official = fingerprint(names) == FSS1000_TEST
    result = Benchmark(
        {
            "Fewscope": __version__,
            "data": f"{args.data}, split {args.split}",
            "benchmark": "the 240 test classes of FSS-1000"
            if official
            else "not FSS-1000's 240 test classes: no number here is an FSS-1000 score",
            "runs": "; ".join(
                f"{r.name} ({r.network}, {m.weights_digest[:12]})" for r, m in zip(runs, models, strict=True)
            ),
            "episodes": f"{args.episodes} per class of 5 queries"
            if args.episodes
            else "every image is a query once",
            "seeds": " ".join(map(str, args.seeds)),
        }
    )
    cells: dict[tuple[str, int], Cell] = {}
    if {2, 3, 5} & set(args.tables) or {6, 8} & set(args.figures):
        cells = measure(_logged(classes, "tables"), models, config, args.seeds, store)
        result.add_cells(str(args.data), cells)
    result.tables += [table_of_methods(n, runs, cells) for n in (2, 3) if n in args.tables]
    if 4 in args.tables:
        result.tables.append(_folds(args, runs, models, result, store))
    if 5 in args.tables:
        sets = {args.data.name: cells}
        for path in args.also:
            other = ClassFolders(path)
            of_set = _logged(partial(other.classes, "test"), path.name)
            sets[path.name] = measure(of_set, models, config, args.seeds, store)
            result.add_cells(str(path), sets[path.name])
        result.tables.append(table_of_pretraining(runs, sets, args.data)[0])
    if 6 in args.tables:
        methods = [*models, *(load_baseline(name) for name in args.baselines)]
        found = label_images(
            _logged(classes, "table 6"), methods, args.images, len(names), max(shots), args.seeds[0], store
        )
        machine = f"{os.cpu_count()} cores, {models[0].processor}"
        result.tables.append(table_of_labelling(found, machine))
    if 6 in args.figures:
        result.charts.append(bars_by_run(cells, max(shots)))
    if 8 in args.figures:
        result.charts.append(bars_by_shots(cells, runs[0].name))
    if 9 in args.figures:
        some = (c for c, _ in zip(_logged(classes, "figure 9")(), range(args.example_classes), strict=False))
        spreads = [
            spread_of_supports(category, models[0], store) for category in some if len(category.images) > 2
        ]
        spreads.sort(key=lambda s: s.ious[1] - s.ious[0])
        result.spreads += [pictures_of(spread) for spread in spreads]
        result.spreads_of = models[0].name
    if 11 in args.figures:
        rounds: dict[str, list[Rounds]] = {model.name: [] for model in models}
        for category in _logged(classes, "figure 11")():
            for model in models:
                if (both := mine_worst(category, model, min(shots), args.seeds[0], store)) is not None:
                    rounds[model.name].append(both)
        result.rounds.append(table_of_rounds(rounds, min(shots)))
        if rounds[models[0].name]:
            result.charts_of_rounds.append(bars_of_rounds(rounds[models[0].name], models[0].name))
    result.missing += missing_cells(args, runs)
    result.settings["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {models[0].processor}"
    if store.n_recalled:
        log.info("%d measurements of an earlier run of the command were kept", store.n_recalled)
    result.write(args.out)
    return result


def _folds(
    args: argparse.Namespace,
    runs: Sequence[Run],
    models: Sequence[Segmenter],
    result: Benchmark,
    store: MeasurementStore,
) -> Table:
    """Table 4: every fold with all models."""
    from fewscope.connectors.datasets.class_folders import ClassFolders, class_names
    from fewscope.pipeline.evaluation.benchmark_measure import measure
    from fewscope.pipeline.evaluation.benchmark_tables import table_of_folds
    from fewscope.pipeline.evaluation.runner import EvaluationConfig

    cells: dict[tuple[str, int], Cell] = {}
    for i, fold in enumerate(args.pascal):
        config = EvaluationConfig((5,), total=args.total_episodes).for_classes(len(class_names(fold, "test")))
        classes = partial(ClassFolders(fold).classes, "test")
        of_fold = measure(_logged(classes, f"fold {i}"), models, config, args.seeds, store)
        result.add_cells(str(fold), of_fold)
        cells |= {(name, i): cell for (name, _), cell in of_fold.items()}
    table, _ = table_of_folds(runs, args.pascal, cells, args.data)
    return table


def _logged(classes: Callable[[], Iterator[ClassImages]], what: str) -> Callable[[], Iterator[ClassImages]]:
    """The same classes, each named in the log when it is done, or a bar on a terminal."""

    def shown() -> Iterator[ClassImages]:
        from tqdm import tqdm

        yield from tqdm(classes(), desc=what, unit="class", disable=not sys.stderr.isatty())

    return shown


def run(args: argparse.Namespace) -> int:
    """Measure and print, or print what is missing."""
    if args.missing:
        from fewscope.pipeline.evaluation.benchmark_runs import find_runs

        for cell in missing_cells(args, find_runs(args.runs, args.shipped)):
            print(f"{cell.table}, {cell.label}: {cell.command or 'weights of others, see convert'}")
        return 0
    from fewscope.connectors.results.run_lock import RunLock
    from fewscope.connectors.results.unit_files import FOLDER

    with RunLock(str(args.out), FOLDER) as lock:
        text = measure_all(args).as_text()
        lock.check()
    print(text)
    print(f"\n{args.out / 'benchmark.html'}")
    return 0


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog))


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
