"""Label slides and rasters in the browser, with a live preview. Also ``fewscope annotate``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.connectors.slide_options import SlideOptions, StackOptions
from fewscope.errors import ConfigError
from fewscope.jobs import options, raster_options
from fewscope.jobs.common import call, expand
from fewscope.jobs.folders import folder_names
from fewscope.jobs.options import NO_ENCODER, JobParser, typed

PROG = "python jobs/annotate.py"
DESCRIPTION = """\
Label slides and rasters in the browser, see the prediction at once, correct it, and run the whole image.

Examples:
    %(prog)s slide.svs
    %(prog)s slide.svs --support labelled/
    %(prog)s slide.svs --aoi tumour.geojson
    %(prog)s scene.tif --bands 4,3,2 --support drawn.gpkg --out out/scene
    %(prog)s slide.svs --encoder efficientnet-lite0
    %(prog)s movie.ome.tif --time 5 --plane max

Whatever you draw is saved in OUT at once. labels.geojson opens in QuPath or QGIS and can be used as a support set; the
journal beside it records every change. Run the same command again to continue. See docs/annotate.md.
"""
SLIDE_OPTIONS = (
    "--mpp",
    "--slide-mpp",
    "--cell-part",
    "--geojson-origin",
    "--object-radius-um",
    "--channels",
    "--series",
    "--scale",
    "--plane",
    "--time",
    "--pages",
)
RASTER_OPTIONS = (
    "--bands",
    "--scale",
    "--nodata",
    "--alpha",
    "--allow-remote-references",
    "--res",
    "--crs",
    "--assets",
)
BOTH_OPTIONS = ("--model", "--weights", "--encoder")
"""Options that a run from the page gets as well, under the same names."""


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    made = JobParser(prog, DESCRIPTION, "SLIDE_OR_RASTER [...] [--support SUPPORT] [--out OUT] [options]")
    add = made.group["input"].add_argument
    add(
        "sources",
        nargs="+",
        metavar="SLIDE_OR_RASTER",
        help="slide, picture or raster: path, glob, or fsspec URL (s3://...); or a folder of slides and pictures",
    )
    add(
        "--support",
        action="append",
        default=[],
        help="annotations of the first source to start from; or labelled pictures to learn from as well, as for "
        "`fewscope segment` or `map`; repeat for several",
    )
    add(
        "--aoi",
        metavar="FILE",
        help="polygons of the area to segment, to start from; of several slides a folder of files named after them",
    )
    for option, of in (("--aoi-class", "take"), ("--aoi-exclude", "leave out")):
        add(
            option,
            dest=f"aoi_{'classes' if option == '--aoi-class' else 'excluded'}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"of a slide's FILE, {of} polygons of this class or name; repeat for several",
        )
    add(
        "--kind",
        choices=("auto", "slide", "raster"),
        default="auto",
        help="what the sources are (default auto: what each file is)",
    )
    options.add_slide_options(made)
    options.add_channel_options(made)
    options.add_stack_options(made, takes_all=False)
    raster_options.add_reading_options(made)
    add = made.group["output"].add_argument
    add(
        "--out",
        default="",
        help="folder for labels and results (default out/NAME of the first source, NAME-t005 with --time 5)",
    )
    options.add_network_options(made)
    options.add_encoder_option(made)
    add = made.group["model"].add_argument
    add(
        "--fine",
        action="store_true",
        help="a preview twice as fine, for small objects; it takes twice as long",
    )
    options.add_radius_option(made)
    add = made.group["execution"].add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1: this machine alone)")
    add("--port", type=int, default=0, help="port to listen on (default 0: one that is free)")
    add(
        "--token-file", metavar="FILE", help="file with the secret of the address, needed with another --host"
    )
    add("--no-browser", action="store_true", help="print the address, and open no browser")
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    return parser(prog).parse_intermixed_args(argv)  # options may stand between sources


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    from fewscope.annotate.app import serve
    from fewscope.annotate.config import AnnotateConfig
    from fewscope.connectors.slide_folders import areas_of, slides_of
    from fewscope.connectors.support.load import is_annotations

    sources = [one for source in expand(args.sources) for one in slides_of(source)]
    names = [name if name.casefold() != "runs" else f"{name}-1" for name in folder_names(sources)]
    drawn = [one for one in args.support if is_annotations(one)]
    if len(drawn) > 1:
        raise ConfigError(
            f"--support {drawn[1]}: the page starts from one file of annotations; give one of them"
        )
    token = None
    if args.token_file:
        try:
            token = Path(args.token_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--token-file {args.token_file}: cannot be read ({error})") from error
    of_time = "" if args.time is None else f"-t{args.time:03d}"
    view = raster_options.reading_of(args)
    return serve(
        AnnotateConfig(
            sources=tuple(sources),
            names=tuple(names),
            out=args.out.rstrip("/") or os.path.join("out", names[0] + of_time),
            support=drawn[0] if drawn else None,
            areas=() if args.aoi is None else tuple(areas_of(args.aoi, sources)),
            area_classes=tuple(args.aoi_classes),
            area_excluded=tuple(args.aoi_excluded),
            folders=tuple(one for one in args.support if one not in drawn),
            kind=args.kind,
            mpp=args.mpp,
            slide_mpp=args.slide_mpp,
            slide=SlideOptions(
                args.channels, args.series, view.scale, StackOptions(args.plane, args.time, args.pages)
            ),
            raster=view,
            cell_part=args.cell_part,
            geojson_origin=args.geojson_origin,
            model=args.model,
            weights=args.weights,
            encoder=args.encoder,
            object_radius_um=args.object_radius_um,
            fine=args.fine,
            slide_arguments=given(args, SLIDE_OPTIONS + BOTH_OPTIONS),
            raster_arguments=given(args, RASTER_OPTIONS + BOTH_OPTIONS),
            host=args.host,
            port=args.port,
            open_browser=not args.no_browser,
            token=token,
            name_folders=folder_names,
        )
    )


def given(args: argparse.Namespace, options: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the options that differ from their defaults, as words of a command line."""
    words: list[str] = []
    defaults = vars(parser().parse_args(["."]))
    for option in options:
        name = option[2:].replace("-", "_")
        value = getattr(args, name)
        if value == defaults[name]:
            continue
        if value is True:
            words.append(option)
        elif option == "--encoder":
            words += [option, value or NO_ENCODER]
        elif isinstance(value, list):  # of several words
            words += [option, *map(str, value)]
        elif isinstance(value, tuple):
            words += [option, ",".join(map(str, value))]
        else:
            words += [option, str(value)]
    return tuple(words)


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog))


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
