"""The command ``fewscope``: one word for each job. The files in ``jobs/`` are the same programs."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from typing import Any

from fewscope._version import __version__


@dataclass(frozen=True, slots=True)
class Command:
    """A word after ``fewscope``: the job that it runs, what it does, and one example of its arguments."""

    job: str
    what: str
    example: str


COMMANDS = {
    "segment": Command(
        "segment_wsi",
        "count objects in whole slides; label photographs",
        "slide.svs --support nuclei.geojson --out out/slide",
    ),
    "map": Command(
        "segment_raster", "map rasters", "scene.tif --support drawn.gpkg --out out/scene --bands 4,3,2"
    ),
    "annotate": Command("annotate", "draw, see, correct and run in the browser", "slide.svs --out out/slide"),
    "changes": Command(
        "map_changes",
        "compare maps of several dates",
        "2000.tif 2020.tif --support drawn.gpkg --out out/river",
    ),
    "export": Command(
        "export",
        "hand a result on to ImageScope, ASAP, NDP.view, Fiji and others",
        "out/slide --to imagescope --out slide.xml",
    ),
    "regions": Command(
        "regions",
        "count a result in regions, find hot spots",
        "out/slide --in tumour.geojson --hot-spots --out tumour",
    ),
    "mine": Command(
        "mine", "rank segmented photographs, the worst first", "out/photos --worst 5 --out more/"
    ),
    "train": Command("train", "train a network", "--data ~/fewshot_data --split train --out runs/mine"),
    "evaluate": Command(
        "evaluate", "evaluate a network", "--data ~/mine --split val --episodes 3 --out out/mine"
    ),
    "benchmark": Command(
        "benchmark",
        "reproduce the tables of the FSS-1000 paper",
        "--data ~/fewshot_data --runs runs --tables 2 3 --out out/paper",
    ),
    "convert": Command(
        "convert", "convert data sets and checkpoints", "voc ~/VOCdevkit/VOC2012 --out ~/fspascal --fold 0"
    ),
}
ESTIMATES = ("segment", "map")
SHELLS = ("bash", "zsh", "tcsh")


def main(argv: list[str] | None = None) -> int:
    """Run the command line.

    Returns
    -------
    The exit code: that of the job; 2 for a word that is no command.
    """
    first, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if first in ("-h", "--help"):
        print(overview())
        return 0
    if first == "--version":
        print(f"Fewscope {__version__}")
        return 0
    if first == "--print-completion":
        return print_completion(rest)
    if first == "doctor":
        from fewscope.doctor import main as doctor

        return doctor(rest)
    if first == "estimate":
        if not rest or rest[0] not in ESTIMATES:
            print(
                f"usage: fewscope estimate {{{','.join(ESTIMATES)}}} ...  (arguments as of that command, without --out)"
            )
            return 0 if rest in (["-h"], ["--help"]) else 2
        name, *rest = rest
        code: int = job_of(name).main(rest, f"fewscope estimate {name}", only_estimate=True)
        return code
    if first in COMMANDS:
        code = job_of(first).main(rest, f"fewscope {first}")
        return code
    words = ", ".join((*COMMANDS, "estimate", "doctor"))
    print(f"error: fewscope {first}: no such command; give one of {words}", file=sys.stderr)
    return 2


def job_of(name: str) -> Any:
    """The module of a command."""
    return importlib.import_module(f"fewscope.jobs.{COMMANDS[name].job}")


def overview() -> str:
    """What ``fewscope`` alone prints."""
    lines = [
        f"Fewscope {__version__}: label five patches; segment the whole slide or raster, and count what is in it.",
        "",
    ]
    for name, command in COMMANDS.items():
        lines += [f"  {name:<9} {command.what}", f"            fewscope {name} {command.example}"]
    lines += [
        "  estimate  report the time, memory and disk space that segment or map needs, without running it",
        "            fewscope estimate segment slide.svs --support nuclei.geojson",
        "  doctor    report what works on this machine, and how to get what does not",
        "            fewscope doctor",
        "",
        "fewscope COMMAND --help lists the options of a command; fewscope --version shows the version;",
        f"fewscope --print-completion {{{','.join(SHELLS)}}} writes a completion script for the shell.",
    ]
    return "\n".join(lines)


def print_completion(rest: list[str]) -> int:
    """Print a completion script for a shell."""
    if len(rest) != 1 or rest[0] not in SHELLS:
        print(f"error: --print-completion takes one of {', '.join(SHELLS)}", file=sys.stderr)
        return 2
    import argparse

    import shtab

    whole = argparse.ArgumentParser(prog="fewscope")
    whole.add_argument("--version", action="version", version=__version__, help="show the version")
    words = whole.add_subparsers()
    for name, command in COMMANDS.items():
        made = job_of(name).parser(f"fewscope {name}")
        words.add_parser(name, help=command.what, parents=[made], add_help=False)
    estimates = words.add_parser("estimate", help="estimate segment or map").add_subparsers()
    for name in ESTIMATES:
        made = job_of(name).parser(f"fewscope estimate {name}", only_estimate=True)
        estimates.add_parser(name, help=COMMANDS[name].what, parents=[made], add_help=False)
    words.add_parser("doctor", help="report what works on this machine")
    print(shtab.complete(whole, rest[0]))
    return 0
