"""What corrections are worth: a simulated person in the loop, beside random patches, a pixel forest and the batch job.

    python benchmarks/corrections.py --data ../shared/data/fewshot
    python benchmarks/corrections.py --data ../shared/data/fewshot --classes water_s2_x dubai_road --seeds 2

`DATA` has a folder for each class with pairs ``k.jpg`` and ``k.png``, and ``pairs.csv``, which names the picture that
each patch was cut from. For each class and seed the pictures are divided: patches of some are asked about and never
shown, the others are the ground on which the person works. It starts with one labelled patch. In each round eight
windows are shown as `fewscope.annotate.suggest` chooses them, half random and half unlike what is labelled; the person
takes the one with the lowest IoU of the preview and draws the truth in it. The patch is added, everything is learned
again, and the patches that were never shown are answered.

Beside it, in the same run: as many patches drawn at random (the mean of several draws); a random forest of pixels with
the labels of the corrections, as ilastik has it; and `Segmenter.encode` and `predict` with the same labels, which is
what the batch job does without fine-tuning. These two are asked at the start and at the end. `strokes` is the number
of connected wrong pieces of 16 px or more in the chosen window of the preview, each of which takes a stroke or a click.
One JSON line per class, then a summary.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from benchmarks.records import emit
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.settled import SettledSegmenter, TileMaps
from fewscope.pipeline.calibration.leave_one_out import masked_iou
from fewscope.pipeline.calibration.unlike import choose_unlike, look_of
from fewscope.pipeline.evaluation.baselines import PixelForest

CLASSES = (
    *("nuclei_he_monuseg", "nuclei_purple_on_white", "nuclei_smear_grey", "nuclei_fluo_embryo", "em_cell"),
    *("em_membrane", "water_s2_x", "water_s2_y", "dubai_road", "dubai_vegetation"),
)
"""The validation classes of microscopy and maps: none of them was trained on."""

TARGET = 0.05
"""Wanted over random patches after the last round, in the mean."""

N_TESTED, N_GROUND = 12, 24
"""Most patches that are asked about, and that the person may see."""

GALLERY = 8
N_SETTLED = 8
LEAST_PIECE_PX = 16


@dataclass(frozen=True, slots=True, eq=False)
class Ground:
    """Patches (N, 224, 224, 3) uint8 with their masks (N, 224, 224) uint8."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(slots=True, eq=False)
class Course:
    """IoU on the patches that are never shown, after the start and after each round; and strokes of each round."""

    iou: list[float] = field(default_factory=list)
    strokes: list[int] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)


def read_class(folder: Path, seed: int) -> tuple[Ground, Ground]:
    """Patches that are asked about, and those that the person works on: of different pictures."""
    with open(folder.parent / "pairs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] == folder.name]
    origin = {int(row["k"]): row["source_id"] for row in rows}
    rng = np.random.default_rng(seed)
    pictures = sorted(set(origin.values()))
    rng.shuffle(pictures)
    tested: list[int] = []
    kept: list[int] = []
    for picture in pictures:
        patches = sorted(k for k, of in origin.items() if of == picture)
        (tested if len(tested) < min(N_TESTED, len(origin) // 3) else kept).extend(patches)
    rng.shuffle(tested)
    rng.shuffle(kept)
    return _read(folder, tested[:N_TESTED]), _read(folder, kept[:N_GROUND])


def _read(folder: Path, numbers: Sequence[int]) -> Ground:
    images = [np.asarray(Image.open(folder / f"{k}.jpg").convert("RGB")) for k in numbers]
    masks = [np.asarray(Image.open(folder / f"{k}.png").convert("L")) > 127 for k in numbers]
    return Ground(np.stack(images), np.stack(masks).astype(np.uint8))


class Loop:
    """The fast path of the page on patches: maps kept, the support set compiled again in each round."""

    def __init__(self, network: SettledSegmenter, ground: Ground, tested: Ground) -> None:
        self.network, self.ground, self.tested = network, ground, tested
        self.maps = [network.maps(image[None]) for image in ground.images]
        self.tested_maps = [network.maps(image[None]) for image in tested.images]

    def learn(self, labelled: Sequence[int]) -> tuple[float, np.ndarray]:
        """Mean IoU on the tested patches, and the preview of all patches of the ground, (N, 224, 224) bool."""
        pack = self.network.pack(self.ground.images[list(labelled)], self.ground.labels[list(labelled)])

        def answer(maps: TileMaps) -> np.ndarray:
            answered: np.ndarray = self.network.answer(maps, pack)[0, 0] >= 0.5
            return answered

        found = [answer(maps) for maps in self.tested_maps]
        return mean_iou(np.stack(found), self.tested.labels), np.stack([answer(maps) for maps in self.maps])

    def gallery(self, labelled: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Eight windows, half random, half unlike what is labelled."""
        others = [k for k in range(len(self.maps)) if k not in labelled]
        rng.shuffle(others)
        n_random = GALLERY - GALLERY // 2
        examples = self.network.examples(
            self.ground.images[list(labelled)], self.ground.labels[list(labelled)]
        )
        assert examples is not None
        looks = np.array([look_of(self.network.features(self.maps[k])[0]) for k in others])
        scores = np.array([float(self.network.unlike(self.maps[k], examples).mean()) for k in others])
        rest = choose_unlike(scores[n_random:], looks[n_random:], GALLERY - n_random, looks[:n_random])
        return [*others[:n_random], *(others[n_random + i] for i in rest)]


def mean_iou(found: np.ndarray, true: np.ndarray) -> float:
    """Mean IoU of masks (N, H, W) over the patches that have an object."""
    return float(np.nanmean([masked_iou(one, of) for one, of in zip(found, true, strict=True)]))


def strokes(found: np.ndarray, true: np.ndarray) -> int:
    """Connected wrong pieces of a mask (H, W): what is missing, and what is too much."""
    n = 0
    for wrong in (found & (true == 0), ~found & (true == 1)):
        labels, _ = ndimage.label(wrong)
        n += int((np.bincount(labels.ravel())[1:] >= LEAST_PIECE_PX).sum())
    return n


def correct(loop: Loop, start: int, n_rounds: int, rng: np.random.Generator) -> Course:
    """The person takes the worst of eight in each round."""
    course, labelled = Course(chosen=[start]), [start]
    for r in range(n_rounds + 1):
        iou, preview = loop.learn(labelled)
        course.iou.append(iou)
        if r < n_rounds:
            shown = loop.gallery(labelled, rng)
            worst = min(shown, key=lambda k: masked_iou(preview[k], loop.ground.labels[k]))
            course.strokes.append(strokes(preview[worst], loop.ground.labels[worst]))
            labelled.append(worst)
    course.chosen = labelled
    return course


def draw_at_random(loop: Loop, start: int, n_rounds: int, rng: np.random.Generator) -> Course:
    """As many patches at random."""
    others = [k for k in range(len(loop.maps)) if k != start]
    order = [start, *rng.permutation(others)[:n_rounds].tolist()]
    course = Course(chosen=order)
    for r in range(n_rounds + 1):
        iou, preview = loop.learn(order[: r + 1])
        course.iou.append(iou)
        if r < n_rounds:
            course.strokes.append(strokes(preview[order[r + 1]], loop.ground.labels[order[r + 1]]))
    return course


def with_method(method: Any, loop: Loop, chosen: Sequence[int], rounds: Sequence[int]) -> list[float]:
    """IoU of any method with `encode` and `predict` on the tested patches, with the labels after these rounds."""
    found = []
    for r in rounds:
        used = list(chosen[: r + 1])
        features = method.encode(loop.ground.images[used], loop.ground.labels[used])
        found.append(mean_iou(method.predict(loop.tested.images, features)[:, 0] >= 0.5, loop.tested.labels))
    return found


def measure_class(segmenter: Segmenter, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All arms on one class; means over the seeds."""
    began = time.process_time()
    forest = PixelForest()
    ends = (0, args.rounds)  # the others start and end with the labels of the corrections
    arms: dict[str, list[Any]] = {name: [] for name in ("corrections", "random", "forest", "batch")}
    n_strokes: dict[str, list[Any]] = {"corrections": [], "random": []}
    for seed in range(args.seeds):
        tested, ground = read_class(folder, seed)
        rng = np.random.default_rng(seed)
        loop = Loop(segmenter.settled(ground.images[-N_SETTLED:]), ground, tested)
        course = correct(loop, 0, args.rounds, rng)
        drawn = [draw_at_random(loop, 0, args.rounds, rng) for _ in range(args.draws)]
        arms["corrections"].append(course.iou)
        arms["random"].append(np.mean([one.iou for one in drawn], axis=0).tolist())
        arms["forest"].append(with_method(forest, loop, course.chosen, ends))
        arms["batch"].append(with_method(segmenter, loop, course.chosen, ends))
        n_strokes["corrections"].append(course.strokes)
        n_strokes["random"].append(np.mean([one.strokes for one in drawn], axis=0).tolist())
    means = {name: np.mean(values, axis=0).tolist() for name, values in arms.items()}
    return {
        "class": folder.name,
        "gain_over_random": means["corrections"][-1] - means["random"][-1],
        "gain_over_forest": means["corrections"][-1] - means["forest"][-1],
        "iou": means,
        "strokes": {name: np.mean(values, axis=0).tolist() for name, values in n_strokes.items()},
        "gains_by_seed": [c[-1] - r[-1] for c, r in zip(arms["corrections"], arms["random"], strict=True)],
        "seeds": args.seeds,
        "draws": args.draws,
        "cpu_s": time.process_time() - began,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", required=True, help="folder with a folder for each class, and pairs.csv")
    add(
        "--classes",
        nargs="+",
        default=CLASSES,
        help="default: the ten validation classes of microscopy and maps",
    )
    add("--rounds", type=int, default=4, help="corrected patches after the first (default 4)")
    add("--seeds", type=int, default=3, help="divisions of the pictures of each class (default 3)")
    add("--draws", type=int, default=2, help="random draws for each of them (default 2)")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """One line per class, and one for all."""
    args = parse(argv)
    torch.set_num_threads(1)
    segmenter = load_segmenter(device="cpu")
    found = []
    for name in args.classes:
        found.append(measure_class(segmenter, Path(args.data) / name, args))
        emit("corrections", found[-1])
    by_seed = np.array([one["gains_by_seed"] for one in found])
    emit(
        "corrections, all classes",
        {
            "gain_over_random": float(by_seed.mean()),
            "target": TARGET,
            "gain_standard_error": float(by_seed.std(ddof=1) / np.sqrt(by_seed.size))
            if by_seed.size > 1
            else None,
            "classes": len(found),
            "classes_ahead_of_random": sum(one["gain_over_random"] > 0 for one in found),
            "classes_ahead_of_forest": sum(one["gain_over_forest"] > 0 for one in found),
            "iou": {
                arm: np.mean([one["iou"][arm] for one in found], axis=0).tolist() for arm in found[0]["iou"]
            },
            "strokes": {
                arm: np.mean([one["strokes"][arm] for one in found], axis=0).tolist()
                for arm in found[0]["strokes"]
            },
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
