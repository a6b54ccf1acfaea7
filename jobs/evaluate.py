"""Evaluate a few-shot network on classes it has not been trained on. Also ``fewscope evaluate``."""

from __future__ import annotations

import argparse
import logging
import math
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope._version import __version__
from fewscope.errors import ConfigError
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, add_encoder_option, add_looks_option, typed
from fewscope.model.networks.names import MODELS
from fewscope.pipeline.evaluation.names import BASELINES

if TYPE_CHECKING:
    from fewscope.connectors.datasets.class_folders import ClassImages
    from fewscope.model.segmenter import Segmenter
    from fewscope.pipeline.evaluation.page import Evaluation
    from fewscope.pipeline.evaluation.runner import Method

log = logging.getLogger("fewscope.evaluate")

PROG = "python jobs/evaluate.py"
RENAMED = {"--rivals": "--baselines", "--forest-answers": "--cache-predictions", "--way": "--n-way"}
N_SUPERCATEGORIES, SUPERCATEGORY_CLASSES = 12, 20
"""Of FSS-1000, and the test classes in each (section 3.2 of the paper)."""

DESCRIPTION = """\
Evaluate a few-shot network on classes it has not been trained on, beside baselines that need no network.

Examples:
    %(prog)s --data ~/fewshot_data --split test --shots 1 5 --out out/fss1000
    %(prog)s --data ~/mine --split val --episodes 3 --baselines forest --calibration --out out/mine
    %(prog)s --data ~/mine --split val --episodes 3 --weights runs/panet runs/compact --out out/both

The first is the FSS-1000 benchmark: every image of the 240 test classes is a query once (2,400 queries), with
support images fixed by a seed. DIR has FSS-1000's layout; docs/protocol.md describes the protocol, and how to convert
other data.
"""


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    made = JobParser(prog, DESCRIPTION, "--data DIR --out OUT [options]", renamed=RENAMED)
    add = made.group["input"].add_argument
    add(
        "--data",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of class folders with <k>.jpg and <k>.png",
    )
    add("--split", help="train, val, test or NAME of splits/NAME.txt (default: all class folders)")
    add("--domains", nargs="+", default=[], metavar="DOMAIN", help="only these domains or super-categories")
    add(
        "--shots", type=int, nargs="+", default=[5], metavar="K", help="numbers of support images (default 5)"
    )
    add("--episodes", type=int, metavar="N", help="episodes per class (default: every image is a query once)")
    add(
        "--queries", type=int, default=5, metavar="N", help="queries per episode, with --episodes (default 5)"
    )
    add(
        "--total-episodes",
        type=int,
        metavar="N",
        help="episodes of one query each, shared evenly by the classes (1000 for a fold of PASCAL-5i or COCO-20i)",
    )
    add(
        "--supercategories",
        type=Path,
        metavar="FILE",
        help="class,supercategory (.csv), instead of the one in the data folder",
    )
    add(
        "--n-way",
        type=int,
        default=1,
        metavar="N",
        help="also evaluate N classes at once (N-way; default 1: off)",
    )
    add(
        "--seed",
        type=int,
        default=1000,
        help="seed of the episodes (default 1000, that of published numbers)",
    )
    add = made.group["output"].add_argument
    add("--out", type=Path, required=True, help="folder for evaluation.html, .txt and .json")
    add(
        "--cache-predictions",
        type=Path,
        metavar="DIR",
        help="keep the forest's predictions here, and reuse them: for other weights, or after an interruption",
    )
    add = made.group["model"].add_argument
    add("--model", choices=MODELS, default="compact", help="network (default %(default)s)")
    add(
        "--weights",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="weights to use instead of the shipped ones (.safetensors); several, or folders that train wrote, are "
        "compared, each with the network that it names",
    )
    add_encoder_option(made)
    add_looks_option(made)
    add(
        "--adapt",
        type=float,
        metavar="SECONDS",
        help="also evaluate it fine-tuned on each support set, for so long on one core",
    )
    add(
        "--baselines",
        nargs="*",
        choices=BASELINES,
        default=[],
        help="baselines to compare with; the forest takes seconds per query",
    )
    add(
        "--calibration",
        action="store_true",
        help="hold out one support image at a time, as jobs do: score the thresholds they would choose, and compare "
        "the IoU they would estimate with the IoU measured",
    )
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    return parser(prog).parse_args(argv)


def evaluate(args: argparse.Namespace) -> Evaluation:
    """Evaluate every class, and write the results."""
    from tqdm import tqdm

    from fewscope.connectors.datasets.class_folders import (
        FSS1000_TEST,
        ClassFolders,
        class_names,
        domains_of,
        fingerprint,
    )
    from fewscope.pipeline.evaluation.baselines import PixelForest, load_baseline
    from fewscope.pipeline.evaluation.n_way import evaluate_n_way
    from fewscope.pipeline.evaluation.page import Evaluation
    from fewscope.pipeline.evaluation.prediction_cache import PredictionCache
    from fewscope.pipeline.evaluation.runner import Adapted, EvaluationConfig, evaluate_class

    if args.episodes is not None and args.total_episodes is not None:
        raise ConfigError("--episodes and --total-episodes contradict each other; give one of them")
    config = EvaluationConfig(
        tuple(dict.fromkeys(args.shots)),
        args.episodes,
        args.queries,
        args.seed,
        args.calibration,
        args.total_episodes,
    )
    if args.n_way < 1:
        raise ConfigError(f"--n-way {args.n_way} is below 1; give 2 or more, or leave it out")
    if args.adapt is not None and not 0 < args.adapt < math.inf:
        raise ConfigError(
            f"--adapt {args.adapt:g} leaves no time to adapt; give 30 s or more, or leave it out"
        )
    names = class_names(args.data, args.split)
    official = fingerprint(names) == FSS1000_TEST
    groups = domains_of(args.data, args.supercategories)
    chosen = [name for name in names if not args.domains or groups.get(name, "") in args.domains]
    if config.total is not None:
        config = config.for_classes(len(chosen))
    models = models_of(args)
    methods: list[Method] = [] if args.adapt is None else [Adapted(model, args.adapt) for model in models]
    methods += models
    for name in args.baselines:
        baseline = load_baseline(name)
        if args.cache_predictions is not None and isinstance(baseline, PixelForest):
            baseline = PredictionCache(baseline, args.cache_predictions)
        methods.append(baseline)
    categories = ClassFolders(args.data, args.supercategories).classes(args.split, domains=args.domains)
    began, evaluated, left_out = time.perf_counter(), [], []
    kept: list[ClassImages] = []  # C-way episodes need all classes at once
    for category in tqdm(categories, unit="class", disable=not sys.stderr.isatty()):
        if len(category.images) <= max(config.shots):
            log.warning("%s has %d pictures only: left out", category.name, len(category.images))
            left_out.append(category.name)
            continue
        evaluated.append(evaluate_class(category, methods, config))
        kept += [category] if args.n_way > 1 else []
        log.info("%s: %.0f s so far", category.name, time.perf_counter() - began)
    ways = [
        evaluate_n_way(kept, m, config, args.n_way, k)
        for k in config.shots
        for m in methods
        if args.n_way > 1
    ]
    what = {
        "Fewscope": __version__,
        "data": f"{args.data}, split {args.split or 'none: all classes'}",
        "benchmark": "the 240 test classes of FSS-1000"
        if official and not args.domains
        else "not FSS-1000's 240 test classes: no number here is an FSS-1000 score",
        "model": "; ".join(f"{model.name} ({model.weights_digest[:12]})" for model in models),
        "weights": " ".join(map(str, args.weights)) or "shipped",
        "encoder": args.encoder or "",
        "looks": str(args.looks or ""),
        "super-categories": describe_supercategories(groups, names) if official else "",
        "episodes": f"{config.episodes} per class with up to {config.queries} queries"
        if config.episodes
        else "every picture is a query once",
        "seed": str(args.seed),
        "left out": ", ".join(left_out) or "no class",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {time.perf_counter() - began:.0f} s in all",
    }
    evaluation = Evaluation.of(
        {name: text for name, text in what.items() if text},
        [m.name for m in methods],
        config.shots,
        evaluated,
        [w for w in ways if w],
    )
    evaluation.write(args.out)
    return evaluation


def models_of(args: argparse.Namespace) -> list[Segmenter]:
    """The network with its weights, or each of several."""
    from fewscope.model.segmenter import load_segmenter
    from fewscope.pipeline.evaluation.benchmark_runs import find_runs

    # one tile at a time: leave-one-out asks for single ones, and a shorter batch would be filled up
    if not args.weights or (len(args.weights) == 1 and not args.weights[0].is_dir()):
        weights = str(args.weights[0]) if args.weights else None
        return [load_segmenter(args.model, weights, args.encoder, batch_size=1, looks=args.looks)]
    if args.encoder:
        raise ConfigError("--encoder is for one network; give one --weights, or none")
    models = []
    for run in find_runs(args.weights):
        model = load_segmenter(run.model, str(run.weights), batch_size=1, looks=args.looks)
        model.name = run.name
        models.append(model)
    return models


def describe_supercategories(groups: Mapping[str, str], names: Sequence[str]) -> str:
    """Whether the test classes are in 12 super-categories of 20, as the paper says that they are."""
    sizes = Counter(groups.get(name, "") for name in names)
    if sizes.keys() <= {""}:
        return "none given; the authors have not published theirs, give --supercategories FILE"
    odd = [
        f"{group or 'none'} {n}"
        for group, n in sorted(sizes.items())
        if n != SUPERCATEGORY_CLASSES or not group
    ]
    if len(sizes) == N_SUPERCATEGORIES and not odd:
        return f"{N_SUPERCATEGORIES} of {SUPERCATEGORY_CLASSES} test classes each, as in the paper"
    return (
        f"{len(sizes)}, not the paper's {N_SUPERCATEGORIES} of {SUPERCATEGORY_CLASSES} test classes each: "
        f"{', '.join(odd[:6])}"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate, and print the results."""
    print(evaluate(args).as_text())
    print(f"\n{args.out / 'evaluation.html'}")
    return 0


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog), resumes=False)


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
