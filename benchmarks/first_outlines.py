"""What the first outlines are worth: two or five objects of a patch, with a rim of background around each.

    python benchmarks/first_outlines.py --data ../shared/data/fewshot

On one patch, two or five of the larger objects (connected pieces of the mask) are labelled, and the pixels within a rim
of some width around them are background (`connectors.support.sparse.RIM`); nothing else is. Beside it: the same objects
in a region, where all the rest of the patch counts as background, as long as the region is not finished; and the
finished region. The page's fast path learns from it, and answers up to eight patches of other pictures. Means over two
divisions of the pictures, and two patches of each. One JSON line per class, then the mean.
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
from scipy import ndimage

from benchmarks.corrections import N_SETTLED, mean_iou, read_class
from benchmarks.records import emit
from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.model.segmenter import Segmenter, load_segmenter

CLASSES = (
    *("nuclei_smear_grey", "nuclei_fluo_embryo", "nuclei_purple_on_white", "nuclei_he_monuseg"),
    *("em_cell", "water_s2_x", "dubai_vegetation"),
)
N_OUTLINED, RIMS = (2, 5), (3, 5, 8, 16, 24)
N_TESTED, SEEDS, PATCHES = 8, 2, 2


def measure_class(segmenter: Segmenter, folder: Path) -> dict[str, float]:
    """Mean IoU by what is labelled."""
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        tested, ground = read_class(folder, seed)
        network = segmenter.settled(ground.images[-N_SETTLED:])
        maps = [network.maps(image[None]) for image in tested.images[:N_TESTED]]

        def note(name: str, image: np.ndarray, labels: np.ndarray, network: Any = network, maps: Any = maps,
                 truth: np.ndarray = tested.labels[:N_TESTED]) -> None:  # fmt: skip
            pack = network.pack(image[None], labels[None])
            answers = np.stack([network.answer(one, pack)[0, 0] >= 0.5 for one in maps])
            found.setdefault(name, []).append(mean_iou(answers, truth))

        for image, mask in zip(ground.images[:PATCHES], ground.labels[:PATCHES], strict=True):
            pieces, n = ndimage.label(mask)
            order = np.argsort(-np.bincount(pieces.ravel())[1:])[: max(3, n // 2)]
            np.random.default_rng(seed).shuffle(order)
            for k in N_OUTLINED:
                own = np.isin(pieces, order[:k] + 1)
                distance = ndimage.distance_transform_edt(~own)
                for rim in RIMS:
                    labels = np.full(mask.shape, IGNORE_LABEL, np.uint8)
                    labels[distance <= rim] = 0
                    labels[own] = 1
                    note(f"{k} outlined, rim {rim}", image, labels)
                note(f"{k} in an unfinished region", image, own.astype(np.uint8))
            note("finished region", image, mask)
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(argv: list[str] | None = None) -> int:
    """One line per class, and one for all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with a folder for each class, and pairs.csv"
    )
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    segmenter = load_segmenter(device="cpu")
    found = []
    for name in CLASSES:
        found.append(measure_class(segmenter, args.data / name))
        emit("first outlines", {"class": name, "iou": found[-1]})
    mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
    emit("first outlines, all classes", {"classes": len(found), "iou": mean})
    return 0


if __name__ == "__main__":
    sys.exit(main())
