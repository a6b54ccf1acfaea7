"""``segment`` of a folder of photographs; the options are those of `jobs.segment_wsi`."""

from __future__ import annotations

import argparse
import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from fewscope.connectors.photographs import (
    PHOTOGRAPHS,
    PICTURES,
    has_small_objects,
    load_photograph_support,
    photograph_files,
)
from fewscope.connectors.slide_folders import drawn_in
from fewscope.connectors.support.load import is_annotations
from fewscope.errors import ConfigError, RunMismatch, SourceError
from fewscope.jobs.common import HOLES, complain
from fewscope.jobs.folders import folder_names

log = logging.getLogger(__name__)


def photographs_of(args: argparse.Namespace) -> list[Path]:
    """Photographs of the only source, if it is a folder of them; none if its pictures are to be segmented as slides."""
    if len(args.slides) != 1 or "://" in args.slides[0] or args.pictures == "tiles":
        if args.pictures == "whole":
            raise ConfigError(f"--pictures whole is for one folder of photographs, not {args.slides[0]} ...")
        return []
    folder = Path(args.slides[0])
    files = photograph_files(folder, PICTURES if args.pictures == "whole" else PHOTOGRAPHS)
    if args.pictures == "whole" and not files:
        raise ConfigError(
            f"--pictures whole: {folder} is no folder of photographs; give one with {', '.join(PICTURES)}"
        )
    if not files or args.pictures == "whole":
        return files
    if any(is_annotations(one) or drawn_in(one) for one in args.support):
        return []
    if any(
        has_small_objects(one, args.class_names if len(args.support) == 1 else ()) for one in args.support
    ):
        log.info(
            "%s: the labelled objects are small, so every picture is segmented as it is and its objects are counted; "
            "--pictures whole resizes each to 224 px, as photographs of one thing",
            args.slides[0],
        )
        return []
    return files


def left_out(folder: Path, files: Sequence[Path]) -> list[str]:
    """Names of what is in a folder of photographs and may hold more of them: other pictures, and folders."""
    others = sorted(set(folder.iterdir()) - set(files))
    return [
        one.name + "/" * one.is_dir()
        for one in others
        if not one.name.startswith(".") and (one.is_dir() or one.suffix.lower() in PICTURES)
    ]


def run_photographs(files: list[Path], args: argparse.Namespace) -> int:
    """Segment photographs, and print where the result is."""
    from fewscope.connectors.vectors.polygon_files import listed
    from fewscope.model.networks import efficientnet_lite
    from fewscope.model.segmenter import load_segmenter
    from fewscope.pipeline.photographs import LIST, learn, segment_photographs
    from fewscope.pipeline.report.messages import hardly_found

    if args.aoi is not None:
        raise ConfigError(
            f"--aoi {args.aoi}: is for slides; photographs are segmented whole (--pictures tiles: as slides)"
        )
    if len(args.support) > 1:
        raise ConfigError(
            f"--support {args.support[1]}: photographs are learned from one folder; put all of them into it"
        )
    if args.estimate:
        raise ConfigError(f"{args.slides[0]}: --estimate is for slides; photographs take about 0.1 s each")
    out = Path(args.out)
    if out.exists() and any(out.iterdir()):
        if not args.overwrite:
            raise RunMismatch(f"{out} is not empty; give another --out, or --overwrite")
        for name in ("masks", "overlays"):
            shutil.rmtree(out / name, ignore_errors=True)
    if left := left_out(Path(args.slides[0]), files):
        log.warning(
            "%s: %s left out; --pictures whole also reads TIFF and GIF, and folders are given by themselves",
            args.slides[0],
            listed(left),
        )
    support = load_photograph_support(Path(args.support[0]), args.class_names)
    encoder = args.encoder
    if encoder is None and args.model == "compact":
        encoder = efficientnet_lite.NAME
    model = load_segmenter(
        args.model, args.weights, encoder, precision=args.precision, batch_size=1, looks=args.looks
    )
    began = time.perf_counter()
    learned = learn(model, support, args.adapt_s, args.threshold)
    learning = time.perf_counter() - began
    unreadable: list[SourceError] = []
    names = folder_names([path.name for path in files])
    began = time.perf_counter()
    done, estimate = segment_photographs(
        files, names, learned, support.class_names[0], out, unreadable.append
    )
    for error in unreadable:
        complain(error)
    if not done:
        raise SourceError(f"{args.slides[0]}: none of the {len(files)} photographs can be read")
    seconds = time.perf_counter() - began
    iou = "" if estimate is None else f"; estimated IoU {estimate:.2f}"
    if learned.held_out is not None:
        iou += f"; IoU of held-out supports {learned.held_out.mean_iou:.2f}"
    n_pixels = sum(photograph.width * photograph.height for photograph in done)
    covered = sum(photograph.share * photograph.width * photograph.height for photograph in done) / n_pixels
    notes = [*support.notes, *hardly_found(support, [covered], what="folder")]
    warnings = "".join(f"  warning: {note}\n" for note in notes)
    warnings += "".join(f"  assumed: {assumption}\n" for assumption in learned.assumptions)
    print(
        f"{args.slides[0]}: {len(done)} photographs in {seconds:.1f} s, {1000 * seconds / len(done):.0f} ms each, "
        f"after {learning:.0f} s for the support set{iou}\n{warnings}"
        f"  {out / 'contact.jpg'}: the most doubtful first\n  {out / LIST}"
    )
    return HOLES if unreadable else 0
