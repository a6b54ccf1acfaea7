"""What the support set decides: its features, the threshold, how objects are told apart, how far a count is off.

Decided once per run and kept in its working folder, so that a resumed run goes on with the same numbers, on whatever
processor it is resumed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window

from connectors.support import SupportSet
from connectors.workdir import WorkDir
from pipeline import calibrate
from pipeline.blend import to_uint8
from pipeline.instances import label_core
from pipeline.plan import Plan
from pipeline.split import SplitRule, split_core

KEPT_AS = "decision"


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """How to go about this source.

    Attributes
    ----------
    features : the encoded support set
    loo : what leaving out one patch at a time has shown; None where the support set is too small
    threshold : probability from which on a pixel is object
    rule : how touching objects are told apart; None for plain connected components
    count_errors : (K,) logs of true over counted on the left-out patches; None without outlined objects
    """

    features: Any
    loo: calibrate.LeaveOneOut | None
    threshold: float
    rule: SplitRule | None
    count_errors: np.ndarray | None

    @property
    def instances(self) -> str:
        """How objects are told apart, in words."""
        return "components" if self.rule is None else f"split, radius {self.rule.radius:.3f} px"


def decide(plan: Plan, model: calibrate.Model, work: WorkDir | None = None) -> Decision:
    """Encode the support set, predict each patch from the others, choose. Taken from `work` when it is there."""
    support, config = plan.support, plan.config
    features = model.encode(support.images, support.labels)
    if work is not None and (kept := _load(plan, features, work)) is not None:
        return kept
    loo = calibrate.leave_one_out(model, support.images, support.labels, config.threshold)
    threshold = config.threshold if config.threshold is not None else loo.threshold if loo else 0.5
    rule, errors = _choose(plan, loo, threshold)
    decision = Decision(features, loo, threshold, rule, errors)
    if work is not None:
        _save(decision, plan, work)
    return decision


def _choose(
    plan: Plan, loo: calibrate.LeaveOneOut | None, threshold: float
) -> tuple[SplitRule | None, np.ndarray | None]:
    """The rule whose counts are nearest to the outlined objects of the left-out patches, and its errors there."""
    if loo is None or plan.support.instances is None:
        return plan.rules[0], None
    return choose_rule(
        plan.support,
        loo.probabilities,
        threshold,
        plan.rules,
        connectivity=plan.config.connectivity,
        min_area=plan.min_area_px,
    )


def choose_rule(
    support: SupportSet,
    probabilities: np.ndarray,
    threshold: float,
    rules: Sequence[SplitRule | None],
    *,
    connectivity: int,
    min_area: int,
) -> tuple[SplitRule | None, np.ndarray]:
    """Of some rules the one whose counts are nearest to the outlined objects, and its `calibrate.count_errors`.

    Parameters
    ----------
    support : with outlined objects
    probabilities : (K, H, W), each patch predicted from the others
    """
    assert support.instances is not None
    errors = [
        calibrate.count_errors(
            probabilities,
            support.labels,
            support.instances,
            functools.partial(
                count_objects, threshold=threshold, rule=rule, connectivity=connectivity, min_area=min_area
            ),
        )
        for rule in rules
    ]
    best = int(np.argmin([np.abs(e).mean() for e in errors]))
    return rules[best], errors[best]


def count_objects(
    probability: np.ndarray, threshold: float, rule: SplitRule | None, connectivity: int, min_area: int = 0
) -> int:
    """Number of objects in a probability map (H, W), told apart and dropped as those of a slide are."""
    labels = label_objects(probability, threshold, rule, connectivity, min_area)
    return len(np.unique(labels[labels > 0]))


def label_objects(
    probability: np.ndarray, threshold: float, rule: SplitRule | None, connectivity: int, min_area: int = 0
) -> np.ndarray:
    """Label image (H, W) uint32 of a probability map, its objects told apart and dropped as those of a slide are."""
    mask = to_uint8(probability) >= threshold_level(threshold)
    if rule is None:
        labels, _ = label_core(mask, connectivity)
    else:
        whole = Window(0, 0, mask.shape[1], mask.shape[0])
        labels, _, _ = split_core(mask, whole, whole, mask.shape, rule)
    kept = np.bincount(labels.ravel()) >= min_area
    return np.where(kept[labels], labels, np.uint32(0))


def threshold_level(threshold: float) -> int:
    """The least stored probability (uint8) that is object: the mask follows from what is stored."""
    return max(1, int(np.ceil(threshold * 255 - 1e-9)))


def _save(decision: Decision, plan: Plan, work: WorkDir) -> None:
    arrays = {
        "threshold": np.array(decision.threshold),
        "rule": np.array(plan.rules.index(decision.rule)),
    }
    if decision.count_errors is not None:
        arrays["count_errors"] = decision.count_errors
    if decision.loo is not None:
        arrays["probabilities"] = decision.loo.probabilities
        arrays["iou"] = np.array(decision.loo.iou)
        arrays["interval"] = np.array(decision.loo.interval or ())
    work.save_arrays(KEPT_AS, **arrays)


def _load(plan: Plan, features: Any, work: WorkDir) -> Decision | None:
    try:
        kept = work.load_arrays(KEPT_AS)
    except FileNotFoundError:
        return None
    threshold, loo = float(kept["threshold"]), None
    if "probabilities" in kept:
        interval = tuple(kept["interval"].tolist())
        loo = calibrate.LeaveOneOut(
            kept["probabilities"], threshold, tuple(kept["iou"].tolist()), interval if interval else None
        )
    return Decision(features, loo, threshold, plan.rules[int(kept["rule"])], kept.get("count_errors"))
