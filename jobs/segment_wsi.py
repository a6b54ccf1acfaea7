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
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.jobs.common import (
    add_model_options,
    add_run_options,
    call,
    configs_of,
    count_in_words,
    expand,
    parser_of,
    run_all,
)
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.report.formatting import short


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = parser_of("segment_wsi.py", __doc__)
    add = parser.add_argument
    add("slides", nargs="+", metavar="SLIDE", help="slide: path, glob, or fsspec URL (s3://...)")
    add("--support", required=True, help="support set: folder of patches, or GeoJSON drawn on the slide")
    add("--support-slide", help="slide that the GeoJSON was drawn on (default: the first SLIDE)")
    add_model_options(parser)
    add("--mpp", type=float, help="working resolution, um per px (default 0.5, or the slide's if coarser)")
    add(
        "--slide-mpp",
        type=float,
        help="resolution of the slide's level 0, where the file does not say or is wrong",
    )
    add(
        "--instances",
        choices=("auto", "components", "split", "learned"),
        default="auto",
        help="how objects are told apart: connected components, split by shape or by learned depth, or (default) what "
        "counts the support best",
    )
    add("--object-radius-um", type=float, help="typical object radius, for split (default: from the support)")
    add(
        "--min-area-um2",
        type=float,
        help="drop smaller objects (default: a tenth of the support's typical object; 0 keeps all)",
    )
    add("--foreground", choices=("auto", "all"), default="auto", help="all: do not skip glass")
    add_run_options(parser, "tissue")
    return parser.parse_intermixed_args(argv)  # options may stand between slides


def configs(args: argparse.Namespace) -> list[SegmentConfig]:
    """One configuration for each slide."""
    slides = expand(args.slides)
    return configs_of(args, slides, support_slide=args.support_slide or slides[0])


def run(args: argparse.Namespace) -> int:
    """All slides over one pool of workers."""
    return run_all(configs(args), args, summary)


def summary(report: dict[str, Any]) -> str:
    """The count in words, and how dense."""
    text = count_in_words(report)
    if report["density_per_mm2"] and "classes" not in report:
        text += f", {short(report['density_per_mm2'])} per mm2 on {short(report['area_mm2'])} mm2"
    return text


def main(argv: list[str] | None = None) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv))


if __name__ == "__main__":
    sys.exit(main())
