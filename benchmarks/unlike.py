"""Where the preview is wrong, does the layer "ground unlike your patches" say so?

    python benchmarks/unlike.py --data ../shared/data
    python benchmarks/unlike.py --data ../shared/data --domain microscopy

Each task of `benchmarks.shift_tasks` gives five patches and scenes of other ground, with the truth. The page's fast
path learns from the patches, with norms settled on tiles of the scenes, and answers the scenes at 0.5. The layer marks
a pixel from `MARKED` on. `wrong_marked` is the part of the wrong pixels that it marks, `all_marked` the part of all:
what a mark at random would reach. `auc` is the probability that a wrong pixel is less like the patches than a right
one; `auc_unsure` is that of the preview's own uncertainty, and `wrong_unsure` the part of the wrong pixels among those
that it is least sure of, as many as are marked.

One JSON line per task, then the mean over tasks with standard error.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy.stats import rankdata

from benchmarks.records import emit
from benchmarks.shift_tasks import Task, shift_tasks
from fewscope.annotate.computing import enlarged
from fewscope.annotate.preview import SIDE
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.pipeline.tiling.blending import to_uint8

MARKED = 0.5
"""Three times as far from the nearest labelled place as these are from each other: clearly seen in the page."""

N_SETTLED = 8


def auc(values: np.ndarray, wrong: np.ndarray) -> float:
    """Probability that a wrong pixel has a larger value than a right one; ties count one half."""
    n_wrong = int(wrong.sum())
    n_right = wrong.size - n_wrong
    if not n_wrong or not n_right:
        return float("nan")
    ranks = rankdata(values)
    return float((ranks[wrong].sum() - n_wrong * (n_wrong + 1) / 2) / (n_wrong * n_right))


def measure(segmenter: Segmenter, task: Task) -> dict[str, Any]:
    """One task: all pixels of its scenes together."""
    queries = np.stack([patch.image for patch in task.queries])
    truth = np.stack([patch.mask for patch in task.queries])
    network = segmenter.settled(queries[:: max(1, len(queries) // N_SETTLED)][:N_SETTLED], SIDE)
    pack = network.pack(task.images, task.labels)
    examples = network.examples(task.images, task.labels)
    assert examples is not None
    unlike, probability = [], []
    for query in queries:
        maps = network.maps(query[None])
        probability.append(network.answer(maps, pack)[0, 0])
        unlike.append(enlarged(to_uint8(network.unlike(maps, examples)[0]), query.shape[0]))
    answers, layer = np.stack(probability), np.stack(unlike).ravel() / 255
    wrong = ((answers >= 0.5) != truth).ravel()
    marked = layer >= MARKED
    unsure = -np.abs(answers - 0.5).ravel()
    least_sure = np.zeros(wrong.size, bool)
    least_sure[np.argsort(-unsure, kind="stable")[: int(marked.sum())]] = True
    return {
        "task": task.name,
        "domain": task.domain,
        "kind": task.kind,
        "wrong": float(wrong.mean()),
        "wrong_marked": float(marked[wrong].mean()),
        "all_marked": float(marked.mean()),
        "wrong_unsure": float(least_sure[wrong].mean()),
        "auc": auc(layer, wrong),
        "auc_unsure": auc(unsure, wrong),
    }


def main(argv: list[str] | None = None) -> int:
    """One line per task, and one for all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of shared data")
    parser.add_argument("--domain", default="land", help="land, microscopy or photographs (default: land)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    segmenter = load_segmenter(device="cpu")
    found = [measure(segmenter, task) for task in shift_tasks(args.data) if task.domain == args.domain]
    for one in found:
        emit("unlike", one)
    names = ("wrong", "wrong_marked", "all_marked", "wrong_unsure", "auc", "auc_unsure")
    table = np.array([[one[name] for name in names] for one in found])
    emit(
        "unlike, all tasks",
        {
            "tasks": len(found),
            **dict(zip(names, table.mean(0).tolist(), strict=True)),
            "standard_error": dict(
                zip(names, (table.std(0, ddof=1) / np.sqrt(len(table))).tolist(), strict=True)
            ),
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
