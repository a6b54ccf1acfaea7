"""Segment whole slides with a few labelled patches, and count what is in them. Also ``fewscope segment``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.jobs import options
from fewscope.jobs.common import call, check_paths, expand
from fewscope.jobs.options import JobParser, typed
from fewscope.pipeline.config import SegmentConfig

PROG = "python jobs/segment_wsi.py"
DESCRIPTION = """\
Segment whole slides with a few labelled patches, and count what is in them.

Examples:
    %(prog)s slide.svs --support annotations.geojson --out out/slide
    %(prog)s slide.svs --support nuclei/ --aoi slide.geojson --aoi-class Tumor --out out/tumour
    %(prog)s slide.svs --support nuclei/ --support more.geojson --out out/slide
    %(prog)s slides/*.svs --support nuclei/ --out out --instances split --min-area-um2 10
    %(prog)s tissue.ome.tif --channels DAPI,CD3,CD8 --support annotations.geojson --out out/tissue
    %(prog)s 'images/*.tif' --support labelled/ --out out/study
    %(prog)s stack.ome.tif --plane max --support labelled/ --out out/stack
    %(prog)s movie.tif --time all --support drawn.geojson --support-time 1 --out out/movie
    %(prog)s ki67.svs --support nuclei.geojson --stains h-dab --out out/ki67
    %(prog)s photos/ --support five/ --out out/photos

SUPPORT is a folder of pictures and masks (image/ and label/, 1.jpg 1.png, a.png a_mask.png ...; also label images, as
Cellpose and StarDist write them) or of pictures with labels of COCO, LabelMe, YOLO or VOC, or polygons drawn on the
slide: GeoJSON of QuPath, XML of ImageScope or ASAP, .ndpa of NDP.view, ROIs of ImageJ. They are regions of class
"Region", and the objects inside, outlined; or a folder of slides or pictures with such files beside them. Boxes or
points will do, outlines are inferred from them. See docs/support-set.md.
With several slides, each gets a folder of its own in OUT, and summary.csv and index.html show all of them. After an
interruption, the same command resumes.

Pictures of a microscope's camera (PNG, JPEG, BMP, WebP, TIFF; 8 bits or more) are slides, too. They are analysed pixel
by pixel as they are; without --slide-mpp, sizes are in px.

Of a z-stack, one plane or a projection is analysed. Of a time series, each time point is analysed by itself, and
index.html shows the count over time. See docs/channels.md.

A folder of photographs (PNG, JPEG, WebP, BMP) with a support set of whole photographs and masks is labelled as
FSS-1000's images are: masks, overlays, COCO's JSON and a contact sheet, the most doubtful first. Options for slides
have no effect there.
"""


def parser(prog: str = PROG, *, only_estimate: bool = False) -> JobParser:
    """The options; ``only_estimate``: for ``fewscope estimate``, which needs no output folder."""
    usage = f"SLIDE [SLIDE ...] --support SUPPORT{'' if only_estimate else ' --out OUT'} [options]"
    made = JobParser(prog, DESCRIPTION, usage, renamed={"--max-unread": "--max-unreadable"})
    add = made.group["input"].add_argument
    add(
        "slides",
        nargs="+",
        metavar="SLIDE",
        help="slide or picture: path, glob, or URL (s3://...); or a folder of slides, pictures or photographs",
    )
    add(
        "--pictures",
        choices=("auto", "tiles", "whole"),
        default="auto",
        help="how to segment a folder of pictures. tiles: each as it is, as a slide, and count its objects; whole: "
        "each resized to 224 px, as a photograph of one thing (default auto: tiles if the labelled objects are small)",
    )
    options.add_support_options(made, "--support-slide", "FILE", "annotations of a slide")
    options.add_slide_options(made)
    options.add_channel_options(made)
    options.add_stack_options(made, takes_all=True)
    made.group["input"].add_argument(
        "--scale",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="values of a multi-channel TIFF or OME-Zarr shown as black and white (default: 8-bit RGB unchanged, of "
        "other channels 1 to 99.8 %% of each one's values)",
    )
    add(
        "--aoi",
        metavar="FILE",
        help="polygons drawn on the slide, in the formats of SUPPORT: segment what lies in them alone; of several "
        "slides a folder of files named after them",
    )
    add(
        "--aoi-class",
        dest="aoi_classes",
        action="append",
        default=[],
        metavar="NAME",
        help="of FILE, take polygons of this class or name; repeat for several (default: all but Ignore*)",
    )
    add(
        "--aoi-exclude",
        dest="aoi_excluded",
        action="append",
        default=[],
        metavar="NAME",
        help="leave polygons of this class or name out of the area, as those of class Ignore* always are; repeat for "
        "several",
    )
    add(
        "--foreground",
        choices=("auto", "all"),
        default="auto",
        help="auto: segment tissue and skip empty glass; all: segment everything (default auto)",
    )
    options.add_output_options(made, only_estimate)
    options.add_stain_options(made)
    options.add_model_options(made)
    options.add_instance_options(made, "auto")
    options.add_radius_option(made)
    add = made.group["instances"].add_argument
    add(
        "--min-area-um2",
        type=float,
        metavar="UM2",
        help="drop smaller objects (default: a tenth of the support set's typical object; 0 keeps all)",
    )
    options.add_execution_options(made, "tissue", only_estimate)
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG, *, only_estimate: bool = False) -> argparse.Namespace:
    """The command line."""
    made = parser(prog, only_estimate=only_estimate)
    return made.parse_intermixed_args(argv)  # options may stand between slides


def drawn_on(supports: Sequence[str], slides: Sequence[str]) -> str:
    """The slide that annotations were drawn on: the one they are named after, else the first."""
    from fewscope.connectors.support.load import is_annotations

    for support in filter(is_annotations, supports if len(slides) > 1 else ()):
        named = PurePath(support).name.split(".")[0]
        for slide in slides:
            if named == PurePath(slide).name.split(".")[0]:
                return slide
    return slides[0]


def configs(args: argparse.Namespace) -> list[SegmentConfig]:
    """One configuration for each slide."""
    from fewscope.connectors.slide_folders import areas_of, slides_of
    from fewscope.jobs.segmenting import configs_of
    from fewscope.jobs.time_series import time_points

    slides = [slide for source in expand(args.slides) for slide in slides_of(source)]
    areas = [None] * len(slides) if args.aoi is None else areas_of(args.aoi, slides)
    support_slide = args.support_slide or drawn_on(args.support, slides)
    made = configs_of(
        args,
        slides,
        time_points(args, slides),
        support_slide=support_slide,
        support_slide_mpp=args.slide_mpp if support_slide in slides else None,
        scale=tuple(args.scale) if args.scale else None,
        aoi_classes=tuple(args.aoi_classes),
        aoi_excluded=tuple(args.aoi_excluded),
    )
    area_of = dict(zip(slides, areas, strict=True))
    return [replace(config, aoi=area_of[config.source]) for config in made]


def run(args: argparse.Namespace) -> int:
    """All slides over one pool of workers, or a folder of photographs."""
    check_paths(expand(args.slides), args.support)
    from fewscope.jobs.photographs import photographs_of, run_photographs

    if files := photographs_of(args):
        return run_photographs(files, args)
    from fewscope.jobs.segmenting import run_all

    return run_all(configs(args), args, summary)


def summary(report: dict[str, Any]) -> str:
    """What was found and what is estimated, in words, and how dense."""
    from fewscope.connectors.source import FINEST_OF_LIGHT
    from fewscope.pipeline.report.formatting import percent, short
    from fewscope.pipeline.report.headline import count_in_words

    text = count_in_words(report)
    if report["density_per_mm2"] and "classes" not in report:
        density, area, unit = report["density_per_mm2"], report["area_mm2"], "mm2"
        if report["mpp"] < FINEST_OF_LIGHT:
            density, area, unit = density / 1e6, area * 1e6, "um2"
        text += f"; {short(density)} found per {unit} on {short(area)} {unit}"
    for channel in report.get("channels", ()):
        for of in channel.get("grades", ()):
            if of["positive_fraction"] is not None:
                whose = f" of {of['class']}" if "class" in of else ""
                text += f"; {percent(of['positive_fraction'])}{whose} positive for {channel['name']}"
    return text


def main(argv: list[str] | None = None, prog: str = PROG, *, only_estimate: bool = False) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog, only_estimate=only_estimate))


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
