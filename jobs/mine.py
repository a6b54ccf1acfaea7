"""Rank segmented photographs by estimated quality: the worst go back into the support set. Also ``fewscope mine``."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fewscope.errors import ConfigError, ResultNotFound, RunMismatch
from fewscope.jobs.common import call
from fewscope.jobs.options import JobParser, typed

if TYPE_CHECKING:
    from fewscope.pipeline.photographs import Photograph

PROG = "python jobs/mine.py"
DESCRIPTION = """\
Rank segmented photographs by estimated quality, the most doubtful first. Quality is the IoU, 0 to 1, that the
probabilities of the result expect; area is the share of the photograph that is object.

Examples:
    %(prog)s out/photos --worst 5
    %(prog)s out/photos --worst 5 --out more/

RESULT is a folder that segment has written for photographs. With --out, the worst are copied with their predicted
masks as 1.jpg 1.png ...: correct the masks, add the pairs to the support set, and segment again.
"""


def parser(prog: str = PROG) -> JobParser:
    """The options."""
    made = JobParser(prog, DESCRIPTION, "RESULT [options]")
    add = made.group["input"].add_argument
    add("result", type=Path, metavar="RESULT", help="folder that segment has written for photographs")
    add("--worst", type=int, metavar="N", help="only so many (default: all, or 5 with --out)")
    made.group["output"].add_argument(
        "--out", type=Path, metavar="DIR", help="empty folder for the worst photographs and their masks"
    )
    return made.finish()


def parse(argv: list[str] | None, prog: str = PROG) -> argparse.Namespace:
    """The command line."""
    return parser(prog).parse_args(argv)


def run(args: argparse.Namespace) -> int:
    """Print the ranking, and copy the worst."""
    from fewscope.pipeline.photographs import LIST, Photograph, ranked

    path = args.result / LIST
    if not path.is_file():
        raise ResultNotFound(f"{path}: no such file; give a folder that segment has written for photographs")
    try:
        found = ranked([Photograph(**one) for one in json.loads(path.read_text())["photographs"]])
    except (ValueError, KeyError, TypeError) as error:
        raise ResultNotFound(f"{path}: is not what segment writes ({error!r}); segment again") from error
    if args.worst is not None and args.worst < 1:
        raise ConfigError(f"--worst {args.worst} is below 1; give the number of photographs")
    worst = found[: args.worst or (5 if args.out else None)]
    print("quality    area  photograph")
    for photograph in worst:
        print(f"{photograph.quality:<7.3f}  {photograph.share:6.1%}  {photograph.file}")
    if args.out is not None:
        _copy(worst, args.result, args.out)
        print(args.out)
    return 0


def _copy(photographs: Sequence[Photograph], result: Path, out: Path) -> None:
    """Photographs, upright and as JPEG, with their masks as a start."""
    from PIL import Image

    from fewscope.connectors.photographs import read_photograph

    if out.exists() and any(out.iterdir()):
        raise RunMismatch(f"{out} is not empty; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    for k, photograph in enumerate(photographs, start=1):
        mask = result / "masks" / f"{photograph.name}.png"
        if not mask.is_file():
            raise ResultNotFound(f"{mask}: no such file; segment again")
        Image.fromarray(read_photograph(Path(photograph.file))).save(out / f"{k}.jpg", quality=95)
        shutil.copyfile(mask, out / f"{k}.png")


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Parse, call, print; the exit code."""
    return call(run, parse(argv, prog), resumes=False)


if __name__ == "__main__":
    sys.exit(main(prog=typed(__file__)))
