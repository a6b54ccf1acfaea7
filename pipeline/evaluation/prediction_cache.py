"""A cache of the predictions of slow baselines: they do not change with the weights that an evaluation compares."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewscope.connectors.storage.atomic import atomic_file
from fewscope.pipeline import predictor


class PredictionCache:
    """A baseline whose predictions are stored in a folder and reused for the same support set and tile.

    A random forest takes minutes where a network takes seconds. It is fitted only when a prediction is missing.

    Parameters
    ----------
    baseline : predictor.Model
        Its predictions must depend on the support set and the tile alone.
    folder : Path
        For one ``<hash>.npz`` per tile; use another folder for another version of the baseline's library.
    """

    def __init__(self, baseline: predictor.Model, folder: Path) -> None:
        self.name = baseline.name
        self._baseline, self._folder = baseline, folder
        folder.mkdir(parents=True, exist_ok=True)

    def encode(self, images: np.ndarray, labels: np.ndarray) -> DeferredFit:
        """Identify a support set, (K, H, W, 3) uint8 and (K, H, W); nothing is fitted yet."""
        digest = hashlib.sha256(f"{self.name} {images.shape} {labels.shape}".encode())
        for array in (images, labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return DeferredFit(digest.digest(), functools.cache(lambda: self._baseline.encode(images, labels)))

    def predict(self, tiles: np.ndarray, features: DeferredFit) -> np.ndarray:
        """The baseline's probability, (N, 1, H, W) float32, of tiles (N, H, W, 3) uint8."""
        return np.concatenate([self._predict_tile(tiles[i : i + 1], features) for i in range(len(tiles))])

    def _predict_tile(self, tile: np.ndarray, support: DeferredFit) -> np.ndarray:
        key = hashlib.sha256(support.digest + np.ascontiguousarray(tile).tobytes()).hexdigest()
        path = self._folder / f"{key}.npz"
        if path.exists():
            with np.load(path) as stored:
                return stored["probability"]
        probability = self._baseline.predict(tile, support.fit())
        with atomic_file(str(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, probability=probability)
        return probability


@dataclass(frozen=True, slots=True, eq=False)
class DeferredFit:
    """The digest of a support set, and a function that fits the baseline to it, once, when first called."""

    digest: bytes
    fit: Callable[[], Any]
