"""Evaluate a few-shot network on classes it has not been trained on, beside what a user has without it.

    python jobs/evaluate.py --data ~/fewshot_data --split test --shots 1 5 --out out/fss1000
    python jobs/evaluate.py --data ~/mine --split val --episodes 3 --rivals forest --calibration --out out/mine

The first line is the FSS-1000 benchmark: every picture of the 240 test classes is asked once (2,400 queries), with
supports fixed by a seed. Data has FSS-1000's layout; docs/protocol.md says how it is asked and how to convert others.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from fewscope.connectors.datasets.class_folders import (
    FSS1000_TEST,
    ClassFolders,
    ClassImages,
    class_names,
    fingerprint,
)
from fewscope.model.episodes.protocol import SEED
from fewscope.model.segmenter import MODELS, load_segmenter
from fewscope.pipeline.evaluation.baselines import BASELINES, PixelForest, load_baseline
from fewscope.pipeline.evaluation.n_way import evaluate_n_way
from fewscope.pipeline.evaluation.page import Evaluation
from fewscope.pipeline.evaluation.prediction_cache import PredictionCache
from fewscope.pipeline.evaluation.runner import Adapted, EvaluationConfig, Method, evaluate_class

log = logging.getLogger("fewscope.evaluate")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of class folders with <k>.jpg and <k>.png"
    )
    parser.add_argument(
        "--split", help="train, val, test or NAME of splits/NAME.txt (default: all class folders)"
    )
    parser.add_argument("--domains", nargs="+", default=[], help="only these domains or super-categories")
    parser.add_argument("--shots", type=int, nargs="+", default=[5], help="support pictures (default 5)")
    parser.add_argument("--episodes", type=int, help="per class (default: every picture is a query once)")
    parser.add_argument("--queries", type=int, default=5, help="per episode, with --episodes (default 5)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the episodes (default %(default)s)")
    parser.add_argument("--model", choices=MODELS, default="compact", help="(default %(default)s)")
    parser.add_argument("--weights", help="weights instead of the shipped ones (.safetensors)")
    parser.add_argument(
        "--rivals", nargs="*", choices=BASELINES, default=[], help="the forest takes seconds a query"
    )
    parser.add_argument(
        "--forest-answers",
        type=Path,
        metavar="DIR",
        help="keep what the forest says there, and do not ask it the same twice: for other weights, or after a kill",
    )
    parser.add_argument(
        "--calibration",
        action="store_true",
        help="leave one support picture out at a time, as jobs do: chosen thresholds, promised IoU against true",
    )
    parser.add_argument(
        "--adapt",
        type=float,
        metavar="SECONDS",
        help="also fine-tuned on each support set, for so long on one core",
    )
    parser.add_argument(
        "--way", type=int, default=1, help="also ask with so many classes shown at once (C-way)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for evaluation.html, .txt and .json")
    parser.add_argument("-v", "--verbose", action="store_true", help="tracebacks of errors")
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> Evaluation:
    """Ask every class, and write what was found."""
    config = EvaluationConfig(
        tuple(dict.fromkeys(args.shots)), args.episodes, args.queries, args.seed, args.calibration
    )
    official = fingerprint(class_names(args.data, args.split)) == FSS1000_TEST
    # one tile at a time: leave-one-out asks for single ones, and a shorter batch would be filled up
    model = load_segmenter(args.model, args.weights, batch_size=1)
    methods: list[Method] = [Adapted(model, args.adapt)] if args.adapt is not None else []
    methods.append(model)
    for name in args.rivals:
        baseline = load_baseline(name)
        if args.forest_answers is not None and isinstance(baseline, PixelForest):
            baseline = PredictionCache(baseline, args.forest_answers)
        methods.append(baseline)
    categories = ClassFolders(args.data).classes(args.split, domains=args.domains)
    began, evaluated, left_out = time.perf_counter(), [], []
    kept: list[ClassImages] = []  # C-way episodes need all classes at once
    for category in tqdm(categories, unit="class", disable=not sys.stderr.isatty()):
        if len(category.images) <= max(config.shots):
            log.warning("%s has %d pictures only: left out", category.name, len(category.images))
            left_out.append(category.name)
            continue
        evaluated.append(evaluate_class(category, methods, config))
        kept += [category] if args.way > 1 else []
        log.info("%s: %.0f s so far", category.name, time.perf_counter() - began)
    ways = [
        evaluate_n_way(kept, m, config, args.way, k) for k in config.shots for m in methods if args.way > 1
    ]
    what = {
        "data": f"{args.data}, split {args.split or 'none: all classes'}",
        "benchmark": "the 240 test classes of FSS-1000"
        if official and not args.domains
        else "not FSS-1000's 240 test classes: no number here is an FSS-1000 score",
        "model": f"{args.model}, weights {args.weights or 'shipped'} ({model.weights_digest[:12]})",
        "episodes": f"{args.episodes} per class with up to {args.queries} queries"
        if args.episodes
        else "every picture is a query once",
        "seed": str(args.seed),
        "left out": ", ".join(left_out) or "no class",
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {time.perf_counter() - began:.0f} s in all",
    }
    evaluation = Evaluation.of(
        what, [m.name for m in methods], config.shots, evaluated, [w for w in ways if w]
    )
    evaluation.write(args.out)
    return evaluation


def main(argv: list[str] | None = None) -> int:
    """0: written; 2: bad input, with one line on stderr."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        evaluation = run(args)
    except (ValueError, OSError, ImportError) as e:
        if args.verbose:
            raise
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(evaluation.as_text())
    print(f"\n{args.out / 'evaluation.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
