"""How the support set is encoded: at which scale, with the network fine-tuned on it or not, and with how much say for a
pixel classifier beside it.

All of it is asked of the patches left out: what predicts them better is kept. Nothing here depends on a clock or on the
number of threads.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import expit, logit

from connectors.support import SupportSet
from model.adapt import AdaptConfig, one_thread, steps_within
from model.corpus import PATCH
from model.texture import LIMIT, TexturePack
from pipeline.calibrate import Model, best_threshold, masked_iou, n_folds, predict_left_out, told

log = logging.getLogger(__name__)

SIDES = (160, 320)
"""What 224 px may be shown to the network as, besides themselves."""

GOOD_ENOUGH = 0.95
"""Mean IoU of left-out patches from which on nothing else is tried: people who outline twice agree no better."""

WORTH_SCALING = 0.015
"""Gain in mean IoU of left-out patches from which on another scale is taken: five patches tell no less."""

TEXTURE_SHARES = (0.25, 0.5)
"""Parts of the answer that the pixel classifier may have by itself, which otherwise only informs the network."""

WORTH_TEXTURE = 0.002
"""Likewise for these."""


@dataclass(frozen=True, slots=True)
class Approach:
    """A way to encode a support set.

    Attributes
    ----------
    side : what the network is shown 224 px as
    adaptation : how it is fine-tuned first; None: not at all
    texture_share : part of the answer that the pixel classifier gives by itself (`model.texture`)
    """

    side: int = PATCH
    adaptation: AdaptConfig | None = None
    texture_share: float = 0.0

    def __str__(self) -> str:
        if self.texture_share == 1:
            return "replaced by a pixel classifier"
        ways = [f"fine-tuned for {self.adaptation.steps} steps"] if self.adaptation else []
        ways += [f"seen at {self.side} px for {PATCH}"] if self.side != PATCH else []
        ways += (
            [f"{self.texture_share:.0%} of the answer by a pixel classifier"] if self.texture_share else []
        )
        return ", ".join(ways) or "as it is"


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """An encoded support set, and what leaving out its patches has shown.

    Attributes
    ----------
    features : what the model predicts with
    left_out : of each class (K, H, W), every patch predicted without itself, as `calibrate.predict_left_out` gives it
    depths : likewise how deep in its object each pixel is; None where that was not asked
    side, steps, texture_share : of the way that was kept: scale, optimiser steps (0: not fine-tuned), and the pixel
        classifier's own part of the answer
    plain, kept : mean IoU of the left-out patches with the network as it is, and in the way that was kept; None where
        no patch can be left out
    """

    features: Any
    left_out: list[np.ndarray | None]
    depths: list[np.ndarray | None]
    side: int
    steps: int
    texture_share: float
    plain: float | None
    kept: float | None

    def __str__(self) -> str:
        way = Approach(self.side, AdaptConfig(self.steps) if self.steps else None, self.texture_share)
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
    seconds : of one core, about, that fine-tuning may take; few leave it out, 0 leaves out scales and the pixel
        classifier too
    depth : also ask how deep in its object each pixel is
    """
    trials = _Trials(model, images, labels, instances, depth)
    with one_thread():
        plain = best = trials.of(Approach())
        if seconds and getattr(model, "adapts", False) and np.isfinite(plain.iou):
            best = trials.best(plain, seconds)
            log.info("kept: network %s, IoU of patches left out %.3f", best.approach, best.iou)
        features = trials.encode_all(best.approach)
    scores = (plain.iou, best.iou) if np.isfinite(plain.iou) else (None, None)
    steps = best.approach.adaptation.steps if best.approach.adaptation else 0
    return Fit(
        features,
        best.left_out,
        best.depths,
        best.approach.side,
        steps,
        best.approach.texture_share,
        *scores,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """What a way to encode the support set gave for patches left out: of each class (K, H, W), or None."""

    approach: Approach
    left_out: list[np.ndarray | None]
    depths: list[np.ndarray | None]
    iou: float


@dataclass(frozen=True, slots=True, eq=False)
class _Trials:
    """One support set, to be encoded in different ways.

    Attributes
    ----------
    tuned : weights that were fine-tuned on all of it, by the approach that says how
    textures : pixel classifiers by scale, patches and classes: they do not depend on the network
    """

    model: Model
    images: np.ndarray
    labels: np.ndarray
    instances: np.ndarray | None
    depth: bool
    tuned: dict[Approach, Any] = field(default_factory=dict)
    textures: dict[tuple[int, bytes, tuple[int, ...]], Any] = field(default_factory=dict)

    def encode_all(self, approach: Approach) -> Any:
        """All of it, for the job."""
        weights = self.tuned.get(replace(approach, texture_share=0.0))
        return self.encode(approach, np.arange(len(self.images)), range(len(self.labels)), weights)

    def encode(
        self, approach: Approach, patches: np.ndarray, classes: Sequence[int], weights: Any = None
    ) -> Any:
        """Some patches and classes of it, with weights that are fine-tuned already, or fine-tuned here."""
        chosen = told(self.labels[classes][:, patches])
        known = approach.side, patches.tobytes(), tuple(classes)
        if approach == Approach():
            features = self.model.encode(self.images[patches], chosen)
            self.textures[known] = getattr(features, "textures", ())
            return features
        began = time.perf_counter()
        objects = None if self.instances is None else self.instances[patches]
        options: dict[str, Any] = {"side": approach.side}
        if weights is not None:
            options["weights"] = weights
        if approach.texture_share:
            options["texture_share"] = approach.texture_share
        if textures := self.textures.get(known):
            options["textures"] = textures
        adaptation = approach.adaptation if weights is None else None
        features = self.model.encode(self.images[patches], chosen, objects, adaptation, **options)  # type: ignore[call-arg]
        self.textures[known] = getattr(features, "textures", ())
        if adaptation:  # what a user waits for: the other ways take seconds
            what = f"{len(patches)} of {len(self.images)} patches"
            log.info("%s on %s, %.0f s", approach, what, time.perf_counter() - began)
        return features

    def of(self, approach: Approach, depth: bool | None = None) -> _Trial:
        """Predict every patch with the others as support."""
        began, n_classes = time.perf_counter(), len(self.labels)
        depth = self.depth if depth is None else depth
        found = predict_left_out(
            self.model,
            self.images,
            self.labels,
            lambda *which: self.encode(approach, *which),
            n_threads=os.cpu_count() or 1,
            depth=depth,
        )
        iou = mean_iou(found[:n_classes], self.labels)
        log.info("patches left out, network %s: IoU %.3f, %.1f s", approach, iou, time.perf_counter() - began)
        depths: list[np.ndarray | None] = found[n_classes:] if depth else [None] * n_classes
        return _Trial(approach, found[:n_classes], depths, iou)

    def best(self, plain: _Trial, seconds: float) -> _Trial:
        """The way that predicts left-out patches best; of ways that are hardly better, the quicker one."""
        best = plain
        if best.iou >= GOOD_ENOUGH:
            return best
        for side in SIDES:
            scaled = self.of(Approach(side))
            if scaled.iou > max(best.iou, plain.iou + WORTH_SCALING):
                best = scaled
        if best.iou >= GOOD_ENOUGH:
            return best
        networks = [best]
        n_runs = n_folds(len(self.images)) + 1
        if steps := steps_within(seconds, n_runs):
            log.info("fine-tuning %d times, %d steps each; --adapt bounds it", n_runs, steps)
            tuned = replace(best.approach, adaptation=AdaptConfig(steps))
            with ThreadPoolExecutor(1) as beside:  # five folds leave a core of two without work at the end
                whole = beside.submit(self.encode_all, tuned)
                networks.append(self.of(tuned))
            self.tuned[tuned] = whole.result().weights
            best = max(networks, key=lambda trial: trial.iou)
        texture = self.of(Approach(networks[0].approach.side, texture_share=1.0), depth=False)
        mixtures = [self.mixed(n, texture, share) for n in networks for share in TEXTURE_SHARES]
        mixture = max(mixtures, key=lambda trial: trial.iou)
        return mixture if mixture.iou > best.iou + WORTH_TEXTURE else best

    def mixed(self, network: _Trial, texture: _Trial, share: float) -> _Trial:
        """The answers of a network and of the pixel classifier, mixed as `Segmenter.predict` mixes them."""

        def mix(of_network: np.ndarray | None, of_texture: np.ndarray | None) -> np.ndarray | None:
            if of_network is None or of_texture is None:
                return None
            one, other = (logit(p).clip(-LIMIT, LIMIT) for p in (of_network, of_texture))
            return np.asarray(expit((1 - share) * one + share * other), np.float32)

        found = list(map(mix, network.left_out, texture.left_out))
        approach = replace(network.approach, texture_share=share)
        return _Trial(approach, found, network.depths, mean_iou(found, self.labels))


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
    arrays = {"fit": np.array([found.side, found.steps, found.texture_share, *scores])}
    weights: Mapping[str, Any] = getattr(found.features, "weights", None) or {}
    arrays |= {f"weight.{name}": np.asarray(value) for name, value in weights.items()}
    for c, pack in enumerate(getattr(found.features, "textures", ())):
        arrays |= {f"texture.{c}.{name}": np.asarray(value) for name, value in pack.tensors().items()}
    return arrays


def from_arrays(
    arrays: Mapping[str, np.ndarray], model: Model, images: np.ndarray, labels: np.ndarray
) -> Fit:
    """The fit that `to_arrays` kept, its support set compiled again; without what was left out."""
    side, steps, texture_share, plain, kept = arrays["fit"].tolist()
    weights = _under(arrays, "weight.")
    options: dict[str, Any] = {}
    if weights:
        options["weights"] = weights
    if side != PATCH:
        options["side"] = int(side)
    if texture_share:
        options["texture_share"] = texture_share
    textures = [_under(arrays, f"texture.{c}.") for c in range(len(labels))]
    if all(textures):
        options["textures"] = [TexturePack.of(texture) for texture in textures]
    features = model.encode(images, told(labels), **options)
    scores = [None if np.isnan(score) else score for score in (plain, kept)]
    nothing: list[np.ndarray | None] = [None] * len(labels)
    return Fit(features, nothing, nothing, int(side), int(steps), texture_share, *scores)


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
