"""Map the same area at several dates with one support set, and say what changed. Also ``fewscope changes``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.jobs import segment_raster
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, typed
from fewscope.jobs.raster_options import add_options
from fewscope.pipeline.config import SegmentConfig, check_workers

if TYPE_CHECKING:
    from fewscope.pipeline.report.change_report import Comparison, Epoch

PROG = "python jobs/map_changes.py"
DESCRIPTION = """\
Map the same area at several dates with one support set, and report what changed.

Examples:
    %(prog)s 1985.tif 2000.tif 2020.tif --support drawn.gpkg --support-raster 2000.tif --out out/river
    %(prog)s before.tif after.tif --support drawn.gpkg --out out/flood --dates 2024-05-02 2024-06-11

Each raster is mapped into a folder of its own in OUT. The water gained and lost between dates, and the movement of the
centreline, are written beside them: changes.html (one page to print), changes.csv, changes.jpg, centrelines.jpg.
After an interruption, the same command resumes.
"""


def parser(prog: str = PROG) -> JobParser:
    """The options: those of segment_raster.py, and dates."""
    usage = "RASTER RASTER [RASTER ...] --support SUPPORT --out OUT [options]"
    made = JobParser(prog, DESCRIPTION, usage, renamed=segment_raster.RENAMED)
    add_options(made)
    made.group["input"].add_argument(
        "--dates",
        nargs="+",
        metavar="DATE",
        help="date of each raster, in the same order: 2020 or 2020-07-02 (default: taken from the file names)",
    )
    made.group["output"].add_argument("--title", default="Changes between dates", help="heading of the page")
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    return parser(prog).parse_intermixed_args(argv)


def epochs(args: argparse.Namespace, configs: list[SegmentConfig]) -> list[Epoch]:
    """The dates with their folders, the earliest first where all are known, else as they were given.

    Raises
    ------
    ValueError
        There are fewer than two rasters, or not as many dates as rasters, or one is not a date.
    """
    from fewscope.pipeline.maps.changes import date_in
    from fewscope.pipeline.report.change_report import Epoch

    if len(configs) < 2:
        raise ValueError(
            f"{len(configs)} source has no changes; give the same area at two dates or more"
            + (" (without --mosaic, which makes one source of all)" if args.mosaic else "")
        )
    if args.dates and len(args.dates) != len(configs):
        raise ValueError(
            f"{len(args.dates)} --dates for {len(configs)} rasters; give one for each, in their order"
        )
    names = args.dates or [Path(config.source).stem for config in configs]
    dates = [date_in(name) for name in names]
    for name, date in zip(names, dates, strict=True):
        if args.dates and date is None:
            raise ValueError(f"--dates {name} is not a date; write 2020 or 2020-07-02")
    found = [
        Epoch(name, date.year if date else None, config.out)
        for name, date, config in zip(names, dates, configs, strict=True)
    ]
    texts = {date.text for date in dates if date}
    if None in dates:
        return found
    if len(texts) == len(dates):  # a date says more than the name of a file, where it tells the scenes apart
        found = [replace(epoch, name=date.text) for epoch, date in zip(found, dates, strict=True) if date]
    return sorted(found, key=lambda epoch: epoch.year or 0.0)


def run(args: argparse.Namespace) -> int:
    """Segment every date, then compare the maps."""
    from fewscope.connectors.results.run_lock import RunLock
    from fewscope.connectors.results.unit_files import FOLDER
    from fewscope.jobs.segmenting import run_all

    check_workers(args.workers, args.gpus_per_worker)  # before there is a folder
    configs = segment_raster.configs(args)
    dates = epochs(args, configs)
    if args.estimate:
        return run_all(configs, args, segment_raster.summary)
    with RunLock(args.out, FOLDER) as lock:
        failed = run_all(configs, args, segment_raster.summary)
        lock.check()
        return failed or compare(args, configs, dates)


def compare(args: argparse.Namespace, configs: list[SegmentConfig], dates: list[Epoch]) -> int:
    """Write what changed between the maps, which are finished."""
    from fewscope.connectors.open import open_source
    from fewscope.connectors.pixels.composite import composite
    from fewscope.pipeline.report.change_report import FIGURE_PX, write_changes

    first = next(config for config in configs if config.out == dates[0].out)
    assert first.raster is not None, "segment_raster.configs makes raster configurations"
    source = open_source(first.source, raster=first.raster.view)
    background = composite(source.overview(FIGURE_PX)[0], source.info)
    source.close()
    out = args.out.rstrip("/")
    comparison = write_changes(out, dates, background, args.title)
    print(summary(comparison))
    print(f"  {out}/changes.html", flush=True)
    return 0


def summary(comparison: Comparison) -> str:
    """The whole time in words."""
    change = comparison.overall
    text = (
        f"{change.before} to {change.after}: {change.gained_km2:,.4g} km2 of water gained, "
        f"{change.lost_km2:,.4g} km2 lost, {change.kept_km2:,.4g} km2 kept"
    )
    if change.moved_mean_m is not None:
        text += f"; the centreline moved {change.moved_mean_m:,.0f} m in the mean"
    return text


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog))


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
