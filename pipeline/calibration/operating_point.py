"""The operating point of a run: the encoded support set and, for each class, a threshold and a separation rule.

It is chosen once per run and saved in the working folder, so that a resumed run uses the same numbers on any processor.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.storage.digests import Digests
from fewscope.model.finetune import one_thread
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import intervals, leave_one_out
from fewscope.pipeline.calibration.boundary_correction import correct_boundaries
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.expected_iou import (
    ExpectedIou,
    compare_with_source,
    expected_from_array,
    expected_to_array,
)
from fewscope.pipeline.calibration.model_selection import (
    SelectedEncoding,
    from_arrays,
    to_arrays,
)
from fewscope.pipeline.calibration.object_counts import choose_rule, threshold_level
from fewscope.pipeline.calibration.sampling import Sample, sample_tiles
from fewscope.pipeline.calibration.source_match import N_MATCHED, SourceMatch, match_source
from fewscope.pipeline.calibration.unlike import UnlikeGround, find_unlike
from fewscope.pipeline.instances.class_map import assign_classes
from fewscope.pipeline.instances.split_rules import DepthRule, Rule
from fewscope.pipeline.plan import ClassPlan, Plan
from fewscope.pipeline.tiling.blending import to_uint8

log = logging.getLogger(__name__)

SAVED_AS = "decision"


@dataclass(frozen=True, slots=True, eq=False)
class ClassOperatingPoint:
    """Operating point of one class.

    Attributes
    ----------
    loo : leave_one_out.LeaveOneOut | None
        Result of leave-one-out; None where the support set is too small. With several classes, its
        probabilities are 0 in pixels that are assigned to another class.
    threshold : float
        Smallest probability of a pixel of the class.
    rule : Rule | None
        How touching objects are separated; None: connected components.
    counted_ratio : intervals.CountRatio | None
        Ratio of true to counted objects, with a 95 % interval; None without outlined objects.
    """

    loo: leave_one_out.LeaveOneOut | None
    threshold: float
    rule: Rule | None
    counted_ratio: intervals.CountRatio | None

    @property
    def instances(self) -> str:
        """How objects are separated, in words."""
        return "components" if self.rule is None else str(self.rule)


@dataclass(frozen=True, slots=True, eq=False)
class OperatingPoint:
    """Operating point of a run.

    Attributes
    ----------
    encoding : SelectedEncoding
        The encoded support set.
    classes : tuple[ClassOperatingPoint, ...]
        Operating points of the classes 1..C.
    source : SourceMatch
        The encoded support set, adjusted to the source.
    unlike : UnlikeGround | None
        Ground of the source that no patch shows; None where it cannot be told.
    expected : tuple[ExpectedIou | None, ...]
        For each class, the IoU expected on held-out patches and on the source; None where either is unknown.
    """

    encoding: SelectedEncoding
    classes: tuple[ClassOperatingPoint, ...]
    source: SourceMatch
    unlike: UnlikeGround | None
    expected: tuple[ExpectedIou | None, ...]

    @property
    def features(self) -> Any:
        """The encoded support set, as the source is segmented with it."""
        return self.source.features

    @property
    def held_out(self) -> np.ndarray | None:
        """Class of each pixel of the held-out patches, (K, H, W) uint8, 0 = background.

        Without the classes that cannot be held out; None if there are no others.
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
    """Encode the support set, and choose thresholds and separation rules by leave-one-out.

    A saved operating point is loaded from `work`; an encoding of the same support set is taken from `encodings`.
    """
    support, config = plan.support, plan.config
    if (kept := _load(plan, model, work)) is not None:
        return kept
    depth = any(isinstance(rule, DepthRule) for of_class in plan.classes for rule in of_class.rules)
    encodings = encodings or EncodingCache(model)
    encoding = encodings.of(support, config.adapt_s, depth)
    sample = sample_tiles(plan)
    tiles = sample.images[:N_MATCHED]
    source = match_source(
        model,
        encoding,
        support.images,
        support.labels_by_class,
        tiles,
        plan.source.info.kind,
        sample.foreground[:N_MATCHED],
    )
    encoding, source = correct_boundaries(model, encoding, support, source, tiles, encodings)
    held_out, thresholds = encoding.held_out, []
    for probabilities, labels in zip(held_out, support.labels_by_class[:, : support.n_dense], strict=True):
        if config.threshold is None and probabilities is not None:
            thresholds.append(leave_one_out.shrunk_threshold(probabilities, labels))
        else:
            thresholds.append(0.5 if config.threshold is None else config.threshold)
    settled = _settled(held_out, thresholds)
    points = []
    for c, of_class in enumerate(plan.classes):
        choose = functools.partial(
            _choose_for_class, of_class, settled[c], encoding.depths[c], thresholds[c], config.connectivity
        )
        follows_from = (thresholds, encoding.options.corrected, config.connectivity, of_class.rules)
        areas = of_class.min_area_px, of_class.min_true_area_px
        points.append(encodings.once(f"class {c}, {follows_from}, {areas}", choose))
    unlike = find_unlike(model, source.features, support, sample, encodings)
    expected = _expected(plan, model, source, sample, points)
    source = replace(source, maps=None)
    operating_point = OperatingPoint(encoding, tuple(points), source, unlike, expected)
    _save(operating_point, plan, work)
    return operating_point


def _expected(
    plan: Plan,
    model: predictor.Model,
    source: SourceMatch,
    sample: Sample,
    points: Sequence[ClassOperatingPoint],
) -> tuple[ExpectedIou | None, ...]:
    """IoU of each class that is expected on the held-out patches and on the source."""
    tiles, known = sample.images[:N_MATCHED], sample.foreground[:N_MATCHED]
    if not len(tiles) or all(point.loo is None for point in points):
        return (None,) * len(points)
    maps = source.maps
    if maps is None:
        with one_thread():
            maps = predictor.predict_maps(model, tiles, source.features, False)
    of_classes = _settled(
        [None if point.loo is None else maps[:, c] for c, point in enumerate(points)],
        [point.threshold for point in points],
    )
    found = list[ExpectedIou | None]()
    labels_by_class = plan.support.labels_by_class[:, : plan.support.n_dense]
    for name, point, of_tiles, labels in zip(
        plan.support.class_names, points, of_classes, labels_by_class, strict=True
    ):
        if point.loo is None or of_tiles is None:
            found.append(None)
            continue
        one = compare_with_source(point.loo.probabilities, labels, of_tiles, known, point.threshold)
        found.append(one)
        if one is not None and one.change is not None:
            log.info("%s: estimated IoU %.2f on the source, %.2f on held-out patches",
                     name, intervals.moved_estimate(point.loo.mean_iou, one.change), point.loo.mean_iou)  # fmt: skip
        elif one is not None:
            log.info("%s: hardly any in %d tiles, so its IoU on the source is unknown; %.2f on held-out patches",
                     name, len(tiles), point.loo.mean_iou)  # fmt: skip
    return tuple(found)


def _settled(held_out: Sequence[np.ndarray | None], thresholds: Sequence[float]) -> list[np.ndarray | None]:
    """Probabilities of each class, 0 in pixels that are assigned to another class, as they will be on the slide."""
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
    """Choose the separation rule of a class on its held-out patches."""
    if probabilities is None:
        return ClassOperatingPoint(None, threshold, plan.rules[0], None)
    labels = plan.support.labels[: plan.support.n_dense]
    loo = leave_one_out.score_held_out(probabilities, labels, threshold)
    if plan.support.instances is None:
        return ClassOperatingPoint(loo, threshold, plan.rules[0], None)
    rule, ratio = choose_rule(
        plan.support,
        probabilities,
        threshold,
        plan.rules,
        connectivity=connectivity,
        min_area=plan.min_area_px,
        min_true_area=plan.min_true_area_px,
        depths=depths,
    )
    return ClassOperatingPoint(loo, threshold, rule, ratio)


def _save(operating_point: OperatingPoint, plan: Plan, work: WorkDir) -> None:
    source = operating_point.source
    arrays = to_arrays(replace(operating_point.encoding, features=source.features))
    arrays["remedy"] = np.array(source.remedy)
    arrays["agreement_on_source"] = np.array([np.nan if a is None else a for a in source.agreement])
    if (colours := getattr(source.features, "colours", None)) is not None:
        arrays["colours"] = colours
    arrays["expected_iou"] = expected_to_array(operating_point.expected)
    if operating_point.unlike is not None:
        arrays["unlike"] = operating_point.unlike.array()
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
    files = work.save_arrays(SAVED_AS, **arrays)
    work.write_marker(SAVED_AS, {}, files)
    _bind(work, files)


def _bind(work: WorkDir, files: Digests) -> None:
    """From here on, units are done under this decision."""
    work.decision = next(iter(files.values()))


def _load(plan: Plan, model: predictor.Model, work: WorkDir) -> OperatingPoint | None:
    work.decision = None
    if SAVED_AS not in work.read_markers([SAVED_AS]):
        return None
    _bind(work, work.marked_files(SAVED_AS))
    arrays = work.load_arrays(SAVED_AS)
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
        ratio = intervals.CountRatio(*kept["counted_ratio"].tolist()) if "counted_ratio" in kept else None
        classes.append(ClassOperatingPoint(loo, threshold, rule, ratio))
    encoding = from_arrays(arrays, model, plan.support.images, plan.support.labels_by_class)
    features = encoding.features
    if "colours" in arrays:
        features = features.with_colours(arrays["colours"])
    agreed = (None if np.isnan(a) else a for a in arrays["agreement_on_source"].tolist())
    source = SourceMatch(features, str(arrays["remedy"]), tuple(agreed))
    unlike = UnlikeGround.of(arrays["unlike"]) if "unlike" in arrays else None
    expected = expected_from_array(arrays["expected_iou"])
    return OperatingPoint(encoding, tuple(classes), source, unlike, expected)
