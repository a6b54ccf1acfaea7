"""What a click or a box on each object is worth beside its outline.

    python benchmarks/rough_labels.py --data ../shared/data/fewshot > rough.jsonl
    python benchmarks/rough_labels.py --data ../shared/data/fewshot --classes nuclei_smear_grey --episodes 3

Five patches of a class whose objects are known one by one are labelled by outlines; by the box of each object; by a
point in the middle of each; and by points a third of the radius away from the middle, in any direction, as people
click. Outlines of boxes and points are inferred as a job does it (`pipeline.calibration.rough_labels`). "discs" is what
one would do by hand: a disc of the true typical radius around each point. The network, as it is, predicts ten other
pictures of the class. Mean IoU, and the estimated and the true radius in px. One JSON line per class, then the mean.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy import ndimage

from benchmarks.records import emit
from fewscope.connectors.datasets.class_folders import ClassFolders, ClassImages
from fewscope.connectors.support.blobs import find_blobs
from fewscope.connectors.support.support_set import BOX, POINT, SupportSet
from fewscope.model.episodes.protocol import sampled_episodes
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.pipeline.calibration.rough_labels import outline_rough_objects

N_QUERIES, POINT_PX, OFF_CENTRE = 10, 3, 1 / 3


def discs(numbers: np.ndarray, radius: float, off: float = 0.0, seed: int = 0) -> np.ndarray:
    """A disc on each object of patches (K, 224, 224), with its number; `off` its middle by so many px."""
    rng = np.random.default_rng(seed)
    marked = np.zeros_like(numbers)
    rows, cols = np.indices(numbers.shape[1:])
    for k, one in enumerate(numbers):
        ids = np.unique(one[one > 0])
        for number, (row, col) in zip(ids, ndimage.center_of_mass(one > 0, one, ids), strict=True):
            angle = rng.uniform(0, 2 * np.pi)
            apart = np.hypot(rows - row - off * np.sin(angle), cols - col - off * np.cos(angle))
            marked[k][apart <= radius] = number
    return marked


def boxes(numbers: np.ndarray) -> np.ndarray:
    """The box of each object, with its number; smaller ones over larger ones."""
    marked = np.zeros_like(numbers)
    for k, one in enumerate(numbers):
        found = [(box, i) for i, box in enumerate(ndimage.find_objects(one), start=1) if box]
        for box, number in sorted(found, key=lambda pair: -marked[k][pair[0]].size):
            marked[k][box] = number
    return marked


def support_of(images: np.ndarray, numbers: np.ndarray, kind: int) -> SupportSet:
    """Patches whose objects are rough, or have outlines if `kind` is 0."""
    return SupportSet(
        images=images,
        labels=(numbers > 0).astype(np.uint8),
        instances=numbers.astype(np.int32),
        names=tuple(map(str, range(len(images)))),
        mpp=None,
        class_names=("object",),
        rough=np.where(numbers > 0, kind, 0).astype(np.uint8) if kind else None,
    )


def measure_class(segmenter: Segmenter, images: ClassImages, episodes: int) -> dict[str, float]:
    """Mean IoU by how the patches are labelled."""
    found: dict[str, list[float]] = {}
    assert images.instances is not None
    for draw in sampled_episodes(images.name, len(images.images), 5, episodes, N_QUERIES):
        support, query = list(draw.support), list(draw.query)
        patches, numbers = images.images[support], images.instances[support].astype(np.int32)
        areas = [n for one in numbers for n in np.bincount(one.ravel())[1:] if n]
        radius = float(np.sqrt(np.median(areas) / np.pi))
        near = discs(numbers, POINT_PX, off=OFF_CENTRE * radius)
        ways = {
            "outlines": support_of(patches, numbers, 0),
            "boxes": support_of(patches, boxes(numbers), BOX),
            "points": support_of(patches, discs(numbers, POINT_PX), POINT),
            "points off centre": support_of(patches, near, POINT),
            "discs": support_of(patches, discs(numbers, radius), 0),
        }
        for name, labelled in ways.items():
            one = outline_rough_objects(labelled, segmenter)
            features = segmenter.encode(one.images, one.labels)
            masks = segmenter.predict(images.images[query], features)[:, 0] >= 0.5
            truth = images.masks[query]
            ious = [(p & t).sum() / max(1, (p | t).sum()) for p, t in zip(masks, truth, strict=True)]
            found.setdefault(name, []).append(float(np.mean(ious)))
        centres = [
            np.array(ndimage.center_of_mass(one > 0, one, np.unique(one[one > 0]))).reshape(-1, 2)
            for one in numbers
        ]
        found.setdefault("radius", []).append(radius)
        blobs = find_blobs(patches, centres)
        found.setdefault("estimated radius", []).append(blobs.radius if blobs else 0.0)
    return {name: float(np.mean(values)) for name, values in found.items()}


def main(argv: list[str] | None = None) -> int:
    """One line per class, and one for all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder with a folder for each class")
    add("--split", default="val", help="classes of splits/NAME.txt (default val)")
    add("--classes", nargs="*", default=(), metavar="NAME", help="these classes instead")
    add("--episodes", type=int, default=3, help="support sets of each class (default 3)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    segmenter = load_segmenter(device="cpu")
    rows: list[dict[str, float]] = []
    for images in ClassFolders(args.data).classes(None if args.classes else args.split):
        if images.instances is None or (args.classes and images.name not in args.classes):
            continue
        rows.append(measure_class(segmenter, images, args.episodes))
        emit("rough labels", {"class": images.name} | rows[-1])
    emit(
        "rough labels",
        {"class": f"mean of {len(rows)}"} | {k: float(np.mean([r[k] for r in rows])) for k in rows[0]},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
