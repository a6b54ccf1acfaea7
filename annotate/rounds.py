"""How good it is now: every labelled patch predicted from the others, in seconds, after each round of corrections.

The estimate is that of the preview, which looks once and does not fine-tune; the run afterwards makes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewscope.annotate.inferred import SettledModel, patches_of
from fewscope.annotate.objects import ObjectRule, object_rules
from fewscope.annotate.preview import Preview
from fewscope.annotate.resolution import LEAST_LABELLED
from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.devices import use_one_thread
from fewscope.model.settled import SettledPack
from fewscope.pipeline.calibration.leave_one_out import masked_iou, predict_held_out
from fewscope.pipeline.calibration.object_counts import choose_rule, count_objects, threshold_level
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.instances.class_map import assign_classes
from fewscope.pipeline.tiling.blending import to_uint8


@dataclass(frozen=True, slots=True)
class RoundCount:
    """Objects of a class on the scored patches: drawn by hand, and found when each patch was held out."""

    drawn: int
    found: int


@dataclass(frozen=True, slots=True)
class RoundScore:
    """Scores of a support set, each patch predicted from the others.

    Attributes
    ----------
    iou : float or None
        Mean over the classes; None if no class can be scored.
    iou_by_class : tuple
        Mean over the patches that have an object of the class; None for a class that fewer than two patches show.
    counts : tuple
        Per class; None where its IoU is.
    n_patches : int
        Patches that were scored: those of regions.
    """

    iou: float | None
    iou_by_class: tuple[float | None, ...]
    counts: tuple[RoundCount | None, ...]
    n_patches: int


def score_round(preview: Preview, support: SupportSet, threshold: float = 0.5) -> RoundScore:
    """Score a support set by leaving patches out. Takes seconds, in the caller's thread.

    Strokes and single objects, and patches that a region covers a small part of, are learned from in every fold and
    never scored.

    Parameters
    ----------
    preview : Preview
        Its settled network predicts; waits until it is settled.
    support : SupportSet
    threshold : float
        Smallest probability of an object's pixel, 0..1.
    """
    n_classes = len(support.class_names)
    known = (support.labels != IGNORE_LABEL).mean(axis=(1, 2))
    is_scored = (known >= LEAST_LABELLED) & (np.arange(len(known)) < support.n_dense)
    scored, sparse = np.flatnonzero(is_scored), np.flatnonzero(~is_scored)
    nothing = RoundScore(None, (None,) * n_classes, (None,) * n_classes, len(scored))
    network = preview.settled()
    if network is None or len(scored) < 2:
        return nothing
    use_one_thread()
    support = preview.outlined(support)
    fast, labels = SettledModel(network), support.labels_by_class

    def encode(used: np.ndarray, classes: Sequence[int]) -> SettledPack:
        of = np.concatenate([scored[used], sparse])
        return fast.encode(support.images[of], labels[list(classes)][:, of])

    pictures = tuple(support.pictures[k] for k in scored) if support.pictures else ()
    held_out = predict_held_out(fast, support.images[scored], labels[:, scored], encode, pictures=pictures)
    usable = [c for c in range(n_classes) if held_out[c] is not None]
    if not usable:
        return nothing
    maps = np.stack([to_uint8(np.asarray(held_out[c])) for c in usable])
    winner = assign_classes(maps, [threshold_level(threshold)] * len(usable))
    ious: list[float | None] = [None] * n_classes
    counts: list[RoundCount | None] = [None] * n_classes
    kind = preview.sources[0].info.kind if preview.sources else "slide"
    for value, c in enumerate(usable, start=1):
        of_class = [masked_iou(w == value, y) for w, y in zip(winner, labels[c, scored], strict=True)]
        if np.isfinite(of_class).any():
            ious[c] = float(np.nanmean(of_class))
            own = np.where((winner == value) | (winner == 0), np.asarray(held_out[c]), np.float32(0))
            part = patches_of(support, scored)
            by_shape = object_rules(part, kind, preview.object_radius_um)[c]
            counts[c] = _count(part, c, own.astype(np.float32), threshold, by_shape)
    known_ious = [iou for iou in ious if iou is not None]
    mean = float(np.mean(known_ious)) if known_ious else None
    return RoundScore(mean, tuple(ious), tuple(counts), len(scored))


def _count(
    support: SupportSet,
    class_index: int,
    probability: NDArray[np.float32],
    threshold: float,
    by_shape: ObjectRule,
) -> RoundCount:
    """Objects drawn and found of a class on patches (K, H, W), separated by the rule that counts best."""
    of_class = support.of_class(class_index + 1)
    connectivity = SegmentConfig("", "", "").connectivity
    how: dict[str, Any] = {"connectivity": connectivity, "min_area": by_shape.min_area_px}
    rule = None
    if of_class.instances is not None:
        rule, _ = choose_rule(of_class, probability, threshold, (None, by_shape.rule), **how)
    drawn = found = 0
    for k, (one, labels) in enumerate(zip(probability, of_class.labels, strict=True)):
        known = np.where(labels == IGNORE_LABEL, np.float32(0), one)
        found += count_objects(known, threshold, rule, **how)
        if of_class.instances is not None:
            drawn += len(np.unique(of_class.instances[k][labels == 1]))
        else:
            drawn += count_objects((labels == 1).astype(np.float32), 0.5, None, **how)
    return RoundCount(drawn, found)
