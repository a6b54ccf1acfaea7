"""Train a few-shot network on episodes, from class folders or from generated pictures. Also ``fewscope train``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.errors import ConfigError
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, typed
from fewscope.model.networks.names import LOSSES, NETWORKS, RECIPES

if TYPE_CHECKING:
    from fewscope.model.training.job import TrainingJob

PROG = "python jobs/train.py"
RENAMED = {"--examine-every": "--validate-every", "--initial": "--initial-weights"}
DESCRIPTION = """\
Train a few-shot network on episodes, from a folder laid out like FSS-1000 or from generated pictures alone.

Examples:
    %(prog)s --data ~/fewshot_data --split train --validate val --out runs/compact
    %(prog)s --data ~/fewshot_data --split train --network vgg16-paper --recipe paper --out runs/paper
    %(prog)s --synthetic-only --steps 2000 --out runs/from-nothing

Writes weights.safetensors, for --weights of the other jobs, and with --validate also weights-best.safetensors.
log.jsonl, predictions.png and tensorboard/ show the progress. After an interruption, the same command resumes.
docs/training.md has recipes, GPUs and Ray.
"""


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    made = JobParser(
        prog, DESCRIPTION, "(--data DIR | --synthetic-only) --out DIR [options]", renamed=RENAMED
    )
    source = made.group["input"].add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of class folders with <k>.jpg and <k>.png"
    )
    source.add_argument("--synthetic-only", action="store_true", help="train on generated episodes only")
    add = made.group["input"].add_argument
    add("--split", help="train, or NAME of splits/NAME.txt (default: all class folders)")
    add(
        "--validate", metavar="SPLIT", help="validate on the classes of this split, and keep the best weights"
    )
    add("--shippable", action="store_true", help="leave out pairs whose licence forbids redistribution")
    add("--seed", type=int, help="seed of weights and episodes (default 0)")
    add = made.group["output"].add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    add(
        "--report-every",
        type=int,
        default=50,
        metavar="STEPS",
        help="steps between log lines and checkpoints (default 50)",
    )
    add(
        "--validate-every",
        type=int,
        default=500,
        metavar="STEPS",
        help="steps between validations (default 500)",
    )
    add = made.group["model"].add_argument
    add("--network", choices=NETWORKS, default="compact-S", help="network to train (default %(default)s)")
    add("--initial-weights", type=Path, metavar="FILE", help="weights to start from (.safetensors)")
    add(
        "--imagenet",
        action="store_true",
        help="start the encoder from ImageNet weights, downloaded (not for compact)",
    )
    add(
        "--train-backbone",
        action="store_true",
        help="canet, hsnet: train the backbone too, which stays as it is in their papers",
    )
    add(
        "--recipe",
        choices=RECIPES,
        default="modern",
        help="preset for the options below (default %(default)s)",
    )
    add(
        "--shots",
        type=int,
        metavar="K",
        help="support images of every episode (modern: drawn from 1 to 5; paper: 5, or 1 as the network's paper)",
    )
    add(
        "--no-augmentation",
        action="store_true",
        help="whole pictures of the classes as they are, none generated (paper: always so)",
    )
    add(
        "--balance-domains",
        action="store_true",
        help="with --no-augmentation: as many episodes of each domain of classes.csv, however few its classes",
    )
    add(
        "--loss",
        choices=LOSSES,
        help="training loss (modern: bce+dice, paper: bce); dice alone suits a network that cannot place an outline",
    )
    add("--steps", type=int, help="optimiser steps (modern: 8000, paper: 500000)")
    add("--crop", type=int, metavar="PX", help="side of the training images (modern: 112 or 128, paper: 224)")
    add("--episodes-per-step", type=int, metavar="N", help="(modern: 4, paper: 1)")
    add(
        "--learning-rate",
        type=float,
        metavar="RATE",
        help="(modern: 2e-3 for compact, else 1e-3; paper: 1e-3)",
    )
    add = made.group["execution"].add_argument
    add("--workers", type=int, metavar="N", help="data-parallel workers on Ray, on GPUs if there are N")
    add("--loader-workers", type=int, default=1, metavar="N", help="processes that make episodes (default 1)")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads per worker (default 1)")
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    return parser(prog).parse_args(argv)


def job_of(args: argparse.Namespace) -> TrainingJob:
    """The run that a command line asks for."""
    from fewscope.connectors.datasets.class_folders import ClassFolders
    from fewscope.model.training.job import TrainingJob
    from fewscope.model.training.loop import RunOptions
    from fewscope.model.training.recipes import PAPER_SHOTS, recipe

    asked = {
        name: getattr(args, name)
        for name in ("steps", "crop", "episodes_per_step", "learning_rate", "seed")
        if getattr(args, name) is not None
    }
    settings = recipe(args.recipe, args.network, args.loss)
    if args.no_augmentation:
        settings = replace(settings, augmented=False)
    settings = replace(settings, balance_domains=args.balance_domains)
    if args.shots is not None:
        if args.shots < 1:
            raise ConfigError(f"--shots {args.shots} is below 1; usual values are 1 and 5")
        asked["shots"] = args.shots
        if not settings.augmented:  # as many queries as before
            n_queries = settings.images_per_episode - (settings.shots or PAPER_SHOTS)
            asked["images_per_episode"] = args.shots + n_queries
        elif args.shots >= settings.images_per_episode:
            asked["images_per_episode"] = args.shots + 1
    return TrainingJob(
        config=replace(settings, imagenet=args.imagenet, train_backbone=args.train_backbone, **asked),
        out=args.out.resolve(),
        data=None if args.data is None else ClassFolders(args.data.resolve()),
        split=args.split,
        validation_split=args.validate,
        shippable=args.shippable,
        initial=None if args.initial_weights is None else args.initial_weights.resolve(),
        options=RunOptions(args.report_every, args.validate_every, args.loader_workers, args.threads),
    )


def run(args: argparse.Namespace) -> int:
    """Train, and print where the weights are."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    from fewscope.connectors.results.run_lock import RunLock
    from fewscope.connectors.results.unit_files import FOLDER
    from fewscope.model.training.job import WEIGHTS
    from fewscope.pipeline.config import check_workers

    check_workers(args.workers, None)
    with logging_redirect_tqdm():
        job = job_of(args)
        with RunLock(str(job.out), FOLDER) as lock:
            if args.workers is None:
                job.run()
            else:
                from fewscope.pipeline.execution.ray_training import train_on_ray

                train_on_ray(job, args.workers)
            lock.check()
    print(job.out / WEIGHTS)
    return 0


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog))


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
