"""How well five patches serve where the rest differs from them: other pictures, stains, dates, ground, lookalikes.

    python benchmarks/shift.py --help
    python benchmarks/shift.py --data ../shared/data --cache runs/shift > shift.jsonl
    python benchmarks/shift.py --data ../shared/data --cache runs/shift --held-back
    python benchmarks/shift.py --data ../shared/data --cache runs/shift --tasks roads donuts --pictures out/behind

Each task of `benchmarks.shift_tasks` gives five patches to Fewscope and to the baselines, and the same scenes to
predict. Fewscope's network is adapted as in a job (`--adapt`), and its threshold is chosen on held-out patches; the
baselines use 0.5. "pixel classifier" is Fewscope's own, alone. IoU is over the pixels of a scene, then the mean over
scenes.

One JSON line per task, then a summary: how far Fewscope is ahead of the best baseline of each task, on average and in
the worst task; in how many tasks it is behind by more than 0.01; the mean IoU of all methods; and how the estimate of
the report compares with the IoU measured, as it is and as held-out patches alone have it. `--cache` keeps the masks
and the held-out IoUs of every task and method, so that an interrupted benchmark resumes; give another folder after a
change of the code.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rasterio.windows import Window

from benchmarks.records import emit
from benchmarks.shift_pictures import draw_task
from benchmarks.shift_tasks import MICRO, PHOTO, Scene, Task, shift_tasks
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.networks import efficientnet_lite
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.pipeline import photographs
from fewscope.pipeline.calibration import leave_one_out, model_selection
from fewscope.pipeline.calibration.boundary_correction import correct_boundaries
from fewscope.pipeline.calibration.expected_iou import compare_with_source
from fewscope.pipeline.calibration.intervals import mean_interval, moved_estimate, moved_interval
from fewscope.pipeline.calibration.model_selection import SelectedEncoding, select_encoding
from fewscope.pipeline.calibration.sampling import Sample
from fewscope.pipeline.calibration.source_match import SourceMatch, match_source
from fewscope.pipeline.calibration.unlike import find_unlike
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.evaluation.baselines import load_baseline
from fewscope.pipeline.metrics import correlation

OURS, ALONE = "fewscope", "pixel classifier"
BASELINES = ("forest", "boosting", "ridge", "otsu")
BEHIND = 0.01
"""A task counts as behind where the best baseline is ahead by more."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """What a method predicts.

    Attributes
    ----------
    masks : np.ndarray
        Of the queries of a task, bool (N, H, W).
    held_out : np.ndarray
        IoU of each held-out patch, NaN without object; empty if unknown.
    lost : float
        How much less network and pixel classifier agree on a scene than on the held-out patches, mean over scenes; NaN
        if unknown.
    remedies : tuple[str, ...]
        How the support set was adjusted to each scene (`SourceMatch.remedy`).
    unlike : float
        Part of a scene that is unlike the patches, mean over scenes; NaN if unknown.
    change : float
        From the IoU expected on held-out patches to that on a scene, mean over the scenes where it is known; NaN if it
        is on none.
    """

    masks: np.ndarray
    held_out: np.ndarray
    lost: float = float("nan")
    remedies: tuple[str, ...] = ()
    unlike: float = float("nan")
    change: float = float("nan")


def predict(method: str, task: Task, network: Segmenter, seconds: float) -> Prediction:
    """Learn from the support set of a task and predict its queries."""
    images, labels = task.images, task.labels
    queries = np.stack([patch.image for patch in task.queries])
    if method == OURS:
        names = tuple(str(k) for k in range(len(images)))
        support = SupportSet(images, labels, None, names, None, (task.name,))
        share = photographs.ENCODER_SHARE if task.domain == PHOTO else model_selection.ENCODER_SHARE
        encoding = select_encoding(
            network, images, labels[None], None, seconds, depth=network.has_depth, encoder_share=share
        )
        sources, masks, held_out, changes = [], [], [], []
        for scene in task.scenes:
            fitted, source = fit_to_scene(network, encoding, task, support, scene)
            threshold = 0.5
            found = network.predict(np.stack([patch.image for patch in scene]), source.features)[:, 0]
            if (probabilities := fitted.held_out[0]) is not None:
                loo = leave_one_out.score_held_out(probabilities, labels)
                threshold = loo.threshold
                held_out.append(loo.iou)
                changes.append(expected_change(probabilities, labels, found, threshold))
            masks.append(found >= threshold)
            sources.append(source)
        known = [change for change in changes if change is not None]
        lost = [value for source in sources for value in source.lost(encoding.agreement) if value is not None]
        remedies = tuple(source.remedy for source in sources)
        unlike = [
            unlike_part(network, source, support, scene)
            for source, scene in zip(sources, task.scenes, strict=True)
        ]
        lost_agreement = float(np.mean(lost)) if lost else float("nan")
        return Prediction(
            np.concatenate(masks),
            np.mean(held_out, axis=0) if held_out else np.array([]),
            lost_agreement,
            remedies,
            float(np.mean(unlike)),
            float(np.mean(known)) if known else float("nan"),
        )
    if method == ALONE:
        features = network.encode(images, labels, texture_share=1.0)
        return Prediction(network.predict(queries, features)[:, 0] >= 0.5, np.array([]))
    baseline: Any = load_baseline(method)
    return Prediction(baseline.predict(queries, baseline.encode(images, labels))[:, 0] >= 0.5, np.array([]))


def fit_to_scene(
    network: Segmenter, encoding: SelectedEncoding, task: Task, support: SupportSet, scene: Scene
) -> tuple[SelectedEncoding, SourceMatch]:
    """The support set fitted to a scene as a job fits it to a source; photographs are never fitted to."""
    tiles = np.stack([patch.image for patch in scene])
    if task.domain == PHOTO:
        return encoding, SourceMatch(encoding.features)
    kind = "slide" if task.domain == MICRO else "raster"
    source = match_source(network, encoding, task.images, task.labels[None], tiles, kind)
    return correct_boundaries(network, encoding, support, source, tiles)


def expected_change(
    held_out: np.ndarray, labels: np.ndarray, scene: np.ndarray, threshold: float
) -> float | None:
    """How the expected IoU changes from the held-out patches to a scene, as a job tells it of a source."""
    expected = compare_with_source(held_out, labels, scene, np.ones(scene.shape, bool), threshold)
    return None if expected is None else expected.change


def unlike_part(network: Segmenter, source: SourceMatch, support: SupportSet, scene: Scene) -> float:
    """Part of a scene that is unlike the patches, as a job tells it of a source; NaN if it cannot."""
    tiles = np.stack([patch.image for patch in scene])
    windows = tuple(Window(0, 0, *tiles.shape[1:3]) for _ in tiles)
    sample = Sample(windows, tiles, np.ones(tiles.shape[:3], bool))
    found = find_unlike(network, source.features, support, sample)
    return float("nan") if found is None else found.fraction


def remembered(
    folder: Path | None, method: str, task: Task, network: Segmenter, seconds: float
) -> Prediction:
    """`predict`, or what it returned before, kept in a folder."""
    if folder is None:
        return predict(method, task, network, seconds)
    ours = f"{network.weights_digest} {seconds}" if method in (OURS, ALONE) else ""
    digest = hashlib.sha256(f"{task.name} {method} {ours}".encode())
    for patch in (*task.support, *task.queries):
        digest.update(patch.image.tobytes() + patch.mask.tobytes())
    path = folder / f"{digest.hexdigest()[:24]}.npz"
    if path.exists():
        with np.load(path) as kept:
            numbers = float(kept["lost"]), tuple(kept["remedies"].tolist()), float(kept["unlike"])
            return Prediction(kept["masks"], kept["held_out"], *numbers, float(kept["change"]))
    made = predict(method, task, network, seconds)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.npz")
    arrays = {"masks": made.masks, "held_out": made.held_out, "lost": made.lost, "unlike": made.unlike}
    np.savez_compressed(partial, **arrays, remedies=np.array(made.remedies, str), change=made.change)
    partial.replace(path)
    return made


def scene_ious(task: Task, masks: np.ndarray) -> np.ndarray:
    """IoU of every scene, (n,) float."""
    found, ious = iter(masks), []
    for scene in task.scenes:
        pairs = [(next(found), patch.mask) for patch in scene]
        both = sum(int((mask & true).sum()) for mask, true in pairs)
        either = sum(int((mask | true).sum()) for mask, true in pairs)
        ious.append(both / either if either else 1.0)
    return np.array(ious)


def evaluate(
    task: Task,
    methods: Sequence[str],
    network: Segmenter,
    seconds: float,
    folder: Path | None,
    pictures: Path | None = None,
) -> dict[str, Any]:
    """IoU of each method on a task, and what the report of a job would estimate; `pictures`: draws both."""
    found = {method: remembered(folder, method, task, network, seconds) for method in methods}
    iou = {method: float(scene_ious(task, one.masks).mean()) for method, one in found.items()}
    baselines = {method: value for method, value in iou.items() if method in BASELINES}
    best = max(baselines, key=lambda method: baselines[method])
    ours = found[OURS]
    if pictures is not None:
        name = "-".join(re.findall(r"\w+", task.name))
        draw_task(
            pictures / f"{name}.png", task, {method: found[method].masks for method in (OURS, ALONE, best)}
        )
    of_patches = ours.held_out[np.isfinite(ours.held_out)] if len(ours.held_out) else ours.held_out
    mean = float(of_patches.mean()) if len(of_patches) else None
    interval = mean_interval(of_patches, 0.0, 1.0, n_more=len(task.scenes)) if len(of_patches) > 1 else None
    lost, unlike, change = (
        None if np.isnan(value) else value for value in (ours.lost, ours.unlike, ours.change)
    )
    return {
        "ahead": iou[OURS] - iou[best],
        "best_baseline": best,
        "iou": iou,
        "estimate_of_patches": mean,
        "estimate": None if mean is None or change is None else moved_estimate(mean, change),
        "lost_agreement": lost,
        "remedies": ours.remedies,
        "unlike": unlike,
        "interval_of_patches": interval,
        "interval": None if change is None else moved_interval(interval, change, lost),
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The scores over all tasks."""
    ahead = [row["ahead"] for row in rows]
    scores = {
        "mean_ahead": float(np.mean(ahead)),
        "worst": min(ahead),
        "behind": sum(value < -BEHIND for value in ahead),
        "tasks": len(rows),
        "mean_iou": {m: float(np.mean([row["iou"][m] for row in rows])) for m in rows[0]["iou"]},
    }
    return scores | estimate_scores(rows) | estimate_scores(rows, "_of_patches")


def estimate_scores(rows: Sequence[dict[str, Any]], which: str = "") -> dict[str, Any]:
    """How the estimates of tasks, or those ``_of_patches`` alone, and their intervals compare with the IoU measured."""
    pairs = [
        (row[f"estimate{which}"], row["iou"][OURS]) for row in rows if row[f"estimate{which}"] is not None
    ]
    intervals = [
        (row[f"interval{which}"], row["iou"][OURS]) for row in rows if row[f"interval{which}"] is not None
    ]
    errors = [estimate - true for estimate, true in pairs]
    return {
        f"estimate{which}_correlation": correlation(*zip(*pairs, strict=True)) if len(pairs) > 2 else None,
        f"estimate{which}_error": float(np.mean(np.abs(errors))) if errors else None,
        f"estimate{which}_bias": float(np.mean(errors)) if errors else None,
        f"interval{which}_coverage": float(np.mean([low <= true <= high for (low, high), true in intervals]))
        if intervals
        else None,
        f"interval{which}_width": float(np.mean([high - low for (low, high), _ in intervals]))
        if intervals
        else None,
    }


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of shared data, with fewshot/, counting/ and rasters/",
    )
    parser.add_argument("--adapt", type=float, default=SegmentConfig("", "", "").adapt_s, metavar="SECONDS",
                        help="as in jobs/segment_wsi.py (default %(default)g)")  # fmt: skip
    parser.add_argument("--looks", type=int, choices=(1, 2), help="as in jobs/segment_wsi.py")
    parser.add_argument("--weights", help="weights instead of the shipped ones (.safetensors)")
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="keep predictions here")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw each task here, as TASK.png")
    parser.add_argument(
        "--held-back",
        action="store_true",
        help="the tasks that nothing was chosen on, instead of the others",
    )
    parser.add_argument(
        "--tasks", nargs="+", metavar="WORD", help="only tasks whose name contains one of these"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """A line per task, and the summary."""
    args = parse(argv)
    network = load_segmenter(weights=args.weights, looks=args.looks)
    with_encoder = load_segmenter(weights=args.weights, encoder=efficientnet_lite.NAME, looks=args.looks)
    rows = []
    for task in shift_tasks(args.data):
        if task.held_back != args.held_back:
            continue
        if args.tasks and not any(word in task.name for word in args.tasks):
            continue
        used = with_encoder if task.domain == PHOTO else network  # as jobs do
        rows.append(evaluate(task, (OURS, ALONE, *BASELINES), used, args.adapt, args.cache, args.pictures))
        emit("shift", {"task": task.name, "domain": task.domain, "kind": task.kind} | rows[-1])
    if not rows:
        raise SystemExit("no task has such a name")
    emit("shift", {"task": "all"} | summary(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
