"""Labels across units: ours, dask-image's on the same blocks, and scipy's on the whole mask at once.

    python benchmarks/bench_labels.py
    python benchmarks/bench_labels.py --side 4096 --unit 1024

Ours is what a run does: label each unit, keep its borders, join what touches across seams, look the final numbers up.
All three are checked to be the same labels, up to their names. The mask is of round objects as dense as nuclei in
tissue, and of a river that runs through many units.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import dask.array as da
import numpy as np
from dask_image.ndmeasure import label as dask_label
from scipy import ndimage

from benchmarks import synthetic
from benchmarks.records import emit, n_cores
from fewscope.pipeline.instances.labelling import Borders, label_core, merge_labels, seam_pairs
from fewscope.pipeline.tiling.grid import Unit, plan_units

TARGET = 20.0
"""Times faster than dask-image."""

EIGHT = np.ones((3, 3), int)


def make_mask(side: int) -> np.ndarray:
    """Nuclei, and a winding river from the top to the bottom, (side, side) bool."""
    period = synthetic.is_object(synthetic.tissue())
    n = -(-side // len(period))
    mask = np.tile(period, (n, n))[:side, :side]
    rows = np.arange(side)
    middle = side * (0.5 + 0.3 * np.sin(rows * 9 / side))
    for row in rows:
        mask[row, max(0, int(middle[row]) - 40) : int(middle[row]) + 40] = True
    return mask


def ours(mask: np.ndarray, unit: int) -> tuple[np.ndarray, int]:
    """Labels of the whole by units, numbered in raster order: (H, W) uint32 and their number."""
    height, width = mask.shape
    units = plan_units(height, width, unit)
    local, borders, n_labels, first, area = [], [], [], [], []
    for u in units:
        labels, n = label_core(mask[_slices(u)])
        pixels = np.flatnonzero(labels)
        index = labels.ravel()[pixels] - 1
        n_labels.append(n)
        borders.append(Borders.of(labels))
        area.append(np.bincount(index, minlength=n))
        where = np.zeros(n, np.int64)
        where[index[::-1]] = pixels[::-1]  # of several the last is kept: the first pixel
        row, col = np.divmod(where, u.core.width)
        first.append((row + u.core.row_off) * width + col + u.core.col_off)
        local.append(labels)
    merge = merge_labels(n_labels, seam_pairs(units, borders, n_labels), first, area)
    whole = np.empty(mask.shape, np.uint32)
    for u, labels in zip(units, local, strict=True):
        whole[_slices(u)] = merge.lookup(u.index)[labels]
    return whole, merge.n_instances


def dask_image(mask: np.ndarray, unit: int) -> tuple[np.ndarray, int]:
    """The same by `dask_image.ndmeasure.label`, on all cores."""
    labels, n = dask_label(da.from_array(mask, chunks=unit), structure=EIGHT)
    whole, total = da.compute(labels, n, scheduler="threads", num_workers=n_cores())
    return whole, int(total)


def scipy_whole(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """The same without units."""
    labels, n = ndimage.label(mask, EIGHT)
    return labels, int(n)


def same(one: np.ndarray, other: np.ndarray, n: int) -> bool:
    """Whether two label images differ in names only; `n` is the number of labels of both."""
    base = int(other.max()) + 1
    keys = one.astype(np.int64).ravel() * base + other.ravel()
    changes = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))  # one of each run is enough
    names = np.divmod(np.unique(keys[changes]), base)
    background = bool(((one > 0) == (other > 0)).all())
    return (
        background
        and all(len(np.unique(side)) == len(side) for side in names)
        and n == int(np.count_nonzero(names[0]))
    )


def timed(task: Callable[..., Any], *arguments: Any, rounds: int) -> tuple[float, Any]:
    """The least seconds of some rounds, and the result."""
    best, result = float("inf"), None
    for _ in range(rounds):
        result = None
        began = time.perf_counter()
        result = task(*arguments)
        best = min(best, time.perf_counter() - began)
    return best, result


def _slices(unit: Unit) -> tuple[slice, slice]:
    core = unit.core
    return slice(core.row_off, core.row_off + core.height), slice(core.col_off, core.col_off + core.width)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=8192, help="px of the mask (default 8192)")
    parser.add_argument(
        "--unit", type=int, nargs="+", default=[1024, 4096], help="px of a unit (default 1024 4096)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="times each is run; the best counts (default 3)"
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Label three times, compare, print a line per unit size. 1 if the labels are not the same."""
    args = parse(argv)
    mask = make_mask(args.side)
    scipy_s, (truth, n_truth) = timed(scipy_whole, mask, rounds=args.rounds)
    right = True
    for unit in args.unit:
        ours_s, (labels, n) = timed(ours, mask, unit, rounds=args.rounds)
        dask_s, (baseline, n_baseline) = timed(dask_image, mask, unit, rounds=1)
        equal = {
            "ours_equals_scipy": n == n_truth and same(labels, truth, n),
            "dask_image_equals_scipy": n_baseline == n_truth and same(baseline, truth, n_truth),
        }
        right = right and equal["ours_equals_scipy"]
        emit(
            "labels",
            {
                "times_faster_than_dask_image": dask_s / ours_s,
                "target": TARGET,
                "times_faster_than_scipy_whole": scipy_s / ours_s,
                "side_px": args.side,
                "unit": unit,
                "units": (-(-args.side // unit)) ** 2,
                "objects": n,
                "ours_s": ours_s,
                "dask_image_s": dask_s,
                "scipy_whole_s": scipy_s,
            }
            | equal,
        )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
