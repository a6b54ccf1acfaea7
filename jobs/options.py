"""Command lines: a parser with the same groups in all jobs, renamed options, and the options that jobs share.

Nothing here imports numpy, torch or Ray: ``--help``, ``--version`` and a mistyped option answer at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from fewscope._version import __version__
from fewscope.connectors.slide_options import Pages, PlaneName
from fewscope.connectors.stain_options import STAIN_SETS
from fewscope.model.conventions import PRECISIONS
from fewscope.model.networks.names import MODELS

GROUPS = ("input", "output", "model", "instances", "execution")
"""Argument groups, in the order in which every job shows them."""


class JobParser(argparse.ArgumentParser):
    """A parser with the groups of `GROUPS`, that still takes the old names of renamed options.

    Parameters
    ----------
    prog : str
        The command as it was typed; ``%(prog)s`` in the description stands for it.
    description : str
        What the job does, with examples, shown as it is.
    usage : str
        What follows the command in the first line of the help.
    renamed : Mapping[str, str] | None
        Old name of an option -> its new name; old names are not shown, and using one prints a warning.
    """

    def __init__(
        self,
        prog: str,
        description: str = "",
        usage: str = "",
        renamed: Mapping[str, str] | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            prog=prog,
            usage=usage and f"%(prog)s {usage}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            **more,
        )
        self.renamed = dict(renamed or {})
        self.group = {name: self.add_argument_group(name) for name in GROUPS}

    def finish(self) -> JobParser:
        """Add what every job has, as the last options of the last group."""
        add = self.group["execution"].add_argument
        add("-v", "--verbose", action="store_true", help="log more, with the tracebacks of errors")
        add(
            "--version", action="version", version=f"Fewscope {__version__}", help="show the version and exit"
        )
        add("-h", "--help", action="help", help="show this help and exit")
        return self

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does, after old names have been replaced by new ones."""
        args = list(sys.argv[1:] if args is None else args)
        end = args.index("--") if "--" in args else len(args)
        for i, word in enumerate(args[:end]):
            name, equals, value = word.partition("=")
            if name in self.renamed:
                new = self.renamed[name]
                print(f"warning: {name} is now {new}; the old name goes in the next release", file=sys.stderr)
                args[i] = f"{new}{equals}{value}"
        return super().parse_known_args(args, namespace)


def typed(file: str) -> str:
    """The command that started a job's file as a program."""
    return f"python {sys.argv[0] or file}"


def add_support_options(parser: JobParser, drawn_on: str, metavar: str, what: str) -> None:
    """The support set and its classes; ``drawn_on``: option that names the picture it was drawn on."""
    add = parser.group["input"].add_argument
    add(
        "--support",
        required=True,
        action="append",
        help="support set: folder of labelled pictures (masks, or labels of COCO, LabelMe, YOLO or VOC), or "
        f"{what}; repeat for several, whose classes are joined by name",
    )
    named = "the one it is named after, else " if metavar == "FILE" else ""
    add(drawn_on, help=f"{metavar.lower()} that SUPPORT was drawn on (default: {named}the first {metavar})")
    add(
        "--class",
        dest="class_names",
        action="append",
        default=[],
        metavar="NAME",
        help="segment only this class of the support set; repeat for several (default: all classes)",
    )


def add_slide_options(parser: JobParser) -> None:
    """How a slide and its annotations are read."""
    add = parser.group["input"].add_argument
    add(
        "--cell-part",
        choices=("auto", "nucleus", "cell"),
        default="auto",
        help="outline of QuPath's cells to learn from (default auto: the nucleus for classes that mean nuclei, else "
        "the cell)",
    )
    add(
        "--geojson-origin",
        choices=("scan", "file"),
        default="scan",
        help="where the coordinates of GeoJSON start, read and written, on slides that state a scanned area: at its "
        "corner, as in QuPath, or at the corner of the file, as in OpenSlide (default scan)",
    )
    add(
        "--mpp",
        type=float,
        help="working resolution, um per px (default: that of the patches if they state one; else 0.5, or the slide's "
        "own if coarser; coarser for labelled objects of more than 50 um across, finer for those of less than 3)",
    )
    add(
        "--slide-mpp",
        type=float,
        metavar="MPP",
        help="resolution of level 0 of the slides, if their files do not state it or are wrong",
    )


def add_channel_options(parser: JobParser) -> None:
    """Which part of a multi-channel TIFF or OME-Zarr is read."""
    add = parser.group["input"].add_argument
    add(
        "--channels",
        type=words,
        default=(),
        metavar="NAME,...",
        help="channels of a multi-channel TIFF or OME-Zarr to use, by name or by number from 1 (default: all)",
    )
    add(
        "--series",
        type=int,
        metavar="N",
        help="image of a multi-channel TIFF or OME-Zarr that holds several, counted from 1 (default: the first)",
    )


def add_stain_options(parser: JobParser) -> None:
    """What is measured in every object, and what counts as positive."""
    add = parser.group["output"].add_argument
    add(
        "--stains",
        choices=tuple(STAIN_SETS),
        help="measure the optical density of two stains in every object of a bright slide, as QuPath does: hematoxylin "
        "and DAB, or hematoxylin and eosin",
    )
    add(
        "--positive",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="report objects whose mean of a stain or channel is at least VALUE as positive, with three values as 1+, "
        "2+, 3+ and an H-score; repeat for several (default with --stains h-dab: DAB=0.2,0.4,0.6)",
    )


PLANES: tuple[str, ...] = get_args(PlaneName)
"""Names of planes."""


def plane(text: str) -> str | int:
    """A plane from the command line: a name, or a number from 1."""
    if text in PLANES:
        return text
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no plane; give {', '.join(PLANES)}, or a number from 1")


def time_point(text: str) -> int:
    """A time point from the command line, counted from 1."""
    if text.isdigit() and int(text) >= 1:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is no time point; give a number from 1")


def time_points(text: str) -> str | int:
    """A time point from the command line, or all."""
    return text if text == "all" else time_point(text)


def add_stack_options(parser: JobParser, *, takes_all: bool) -> None:
    """Which plane of a z-stack and which time point is read; ``takes_all``: of each time point of a series."""
    add = parser.group["input"].add_argument
    add(
        "--plane",
        type=plane,
        metavar="PLANE",
        help="plane of a z-stack: max or mean (projections), middle, sharpest, or a number from 1 (default: max if it "
        "is dark between the objects, as fluorescence is, else sharpest)",
    )
    if takes_all:
        add(
            "--time",
            type=time_points,
            metavar="N",
            help="time point of a series, from 1, or all: each gets a folder OUT/NAME-t001... (default all for "
            "pictures of up to 16 megapixels; larger ones need a choice)",
        )
        add(
            "--support-time",
            type=time_point,
            metavar="N",
            help="time point that SUPPORT was drawn on (default: what its GeoJSON states, else that of --time, else 1)",
        )
    else:
        add("--time", type=time_point, metavar="N", help="time point of a series, from 1 (default 1)")
    add(
        "--pages",
        choices=get_args(Pages),
        help="what the pages of a TIFF are, if it does not say it (default: channels, up to 8)",
    )


def words(text: str) -> tuple[str, ...]:
    """``red,green,blue``."""
    return tuple(part.strip() for part in text.split(","))


def add_output_options(parser: JobParser, only_estimate: bool = False) -> None:
    """Where results go and what they hold. ``only_estimate``: nothing is written, so no folder is needed."""
    add = parser.group["output"].add_argument
    add("--out", required=not only_estimate, default="", help="output folder: path or fsspec URL (s3://...)")
    add("--overwrite", action="store_true", help="replace the result of another run in OUT")
    add(
        "--outlines",
        choices=("auto", "polygons", "points", "none"),
        default="auto",
        help="contents of instances.geojson.gz (default auto: polygons, or points above a million instances)",
    )
    add(
        "--class-probabilities",
        action="store_true",
        help="also store the probability of each class, as result.zarr/classes/1, 2, ...",
    )


def add_network_options(parser: JobParser) -> None:
    """Which network, with which weights."""
    add = parser.group["model"].add_argument
    add(
        "--model",
        choices=MODELS,
        default="compact",
        metavar="NAME",
        help="network (default compact; docs/protocol.md lists the others, most of which need --weights)",
    )
    add("--weights", metavar="FILE", help="weights to use instead of the shipped ones (.safetensors)")


NO_ENCODER = "none"
"""Leaves out the encoder that photographs have by default."""


def add_encoder_option(parser: JobParser) -> None:
    """A frozen encoder beside the network."""
    parser.group["model"].add_argument(
        "--encoder",
        type=lambda text: "" if text == NO_ENCODER else text,
        metavar="NAME",
        help="frozen encoder, read out beside the pixel classifier: efficientnet-lite0, which comes with Fewscope; one "
        "of your own, a TorchScript file or a model of the package timm with its weights, such as "
        "timm/vit_small_patch14_dinov2:dinov2.safetensors (default: the first for photographs, otherwise "
        f"{NO_ENCODER})",
    )


def add_looks_option(parser: JobParser) -> None:
    """How often the network looks at a tile."""
    parser.group["model"].add_argument(
        "--looks",
        type=int,
        choices=(1, 2),
        help="how often the network looks at every tile; twice, at two scales and with weights of their own, takes "
        "twice its time and gains 0.00 to 0.01 IoU (default: once, but twice with --weights that were not taught to "
        "look once, or where objects are so small that held-out patches gain clearly)",
    )


def add_model_options(parser: JobParser) -> None:
    """Which network, and how it is used."""
    add = parser.group["model"].add_argument
    add_network_options(parser)
    add_encoder_option(parser)
    add(
        "--adapt",
        dest="adapt_s",
        type=float,
        default=30,
        metavar="SECONDS",
        help="time budget for adapting to the support set, in seconds on one core (approximate; doubled on processors "
        "without bfloat16). More than 30 also fine-tunes the network, for minutes; each change is kept only if it "
        "improves held-out patches (default 30; 120 fine-tunes, 0 leaves all as it is)",
    )
    add_looks_option(parser)
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="arithmetic of the network, the same on all workers; auto: bfloat16 if the processor or GPU has it, else "
        "float32; a resumed run keeps its own (default auto)",
    )
    add(
        "--threshold",
        type=float,
        metavar="P",
        help="probability above which a pixel counts as object (default 0.5, or a better value if leave-one-out shows "
        "one with 95 %% confidence)",
    )
    add("--overlap", type=int, default=32, metavar="PX", help="overlap of neighbouring tiles (default 32)")


def add_instance_options(parser: JobParser, default: str) -> None:
    """How objects are separated; ``default``: of --instances."""
    add = parser.group["instances"].add_argument
    add(
        "--instances",
        choices=("auto", "components", "split", "learned"),
        default=default,
        help="instance separation: connected components, split by shape, split by learned depth, or (auto) whichever "
        f"counts the support set best (default {default})",
    )
    add(
        "--connectivity",
        type=int,
        choices=(1, 2),
        default=2,
        help="1: pixels of one object share an edge; 2: or a corner (default 2)",
    )


def add_radius_option(parser: JobParser) -> None:
    """How large objects are."""
    parser.group["instances"].add_argument(
        "--object-radius-um",
        type=float,
        metavar="UM",
        help="typical object radius, px where no um per px is known: for split and learned (default: measured on the "
        "support set), and for the outlines of objects that are marked by points (default: estimated from them)",
    )


def seconds_above_0(text: str) -> float:
    """A time from the command line."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0; give seconds, such as 1800")
    return value


def add_execution_options(parser: JobParser, ground: str, only_estimate: bool = False) -> None:
    """Where and how a job runs; ``ground``: what is segmented, in a word."""
    add = parser.group["execution"].add_argument
    add(
        "--workers",
        type=int,
        metavar="N",
        help="Ray actors (default: one per GPU, else one per CPU that fits in memory)",
    )
    add(
        "--gpus-per-worker",
        type=float,
        metavar="N",
        help="GPUs per actor; 0.5 puts two on a GPU (default 1 if there are GPUs)",
    )
    add(
        "--unit-timeout",
        dest="unit_timeout_s",
        type=seconds_above_0,
        default=1800.0,
        metavar="SECONDS",
        help="a worker that takes longer for a unit is killed, and the unit goes to another one; not with --local "
        "(default 1800)",
    )
    add("--local", action="store_true", help="run in this process, without Ray")
    add(
        "--max-unreadable",
        type=float,
        default=0.1,
        metavar="FRACTION",
        help=f"fraction of the {ground} that may be unreadable before the job fails (default 0.1)",
    )
    if only_estimate:
        parser.set_defaults(estimate=True, progress_json=None)
    else:
        add(
            "--progress-json",
            metavar="FILE",
            help="write the progress to FILE, one JSON object a line, for programs that watch it",
        )
        add(
            "--estimate",
            action="store_true",
            help="report tiles, time, memory and disk space needed, and run nothing",
        )
