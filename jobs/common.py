"""What the segmenting jobs share: options, a folder for each source, one pool of workers for all, exit codes."""

from __future__ import annotations

import argparse
import dataclasses
import glob
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fewscope.errors import UnreadableError, WorkerError
from fewscope.model.segmenter import MODELS
from fewscope.pipeline.calibration.model_selection import EncodingCache
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.estimate import estimate
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.execution.ray_pool import RayPool
from fewscope.pipeline.plan import model_loader
from fewscope.pipeline.run import segment

BAD_INPUT = 2
STOPPED = 130  # as shells say it of a program stopped by Ctrl-C
EXPECTED = (ValueError, OSError, UnreadableError, WorkerError)
NOISY = (
    "PIL",
    "zarr",
    "fsspec",
    "asyncio",
    "botocore",
    "aiobotocore",
    "s3fs",
    "numcodecs",
    "filelock",
    "pyogrio",
)
GDAL_LOG = "rasterio"  # it warns of every oddity of a file, each time that it is opened


def parser_of(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the program's docstring as it is."""
    return argparse.ArgumentParser(
        prog=program, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """What is looked for, where the result goes, and with which network."""
    add = parser.add_argument
    add(
        "--class",
        dest="class_names",
        action="append",
        default=[],
        metavar="NAME",
        help="which class of the support set to look for, where there are several; may be given again",
    )
    add("--out", required=True, help="output folder: path or fsspec URL")
    add("--overlap", type=int, default=32, help="pixels that neighbouring tiles share (default 32)")
    add("--model", choices=MODELS, default="compact", help="network (default compact)")
    add("--weights", help="weights to use instead of the shipped ones (.safetensors)")
    add(
        "--adapt",
        dest="adapt_s",
        type=float,
        default=120,
        metavar="SECONDS",
        help="of one core, about, to adapt to the support set: fine-tuning, a pixel classifier, kept if they help "
        "(default 120; 30: no fine-tuning; 0: nothing); processors without bfloat16 take twice that",
    )
    add(
        "--threshold",
        type=float,
        help="probability that is object (default: 0.5, unless leave-one-out is sure of a better one)",
    )
    add(
        "--connectivity",
        type=int,
        choices=(1, 2),
        default=2,
        help="2: pixels that share a corner are one object",
    )
    add(
        "--outlines",
        choices=("auto", "polygons", "points", "none"),
        default="auto",
        help="what the GeoJSON holds",
    )
    add(
        "--class-probabilities",
        action="store_true",
        help="keep the probability of each class too, as result.zarr/classes/1, 2...",
    )


def add_run_options(parser: argparse.ArgumentParser, ground: str) -> None:
    """How it is run; ``ground``: what is analysed, in a word."""
    add = parser.add_argument
    add(
        "--workers",
        type=int,
        help="Ray actors (default: one per GPU; without, one per CPU as far as memory goes)",
    )
    add(
        "--gpus-per-worker",
        type=float,
        help="e.g. 0.5 for two actors on a GPU (default 1 where there are GPUs)",
    )
    add("--local", action="store_true", help="one worker in this process, without Ray")
    add("--overwrite", action="store_true", help="replace another run's result in --out")
    add(
        "--max-unread",
        dest="max_unreadable",
        type=float,
        default=0.1,
        help=f"part of the {ground} that may be unreadable (default 0.1)",
    )
    add(
        "--estimate",
        action="store_true",
        help="say how many tiles, how long, how much memory and disk; run nothing",
    )
    add("-v", "--verbose", action="store_true", help="log more; tracebacks of errors")


def expand(sources: list[str]) -> list[str]:
    """Globs that the shell did not expand, in order."""
    found = []
    for source in sources:
        matches = (
            sorted(glob.glob(source)) if any(c in source for c in "*?[") and not Path(source).exists() else []
        )
        found += matches or [source]
    return found


def configs_of(args: argparse.Namespace, sources: list[str], **more: Any) -> list[SegmentConfig]:
    """One configuration for each source, from the options of the same names; several get folders of their own."""
    given = {
        f.name: getattr(args, f.name) for f in dataclasses.fields(SegmentConfig) if hasattr(args, f.name)
    }
    given |= {"class_names": tuple(args.class_names), **more}
    if len(sources) == 1:
        return [SegmentConfig(source=sources[0], **given)]
    stems = [Path(source).stem for source in sources]
    # two sources of one name, from different folders
    names = [f"{stem}-{i}" if stems.count(stem) > 1 else stem for i, stem in enumerate(stems, start=1)]
    base = args.out.rstrip("/")
    return [
        SegmentConfig(source=source, **(given | {"out": f"{base}/{name}"}))
        for source, name in zip(sources, names, strict=True)
    ]


def run_all(
    todo: list[SegmentConfig], args: argparse.Namespace, summary: Callable[[dict[str, Any]], str]
) -> int:
    """All sources over one pool of workers; a source that fails does not stop the others."""
    load = model_loader(todo[0])
    model = load()
    if args.estimate:
        for config in todo:
            print(estimate(config, model))
        return 0
    failed, encodings = False, EncodingCache(model)
    with (
        LocalPool(lambda: model) if args.local else RayPool(load, args.workers, args.gpus_per_worker) as pool
    ):
        for config in todo:
            try:
                report = segment(config, pool, model, encodings)
                print(
                    f"{config.source}: {summary(report)}\n  {config.out.rstrip('/')}/report.html", flush=True
                )
            except EXPECTED as error:
                failed = True
                complain(error)
    return BAD_INPUT if failed else 0


def complain(error: BaseException) -> None:
    """One line on stderr; with -v the traceback, in the log."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    logging.getLogger(__name__).debug("details", exc_info=error)


def count_in_words(report: dict[str, Any]) -> str:
    """The count and its interval, or the counts of several classes."""
    if "classes" in report:
        counts = ", ".join(f"{c['count']:,} {c['name']}" for c in report["classes"])
        return f"{report['count']:,} objects: {counts}"
    text = f"{report['count']:,} {report['class_name']}"
    if report["count_interval"]:
        low, high = report["count_interval"]
        text += f" (95 % interval {low:,} to {high:,})"
    return text


def call(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Run a job. 0: reports written; 2: bad input, one line for each on stderr; 130: stopped."""
    logging.basicConfig(  # stdout: stderr is for errors alone
        level=logging.DEBUG if args.verbose else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
    )
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger(GDAL_LOG).setLevel(logging.INFO if args.verbose else logging.ERROR)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return STOPPED
    except EXPECTED as error:
        complain(error)
        return BAD_INPUT
