"""The options of the jobs that segment rasters."""

from __future__ import annotations

import argparse
from typing import Literal

from fewscope.connectors.raster_options import RasterOptions
from fewscope.jobs import options
from fewscope.jobs.options import JobParser


def add_options(made: JobParser, only_estimate: bool = False) -> None:
    """The options of a job that segments rasters."""
    add = made.group["input"].add_argument
    add(
        "rasters",
        nargs="+",
        metavar="RASTER",
        help="raster: path, glob, URL (https://, s3://), /vsi..., or STAC JSON",
    )
    options.add_support_options(made, "--support-raster", "RASTER", "polygons drawn on a raster")
    add_reading_options(made)
    add("--mosaic", action="store_true", help="treat all RASTERs as one")
    add(
        "--pick",
        choices=("first", "best"),
        default="first",
        help="which of overlapping rasters supplies a pixel: the first that has it, or the one whose edge is farthest "
        "away (default first)",
    )
    add("--aoi", metavar="FILE", help="polygons of the area to segment, in any vector format and CRS")
    add(
        "--bbox",
        type=float,
        nargs=4,
        metavar=("WEST", "SOUTH", "EAST", "NORTH"),
        help="box to segment, in degrees (in the raster's units if it has no CRS)",
    )
    options.add_output_options(made, only_estimate)
    add = made.group["output"].add_argument
    add(
        "--simplify",
        type=float,
        default=0.0,
        metavar="PX",
        help="tolerance when simplifying map polygons (default 0: they follow pixel edges)",
    )
    add(
        "--green",
        type=int,
        metavar="BAND",
        help="number of the green band; enables NDWI (with --nir) and MNDWI (with --swir) in the report",
    )
    add("--nir", type=int, metavar="BAND", help="number of the near-infrared band, for NDWI")
    add("--swir", type=int, metavar="BAND", help="number of the short-wave infrared band, for MNDWI")
    options.add_model_options(made)
    options.add_instance_options(made, "components")
    made.group["instances"].add_argument(
        "--min-area-m2",
        type=float,
        metavar="M2",
        help="drop smaller objects (default: those below 4 pixels; 0 keeps all)",
    )
    options.add_execution_options(made, "raster", only_estimate)


def add_reading_options(made: JobParser) -> None:
    """The options that say how a raster is read."""
    add = made.group["input"].add_argument
    add(
        "--bands",
        type=bands,
        default=(),
        metavar="R,G,B",
        help="bands to use, counted from 1: three, any other number, or 'all' (default: red, green and blue by the "
        "file's band names or colours, else the first three)",
    )
    add(
        "--scale",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="band values shown as black and white (default: 8-bit rasters unchanged, others 2nd to 98th percentile)",
    )
    add(
        "--nodata",
        type=nodata,
        default="auto",
        metavar="VALUE",
        help="band value that marks missing pixels (default: the file's, or the value that fills its empty corners; "
        "'file': only the file's)",
    )
    add(
        "--alpha",
        choices=("auto", "mask", "band"),
        default="auto",
        help="what a band is that GDAL marks as alpha: a mask of the raster, or a band of data such as near infrared "
        "(default auto: what its values look like; one named with --bands, --nir or --swir is data)",
    )
    add(
        "--allow-remote-references",
        action="store_true",
        help="also open VRTs and descriptions of services that refer to files outside their folder, or to addresses "
        "(default: such files are refused; see SECURITY.md)",
    )
    add("--res", type=float, help="working resolution in units of the CRS (default: the raster's)")
    add("--crs", help="CRS to work in, such as EPSG:32618 (default: that of the first RASTER)")
    add(
        "--assets",
        type=options.words,
        default=(),
        metavar="KEY,...",
        help="assets of STAC items: one, or one per band",
    )


def reading_of(args: argparse.Namespace) -> RasterOptions:
    """What the options of `add_reading_options` say."""
    return RasterOptions(
        bands=() if args.bands == "all" else args.bands,
        all_bands=args.bands == "all",
        scale=tuple(args.scale) if args.scale else None,
        nodata=args.nodata,
        res=args.res,
        crs=args.crs,
        assets=args.assets,
        alpha=args.alpha,
        allow_remote_references=args.allow_remote_references,
    )


def bands(text: str) -> tuple[int, ...] | Literal["all"]:
    """``4,3,2`` or ``all``."""
    return "all" if text == "all" else numbers(text)


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
