"""Write the instances of a finished run as a file of another program. Also ``fewscope export``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.errors import ConfigError, SourceError
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, typed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fewscope.connectors.results.finished_run import FinishedRun, Place, Selection
    from fewscope.connectors.source import SourceInfo
    from fewscope.connectors.vectors.outline import Outline

PROG = "python jobs/export.py"
DESCRIPTION = """\
Write the instances of a finished run as a file that another program opens, to look at and to correct them there.

Examples:
    %(prog)s out/slide --to imagescope --out slide.xml
    %(prog)s out/slide --to imagej --class nucleus --box 20000 8000 24000 12000
    %(prog)s out/slide --to labels --min-probability 0.7
    %(prog)s out/study --to csv

RESULT is the output folder of a run, or one of several sources: then each of them gets a file in the folder OUT, but
csv is one table of all. FORMAT is one of
    imagescope  .xml             Aperio ImageScope: a layer for each class
    asap        .asap.xml        ASAP: a group for each class
    ndpview     .ndpa            Hamamatsu NDP.view, on the NDPI file of the run, which must be there
    imagej      .RoiSet.zip      ROI Manager of ImageJ and Fiji, at most 65,535 instances
    coco        .coco.json       COCO, in pixels of the slide at full resolution
    labels      .labels.ome.tif  ids of instances as a pyramidal OME-TIFF, at the resolution of the run
    mask        .mask.ome.tif    classes, likewise
    csv         .csv             the table of instances
Rasters have the last three, and GeoPackage and GeoTIFF in RESULT itself. The outlines come back as a support set:
draw a Region around those that you have corrected.
"""

ExportTo = Callable[["Export", str], str]


@dataclass(frozen=True, slots=True)
class Format:
    """One that ``--to`` names.

    Attributes
    ----------
    ending
        Of the file, beside RESULT.
    write
        Writes the file; returns what it holds, in words.
    files
        Files and folders of the run that it is made of.
    for_rasters
        Whether rasters have it, too.
    """

    ending: str
    write: ExportTo
    files: tuple[str, ...] = ()
    for_rasters: bool = False


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    made = JobParser(prog, DESCRIPTION, "RESULT --to FORMAT [options]")
    add = made.group["input"].add_argument
    add(
        "result",
        metavar="RESULT",
        help="output folder of a finished run, of one source or of several: path or fsspec URL (s3://...)",
    )
    add(
        "--slide",
        metavar="FILE",
        help="where the slide of the run is now (for ndpview; default: where it was)",
    )
    add = made.group["output"].add_argument
    add("--to", required=True, choices=tuple(FORMATS), metavar="FORMAT", help=", ".join(FORMATS))
    add(
        "--out",
        metavar="FILE",
        help="file to write, or folder of the files of several sources (default: beside RESULT, with the ending of the "
        "format)",
    )
    add("--overwrite", action="store_true", help="replace FILE if it is there")
    add = made.group["instances"].add_argument
    add(
        "--class",
        dest="class_names",
        action="append",
        default=[],
        metavar="NAME",
        help="only instances of this class; repeat for several (default: all)",
    )
    add(
        "--min-probability",
        type=float,
        default=0.0,
        metavar="P",
        help="only instances with at least this mean probability, 0 to 1 (default 0)",
    )
    add(
        "--box",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="only instances whose centroid (x, y of the table: px of the slide at full resolution, or the units of "
        "the raster's CRS) lies in this box; labels and mask are cut to it",
    )
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    return parser(prog).parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Write the file, or a file for each source."""
    from fewscope.connectors.results.finished_run import Selection, check_out, runs_in

    selection = Selection(
        tuple(args.class_names), args.min_probability, tuple(args.box) if args.box else None
    )
    to = FORMATS[args.to]
    names = runs_in(args.result)
    if names:
        return _run_several(args, to, selection, names)
    done = _open(args.result, args.to)
    out = args.out or default_out(args.result, to.ending)
    check_out(done, out, args.overwrite)
    print(f"{to.write(Export(done, selection, args.slide), out)}\n  {out}", flush=True)
    return 0


def _run_several(args: argparse.Namespace, to: Format, selection: Selection, names: Sequence[str]) -> int:
    from fewscope.connectors.results.finished_run import check_out

    if args.slide:
        raise ConfigError(f"--slide is for one source, and {args.result} has {len(names)}; leave it out")
    base = args.result.rstrip("/")
    runs = [_open(f"{base}/{name}", args.to) for name in names]
    if to.write is _to_csv:
        out = args.out or default_out(args.result, to.ending)
        for done in runs:
            check_out(done, out, args.overwrite)
        print(f"{_join_csv(runs, selection, out)} of {len(runs)} sources\n  {out}", flush=True)
        return 0
    folder = (args.out or default_out(args.result, f"-{args.to}")).rstrip("/")
    files = [f"{folder}/{name}{to.ending}" for name in names]
    for done, out in zip(runs, files, strict=True):
        check_out(done, out, args.overwrite)
    for done, out in zip(runs, files, strict=True):
        print(f"{to.write(Export(done, selection, None), out)}\n  {out}", flush=True)
    return 0


def _open(result: str, to: str) -> FinishedRun:
    from fewscope.connectors.results.finished_run import FinishedRun

    done = FinishedRun(result, FORMATS[to].files)
    if done.is_raster and not FORMATS[to].for_rasters:
        known = ", ".join(name for name, one in FORMATS.items() if one.for_rasters)
        raise ConfigError(
            f"--to {to} is for slides, and {done.out} is the run of a raster; give one of {known}, or open its "
            "features.gpkg, features.parquet or mask.tif"
        )
    return done


def _join_csv(runs: Sequence[FinishedRun], selection: Selection, out: str) -> str:
    from fewscope.connectors.results.table_csv import write_joined_csv

    wanted = [(done, done.wanted(selection)) for done in runs]
    n_wanted = sum(int(of_run.sum()) for _, of_run in wanted)
    with progress(n_wanted, "instance") as bar:
        write_joined_csv(out, wanted, bar.update)
    return f"{n_wanted:,} instance{'' if n_wanted == 1 else 's'}"


def default_out(result: str, ending: str) -> str:
    """Beside a result, and named like it.

    >>> default_out("out/slide/", ".xml"), default_out("s3://bucket/slide", ".csv")
    ('out/slide.xml', 's3://bucket/slide.csv')
    """
    folder = result.rstrip("/")
    if os.path.basename(folder) in ("", ".", ".."):
        folder = str(Path(result).resolve())
    return folder + ending


class Export:
    """What is exported: a run, and which of its instances.

    Parameters
    ----------
    done
        The run.
    selection
        Which instances.
    slide
        Where its slide is now; None: where it was.
    """

    def __init__(self, done: FinishedRun, selection: Selection, slide: str | None) -> None:
        self.done, self.selection, self.slide = done, selection, slide

    def slide_info(self) -> SourceInfo:
        """The slide of the run, opened.

        Raises
        ------
        SourceError
            It is not there, or is another one.
        """
        from fewscope.connectors.open import reopen_slide

        return reopen_slide(self.done, self.slide)

    def place(self) -> Place:
        """Where the grid of the run lies."""
        from fewscope.connectors.results.finished_run import Place, place_record

        return self.done.place or Place.of(place_record(self.slide_info()))

    @contextmanager
    def outlines(self, limit: int | None = None) -> Iterator[tuple[Iterator[Outline], NDArray[np.bool_]]]:
        """The outlines that are wanted, with a bar of progress; and for each id whether it is."""
        from fewscope.connectors.results.outline_reader import check_outlines, read_outlines

        check_outlines(self.done)
        wanted = self.done.wanted(self.selection)
        n_wanted = int(wanted.sum())
        if limit is not None and n_wanted > limit:
            raise ConfigError(
                f"{n_wanted:,} instances are more than the {limit:,} that a file of ROIs may hold; take some of them "
                "with --box, --class or --min-probability, or use --to labels"
            )
        origin = self.done.outlines_origin(self.place())
        with progress(n_wanted, "instance") as bar:
            yield _counted(read_outlines(self.done, wanted, origin), bar.update), wanted


def _counted(outlines: Iterator[Outline], advance: Callable[[int], Any]) -> Iterator[Outline]:
    for outline in outlines:
        yield outline
        advance(1)


def progress(total: int, unit: str) -> Any:
    """A bar on a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, disable=not sys.stderr.isatty(), dynamic_ncols=True)


def _number(wanted: NDArray[np.bool_]) -> str:
    n = int(wanted.sum())
    return f"{n:,} instance{'' if n == 1 else 's'}"


def _to_imagescope(export: Export, out: str) -> str:
    import shapely

    from fewscope.connectors.vectors.imagescope_writer import write_imagescope
    from fewscope.connectors.vectors.outline import Bounds

    with export.outlines() as (outlines, wanted):
        ids, points = export.done.centroids(wanted)
        tree = shapely.STRtree(shapely.points(points))

        def is_inhabited(bounds: Bounds, instance: int) -> bool:
            return bool((ids[tree.query(shapely.box(*bounds))] != instance).any())

        place, mpp = export.place(), export.done.manifest["mpp"]
        native_mpp = mpp / place.transform.a if mpp else None
        write_imagescope(out, outlines, export.done.class_names, native_mpp, is_inhabited)
        return _number(wanted)


def _to_asap(export: Export, out: str) -> str:
    from fewscope.connectors.vectors.asap_writer import write_asap

    with export.outlines() as (outlines, wanted):
        write_asap(out, outlines, export.done.class_names)
        return _number(wanted)


def _to_ndpview(export: Export, out: str) -> str:
    from fewscope.connectors.vectors.ndpview_writer import write_ndpview

    info = export.slide_info()
    if info.from_glass_nm is None:
        raise SourceError(
            f"{info.uri} ({info.vendor}): does not state where on the glass it lies, from where NDP.view counts; only "
            "NDPI files do: use another --to"
        )
    with export.outlines() as (outlines, wanted):
        write_ndpview(out, outlines, info.from_glass_nm)
        return _number(wanted)


def _to_imagej(export: Export, out: str) -> str:
    from fewscope.connectors.vectors.imagej_writer import MAX_ROIS, write_rois

    with export.outlines(MAX_ROIS) as (outlines, wanted):
        write_rois(out, outlines)
        return _number(wanted)


def _to_coco(export: Export, out: str) -> str:
    from fewscope.connectors.vectors.coco_writer import write_coco

    place = export.place()
    with export.outlines() as (outlines, wanted):
        name = os.path.basename(export.done.source)
        write_coco(out, outlines, export.done.class_names, name, place.native_height, place.native_width)
        return _number(wanted)


def _to_labels(export: Export, out: str) -> str:
    return _to_tiff(export, out, "instances")


def _to_mask(export: Export, out: str) -> str:
    return _to_tiff(export, out, "semantic")


def _to_tiff(export: Export, out: str, name: str) -> str:
    """Pixels of the instances that are wanted, all of them that reach into the box."""
    from fewscope.connectors.results.label_tiff import Cut, n_tiles, write_label_tiff
    from fewscope.connectors.results.store import ResultStore

    done, box = export.done, export.selection.box
    shape = done.result.spec.shape(0)
    rows, cols = (0, shape[0]), (0, shape[1])
    if box is not None:
        inverse = ~export.place().transform
        corners = [inverse @ (x, y) for x in box[::2] for y in box[1::2]]
        cols, rows = (
            (math.floor(min(values)), math.ceil(max(values))) for values in zip(*corners, strict=True)
        )
    cut = Cut.of(shape, rows, cols)
    wanted = done.wanted(replace(export.selection, box=None))
    ids = wanted.nonzero()[0]
    max_value = len(done.class_names) if name == "semantic" else int(ids.max(initial=0))
    with progress(n_tiles(cut), "tile") as bar:
        of_all = None if len(ids) == len(wanted) - 1 else wanted
        write_label_tiff(out, ResultStore(done.out), name, cut, of_all, max_value, bar.update)
    x, y = cut.col, cut.row
    where = f", from column {x:,}, row {y:,} of the result" if box else ""
    return f"{cut.width:,} x {cut.height:,} px in {cut.n_levels} level{'s' * (cut.n_levels > 1)}{where}"


def _to_csv(export: Export, out: str) -> str:
    from fewscope.connectors.results.table_csv import write_csv

    wanted = export.done.wanted(export.selection)
    with progress(int(wanted.sum()), "instance") as bar:
        write_csv(out, export.done, wanted, bar.update)
    return _number(wanted)


_OUTLINES = ("instances.geojson.gz",)
_LABELS = ("result.zarr/labels",)
FORMATS = {
    "imagescope": Format(".xml", _to_imagescope, _OUTLINES),
    "asap": Format(".asap.xml", _to_asap, _OUTLINES),
    "ndpview": Format(".ndpa", _to_ndpview, _OUTLINES),
    "imagej": Format(".RoiSet.zip", _to_imagej, _OUTLINES),
    "coco": Format(".coco.json", _to_coco, _OUTLINES),
    "labels": Format(".labels.ome.tif", _to_labels, _LABELS, for_rasters=True),
    "mask": Format(".mask.ome.tif", _to_mask, _LABELS, for_rasters=True),
    "csv": Format(".csv", _to_csv, for_rasters=True),
}
"""What each word after ``--to`` writes."""


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog), resumes=False)


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
