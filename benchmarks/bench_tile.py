"""What a tile costs on one core: the shipped network as a job runs it, beside the paper's.

    python benchmarks/bench_tile.py
    python benchmarks/bench_tile.py --dtype float32 --rounds 40

One thread predicts batches of tiles as a job's worker does, probability and depth, in the number format that the
processor computes natively; the support set was encoded before. The relation network of FSS-1000's published code does
the same with a support set that is encoded once, as the published code does not do (`bench_support.py` says what that
saves). `ratio` is its milliseconds of processor time over ours, both medians of rounds that took turns. The weights of
VGG-16 are random, which costs the same.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.bench_support import tiles_and_support
from benchmarks.records import emit
from fewscope.model.networks.relation import RelationNet
from fewscope.model.segmenter import Segmenter, load_segmenter

WANTED_MS = 30.0
"""A tile of ours on one core that computes in bfloat16."""


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dtype", choices=("float32", "bfloat16"), help="default: what the processor computes natively")
    add("--rounds", type=int, default=15, help="batches of each network (default 15)")
    add("--shots", type=int, default=5, help="support patches (default 5)")
    add("--looks", type=int, choices=(1, 2), help="as in jobs/segment_wsi.py")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """One line."""
    args = parse(argv)
    torch.set_num_threads(1)
    dtype = getattr(torch, args.dtype) if args.dtype else None
    torch.manual_seed(0)
    ours = load_segmenter(device="cpu", dtype=dtype, looks=args.looks)
    paper = Segmenter(RelationNet("released"), "vgg16-released", device="cpu", dtype=dtype)
    tiles, images, labels = tiles_and_support(ours.batch_size, args.shots)
    asked = [(model, model.encode(images, labels)) for model in (ours, paper)]
    taken: list[list[float]] = [[], []]
    for _ in range(args.rounds + 1):
        for (model, features), times in zip(asked, taken, strict=True):
            began = time.process_time()
            model.predict(tiles, features, depth=model.has_depth)
            times.append(1000 * (time.process_time() - began) / len(tiles))
    own_ms, paper_ms = (statistics.median(times[1:]) for times in taken)  # the first round warms up
    emit(
        "tile",
        {
            "ratio": paper_ms / own_ms,
            "ms_per_tile": own_ms,
            "ms_per_tile_best": min(taken[0][1:]),
            "wanted_ms_in_bfloat16": WANTED_MS,
            "vgg16_ms_per_tile": paper_ms,
            "dtype": str(ours.dtype).removeprefix("torch."),
            "batch": len(tiles),
            "rounds": args.rounds,
            "shots": args.shots,
            "looks": list(ours.sides),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
