"""Selects how the support set is encoded: scales, fine-tuning, and the weights of an encoder and the pixel classifier.

A change is kept if it predicts the held-out patches better. The selection does not depend on the clock or on the number
of threads.
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

from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.finetune import AdaptConfig, one_thread, steps_within
from fewscope.model.networks.boundary_trees import BoundaryTrees
from fewscope.model.networks.pixel_classifier import LIMIT
from fewscope.model.views import View
from fewscope.pipeline.calibration.leave_one_out import agreement, folds_of, predict_held_out, score_held_out
from fewscope.pipeline.predictor import Model, squeeze_single_class

log = logging.getLogger(__name__)

OTHER_SIDES = {1: ((192, 320),), 2: ((192, 320), (128, 320))}
"""Sides, px, to which 224 px are resized for the network, besides its default sides, by its number of looks; enlarges
small objects. They are worth two looks: a single one at 256 px loses 0.006 IoU on ten unseen classes where these two
lose 0.003 (docs/benchmarks.md)."""

SUFFICIENT_IOU = 0.95
"""Mean IoU of held-out patches at which the search ends: two outlines by one person do not agree better."""

SEARCH_S = 30.0
"""Budget, s, up to which nothing is fine-tuned: the default. Fine-tuning takes minutes and gains 0.00 to 0.01 IoU on
average."""

TEXTURE_SHARES = (0.25, 0.5, 1.0)
"""Weights of the pixel classifier in the output; with 0 it only provides input to the network, with 1 it decides."""


AS_IT_IS = "as it is"

ENCODER_SHARE = 0.25
"""Weight of a frozen encoder's read-out in the output, unless held-out patches clearly say otherwise."""

ENCODER_SHARES = (0.0, 0.25, 0.5, 0.75)
"""Its candidates."""


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """Options for encoding a support set.

    Attributes
    ----------
    sides : tuple[int, ...]
        Sides, px, to which 224 px are resized for the network; the output is the mean. Empty: its default
        sides.
    adaptation : AdaptConfig | None
        How the network is fine-tuned first; None: not.
    texture_share : float
        Weight of the pixel classifier (`model.networks.pixel_classifier`) in the output, 0 to 1.
    encoder_share : float
        Weight of a frozen encoder's read-out (`model.networks.frozen_encoder`) in the network's output, 0 to 1; with 0
        it only provides input to the network.
    corrected : tuple[int, ...]
        Classes whose outline is corrected by boosted trees (`boundary_correction`), by their place.
    """

    sides: tuple[int, ...] = ()
    adaptation: AdaptConfig | None = None
    texture_share: float = 0.0
    encoder_share: float = 0.0
    corrected: tuple[int, ...] = ()

    def keywords(self) -> dict[str, Any]:
        """Arguments for `Model.encode`, without those that have its defaults and without the adaptation."""
        given: dict[str, Any] = {"sides": self.sides} if self.sides else {}
        if self.texture_share:
            given["texture_share"] = self.texture_share
        if self.encoder_share:
            given["encoder_share"] = self.encoder_share
        return given

    def __str__(self) -> str:
        trees = ["outlines by boosted trees"] if self.corrected else []
        if self.texture_share == 1:
            return ", ".join(["replaced by a pixel classifier", *trees])
        ways = [f"fine-tuned for {self.adaptation.steps} steps"] if self.adaptation else []
        if self.sides:
            ways += [f"seen at {' and '.join(map(str, self.sides))} px for {PATCH_SIZE}"]
        if self.encoder_share:
            ways += [f"{self.encoder_share:.0%} of the output by the encoder"]
        if self.texture_share:
            ways += [f"{self.texture_share:.0%} of the output by a pixel classifier"]
        return ", ".join([*ways, *trees]) or AS_IT_IS


@dataclass(frozen=True, slots=True, eq=False)
class SelectedEncoding:
    """An encoded support set, and its held-out predictions.

    Attributes
    ----------
    features : Any
        The encoded support set, for `Model.predict`.
    held_out : list[np.ndarray | None]
        C held-out probability maps (K, H, W) float32, or None, from `leave_one_out.predict_held_out`.
    depths : list[np.ndarray | None]
        C held-out depth maps likewise; None where not predicted.
    options : EncodingOptions
        The selected options.
    default_iou, selected_iou : float | None
        Mean IoU of the held-out patches with the default options and with the selected ones; None where no
        patch can be held out.
    agreement : tuple[float | None, ...]
        For each class, agreement of the network with the pixel classifier alone on the held-out patches
        (`leave_one_out.agreement`); None where unknown, empty without adaptation.
    """

    features: Any
    held_out: list[np.ndarray | None]
    depths: list[np.ndarray | None]
    options: EncodingOptions
    default_iou: float | None
    selected_iou: float | None
    agreement: tuple[float | None, ...] = ()

    def __str__(self) -> str:
        if self.selected_iou is None or self.selected_iou == self.default_iou:  # the usual options
            usual = str(self.options)
            return f"none: the network {usual}" if usual == AS_IT_IS else usual
        return f"{self.options}: IoU of held-out patches {self.default_iou:.3f} without, {self.selected_iou:.3f} with"


def select_encoding(
    model: Model,
    images: np.ndarray,
    labels: np.ndarray,
    instances: np.ndarray | None,
    seconds: float,
    *,
    depth: bool = False,
    n_sparse: int = 0,
    pictures: Sequence[int] = (),
    encoder_share: float = ENCODER_SHARE,
) -> SelectedEncoding:
    """Encode a support set with the options that predict the held-out patches best.

    Parameters
    ----------
    images : (K, H, W, 3) uint8
    labels : np.ndarray
        (C, K, H, W) uint8: for each class 0 not of the class, 1 of it, 255 not labelled.
    instances : np.ndarray | None
        (K, H, W) int32, outlined objects; or None.
    seconds : float
        Time budget for fine-tuning, on one core (approximate). Too few seconds skip it; 0 also skips the search
        for scales and for the weight of the pixel classifier.
    depth : bool
        Also predict the depth of the held-out pixels in their objects.
    n_sparse : int
        So many of the last patches are labelled in places only, and never held out.
    pictures : Sequence[int]
        Number of the picture that each patch is cut from; empty if each stands for itself.
    encoder_share : float
        Weight of the encoder's read-out, if the model has an encoder, that others have to beat.
    """
    candidates = _Candidates(model, images, labels, instances, depth, n_sparse, tuple(pictures))
    with one_thread():
        usual = encoder_share if getattr(model, "has_encoder", False) else 0.0
        plain = best = candidates.of(EncodingOptions(encoder_share=usual))
        agreed: tuple[float | None, ...] = ()
        if seconds and getattr(model, "adapts", False) and np.isfinite(plain.iou):
            best = candidates.best(plain, seconds)
            agreed = candidates.agreement(best)
            log.info("kept: network %s, IoU of held-out patches %.3f", best.options, best.iou)
        features = candidates.encode_all(best.options)
    scores = (plain.iou, best.iou) if np.isfinite(plain.iou) else (None, None)
    return SelectedEncoding(features, best.held_out, best.depths, best.options, scores[0], scores[1], agreed)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """Encoding options with their held-out predictions, as in `SelectedEncoding`.

    Attributes
    ----------
    ious : list[np.ndarray]
        For each class, (K,) IoUs at its `shrunk_threshold`; NaN for patches without object.
    """

    options: EncodingOptions
    held_out: list[np.ndarray | None]
    depths: list[np.ndarray | None]
    ious: list[np.ndarray]

    @property
    def iou(self) -> float:
        """Mean over classes of the mean over patches; NaN without any."""
        return float(np.mean([np.nanmean(ious) for ious in self.ious])) if self.ious else float("nan")

    def beats(self, other: _Candidate) -> bool:
        """Whether it is better by more than one standard error of the paired difference.

        With five patches, a smaller gain is as often a loss on the rest of the slide.
        """
        gains = np.concatenate(self.ious) - np.concatenate(other.ious)
        gains = gains[np.isfinite(gains)]
        spread = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else np.inf
        return bool(gains.mean() > spread)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidates:
    """Evaluates encoding options on one support set.

    Attributes
    ----------
    views : dict[tuple[AdaptConfig | None, bytes, tuple[int, ...]], dict[int, Any]]
        Compiled views, by adaptation, patches and classes, then by side.
    evaluated : dict[EncodingOptions, _Candidate]
        Candidates by their options.
    """

    model: Model
    images: np.ndarray
    labels: np.ndarray
    instances: np.ndarray | None
    depth: bool
    n_sparse: int = 0
    pictures: tuple[int, ...] = ()
    views: dict[tuple[AdaptConfig | None, bytes, tuple[int, ...]], dict[int, Any]] = field(
        default_factory=dict
    )
    evaluated: dict[EncodingOptions, _Candidate] = field(default_factory=dict)

    def encode_all(self, options: EncodingOptions) -> Any:
        """Encode the whole support set."""
        return self.encode(options, np.arange(len(self.images)), range(len(self.labels)))

    def encode(self, options: EncodingOptions, patches: np.ndarray, classes: Sequence[int]) -> Any:
        """Encode some patches and classes."""
        images, labels = self.images[patches], squeeze_single_class(self.labels[classes][:, patches])
        views = self.views.setdefault((options.adaptation, patches.tobytes(), tuple(classes)), {})
        keywords = options.keywords()
        if views:
            keywords["known"] = dict(views)
        if options.adaptation:
            keywords["adaptation"] = options.adaptation
            keywords["instances"] = None if self.instances is None else self.instances[patches]
        began = time.perf_counter()
        features = self.model.encode(images, labels, **keywords)
        if options.adaptation and not views:  # the slow part; other options take seconds
            what = f"{len(patches)} of {len(self.images)} patches"
            log.info("%s on %s, %.0f s", options, what, time.perf_counter() - began)
        views |= {view.side: view for view in getattr(features, "views", ())}
        return features

    def of(self, options: EncodingOptions, depth: bool | None = None) -> _Candidate:
        """Predict each patch from the others."""
        if options in self.evaluated:
            return self.evaluated[options]
        began, n_classes = time.perf_counter(), len(self.labels)
        depth = self.depth if depth is None else depth
        found = predict_held_out(
            self.model,
            self.images,
            self.labels,
            lambda *which: self.encode(options, *which),
            n_threads=os.cpu_count() or 1,
            depth=depth,
            n_always=self.n_sparse,
            pictures=self.pictures,
        )
        depths: list[np.ndarray | None] = found[n_classes:] if depth else [None] * n_classes
        candidate = self.evaluated[options] = self.scored(options, found[:n_classes], depths)
        seconds = time.perf_counter() - began
        log.info("held-out patches, network %s: IoU %.3f, %.1f s", options, candidate.iou, seconds)
        return candidate

    def scored(
        self, options: EncodingOptions, held_out: list[np.ndarray | None], depths: list[np.ndarray | None]
    ) -> _Candidate:
        """A candidate from its held-out predictions."""
        ious = [
            np.array(score_held_out(p, y).iou)
            for p, y in zip(held_out, self.labels[:, : len(self.images) - self.n_sparse], strict=True)
            if p is not None
        ]
        return _Candidate(options, held_out, depths, ious)

    def best(self, plain: _Candidate, seconds: float) -> _Candidate:
        """Greedy search over scales, fine-tuning and the pixel classifier; each step must beat the one before."""
        if plain.iou >= SUFFICIENT_IOU:
            return plain
        other_sides = OTHER_SIDES[getattr(self.model, "looks", 1)]
        best = self.best_of(plain, [self.at(sides, plain.options) for sides in other_sides])
        if best.iou >= SUFFICIENT_IOU:
            return best
        n_runs = len(folds_of(len(self.images) - self.n_sparse, self.pictures)) + 1
        if seconds > SEARCH_S and (steps := steps_within(seconds, n_runs)):
            log.info("fine-tuning %d times, %d steps each; --adapt bounds it", n_runs, steps)
            tuned = replace(best.options, adaptation=AdaptConfig(steps))
            # the whole set is encoded beside the folds: five of them leave one of two cores idle at the end
            with ThreadPoolExecutor(1) as thread:
                whole = thread.submit(self.encode_all, tuned)
                best = self.best_of(best, [self.of(tuned)])
            whole.result()
        if getattr(self.model, "has_encoder", False):
            best = self.best_of(best, self.with_encoder(best))
        texture = self.of(replace(best.options, texture_share=1.0), depth=False)
        return self.best_of(best, [self.with_texture(best, texture, share) for share in TEXTURE_SHARES])

    def agreement(self, candidate: _Candidate) -> tuple[float | None, ...]:
        """Agreement of a candidate with its pixel classifier alone, or of that with the network, for each class."""
        share = 0.0 if candidate.options.texture_share == 1 else 1.0
        other = self.of(replace(candidate.options, texture_share=share), depth=False)
        pairs = zip(candidate.held_out, other.held_out, strict=True)
        return tuple(None if p is None or q is None else agreement(p, q) for p, q in pairs)

    def best_of(self, usual: _Candidate, others: Sequence[_Candidate]) -> _Candidate:
        """The best of those that beat the usual candidate, or that one."""
        return max(
            (usual, *(other for other in others if other.beats(usual))), key=lambda candidate: candidate.iou
        )

    def at(self, sides: tuple[int, ...], usual: EncodingOptions) -> _Candidate:
        """The network without fine-tuning, at other sides."""
        alone = [self.of(replace(usual, sides=(side,))) for side in sides]
        shares = [1 / len(sides)] * len(sides)
        held_out = [
            _mean(maps, shares) for maps in zip(*(candidate.held_out for candidate in alone), strict=True)
        ]
        depths = [
            _mean(maps, shares) for maps in zip(*(candidate.depths for candidate in alone), strict=True)
        ]
        return self.scored(replace(usual, sides=sides), held_out, depths)

    def with_encoder(self, network: _Candidate) -> list[_Candidate]:
        """Weighted means of a network and the read-out of its encoder, at all other weights."""
        alone, readout = (
            self.of(replace(network.options, encoder_share=share), depth=False) for share in (0.0, 1.0)
        )
        return [
            self.scored(
                replace(network.options, encoder_share=share),
                [
                    _mean(maps, (1 - share, share))
                    for maps in zip(alone.held_out, readout.held_out, strict=True)
                ],
                network.depths,
            )
            for share in ENCODER_SHARES
            if share != network.options.encoder_share
        ]

    def with_texture(self, network: _Candidate, texture: _Candidate, share: float) -> _Candidate:
        """Weighted mean of a network and the pixel classifier."""
        both = zip(network.held_out, texture.held_out, strict=True)
        held_out = [_mean(maps, (1 - share, share)) for maps in both]
        return self.scored(replace(network.options, texture_share=share), held_out, network.depths)


def _mean(maps: Sequence[np.ndarray | None], shares: Sequence[float]) -> np.ndarray | None:
    """Weighted mean of (K, H, W) probabilities as in `Segmenter.predict`: of clipped logits. None if one is None."""
    logits = [logit(p).clip(-LIMIT, LIMIT) for p in maps if p is not None]
    if len(logits) < len(shares):
        return None
    return np.asarray(expit(np.average(logits, axis=0, weights=shares)), np.float32)


def to_arrays(found: SelectedEncoding) -> dict[str, np.ndarray]:
    """The parts of an encoding that are slow to compute, as arrays for the working folder."""
    way = found.options
    steps = way.adaptation.steps if way.adaptation else 0
    scores = [np.nan if score is None else score for score in (found.default_iou, found.selected_iou)]
    fit = [steps, way.texture_share, way.encoder_share, *scores]
    arrays = {"fit": np.array(fit), "sides": np.array(way.sides, np.int64)}
    arrays["agreement"] = np.array([np.nan if agreed is None else agreed for agreed in found.agreement])
    for view in getattr(found.features, "views", ()):
        arrays |= {f"{view.side}.{name}": array for name, array in view.arrays().items()}
    arrays["corrected"] = np.array(way.corrected, np.int64)
    for c in way.corrected:
        arrays |= {
            f"boundary.{c}.{name}": tensor.numpy()
            for name, tensor in found.features.boundaries[c].tensors().items()
        }
    return arrays


def from_arrays(
    arrays: Mapping[str, np.ndarray], model: Model, images: np.ndarray, labels: np.ndarray
) -> SelectedEncoding:
    """The encoding saved by `to_arrays`, with the support set compiled again; without held-out predictions."""
    steps, texture_share, encoder_share, default_iou, selected_iou = arrays["fit"].tolist()
    sides = tuple(arrays["sides"].tolist())
    options = EncodingOptions(
        sides,
        AdaptConfig(int(steps)) if steps else None,
        texture_share,
        encoder_share,
        tuple(arrays.get("corrected", np.array([], np.int64)).tolist()),
    )
    keywords = options.keywords()
    views = {side: _under(arrays, f"{side}.") for side in sides or getattr(model, "sides", ())}
    if known := {side: View.of(side, view) for side, view in views.items() if view}:
        keywords["known"] = known
    features = model.encode(images, squeeze_single_class(labels), **keywords)
    if options.corrected:
        trees = {c: BoundaryTrees.of(_under(arrays, f"boundary.{c}.")) for c in options.corrected}
        features = features.with_boundaries([trees.get(c) for c in range(len(labels))])
    before, after = (None if np.isnan(score) else score for score in (default_iou, selected_iou))
    nothing: list[np.ndarray | None] = [None] * len(labels)
    agreed = tuple(
        None if np.isnan(value) else value for value in arrays.get("agreement", np.array([])).tolist()
    )
    return SelectedEncoding(features, nothing, nothing, options, before, after, agreed)


def _under(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays whose names have a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
