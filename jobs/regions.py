"""Count the objects of a finished run in regions, and find hot spots. Also ``fewscope regions``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.errors import ConfigError, FewscopeError
from fewscope.jobs.common import BAD_INPUT, call, complain
from fewscope.jobs.export import default_out, progress
from fewscope.jobs.options import JobParser, typed

if TYPE_CHECKING:
    from fewscope.connectors.results.finished_run import FinishedRun
    from fewscope.pipeline.regions.fields import HotSpotOptions
    from fewscope.pipeline.regions.inputs import RegionOptions
    from fewscope.pipeline.regions.summary import RegionSummary

PROG = "python jobs/regions.py"
DESCRIPTION = """\
Count what a finished run has found in each region of a file, and find hot spots, the fields with the most objects.

Examples:
    %(prog)s out/slide --in tumour-and-stroma.geojson
    %(prog)s out/slide --hot-spots 3 --field-area 2
    %(prog)s out/slide --in tumour.geojson --hot-spots --hot-spots-of DAB --field-area 0.2
    %(prog)s out/scene --in districts.gpkg --name district
    %(prog)s out/study --in regions/

RESULT is the output folder of a run, or one of several sources: then FILE is a folder with a file named after each of
them, such as regions/a.geojson for a.svs. Written is a folder with
    regions.csv      a row for each region and class: count, density, share, areas, sizes, intensities, positives; then
                     what lies in any region, outside all of them, and in the whole source
    regions.geojson  slides: the regions as annotations with measurements, for QuPath
    regions.gpkg     rasters: the regions with these columns, in the CRS of the raster
    regions.html     a page with the regions in the overview, and the table, the densest (rasters: most covered) first
The network is not run, and RESULT stays as it is.
"""
ENDING = "-regions"
CSV, GEOJSON, PACKAGE, PAGE = "regions.csv", "regions.geojson", "regions.gpkg", "regions.html"


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    made = JobParser(prog, DESCRIPTION, "RESULT [--in FILE] [--hot-spots [N]] [options]")
    add = made.group["input"].add_argument
    add(
        "result",
        metavar="RESULT",
        help="output folder of a finished run, of one source or of several: path or fsspec URL (s3://...)",
    )
    add(
        "--in",
        dest="regions",
        metavar="FILE",
        help="polygons: of slides GeoJSON of QuPath (also its TMA cores), XML of ImageScope or ASAP, .ndpa, or ROIs of "
        "ImageJ; of rasters any vector file in any CRS",
    )
    add(
        "--name",
        metavar="COLUMN",
        help="rasters: column of FILE with the names of the regions (default: name, else their numbers)",
    )
    add(
        "--geojson-origin",
        choices=("scan", "file"),
        help="where GeoJSON starts, read and written, on slides that state a scanned area: at its corner, as in "
        "QuPath, or at the corner of the file, as in OpenSlide (default: as in the run)",
    )
    add(
        "--slide",
        metavar="FILE",
        help="where the slide of the run is now, if an older run must look at it (default: where it was)",
    )
    add = made.group["output"].add_argument
    add("--out", metavar="FOLDER", help=f"output folder (default: beside RESULT, RESULT{ENDING})")
    add("--overwrite", action="store_true", help="replace the files in FOLDER")
    add = made.group["instances"].add_argument
    add(
        "--hot-spots",
        type=int,
        nargs="?",
        const=3,
        metavar="N",
        help="find the N circles with the most objects that do not overlap, in the regions if there are any (N: 3)",
    )
    add(
        "--field-area",
        type=float,
        metavar="AREA",
        help="area of a hot spot: mm2 on slides (default 1, but at most a tenth of the tissue), um2 on images of an "
        "electron microscope, px without a resolution, km2 on rasters (default a hundredth of the area)",
    )
    add(
        "--hot-spots-of",
        metavar="NAME",
        help="class whose objects make hot spots, or stain or channel whose positive objects do (default: all objects)",
    )
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    return parser(prog).parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Write the files of one source, or of each of several."""
    from fewscope.connectors.results.finished_run import FinishedRun, check_out, runs_in
    from fewscope.pipeline.regions.inputs import RegionOptions, match_files
    from fewscope.pipeline.regions.table import csv_text, region_table
    from fewscope.pipeline.report.html import write_files

    wanted = _hot_spots(args)
    options = RegionOptions(args.name, args.geojson_origin, args.slide)
    names = runs_in(args.result)
    base = args.result.rstrip("/")
    runs = [FinishedRun(f"{base}/{name}", FILES) for name in names] or [FinishedRun(args.result, FILES)]
    if names and args.slide:
        raise ConfigError(f"--slide is for one source, and {args.result} has {len(names)}; leave it out")
    files = {runs[0].out: args.regions} if args.regions else {}
    if names and args.regions:
        files, notes = match_files(args.regions, runs)
        runs = [one for one in runs if one.out in files]
        print("\n".join(notes), end="\n" * bool(notes))
    folder = (args.out or default_out(args.result, ENDING)).rstrip("/")
    folders = [f"{folder}/{Path(one.out.rstrip('/')).name}" if names else folder for one in runs]
    for one, out in zip(runs, folders, strict=True):
        for name in (CSV, PAGE, PACKAGE if one.is_raster else GEOJSON):
            check_out(one, f"{out}/{name}", args.overwrite)
    if names:
        check_out(runs[0], f"{folder}/{CSV}", args.overwrite)
    summaries, failed = [], False
    for one, out in zip(runs, folders, strict=True):
        try:
            summaries.append(_write(one, out, files.get(one.out), options, wanted))
        except FewscopeError as error:
            if not names:
                raise
            complain(error)
            failed = True
            continue
        print(in_words(summaries[-1], out), flush=True)
    if names and summaries:
        write_files(folder, {CSV: csv_text(region_table(summaries, several_sources=True)).encode()})
        n = len(summaries)
        print(f"  {folder}/{CSV}: {n} source{'s' * (n > 1)}", flush=True)
    return BAD_INPUT if failed else 0


def _hot_spots(args: argparse.Namespace) -> HotSpotOptions | None:
    from fewscope.pipeline.regions.fields import HotSpotOptions

    if args.hot_spots is None:
        for name, value in (("--field-area", args.field_area), ("--hot-spots-of", args.hot_spots_of)):
            if value is not None:
                raise ConfigError(f"{name} is for hot spots; add --hot-spots")
        if not args.regions:
            raise ConfigError("nothing to do: give regions with --in FILE, or --hot-spots, or both")
        return None
    return HotSpotOptions(args.hot_spots, args.field_area, args.hot_spots_of)


def _write(
    done: FinishedRun,
    out: str,
    regions: str | None,
    options: RegionOptions,
    wanted: HotSpotOptions | None,
) -> RegionSummary:
    """Count in one run, and write its files."""
    from fewscope.pipeline.regions.files import geojson_text, write_region_package
    from fewscope.pipeline.regions.inputs import origin_of, place_of, summary_of
    from fewscope.pipeline.regions.page import page_text
    from fewscope.pipeline.regions.table import csv_text, region_table
    from fewscope.pipeline.report.html import write_files

    def blocks(n: int) -> Callable[[int], object]:
        bar = progress(n, "block")
        return bar.update

    summary, transform = summary_of(done, regions, options, wanted, blocks)
    texts = {CSV: csv_text(region_table([summary]))}
    place = place_of(done, options)
    if place is None:
        write_region_package(f"{out}/{PACKAGE}", summary)
    else:
        start = place.scan_origin if origin_of(done, options) == "scan" else (0, 0)
        texts[GEOJSON] = geojson_text(summary, start)
    texts[PAGE] = page_text(summary, transform)
    write_files(out, {name: text.encode("utf-8", "replace") for name, text in texts.items()})
    return summary


def in_words(summary: RegionSummary, out: str) -> str:
    """What is printed at the end."""
    unit = summary.units.density
    lines = []
    for row in summary.rows:
        density = "" if row.all.density is None else f", {row.all.density:,.4g} per {unit}"
        if summary.run.is_raster:
            density = f", {row.all.covered:,.4g} {summary.units.area} covered"
        name = row.label if row.kind == "total" else f"{row.label} {row.name}"
        lines.append(f"{name}: {row.all.count:,}{density}")
    if len(lines) > 15:
        lines[10 : -len(summary.totals)] = ["..."]
    return "\n".join([*(f"note: {note}" for note in summary.notes), *lines, f"  {out}/{PAGE}"])


FILES = ("result.zarr/labels/semantic",)
"""Of a run, which are read besides its table."""


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog), resumes=False)


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
