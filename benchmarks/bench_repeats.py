"""A large slide made by repeating a crop of a real one: does the job end, stay small, and count what the repeats say?

    python benchmarks/bench_repeats.py
    python benchmarks/bench_repeats.py --slide slide.svs --crop 500 800 --side 20160 --engine ray
    python benchmarks/bench_repeats.py --slide slide.svs --crop 500 800 --model compact --support patches/

The count of k x k repeats is a k^2 + b k + c: what is within a period or over its seams, what is cut at the slide's
edges, the corners. The three numbers come from k = 2, 3, 4: with the fake model (a colour rule) from
`scipy.ndimage.label` on the repeated picture; with a real one from small jobs. A period is a whole number of the tile
grid's steps, so that every repeat gets the same tiles. The large job must then count exactly what the polynomial says.
Memory is that of the large job over that of the job with k = 4.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rasterio.windows import Window
from scipy import ndimage

from benchmarks import bench_memory, synthetic
from benchmarks.records import emit, n_cores
from fewscope.connectors.open import open_source
from fewscope.model.conventions import PATCH_SIZE
from fewscope.pipeline.tiling.grid import OVERLAP

STRIDE = PATCH_SIZE - OVERLAP
SMALL = (2, 3, 4)
"""Repeats that the polynomial is found from; the last one is also the small slide of the memory's ratio."""


def crop_of(slide: str | None, mpp: float | None, corner: tuple[int, int], period: int) -> np.ndarray:
    """A square of a slide, or of made-up tissue, (period, period, 3) uint8."""
    if slide is None:
        return synthetic.tissue(period)
    source = open_source(slide, mpp=mpp)
    image, valid = source.read(Window(corner[1], corner[0], period, period))
    source.close()
    if not valid.all():
        raise SystemExit(f"{slide} has no {period} px square at row {corner[0]}, column {corner[1]}")
    return image


def expected(counts: dict[int, int], k: int) -> int:
    """The polynomial through three counts, at `k`."""
    a, b, c = np.polyfit(list(counts), list(counts.values()), 2)
    return round(a * k * k + b * k + c)


def scipy_count(picture: np.ndarray, k: int) -> int:
    """Objects of the colour rule in k x k repeats."""
    return int(ndimage.label(np.tile(synthetic.is_object(picture), (k, k)), np.ones((3, 3)))[1])


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--slide", help="slide to cut the crop from (default: made-up tissue)")
    add("--crop", type=int, nargs=2, metavar=("ROW", "COL"), default=(0, 0), help="its upper left corner, px")
    add("--mpp", type=float, help="working resolution of the slide, um per px")
    add("--period", type=int, default=5 * STRIDE, help=f"side of the crop, px, a multiple of {STRIDE}")
    add("--side", type=int, default=20160, help="side of the large slide, a multiple of the period")
    add("--engine", choices=("local", "ray"), default="local", help="default local")
    add("--unit", type=int, default=2048, help="px of a unit and of a shard (default 2048)")
    add("--model", choices=("fake", "compact"), default="fake", help="default fake: a colour rule")
    add("--support", help="support set for --model compact")
    add("--support-slide", help="slide that the support set was drawn on")
    add("--weights", help="weights for --model compact, instead of the shipped ones")
    add("--adapt", type=float, default=0.0, help="seconds to adapt --model compact in each job (default 0)")
    add("--workers", type=int, default=n_cores(), help="Ray workers (default: the number of cores)")
    args = parser.parse_args(argv)
    if args.period % STRIDE or args.period < PATCH_SIZE:
        parser.error(f"--period {args.period} is not a multiple of {STRIDE} from {2 * STRIDE} on")
    if args.side % args.period or args.side <= max(SMALL) * args.period:
        parser.error(
            f"--side {args.side} is not a multiple of {args.period} above {max(SMALL) * args.period}"
        )
    if args.model == "compact" and not args.support:
        parser.error("--model compact needs --support")
    return args


def main(argv: list[str] | None = None) -> int:
    """One line. 1 if the count is not what the repeats say."""
    args = parse(argv)
    picture = crop_of(args.slide, args.mpp, tuple(args.crop), args.period)
    repeats = args.side // args.period
    with tempfile.TemporaryDirectory(prefix="fewscope-bench-") as name:
        folder = Path(name)
        support = args.support or synthetic.write_support(folder / "support", picture)

        def run(k: int) -> dict[str, Any]:
            slide = folder / f"{k}.tif"
            synthetic.write_repeats(
                slide, picture, k * args.period, k * args.period, args.mpp or synthetic.MPP, "deflate"
            )
            more = {"unit": args.unit, "shard": args.unit, "instances": "components"}
            if args.model == "compact":
                more |= {"support_slide": args.support_slide, "weights": args.weights, "threshold": None}
                more |= {"adapt_s": args.adapt}
            options = synthetic.config_options(slide, support, folder / "out", **more)
            done = bench_memory.watch(args.engine, dict(options), args.workers, args.model)
            slide.unlink()
            return done

        jobs = {k: run(k) for k in (SMALL if args.model == "compact" else SMALL[-1:])}
        if args.model == "compact":
            counts = {k: job["count"] for k, job in jobs.items()}
        else:
            counts = {k: scipy_count(picture, k) for k in SMALL}
            assert scipy_count(picture, 5) == expected(counts, 5), "an object reaches over two periods"
        large = run(repeats)
    small = jobs[SMALL[-1]]
    right = large["count"] == expected(counts, repeats)
    emit(
        "repeats",
        {
            "count_is_right": right,
            "count": large["count"],
            "expected": expected(counts, repeats),
            "counts_of_k": {str(k): n for k, n in counts.items()},
        }
        | bench_memory.compare(small, large)
        | {
            "model": args.model,
            "source": Path(args.slide).name if args.slide else "made-up tissue",
            "adapt_s": args.adapt,
            "engine": args.engine,
            "workers": args.workers if args.engine == "ray" else 1,
            "period_px": args.period,
            "side_px": args.side,
            "repeats": repeats,
            "unit": args.unit,
            "small_side_px": SMALL[-1] * args.period,
            "tiles_per_s": large["tiles"] / large["seconds"],
            "small": small,
            "large": large,
        },
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
