"""Train a few-shot network on episodes, from a folder laid out like FSS-1000 or from nothing.

    python jobs/train.py --data ~/fewshot_data --split train --validate val --out runs/compact
    python jobs/train.py --data ~/fewshot_data --split train --network vgg16-paper --recipe paper --out runs/paper
    python jobs/train.py --synthetic-only --steps 2000 --out runs/from-nothing

Killed at any moment, the same command goes on where it stopped. DIR gets weights.safetensors (for --weights of the
other jobs), with --validate also weights-best.safetensors; log.jsonl, predictions.png and tensorboard/ tell how it
goes. docs/training.md has recipes, GPUs and Ray.
"""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm.contrib.logging import logging_redirect_tqdm

from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.errors import WorkerError
from fewscope.model.networks.registry import NETWORKS
from fewscope.model.training.job import WEIGHTS, TrainingJob
from fewscope.model.training.loop import RunOptions
from fewscope.model.training.objectives import LOSSES
from fewscope.model.training.recipes import RECIPES, recipe
from fewscope.pipeline.execution.ray_training import train_on_ray

log = logging.getLogger("fewscope.train")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data", type=Path, help="folder of class folders with <k>.jpg and <k>.png")
    data.add_argument("--synthetic-only", action="store_true", help="nothing but generated episodes")
    add("--split", help="train, or NAME of splits/NAME.txt (default: all class folders)")
    add("--validate", metavar="SPLIT", help="judge by the classes of this split, and keep the best weights")
    add("--shippable", action="store_true", help="leave out pairs whose licence forbids shipping")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    add("--network", choices=NETWORKS, default="compact-S", help="(default %(default)s)")
    add("--recipe", choices=RECIPES, default="modern", help="what the options below are by default")
    add("--loss", choices=tuple(LOSSES), help="(modern: bce+dice, paper: bce)")
    add("--steps", type=int, help="(modern: 8000, paper: 500000)")
    add("--crop", type=int, help="side of the training pictures, px (modern: 112 or 128, paper: 224)")
    add("--episodes-per-step", type=int, help="(modern: 4, paper: 1)")
    add("--learning-rate", type=float, help="(modern: 2e-3 for compact, else 1e-3; paper: 1e-3)")
    add("--seed", type=int, help="of weights and episodes (default 0)")
    add("--imagenet", action="store_true", help="ImageNet encoder, downloaded (not for compact)")
    add("--initial", type=Path, metavar="FILE", help="weights to start from (.safetensors)")
    add("--report-every", type=int, default=50, metavar="STEPS", help="log and checkpoint (default 50)")
    add("--examine-every", type=int, default=500, metavar="STEPS", help="score and picture (default 500)")
    add("--threads", type=int, default=1, help="of each worker; two runs of 1 beat one of 2 (default 1)")
    add("--workers", type=int, metavar="N", help="data-parallel on Ray, on GPUs where there are N")
    add("--loader-workers", type=int, default=1, help="processes that make episodes (default 1)")
    add("-v", "--verbose", action="store_true", help="tracebacks of errors")
    return parser.parse_args(argv)


def job_of(args: argparse.Namespace) -> TrainingJob:
    """The run that a command line asks for."""
    asked = {
        name: getattr(args, name)
        for name in ("steps", "crop", "episodes_per_step", "learning_rate", "seed")
        if getattr(args, name) is not None
    }
    return TrainingJob(
        config=replace(recipe(args.recipe, args.network, args.loss), imagenet=args.imagenet, **asked),
        out=args.out.resolve(),
        data=None if args.data is None else ClassFolders(args.data.resolve()),
        split=args.split,
        validation_split=args.validate,
        shippable=args.shippable,
        initial=None if args.initial is None else args.initial.resolve(),
        options=RunOptions(args.report_every, args.examine_every, args.loader_workers, args.threads),
    )


def main(argv: list[str] | None = None) -> int:
    """Train. 0: the weights are written; 2: bad input, one line on stderr."""
    args = parse(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    try:
        with logging_redirect_tqdm():
            job = job_of(args)
            if args.workers is None:
                job.run()
            else:
                train_on_ray(job, args.workers)
    except (ValueError, OSError, ArithmeticError, WorkerError) as error:
        print(f"error: {error}", file=sys.stderr)
        if args.verbose:
            log.exception("where it came from")
        return 2
    print(job.out / WEIGHTS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
