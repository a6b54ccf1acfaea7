"""How much of a source is unlike the patches: ground about which the held-out patches say nothing.

The distance is that between features of the network (`SettledSegmenter.unlike`). A place counts as unlike if it is
farther from all labelled ground than 95 % of the places of held-out patches are from the other patches. Of a source
that the patches represent, 5 % is therefore unlike them. Such ground need not be wrong: on land, it is so hardly more
often than other ground (`benchmarks/where_wrong.py`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.connectors.support.support_set import SupportSet
from fewscope.model.finetune import one_thread
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.sampling import Sample
from fewscope.pipeline.predictor import Model

QUANTILE = 0.95
"""Of the distances of held-out patches, above which a place counts as unlike."""

N_SHOWN = 6
"""Tiles that are shown of such ground."""

LEAST_SHOWN = 0.25
"""Least part of such a tile that is unlike the patches."""


@dataclass(frozen=True, slots=True)
class UnlikeGround:
    """What a sample of tiles says of the ground that is unlike the patches.

    Attributes
    ----------
    fraction : float
        Of the foreground of the sample.
    n_tiles : int
        Tiles of the sample.
    windows : tuple[Window, ...]
        Tiles with most of such ground, unlike one another, px of the working grid.
    fractions : tuple[float, ...]
        Part of each of them that is unlike the patches.
    """

    fraction: float
    n_tiles: int
    windows: tuple[Window, ...]
    fractions: tuple[float, ...]

    def array(self) -> NDArray[np.float64]:
        """All numbers, (1 + n, 5): for the working folder."""
        rows = [
            (w.row_off, w.col_off, w.height, w.width, f)
            for w, f in zip(self.windows, self.fractions, strict=True)
        ]
        return np.array([(self.n_tiles, 0, 0, 0, self.fraction), *rows], np.float64)

    @classmethod
    def of(cls, array: NDArray[np.float64]) -> UnlikeGround:
        """The inverse of `array`."""
        windows = tuple(
            Window(int(col), int(row), int(w), int(h)) for row, col, h, w, _ in array[1:].tolist()
        )
        return cls(float(array[0, 4]), int(array[0, 0]), windows, tuple(array[1:, 4].tolist()))


@dataclass(frozen=True, slots=True, eq=False)
class _LabelledGround:
    """The labelled ground: the network with its norms, its places, and the distance beyond which another is unlike."""

    network: Any
    examples: Any
    threshold: float


def find_unlike(
    model: Model,
    features: Any,
    support: SupportSet,
    sample: Sample,
    encodings: EncodingCache | None = None,
) -> UnlikeGround | None:
    """Compare a sample of a source with a support set.

    Parameters
    ----------
    features : Any
        The encoded support set, as the source is segmented with it: it may change the colours of tiles.
    sample : Sample
        Foreground tiles of the source.
    encodings : EncodingCache | None
        Keeps what the patches alone decide for the next source.

    Returns
    -------
    None for a network without such features, fewer than two patches of regions, or an empty sample.
    """
    if not getattr(model, "adapts", False) or support.n_dense < 2 or not len(sample):
        return None
    with one_thread():
        find = functools.partial(_labelled_ground, model, support)
        known = find() if encodings is None else encodings.once("labelled ground", find)
        network = known.network
        shares, looks, unlike_places, n_places = [], [], 0, 0
        for tile, foreground in zip(features.recoloured(sample.images), sample.foreground, strict=True):
            maps = network.maps(tile[None], to_answer=False)
            far = network.unlike(maps, known.examples)[0] > known.threshold
            places = _nearest(foreground, far.shape)
            unlike_places += int((far & places).sum())
            n_places += int(places.sum())
            shares.append(float((far & places).mean()))
            looks.append(look_of(network.features(maps)[0]))
    chosen = choose_unlike(
        np.array(shares), np.array(looks), N_SHOWN, np.zeros((0, len(looks[0])), np.float32)
    )
    shown = sorted((i for i in chosen if shares[i] >= LEAST_SHOWN), key=lambda i: -shares[i])
    return UnlikeGround(
        round(unlike_places / max(1, n_places), 4),
        len(sample),
        tuple(sample.windows[i] for i in shown),
        tuple(round(shares[i], 4) for i in shown),
    )


def _labelled_ground(model: Any, support: SupportSet) -> _LabelledGround:
    images, labels = support.images, support.labels_by_class
    network = model.settled(images)
    held_out = []
    for k in range(support.n_dense):
        others = np.arange(len(images)) != k
        examples = network.examples(images[others], labels[:, others])
        held_out.append(network.unlike(network.maps(images[k : k + 1], to_answer=False), examples))
    threshold = float(np.quantile(np.concatenate(held_out), QUANTILE))
    return _LabelledGround(network, network.examples(images, labels), threshold)


def _nearest(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask (H, W) at the middles of h x w places."""
    rows, cols = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape, mask.shape, strict=True))
    return mask[np.ix_(rows, cols)]


def look_of(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """How a window looks as a whole, (D,) of length 1, from the features of its places (D, h, w)."""
    mean = features.mean(axis=(1, 2))
    look: NDArray[np.float32] = mean / max(float(np.linalg.norm(mean)), 1e-6)
    return look


def choose_unlike(
    scores: NDArray[np.float64], looks: NDArray[np.float32], n: int, shown: NDArray[np.float32]
) -> list[int]:
    """Windows that are unlike the labelled ground and unlike all others that are shown.

    Parameters
    ----------
    scores : (N,)
        How unlike the labelled ground each window is.
    looks : (N, D)
        How each looks, of length 1.
    n : int
        How many are wanted.
    shown : (M, D)
        The looks of those that are shown anyway; M may be 0.

    Returns
    -------
    Indices of at most n windows: the next one is always that with the largest product of its score and its distance to
    the nearest shown one.
    """
    chosen: list[int] = []
    nearest = np.full(len(scores), 2.0)
    if len(shown) and len(looks):
        nearest = np.minimum(nearest, (1 - looks @ shown.T).min(axis=1))
    while len(chosen) < min(n, len(scores)):
        worth = (scores + 1e-6) * (np.maximum(nearest, 0) + 1e-6)
        worth[chosen] = -1
        best = int(worth.argmax())
        chosen.append(best)
        nearest = np.minimum(nearest, 1 - looks @ looks[best])
    return chosen
