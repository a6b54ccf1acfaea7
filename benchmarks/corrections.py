"""What corrections are worth: a simulated person in the loop, beside random patches, a pixel forest and the batch job.

    python benchmarks/corrections.py --data ../shared/data/fewshot
    python benchmarks/corrections.py --data ../shared/data/fewshot --classes water_s2_x dubai_road --seeds 2
    python benchmarks/corrections.py --data ../shared/data/fewshot --compare

`DATA` has a folder for each class with pairs ``k.jpg`` and ``k.png``, and ``pairs.csv``, which names the picture that
each patch was cut from. For each class and seed the pictures are divided: patches of some are asked about and never
shown, the others are the ground on which the person works. It starts with one labelled patch. In each round eight
windows are shown as `fewscope.annotate.suggest` chooses them, half random and half typical; the person takes the one
with the most wrong pixels in the preview and draws the truth in it. The patch is added, everything is learned again,
and the patches that were never shown are answered.

Beside it, in the same run: as many patches at random, in several draws (mean, standard deviation, and the best of
them: what choosing could reach at most); a random forest of pixels with the labels of the corrections, as ilastik has
it; and `Segmenter.encode` and `predict` with the same labels, which is what the batch job does without fine-tuning.
These two are asked at the start and at the end. `strokes` is the number of connected wrong pieces of 16 px or more in
the chosen window of the preview, each of which takes a stroke or a click.

`--compare` measures other galleries and other persons instead of forest and batch: windows at random, the most typical
ones, or half of them unlike what is labelled; who takes the lowest IoU, the most wrong pixels, the most missed ones, or
the most wrong pieces; the first window of the gallery, whatever it shows; and, with the answers in hand, the window
that helps most on the patches that are asked about. One JSON line per class, then a summary.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from benchmarks.records import emit
from fewscope.annotate.suggest import choose_typical
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.settled import SettledPack, SettledSegmenter
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
        self.looks = np.array([look_of(network.features(maps)[0]) for maps in self.maps])
        self._packs: dict[tuple[int, ...], SettledPack] = {}
        self._scores: dict[tuple[int, ...], float] = {}
        self._previews: dict[tuple[tuple[int, ...], int], np.ndarray] = {}

    def learned(self, labelled: Sequence[int]) -> SettledPack:
        """The support set of these patches of the ground."""
        key = tuple(sorted(labelled))
        if key not in self._packs:
            self._packs[key] = self.network.pack(self.ground.images[list(key)], self.ground.labels[list(key)])
        return self._packs[key]

    def score(self, labelled: Sequence[int]) -> float:
        """Mean IoU on the patches that are asked about."""
        key, pack = tuple(sorted(labelled)), self.learned(labelled)
        if key not in self._scores:
            found = [self.network.answer(maps, pack)[0, 0] >= 0.5 for maps in self.tested_maps]
            self._scores[key] = mean_iou(np.stack(found), self.tested.labels)
        return self._scores[key]

    def preview(self, labelled: Sequence[int], k: int) -> np.ndarray:
        """What a patch of the ground is taken for, (224, 224) bool."""
        key, pack = (tuple(sorted(labelled)), k), self.learned(labelled)
        if key not in self._previews:
            self._previews[key] = self.network.answer(self.maps[k], pack)[0, 0] >= 0.5
        return self._previews[key]

    def others(self, labelled: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Patches that are not labelled, in random order."""
        others = [k for k in range(len(self.maps)) if k not in labelled]
        rng.shuffle(others)
        return others


def at_random(loop: Loop, labelled: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Eight windows at random."""
    return loop.others(labelled, rng)[:GALLERY]


def half_typical(loop: Loop, labelled: Sequence[int], rng: np.random.Generator) -> list[int]:
    """As the page shows them."""
    return _half(loop, labelled, rng, GALLERY - GALLERY // 2)


def all_typical(loop: Loop, labelled: Sequence[int], rng: np.random.Generator) -> list[int]:
    """None of them random, the most typical first."""
    return _half(loop, labelled, rng, 0)


def _half(loop: Loop, labelled: Sequence[int], rng: np.random.Generator, n_random: int) -> list[int]:
    others = loop.others(labelled, rng)
    first, rest = others[:n_random], others[n_random:]
    chosen = choose_typical(loop.looks[rest], loop.looks[[*labelled, *first]], GALLERY - n_random)
    return [*first, *(rest[i] for i in chosen)]


def half_unlike(loop: Loop, labelled: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Four at random, four unlike the labelled ground and one another."""
    others, n_random = loop.others(labelled, rng), GALLERY - GALLERY // 2
    examples = loop.network.examples(loop.ground.images[list(labelled)], loop.ground.labels[list(labelled)])
    assert examples is not None
    shown, rest = others[:n_random], others[n_random:]
    scores = np.array([float(loop.network.unlike(loop.maps[k], examples).mean()) for k in rest])
    chosen = choose_unlike(scores, loop.looks[rest], GALLERY - n_random, loop.looks[shown])
    return [*shown, *(rest[i] for i in chosen)]


def lowest_iou(loop: Loop, labelled: Sequence[int], k: int) -> float:
    """The lowest IoU is the worst."""
    return -masked_iou(loop.preview(labelled, k), loop.ground.labels[k])


def most_wrong(loop: Loop, labelled: Sequence[int], k: int) -> float:
    """The most wrong pixels."""
    return float((loop.preview(labelled, k) != loop.ground.labels[k]).sum())


def most_missed(loop: Loop, labelled: Sequence[int], k: int) -> float:
    """The most pixels of objects that were not found."""
    return float((~loop.preview(labelled, k) & (loop.ground.labels[k] == 1)).sum())


def most_pieces(loop: Loop, labelled: Sequence[int], k: int) -> float:
    """The most wrong pieces."""
    return strokes(loop.preview(labelled, k), loop.ground.labels[k])


def the_first(loop: Loop, labelled: Sequence[int], k: int) -> float:
    """No person: the first one that is shown."""
    return 0.0


def the_most_helpful(loop: Loop, labelled: Sequence[int], k: int) -> float:
    """Nobody can know it: the IoU on the patches that are asked about, with this window labelled too."""
    return loop.score([*labelled, k])


Gallery = Callable[[Loop, Sequence[int], np.random.Generator], list[int]]
Person = Callable[[Loop, Sequence[int], int], float]

PAGE: tuple[Gallery, Person] = (half_typical, most_wrong)
COMPARED: tuple[tuple[Gallery, Person], ...] = (
    PAGE,
    *((half_typical, person) for person in (lowest_iou, most_missed, most_pieces)),
    *((at_random, person) for person in (lowest_iou, most_wrong, most_missed, most_pieces)),
    *((all_typical, person) for person in (the_first, most_wrong, most_missed, most_pieces)),
    *((half_unlike, person) for person in (lowest_iou, most_wrong)),
    (at_random, the_most_helpful),
)


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


def correct(
    loop: Loop, rule: tuple[Gallery, Person], n_rounds: int, seed: int
) -> tuple[list[int], list[float], list[int]]:
    """The person takes a window in each round: the labelled patches, IoU after each round, strokes of each."""
    (gallery, person), rng = rule, np.random.default_rng(seed)
    labelled, n_strokes = [0], []
    ious = [loop.score(labelled)]
    for _ in range(n_rounds):
        worst = max(gallery(loop, labelled, rng), key=lambda k: person(loop, labelled, k))
        n_strokes.append(strokes(loop.preview(labelled, worst), loop.ground.labels[worst]))
        labelled.append(worst)
        ious.append(loop.score(labelled))
    return labelled, ious, n_strokes


def draw_at_random(loop: Loop, n_rounds: int, n_draws: int, seed: int) -> list[float]:
    """IoU with as many patches at random, of several draws."""
    rng, others = np.random.default_rng(100 + seed), np.arange(1, len(loop.maps))
    return [loop.score([0, *rng.permutation(others)[:n_rounds].tolist()]) for _ in range(n_draws)]


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
    ends = (0, args.rounds)  # forest and batch start and end with the labels of the corrections
    arms: dict[str, list[Any]] = {}
    gains: dict[str, list[float]] = {}
    spread: list[list[float]] = []
    n_strokes: list[list[int]] = []
    for seed in range(args.seeds):
        tested, ground = read_class(folder, seed)
        loop = Loop(segmenter.settled(ground.images[-N_SETTLED:]), ground, tested)
        drawn = draw_at_random(loop, args.rounds, args.draws, seed)
        spread.append([float(np.mean(drawn)), float(np.std(drawn)), max(drawn)])
        for rule in COMPARED if args.compare else (PAGE,):
            labelled, ious, strokes_of = correct(loop, rule, args.rounds, seed)
            gains.setdefault(name_of(rule), []).append(ious[-1] - spread[-1][0])
            if rule is PAGE:
                arms.setdefault("corrections", []).append(ious)
                n_strokes.append(strokes_of)
                chosen = labelled
        if not args.compare:
            arms.setdefault("forest", []).append(with_method(PixelForest(), loop, chosen, ends))
            arms.setdefault("batch", []).append(with_method(segmenter, loop, chosen, ends))
    mean, deviation, best = np.mean(spread, axis=0).tolist()
    means = {name: np.mean(values, axis=0).tolist() for name, values in arms.items()}
    return {
        "class": folder.name,
        "gain_over_random": means["corrections"][-1] - mean,
        "gain_over_forest": means["corrections"][-1] - means["forest"][-1] if "forest" in means else None,
        "iou": means,
        "random": {"mean": mean, "standard_deviation": deviation, "best": best, "draws": args.draws},
        "strokes": np.mean(n_strokes, axis=0).tolist(),
        "gains_by_seed": gains,
        "seeds": args.seeds,
        "cpu_s": time.process_time() - began,
    }


def name_of(rule: tuple[Gallery, Person]) -> str:
    """A gallery and a person in words."""
    return " / ".join(part.__name__.replace("_", " ") for part in rule)


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
    add("--draws", type=int, default=16, help="random draws for each of them (default 16)")
    add("--compare", action="store_true", help="other galleries and persons, instead of forest and batch")
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
    rules = {}
    for name in found[0]["gains_by_seed"]:
        of_rule = np.array([gain for one in found for gain in one["gains_by_seed"][name]])
        error = float(of_rule.std(ddof=1) / np.sqrt(of_rule.size)) if of_rule.size > 1 else None
        rules[name] = {
            "gain": float(of_rule.mean()),
            "standard_error": error,
            "ahead": int((of_rule > 0).sum()),
        }
    emit(
        "corrections, all classes",
        {
            "target": TARGET,
            "gains_over_random": rules,
            "divisions": len(found) * args.seeds,
            "random": np.mean([list(one["random"].values()) for one in found], axis=0).tolist(),
            "classes": len(found),
            "classes_ahead_of_random": sum(one["gain_over_random"] > 0 for one in found),
            "classes_ahead_of_forest": sum((one["gain_over_forest"] or 0) > 0 for one in found),
            "iou": {
                arm: np.mean([one["iou"][arm] for one in found], axis=0).tolist() for arm in found[0]["iou"]
            },
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
