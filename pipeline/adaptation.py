"""How the support set is encoded: at which scale, and with the network fine-tuned on it or not.

Both are asked of the patches left out: what predicts them better is kept. Nothing here depends on a clock or on the
number of threads.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from connectors.support import SupportSet
from model.adapt import AdaptConfig, one_thread, steps_within
from model.corpus import PATCH
from pipeline.calibrate import Model, best_threshold, masked_iou, n_folds, predict_left_out, told

log = logging.getLogger(__name__)

SIDES = (160, 320)
"""What 224 px may be shown to the network as, besides themselves."""

WORTH_SCALING = 0.015
"""Gain in mean IoU of left-out patches from which on another scale is taken: five patches tell no less."""


@dataclass(frozen=True, slots=True)
class Approach:
    """A way to encode a support set.

    Attributes
    ----------
    side : what the network is shown 224 px as
    adaptation : how it is fine-tuned first; None: not at all
    """

    side: int = PATCH
    adaptation: AdaptConfig | None = None

    def __str__(self) -> str:
        ways = [f"fine-tuned for {self.adaptation.steps} steps"] if self.adaptation else []
        ways += [f"seen at {self.side} px for {PATCH}"] if self.side != PATCH else []
        return ", ".join(ways) or "as it is"


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """An encoded support set, and what leaving out its patches has shown.

    Attributes
    ----------
    features : what the model predicts with
    left_out : of each class (K, H, W), every patch predicted without itself, as `calibrate.predict_left_out` gives it
    depths : likewise how deep in its object each pixel is; None where that was not asked
    side, steps : scale and optimiser steps of the way that was kept; 0: not fine-tuned
    plain, kept : mean IoU of the left-out patches with the network as it is, and in the way that was kept; None where
        no patch can be left out
    """

    features: Any
    left_out: list[np.ndarray | None]
    depths: list[np.ndarray | None]
    side: int
    steps: int
    plain: float | None
    kept: float | None

    def __str__(self) -> str:
        way = Approach(self.side, AdaptConfig(self.steps) if self.steps else None)
        if way == Approach() or self.plain is None or self.kept is None:
            return "none: the network as it is"
        return f"{way}: IoU of left-out patches {self.plain:.3f} without, {self.kept:.3f} with"


def fit(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    instances: np.ndarray | None,
    seconds: float,
    *,
    depth: bool = False,
) -> Fit:
    """Encode a support set in the way that predicts left-out patches best.

    Parameters
    ----------
    images, labels : (K, H, W, 3) uint8 and (C, K, H, W) uint8: for each class 0 not of it, 1 of it, 255 not known
    instances : (K, H, W) int32 of outlined objects, or None
    seconds : of one core, about, that fine-tuning may take; 0 leaves it out
    depth : also ask how deep in its object each pixel is
    """
    n_classes = len(labels)

    def encode(approach: Approach, patches: np.ndarray, classes: Sequence[int]) -> Any:
        chosen = told(labels[classes][:, patches])
        if approach == Approach():
            return model.encode(images[patches], chosen)
        began = time.perf_counter()
        objects = None if instances is None else instances[patches]
        features = model.encode(images[patches], chosen, objects, approach.adaptation, side=approach.side)  # type: ignore[call-arg]
        if approach.adaptation:  # what a user waits for: the other ways take a second
            what = f"{len(patches)} of {len(images)} patches"
            log.info("%s on %s, %.0f s", approach, what, time.perf_counter() - began)
        return features

    def attempt(approach: Approach) -> tuple[list[np.ndarray | None], float]:
        began = time.perf_counter()
        found = predict_left_out(
            model,
            images,
            labels,
            lambda *which: encode(approach, *which),
            n_threads=os.cpu_count() or 1,
            depth=depth,
        )
        iou = mean_iou(found[:n_classes], labels)
        log.info("patches left out, network %s: IoU %.3f, %.1f s", approach, iou, time.perf_counter() - began)
        return found, iou

    everything = np.arange(len(images)), range(len(labels))
    with one_thread():
        approach = Approach()
        left_out, plain = attempt(approach)
        if not np.isfinite(plain):
            nothing: list[np.ndarray | None] = [None] * n_classes
            return Fit(encode(approach, *everything), nothing, nothing, PATCH, 0, None, None)
        kept = plain
        n_runs = n_folds(len(images)) + 1
        steps = steps_within(seconds, n_runs) if getattr(model, "adapts", False) else 0
        if steps:
            for side in SIDES:
                found, iou = attempt(Approach(side))
                if iou > max(kept, plain + WORTH_SCALING):
                    approach, left_out, kept = Approach(side), found, iou
            tuned = replace(approach, adaptation=AdaptConfig(steps))
            log.info("fine-tuning %d times, %d steps each; --adapt bounds it", n_runs, steps)
            found, iou = attempt(tuned)
            if iou > kept:
                approach, left_out, kept = tuned, found, iou
        features = encode(approach, *everything)
    steps = approach.adaptation.steps if approach.adaptation else 0
    depths: list[np.ndarray | None] = left_out[n_classes:] if depth else [None] * n_classes
    return Fit(features, left_out[:n_classes], depths, approach.side, steps, plain, kept)


class Fits:
    """What a model made of support sets, each once: the sources of a job have one support set in common."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._last: tuple[tuple[str, float, bool], Fit] | None = None

    def of(self, support: SupportSet, seconds: float, depth: bool) -> Fit:
        """The `fit` of a support set: the last one, if it was the same that was asked."""
        asked = support.digest(), seconds, depth
        if self._last is not None and self._last[0] == asked:
            log.info("the support set is that of the source before: encoded as it was there")
            return self._last[1]
        made = fit(
            self._model, support.images, support.labels_by_class, support.instances, seconds, depth=depth
        )
        self._last = asked, made
        return made


def mean_iou(left_out: Sequence[np.ndarray | None], labels: np.ndarray) -> float:
    """Mean over the classes of the mean IoU of left-out patches at the best threshold; NaN where there is none."""
    ious = []
    for probabilities, of_class in zip(left_out, labels, strict=True):
        if probabilities is not None:
            threshold = best_threshold(probabilities, of_class)
            ious.append(
                np.nanmean(
                    [masked_iou(p >= threshold, y) for p, y in zip(probabilities, of_class, strict=True)]
                )
            )
    return float(np.mean(ious)) if ious else float("nan")


def to_arrays(found: Fit) -> dict[str, np.ndarray]:
    """What of a fit cannot be computed again at once, to be kept in a working folder."""
    scores = [np.nan if score is None else score for score in (found.plain, found.kept)]
    arrays = {"fit": np.array([found.side, found.steps, *scores])}
    weights: Mapping[str, Any] = getattr(found.features, "weights", None) or {}
    return arrays | {f"weight.{name}": np.asarray(value) for name, value in weights.items()}


def from_arrays(
    arrays: Mapping[str, np.ndarray], model: Model, images: np.ndarray, labels: np.ndarray
) -> Fit:
    """The fit that `to_arrays` kept, its support set compiled again; without what was left out."""
    side, steps, plain, kept = arrays["fit"].tolist()
    weights = {name.removeprefix("weight."): a for name, a in arrays.items() if name.startswith("weight.")}
    options: dict[str, Any] = {}
    if weights:
        options["weights"] = weights
    if side != PATCH:
        options["side"] = int(side)
    features = model.encode(images, told(labels), **options)
    scores = [None if np.isnan(score) else score for score in (plain, kept)]
    nothing: list[np.ndarray | None] = [None] * len(labels)
    return Fit(features, nothing, nothing, int(side), int(steps), *scores)
