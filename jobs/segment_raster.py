"""Segment satellite and aerial rasters with a few labelled patches. Also ``fewscope map``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.jobs.common import call, check_paths, expand
from fewscope.jobs.options import JobParser, typed
from fewscope.jobs.raster_options import add_options, reading_of
from fewscope.pipeline.config import IndexBands, RasterConfig, SegmentConfig

PROG = "python jobs/segment_raster.py"
RENAMED = {"--max-unread": "--max-unreadable"}
DESCRIPTION = """\
Segment satellite and aerial rasters with a few labelled patches: water, and what else a map needs.

Examples:
    %(prog)s scene.tif --support drawn.gpkg --out out/scene --bands 4,3,2
    %(prog)s sentinel2.tif --support drawn.gpkg --out out/fields --bands all
    %(prog)s 'tiles/*.tif' --mosaic --support drawn.gpkg --out out/basin --aoi basin.geojson

SUPPORT is a folder of labelled patches (image/ and label/, or 1.jpg 1.png ...), or polygons over the raster in any
vector format and CRS: about five rectangles of class "Region", with the objects inside outlined. See
docs/support-set.md. A RASTER is anything that GDAL reads, or a STAC item collection (.json), whose items become one
source. With several rasters, each gets a folder of its own in OUT, or with --mosaic they become one. After an
interruption, the same command resumes.
"""


def parser(prog: str = PROG, *, only_estimate: bool = False) -> JobParser:
    """The options; ``only_estimate``: for ``fewscope estimate``, which needs no output folder."""
    usage = f"RASTER [RASTER ...] --support SUPPORT{'' if only_estimate else ' --out OUT'} [options]"
    made = JobParser(prog, DESCRIPTION, usage, renamed=RENAMED)
    add_options(made, only_estimate)
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG, *, only_estimate: bool = False) -> argparse.Namespace:
    """The command line."""
    made = parser(prog, only_estimate=only_estimate)
    return made.parse_intermixed_args(argv)  # options may stand between rasters


def configs(args: argparse.Namespace) -> list[SegmentConfig]:
    """One configuration for each raster, or one for all."""
    from fewscope.jobs.segmenting import configs_of

    rasters = expand(args.rasters)
    first, *others = rasters
    view = replace(
        reading_of(args),
        aoi=args.aoi,
        bbox=tuple(args.bbox) if args.bbox else None,
        scenes=tuple(others) if args.mosaic else (),
        pick=args.pick,
        data_bands=tuple(band for band in (args.green, args.nir, args.swir) if band),
    )
    raster = RasterConfig(view, index_bands(args), args.min_area_m2, args.simplify)
    sources = [first] if args.mosaic else rasters
    # the area of a raster belongs to its view
    return configs_of(args, sources, support_slide=args.support_raster or first, raster=raster, aoi=None)


def run(args: argparse.Namespace) -> int:
    """All rasters over one pool of workers."""
    check_paths(expand(args.rasters), args.support)
    from fewscope.jobs.segmenting import run_all

    return run_all(configs(args), args, summary)


def index_bands(args: argparse.Namespace) -> IndexBands | None:
    """The bands of water indices, if any are named."""
    if args.green is None and (args.nir or args.swir):
        raise ValueError("--nir and --swir are compared with green: give its band with --green")
    return None if args.green is None else IndexBands(args.green, args.nir, args.swir)


def summary(report: dict[str, Any]) -> str:
    """What was found and what is estimated, in words: number and area."""
    from fewscope.pipeline.report.headline import area_in_words, count_in_words

    text, area = count_in_words(report), area_in_words(report)
    return f"{text}; {area}, of {report['area_km2']:,.4g} km2 analysed" if area else text


def main(argv: list[str] | None = None, prog: str = PROG, *, only_estimate: bool = False) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog, only_estimate=only_estimate))


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
