"""Segment whole slides with a few labelled patches, and count what is in them.

    python jobs/segment_wsi.py slide.svs --support annotations.geojson --out out/slide
    python jobs/segment_wsi.py slides/*.svs --support nuclei/ --out out --instances split --min-area-um2 10
    ray job submit --working-dir . -- python jobs/segment_wsi.py s3://bucket/slide.svs --support support/ \\
        --out s3://bucket/out

SUPPORT is a folder of labelled patches (image/ and label/, or 1.jpg 1.png ...), or polygons drawn on the slide and
exported from QuPath as GeoJSON (regions of class "Region*", objects inside them). See docs/support-set.md.
With several slides, each gets a folder of its own under --out. A job that was stopped goes on where it was when the
same command is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
import glob
import logging
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipeline.estimate import estimate
from pipeline.plan import MODELS, SegmentConfig, model_loader
from pipeline.pool import LocalPool, RayPool, WorkerError
from pipeline.run import UnreadError, segment

BAD_INPUT = 2
STOPPED = 130  # as shells say it of a program stopped by Ctrl-C
EXPECTED = (ValueError, OSError, UnreadError, WorkerError)
NOISY = ("PIL", "fsspec", "asyncio", "botocore", "aiobotocore", "s3fs", "rasterio", "numcodecs", "filelock")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="segment_wsi.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("slides", nargs="+", metavar="SLIDE", help="slide: path, glob, or fsspec URL (s3://...)")
    add("--support", required=True, help="support set: folder of patches, or GeoJSON drawn on the slide")
    add("--support-slide", help="slide that the GeoJSON was drawn on (default: the first SLIDE)")
    add(
        "--class",
        dest="class_names",
        action="append",
        default=[],
        metavar="NAME",
        help="which class of the support set to look for, where there are several; may be given again",
    )
    add("--out", required=True, help="output folder: path or fsspec URL")
    add("--mpp", type=float, help="working resolution, um per px (default 0.5, or the slide's if coarser)")
    add(
        "--slide-mpp",
        type=float,
        help="resolution of the slide's level 0, where the file does not say or is wrong",
    )
    add("--overlap", type=int, default=32, help="pixels that neighbouring tiles share (default 32)")
    add("--model", choices=MODELS, default="compact", help="network (default compact)")
    add("--weights", help="weights to use instead of the shipped ones (.safetensors)")
    add("--threshold", type=float, help="probability that is object (default: chosen by leave-one-out)")
    add(
        "--instances",
        choices=("auto", "components", "split"),
        default="auto",
        help="how objects are told apart: connected components, split by shape, or what counts the support best",
    )
    add("--object-radius-um", type=float, help="typical object radius, for split (default: from the support)")
    add(
        "--connectivity",
        type=int,
        choices=(1, 2),
        default=2,
        help="2: pixels that share a corner are one object",
    )
    add(
        "--min-area-um2",
        type=float,
        help="drop smaller objects (default: a tenth of the support's typical object; 0 keeps all)",
    )
    add("--foreground", choices=("auto", "all"), default="auto", help="all: do not skip glass")
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
        type=float,
        default=0.1,
        help="part of the tissue that may be unreadable (default 0.1)",
    )
    add(
        "--estimate",
        action="store_true",
        help="say how many tiles, how long, how much memory and disk; run nothing",
    )
    add("-v", "--verbose", action="store_true", help="log more; tracebacks of errors")
    return parser.parse_intermixed_args(argv)  # options may stand between slides


def expand(slides: list[str]) -> list[str]:
    """Globs that the shell did not expand, in order."""
    found = []
    for slide in slides:
        matches = (
            sorted(glob.glob(slide)) if any(c in slide for c in "*?[") and not Path(slide).exists() else []
        )
        found += matches or [slide]
    return found


def configs(args: argparse.Namespace) -> list[SegmentConfig]:
    """One configuration per slide."""
    slides = expand(args.slides)
    given = {
        f.name: getattr(args, f.name) for f in dataclasses.fields(SegmentConfig) if hasattr(args, f.name)
    }
    given["class_names"] = tuple(args.class_names)
    given["support_slide"] = args.support_slide or slides[0]
    if len(slides) == 1:
        return [SegmentConfig(source=slides[0], **given)]
    stems = [Path(slide).stem for slide in slides]
    # two slides of one name, from different folders
    names = [f"{stem}-{i}" if stems.count(stem) > 1 else stem for i, stem in enumerate(stems, start=1)]
    base = args.out.rstrip("/")
    return [
        SegmentConfig(source=slide, **(given | {"out": f"{base}/{name}"}))
        for slide, name in zip(slides, names, strict=True)
    ]


def run(args: argparse.Namespace) -> int:
    """All slides over one pool of workers; a slide that fails does not stop the others."""
    todo = configs(args)
    load = model_loader(todo[0])
    model = load()
    if args.estimate:
        for config in todo:
            print(estimate(config, model))
        return 0
    failed = False
    with (
        LocalPool(lambda: model) if args.local else RayPool(load, args.workers, args.gpus_per_worker) as pool
    ):
        for config in todo:
            try:
                report = segment(config, pool, model)
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


def summary(report: dict[str, Any]) -> str:
    """The count in words."""
    if "classes" in report:
        counts = ", ".join(f"{c['count']:,} {c['name']}" for c in report["classes"])
        return f"{report['count']:,} objects: {counts}"
    text = f"{report['count']:,} {report['class_name']}"
    if report["count_interval"]:
        low, high = report["count_interval"]
        text += f" (95 % interval {low:,} to {high:,})"
    if report["density_per_mm2"]:
        text += f", {report['density_per_mm2']:,.0f} per mm2 on {report['area_mm2']:.3g} mm2"
    return text


def main(argv: list[str] | None = None) -> int:
    """Parse, call, print. 0: reports written; 2: bad input, one line for each on stderr."""
    args = parse(argv)
    logging.basicConfig(  # stdout: stderr is for errors alone
        level=logging.DEBUG if args.verbose else logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout,
    )
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return STOPPED
    except EXPECTED as error:
        complain(error)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
