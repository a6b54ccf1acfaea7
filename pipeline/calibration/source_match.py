"""Adjusts an encoded support set to a source that looks otherwise: another stain, scanner, season.

Network and pixel classifier agree on held-out patches; where they agree much less on the source, its look may be the
reason. Then two remedies are tried on a sample of its tiles, without labels, and the one after which the two agree best
is kept, if they agree much better:

- colours (slides alone): each channel is matched to that of the patches in mean and standard deviation, after Reinhard
  et al. [1]_, on the scales of `OFFSETS`. On land the shares of water or forest differ between scenes for reasons of
  their own, and matching does harm.
- norms: those of the encoder take half of their statistics from the source (`model.views.norms_between`).

This is settled once per source, and kept in the working folder with the operating point.

References
----------
.. [1] Reinhard et al., Color transfer between images, IEEE Computer Graphics and Applications, 2001.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewscope.model.finetune import one_thread
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration import leave_one_out
from fewscope.pipeline.calibration.model_selection import SelectedEncoding
from fewscope.pipeline.predictor import Model, predict_maps, squeeze_single_class

log = logging.getLogger(__name__)

MARGIN = 0.1
"""Agreement (IoU of the two masks) that must be lost before anything is tried, and that a remedy must gain."""

N_MATCHED = 24
"""Tiles of a source that are predicted for this by both: seconds."""

OFFSETS = (16.0, 1.0, 1e4)
"""Added to values before their logarithm is taken: 1 is optical density, 16 keeps the noise of dark ground small, and
10,000 is nearly linear."""


@dataclass(frozen=True, slots=True, eq=False)
class SourceMatch:
    """Features of a support set for one source.

    Attributes
    ----------
    features : Any
        For `Model.predict`.
    remedy : str
        "colours" or "norms"; "" where the features are used as they are.
    agreement : tuple[float | None, ...]
        Of network and pixel classifier on the tiles, for each class, with these features; None where neither finds
        anything. Empty where it was not looked at.
    maps : np.ndarray | None
        (N, C, H, W) float32, what the network predicts on the tiles with these features; None where it was not asked.
    """

    features: Any
    remedy: str = ""
    agreement: tuple[float | None, ...] = ()
    maps: np.ndarray | None = None

    def lost(self, before: Sequence[float | None]) -> tuple[float | None, ...]:
        """How much less network and pixel classifier agree than on the held-out patches, -1 to 1; None if unknown."""
        if len(self.agreement) != len(before):
            return (None,) * len(before)
        pairs = zip(before, self.agreement, strict=True)
        return tuple(None if then is None or now is None else round(then - now, 3) for then, now in pairs)


def match_source(
    model: Model,
    encoding: SelectedEncoding,
    images: np.ndarray,
    labels: np.ndarray,
    tiles: np.ndarray,
    kind: str,
    known: np.ndarray | None = None,
) -> SourceMatch:
    """Adjust an encoded support set to a source, if that makes network and pixel classifier agree much better.

    Parameters
    ----------
    encoding : SelectedEncoding
        The support set, encoded by `model`.
    images, labels : np.ndarray
        The support set, (K, H, W, 3) uint8 and (C, K, H, W) uint8.
    tiles : np.ndarray
        (N, H, W, 3) uint8, a sample of the source, unlabelled.
    kind : str
        "slide" or "raster".
    known : np.ndarray or None
        (N, H, W) bool, pixels of the tiles that are foreground; None: all.
    """
    features, before = encoding.features, encoding.agreement
    classes = [c for c, agreed in enumerate(before) if agreed is not None]
    if not classes or not len(tiles) or predictor.second_opinion(features) is None:
        return SourceMatch(features)
    with one_thread():
        best = _matched(model, features, tiles)
        score = _mean(best, classes)
        expected = float(np.mean([before[c] for c in classes]))
        if score is None or expected - score <= MARGIN:
            return best
        least = score + MARGIN
        for remedy, changed in _remedies(model, encoding, images, labels, tiles, kind, known):
            found = _matched(model, changed, tiles, remedy)
            reached = _mean(found, classes)
            log.info("agreement of network and pixel classifier on %d tiles: %.2f, with other %s %.2f; %.2f on patches",
                     len(tiles), score, remedy, np.nan if reached is None else reached, expected)  # fmt: skip
            if reached is not None and reached > least:
                best, least = found, reached
    return best


def colour_table(
    patches: np.ndarray, tiles: np.ndarray, known: np.ndarray | None = None, offset: float = OFFSETS[0]
) -> np.ndarray:
    """Table that gives tiles the mean and the standard deviation of patches in each channel, in log(value + offset).

    Parameters
    ----------
    patches, tiles : np.ndarray
        (K, H, W, C) and (N, H, W, C) uint8.
    known : np.ndarray or None
        (N, H, W) bool, pixels of the tiles that count; None: all.

    Returns
    -------
    (C, 256) uint8; entry v of channel c replaces value v.
    """
    values = np.log(np.arange(256) + offset)
    pixels = tiles.reshape(-1, tiles.shape[-1]) if known is None or not known.any() else tiles[known]
    table = []
    for of_source, of_patches in zip(pixels.T, patches.reshape(-1, patches.shape[-1]).T, strict=True):
        (mean, spread), (goal, goal_spread) = _moments(of_source, values), _moments(of_patches, values)
        matched = (values - mean) * (goal_spread / spread) + goal
        table.append(np.clip(np.rint(np.exp(matched) - offset), 0, 255).astype(np.uint8))
    return np.stack(table)


def _moments(values: np.ndarray, scale: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of uint8 values on a logarithmic scale (256,), that of half a grey level at least."""
    counts = np.bincount(values, minlength=256) / len(values)
    mean = float(counts @ scale)
    return mean, max(0.5 * float(np.exp(-mean)), float(np.sqrt(counts @ (scale - mean) ** 2)))


def _remedies(
    model: Any,
    encoding: SelectedEncoding,
    images: np.ndarray,
    labels: np.ndarray,
    tiles: np.ndarray,
    kind: str,
    known: np.ndarray | None,
) -> list[tuple[str, Any]]:
    """Features for each remedy, with its name."""
    found, features = list[tuple[str, Any]](), encoding.features
    if kind == "slide":
        tables = [colour_table(images, tiles, known, offset) for offset in OFFSETS]
        found += [("colours", features.with_colours(table)) for table in tables]
    # fine-tuned weights would have other statistics
    if not encoding.options.adaptation and (views := model.views_between(features, tiles)):
        keywords = encoding.options.keywords() | {"sides": tuple(views), "known": views}
        changed = model.encode(images, squeeze_single_class(labels), **keywords)
        found.append(("norms", changed))
    return found


def _matched(model: Model, features: Any, tiles: np.ndarray, remedy: str = "") -> SourceMatch:
    other = predictor.second_opinion(features)
    one, two = (predict_maps(model, tiles, of, False) for of in (features, other))
    agreement = tuple(leave_one_out.agreement(one[:, c], two[:, c]) for c in range(one.shape[1]))
    return SourceMatch(features, remedy, agreement, one)


def _mean(match: SourceMatch, classes: Sequence[int]) -> float | None:
    """Mean agreement of classes; None if that of one is not known."""
    found = [match.agreement[c] for c in classes]
    return float(np.mean(found)) if all(agreed is not None for agreed in found) else None  # type: ignore[arg-type]
