"""What the support set decides: its features, and for each class the threshold, how objects are told apart, and how
far a count is off.

Decided once per run and kept in its working folder, so that a resumed run goes on with the same numbers, on whatever
processor it is resumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import intervals, leave_one_out
from fewscope.pipeline.calibration.model_selection import (
    EncodingCache,
    SelectedEncoding,
    from_arrays,
    to_arrays,
)
from fewscope.pipeline.instances.class_map import assign_classes
from fewscope.pipeline.instances.labelling import label_core
from fewscope.pipeline.instances.split_rules import DepthRule, Rule
from fewscope.pipeline.instances.splitting import split_core
from fewscope.pipeline.metrics import compare_objects
from fewscope.pipeline.plan import ClassPlan, Plan
from fewscope.pipeline.tiling.blending import to_uint8

SAVED_AS = "decision"


@dataclass(frozen=True, slots=True, eq=False)
class ClassOperatingPoint:
    """How to go about one class.

    Attributes
    ----------
    loo : what leaving out one patch at a time has shown; None where the support set is too small. With several classes,
        its probabilities are 0 where another class has the pixel.
    threshold : probability from which on a pixel may be of the class
    rule : how touching objects are told apart; None for plain connected components
    counted_ratio : 95 % interval of true over counted objects, by the held-out patches; None without outlined objects
    """

    loo: leave_one_out.LeaveOneOut | None
    threshold: float
    rule: Rule | None
    counted_ratio: tuple[float, float] | None

    @property
    def instances(self) -> str:
        """How objects are told apart, in words."""
        return "components" if self.rule is None else str(self.rule)


@dataclass(frozen=True, slots=True, eq=False)
class OperatingPoint:
    """How to go about this source.

    Attributes
    ----------
    encoding : the encoded support set, and how it was encoded
    classes : of each class
    """

    encoding: SelectedEncoding
    classes: tuple[ClassOperatingPoint, ...]

    @property
    def features(self) -> Any:
        """The encoded support set."""
        return self.encoding.features

    @property
    def held_out(self) -> np.ndarray | None:
        """The class of every pixel of the patches, each predicted from the others, (K, H, W) uint8.

        Classes that cannot be left out are not in it; None where there is no other.
        """
        known = [(value, d) for value, d in enumerate(self.classes, start=1) if d.loo is not None]
        if not known:
            return None
        maps = np.stack([to_uint8(d.loo.probabilities) for _, d in known if d.loo is not None])
        values = np.array([0, *(value for value, _ in known)], np.uint8)
        found: np.ndarray = values[assign_classes(maps, [threshold_level(d.threshold) for _, d in known])]
        return found


def choose_operating_point(
    plan: Plan, model: predictor.Model, work: WorkDir, encodings: EncodingCache | None = None
) -> OperatingPoint:
    """Encode the support set, predict each patch from the others, choose.

    Taken from `work` when it is there; the encoding from `encodings`, when an earlier source had the same support set.
    """
    support, config = plan.support, plan.config
    if (kept := _load(plan, model, work)) is not None:
        return kept
    depth = any(isinstance(rule, DepthRule) for of_class in plan.classes for rule in of_class.rules)
    encoding = (encodings or EncodingCache(model)).of(support, config.adapt_s, depth)
    held_out, thresholds = encoding.held_out, []
    for probabilities, labels in zip(held_out, support.labels_by_class, strict=True):
        if config.threshold is None and probabilities is not None:
            thresholds.append(leave_one_out.shrunk_threshold(probabilities, labels))
        else:
            thresholds.append(0.5 if config.threshold is None else config.threshold)
    settled = _settled(held_out, thresholds)
    points = [
        _choose_for_class(of_class, settled[c], encoding.depths[c], thresholds[c], config.connectivity)
        for c, of_class in enumerate(plan.classes)
    ]
    operating_point = OperatingPoint(encoding, tuple(points))
    _save(operating_point, plan, work)
    return operating_point


def _settled(held_out: Sequence[np.ndarray | None], thresholds: Sequence[float]) -> list[np.ndarray | None]:
    """The probabilities of each class, 0 where another has the pixel: what is scored is what a slide would show."""
    known = [c for c, probabilities in enumerate(held_out) if probabilities is not None]
    if len(known) < 2:
        return list(held_out)
    maps = np.stack([to_uint8(p) for p in held_out if p is not None])
    winner = assign_classes(maps, [threshold_level(thresholds[c]) for c in known])
    settled: list[np.ndarray | None] = [None] * len(held_out)
    for value, c in enumerate(known, start=1):
        probabilities = held_out[c]
        assert probabilities is not None
        settled[c] = np.where((winner == value) | (winner == 0), probabilities, np.float32(0))
    return settled


def _choose_for_class(
    plan: ClassPlan,
    probabilities: np.ndarray | None,
    depths: np.ndarray | None,
    threshold: float,
    connectivity: int,
) -> ClassOperatingPoint:
    """The rule whose counts are nearest to the outlined objects of the held-out patches, and how far they are off."""
    if probabilities is None:
        return ClassOperatingPoint(None, threshold, plan.rules[0], None)
    loo = leave_one_out.score_held_out(probabilities, plan.support.labels, threshold)
    if plan.support.instances is None:
        return ClassOperatingPoint(loo, threshold, plan.rules[0], None)
    rule, ratio = choose_rule(
        plan.support,
        probabilities,
        threshold,
        plan.rules,
        connectivity=connectivity,
        min_area=plan.min_area_px,
        depths=depths,
    )
    return ClassOperatingPoint(loo, threshold, rule, ratio)


def choose_rule(
    support: SupportSet,
    probabilities: np.ndarray,
    threshold: float,
    rules: Sequence[Rule | None],
    *,
    connectivity: int,
    min_area: int,
    depths: np.ndarray | None = None,
) -> tuple[Rule | None, tuple[float, float] | None]:
    """Of some rules the one whose counts are nearest to the outlined objects, and its `calibrate.counted_ratio`.

    Of rules that count alike, the one whose objects are more like the outlined ones (F1 at an IoU of 0.5); of those the
    first.

    Parameters
    ----------
    support : with outlined objects
    probabilities : (K, H, W), each patch predicted from the others
    depths : (K, H, W) likewise, where a rule is a `DepthRule`
    """
    assert support.instances is not None
    known = support.labels != IGNORE_LABEL
    best: tuple[tuple[float, float], Rule | None, tuple[float, float] | None] | None = None
    for rule in rules:
        found = [
            label_objects(
                np.where(known[k], p, np.float32(0)),
                threshold,
                rule,
                connectivity,
                min_area,
                None if depths is None else depths[k],
            )
            for k, p in enumerate(probabilities)
        ]
        of_patches = [
            compare_objects(labels, np.where(known[k], support.instances[k], 0))
            for k, labels in enumerate(found)
        ]
        total = sum(of_patches[1:], of_patches[0])
        counts = [p.true for p in of_patches], [p.found for p in of_patches]
        rank = round(float(intervals.count_errors(*counts).mean()), 6), -total.f1
        if best is None or rank < best[0]:
            n_unmatched = total.true + total.found - 2 * total.matched
            best = rank, rule, intervals.counted_ratio(*counts, n_unmatched)
    assert best is not None
    return best[1:]


def count_objects(
    probability: np.ndarray, threshold: float, rule: Rule | None, connectivity: int, min_area: int = 0
) -> int:
    """Number of objects in a probability map (H, W), told apart and dropped as those of a slide are."""
    labels = label_objects(probability, threshold, rule, connectivity, min_area)
    return len(np.unique(labels[labels > 0]))


def label_objects(
    probability: np.ndarray,
    threshold: float,
    rule: Rule | None,
    connectivity: int,
    min_area: int = 0,
    depth: np.ndarray | None = None,
) -> np.ndarray:
    """Label image (H, W) uint32 of a probability map, its objects told apart and dropped as those of a slide are.

    `depth` (H, W), 0..1, is for a `DepthRule`.
    """
    mask = to_uint8(probability) >= threshold_level(threshold)
    if rule is None:
        labels, _ = label_core(mask, connectivity)
    else:
        whole = Window(0, 0, mask.shape[1], mask.shape[0])
        stored = None if depth is None else to_uint8(depth)
        labels, _, _ = split_core(mask, whole, whole, mask.shape, rule, stored)
    kept = np.bincount(labels.ravel()) >= min_area
    return np.where(kept[labels], labels, np.uint32(0))


def threshold_level(threshold: float) -> int:
    """The least stored probability (uint8) that is object: the mask follows from what is stored."""
    return max(1, int(np.ceil(threshold * 255 - 1e-9)))


def _save(operating_point: OperatingPoint, plan: Plan, work: WorkDir) -> None:
    arrays = to_arrays(operating_point.encoding)
    for value, (point, of_class) in enumerate(
        zip(operating_point.classes, plan.classes, strict=True), start=1
    ):
        kept = {
            "threshold": np.array(point.threshold),
            "rule": np.array(of_class.rules.index(point.rule)),
        }
        if point.counted_ratio is not None:
            kept["counted_ratio"] = np.array(point.counted_ratio)
        if point.loo is not None:
            kept["probabilities"] = point.loo.probabilities
            kept["iou"] = np.array(point.loo.iou)
            kept["interval"] = np.array(point.loo.interval or ())
        arrays |= {f"{name}_{value}": array for name, array in kept.items()}
    work.save_arrays(SAVED_AS, **arrays)


def _load(plan: Plan, model: predictor.Model, work: WorkDir) -> OperatingPoint | None:
    try:
        arrays = work.load_arrays(SAVED_AS)
    except FileNotFoundError:
        return None
    classes = []
    for value, of_class in enumerate(plan.classes, start=1):
        ending = f"_{value}"
        kept = {name.removesuffix(ending): a for name, a in arrays.items() if name.endswith(ending)}
        threshold, loo = float(kept["threshold"]), None
        if "probabilities" in kept:
            interval = tuple(kept["interval"].tolist())
            loo = leave_one_out.LeaveOneOut(
                kept["probabilities"], threshold, tuple(kept["iou"].tolist()), interval if interval else None
            )
        rule = of_class.rules[int(kept["rule"])]
        ratio = tuple(kept["counted_ratio"].tolist()) if "counted_ratio" in kept else None
        classes.append(ClassOperatingPoint(loo, threshold, rule, ratio))
    encoding = from_arrays(arrays, model, plan.support.images, plan.support.labels_by_class)
    return OperatingPoint(encoding, tuple(classes))
