"""Decides for each class whether boosted trees correct the network's outline (`model.networks.boundary_trees`).

They do where they predict held-out patches clearly better: on rivers in satellite images and on vessels a few pixels
wide. On most support sets they lose, and they suffer more from another stain or light than the network does. Therefore
they also have to change the masks of the source about as little as those of the held-out patches.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.finetune import one_thread
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.leave_one_out import agreement, folds_of, score_held_out
from fewscope.pipeline.calibration.model_selection import SelectedEncoding
from fewscope.pipeline.calibration.source_match import SourceMatch

log = logging.getLogger(__name__)

LEAST_GAIN = 0.02
"""Mean IoU that held-out patches must gain: of 79 support sets, two gained less, by two standard errors, and lost 0.03
and 0.04 on their queries."""

STANDARD_ERRORS = 2.0
"""The gain must be so many of its standard errors, and not one as in `model_selection`: a support set whose gain was
one lost 0.14 on its queries."""

FEWEST_PATCHES = 3

MARGIN = 0.1
"""Agreement (IoU) of corrected and uncorrected masks that may be lost from held-out patches to the source."""


def correct_boundaries(
    model: Any,
    encoding: SelectedEncoding,
    support: SupportSet,
    source: SourceMatch,
    tiles: np.ndarray,
    encodings: EncodingCache | None = None,
) -> tuple[SelectedEncoding, SourceMatch]:
    """Have trees correct the outlines of the classes that gain by it.

    Parameters
    ----------
    encoding : SelectedEncoding
        Of the support set, by `model`, adapted to it.
    source : SourceMatch
        The encoded support set, adjusted to the source.
    tiles : np.ndarray
        (N, H, W, channels) uint8, an unlabelled sample of the source, of which `source` has maps; N may be 0.
    encodings : EncodingCache | None
        Keeps what the patches alone decide for the next source.

    Returns
    -------
    The encoding with the held-out maps that the trees have corrected, and the source with the trees in its features and
    with corrected maps; both as they are where no class gains, or the model cannot fit trees.
    """
    if not hasattr(model, "fit_boundary") or not encoding.agreement or (source.maps is None and len(tiles)):
        return encoding, source
    n = support.n_dense
    images, labels = support.images[:n], support.labels_by_class[:, :n]
    held_out, trees = list(encoding.held_out), list[Any]([None] * len(labels))
    maps = None if source.maps is None else source.maps.copy()
    with one_thread():
        for c, probabilities in enumerate(encoding.held_out):
            if probabilities is None:
                continue
            find = functools.partial(_find_trees, model, images, probabilities, labels[c], support.pictures)
            found = find() if encodings is None else encodings.once(f"trees of class {c}", find)
            if found is None:
                continue
            corrected, fitted = found
            if maps is not None:
                on_tiles = model.correct_boundary(source.features.recoloured(tiles), maps[:, c], fitted)
                if not _suits(agreement(corrected, probabilities), agreement(on_tiles, maps[:, c])):
                    continue
                maps[:, c] = on_tiles
            trees[c], held_out[c] = fitted, corrected
    if not any(trees):
        return encoding, source
    classes = tuple(c for c, fitted in enumerate(trees) if fitted)
    log.info("outlines of %d of %d classes are corrected by boosted trees", len(classes), len(trees))
    scores = [
        np.nanmean(score_held_out(p, y).iou) for p, y in zip(held_out, labels, strict=True) if p is not None
    ]
    options = replace(encoding.options, corrected=classes)
    better = replace(encoding, held_out=held_out, options=options, selected_iou=float(np.mean(scores)))
    return better, replace(source, features=source.features.with_boundaries(trees), maps=maps)


def _find_trees(
    model: Any, images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, pictures: Sequence[int]
) -> tuple[np.ndarray, Any] | None:
    """Corrected held-out maps (K, H, W), and trees fitted to all patches; None if held-out patches do not gain."""
    corrected = _correct_held_out(model, images, probabilities, labels, pictures)
    if corrected is None or not _clearly_better(corrected, probabilities, labels):
        return None
    return corrected, model.fit_boundary(images, probabilities, labels)


def _correct_held_out(
    model: Any, images: np.ndarray, probabilities: np.ndarray, labels: np.ndarray, pictures: Sequence[int]
) -> np.ndarray | None:
    """Held-out maps (K, H, W), each corrected by trees that were fitted to the others; None if there are too few."""
    folds = folds_of(len(images), pictures)
    if len(folds) < FEWEST_PATCHES:
        return None
    corrected = np.empty_like(probabilities)
    for fold in folds:
        others = np.setdiff1d(np.arange(len(images)), fold)
        trees = model.fit_boundary(images[others], probabilities[others], labels[others])
        if trees is None:
            return None
        corrected[fold] = model.correct_boundary(images[fold], probabilities[fold], trees)
    return corrected


def _clearly_better(one: np.ndarray, other: np.ndarray, labels: np.ndarray) -> bool:
    """Whether held-out maps (K, H, W) have a better IoU than others, by `LEAST_GAIN` and `STANDARD_ERRORS`."""
    with_trees, without = (np.array(score_held_out(maps, labels).iou) for maps in (one, other))
    gains = (with_trees - without)[np.isfinite(without)]
    if len(gains) < FEWEST_PATCHES:
        return False
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    iou = np.nanmean(with_trees)
    log.info("held-out patches, outlines by boosted trees: IoU %.3f, %+.3f +- %.3f", iou, gains.mean(), error)
    return bool(gains.mean() > max(LEAST_GAIN, STANDARD_ERRORS * error))


def _suits(on_patches: float | None, on_source: float | None) -> bool:
    """Whether trees change the masks of the source about as little as those of held-out patches."""
    if on_patches is None or on_source is None:
        return True
    log.info(
        "trees change the masks of the source to an IoU of %.2f, of patches to %.2f", on_source, on_patches
    )
    return on_patches - on_source <= MARGIN
