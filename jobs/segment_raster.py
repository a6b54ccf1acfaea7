"""Segment satellite and aerial rasters with a few labelled patches: water, and what else a map needs.

    python jobs/segment_raster.py scene.tif --support drawn.gpkg --out out/scene
    python jobs/segment_raster.py 1985.tif 2000.tif 2020.tif --support drawn.gpkg --support-raster 2000.tif --out out \\
        --bands 1,2,3 --green 4 --nir 2 --swir 1
    python jobs/segment_raster.py 'tiles/*.tif' --mosaic --support drawn.gpkg --out out/basin --aoi basin.geojson
    ray job submit --working-dir . -- python jobs/segment_raster.py s3://bucket/scene.tif \\
        --support s3://bucket/drawn.gpkg --out s3://bucket/out

SUPPORT is a folder of labelled patches (image/ and label/, or 1.jpg 1.png ...), or polygons over the raster in any
vector format and CRS: about five rectangles of class "Region", and in them the objects. See docs/support-set.md.
A RASTER is anything that GDAL reads, or a STAC item collection (.json), whose items become one source. With several
rasters, each gets a folder of its own under --out, or with --mosaic they become one. A job that was stopped goes on
where it was when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.connectors.raster_options import RasterOptions
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
from fewscope.pipeline.config import IndexBands, RasterConfig, SegmentConfig


def options(program: str, description: str | None) -> argparse.ArgumentParser:
    """The options of a job that segments rasters."""
    parser = parser_of(program, description)
    add = parser.add_argument
    add(
        "rasters",
        nargs="+",
        metavar="RASTER",
        help="raster: path, glob, URL (https://, s3://), /vsi..., or STAC JSON",
    )
    add("--support", required=True, help="support set: folder of patches, or polygons drawn on the raster")
    add("--support-raster", help="raster that the polygons were drawn on (default: the first RASTER)")
    add_model_options(parser)
    add(
        "--bands",
        type=numbers,
        default=(),
        metavar="R,G,B",
        help="bands to look at, 1 is the first (default: red, green, blue by the file's names or colours, else "
        "the first three)",
    )
    add(
        "--scale",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="band values shown as black and white (default: 8-bit pictures as they are, else 2nd to 98th percentile)",
    )
    add(
        "--nodata",
        type=nodata,
        default="auto",
        metavar="VALUE",
        help='band value that means "no pixel" (default: as the file says; where it says nothing, what fills its empty '
        "corners; 'file': only as the file says)",
    )
    add("--res", type=float, help="working resolution in units of the CRS (default: the raster's)")
    add("--crs", help="CRS to work in, e.g. EPSG:32618 (default: the raster's, or the first one's)")
    add("--mosaic", action="store_true", help="see all RASTERs as one")
    add(
        "--pick",
        choices=("first", "best"),
        default="first",
        help="of overlapping rasters: the first that has a pixel, or the one it lies deepest inside of",
    )
    add(
        "--assets",
        type=names,
        default=(),
        metavar="KEY,...",
        help="assets of STAC items: one, or one for each band",
    )
    add("--aoi", help="polygons of the area to segment, in any vector format and CRS")
    add(
        "--bbox",
        type=float,
        nargs=4,
        metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="the same as a box in degrees (in the raster's own units where it has no CRS)",
    )
    add(
        "--min-area-m2",
        type=float,
        help="drop smaller objects (default: those of less than 4 pixels; 0 keeps all)",
    )
    add(
        "--simplify",
        type=float,
        default=0.0,
        metavar="PX",
        help="polygons of the map may be off by so many pixels, to have fewer points (default 0: pixel edges)",
    )
    add(
        "--instances",
        choices=("components", "split", "learned", "auto"),
        default="components",
        help="how objects are told apart: connected components, split by shape or by learned depth, or what counts the "
        "support best",
    )
    compared = "compared with the mask in the report"
    add("--green", type=int, metavar="BAND", help=f"its band, for both water indices: {compared}")
    add("--nir", type=int, metavar="BAND", help=f"its band, for NDWI: {compared}")
    add("--swir", type=int, metavar="BAND", help=f"its band, for MNDWI: {compared}")
    add_run_options(parser, "raster")
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = options("segment_raster.py", __doc__)
    return parser.parse_intermixed_args(argv)  # options may stand between rasters


def numbers(text: str) -> tuple[int, ...]:
    """``4,3,2``."""
    return tuple(int(part) for part in text.split(","))


def nodata(text: str) -> float | Literal["auto", "file"]:
    """``255``, ``nan``, ``file``."""
    words: dict[str, Literal["auto", "file"]] = {"auto": "auto", "file": "file"}
    try:
        return words[text] if text in words else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number; give one, nan, or file") from None


def names(text: str) -> tuple[str, ...]:
    """``red,green,blue``."""
    return tuple(part.strip() for part in text.split(","))


def configs(args: argparse.Namespace) -> list[SegmentConfig]:
    """One configuration for each raster, or one for all."""
    rasters = expand(args.rasters)
    first, *others = rasters
    view = RasterOptions(
        bands=args.bands,
        scale=tuple(args.scale) if args.scale else None,
        nodata=args.nodata,
        res=args.res,
        crs=args.crs,
        aoi=args.aoi,
        bbox=tuple(args.bbox) if args.bbox else None,
        scenes=tuple(others) if args.mosaic else (),
        assets=args.assets,
        pick=args.pick,
    )
    raster = RasterConfig(view, index_bands(args), args.min_area_m2, args.simplify)
    sources = [first] if args.mosaic else rasters
    return configs_of(args, sources, support_slide=args.support_raster or first, raster=raster)


def run(args: argparse.Namespace) -> int:
    """All rasters over one pool of workers."""
    return run_all(configs(args), args, summary)


def index_bands(args: argparse.Namespace) -> IndexBands | None:
    """The bands of water indices, if any are named."""
    if args.green is None and (args.nir or args.swir):
        raise ValueError("--nir and --swir are compared with green: give its band with --green")
    return None if args.green is None else IndexBands(args.green, args.nir, args.swir)


def summary(report: dict[str, Any]) -> str:
    """The count in words, and the area."""
    text = count_in_words(report)
    if report.get("covered_km2") is not None:
        text += f", {report['covered_km2']:,.4g} km2"
        if report["covered_interval_km2"]:
            low, high = report["covered_interval_km2"]
            text += f" (95 % interval {low:,.4g} to {high:,.4g})"
        text += f" of {report['area_km2']:,.4g} km2"
    return text


def main(argv: list[str] | None = None) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv))


if __name__ == "__main__":
    sys.exit(main())
