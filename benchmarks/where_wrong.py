"""What tells where the preview is wrong: its own uncertainty, or how unlike the five patches the ground is?

    python benchmarks/where_wrong.py --data ../shared/data
    python benchmarks/where_wrong.py --data ../shared/data --domain microscopy

Each task of `benchmarks.shift_tasks` gives five patches and scenes of other ground, with the truth. The page's fast
path learns from the patches, with norms settled on tiles of the scenes, and answers the scenes at 0.5. A place is
unsure if its probability is within 0.25 of that, and unlike the patches from `SettledSegmenter.unlike` 0.5 on. For
both: the part of the wrong pixels that is marked so, the part of all pixels (what a mark at random would reach), and
the area under the ROC curve, the probability that a wrong pixel has the larger value than a right one.

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
from PIL import Image
from scipy.stats import rankdata

from benchmarks.records import emit
from benchmarks.shift_tasks import Task, shift_tasks
from fewscope.annotate.preview import SIDE
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.pipeline.tiling.blending import to_uint8

UNLIKE, UNSURE = 0.5, 0.5
"""From which values on a pixel is marked: three times as far from the nearest labelled place as these are from each
other; and a probability of 0.25 to 0.75."""

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
    answers, far = np.stack(probability), np.stack(unlike).ravel() / 255
    wrong = ((answers >= 0.5) != truth).ravel()
    unsure = 1 - np.abs(2 * answers - 1).ravel()
    measured: dict[str, Any] = {"task": task.name, "domain": task.domain, "kind": task.kind}
    measured["wrong"] = float(wrong.mean())
    for name, values, least in (("unsure", unsure, UNSURE), ("unlike", far, UNLIKE)):
        marked = values >= least
        measured[f"{name}_of_wrong"] = float(marked[wrong].mean())
        measured[f"{name}_of_all"] = float(marked.mean())
        measured[f"{name}_auc"] = auc(values, wrong)
    return measured


def enlarged(coarse: np.ndarray, side: int) -> np.ndarray:
    """A coarse square map (n, n) on (side, side) px, bilinear."""
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR))


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
        emit("where wrong", one)
    names = [name for name, value in found[0].items() if isinstance(value, float)]
    table = np.array([[one[name] for name in names] for one in found])
    emit(
        "where wrong, all tasks",
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
