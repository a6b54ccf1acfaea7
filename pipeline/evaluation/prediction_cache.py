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
    """A baseline whose answers are kept in a folder, and taken from there when it is asked the same again.

    A forest takes minutes where a network takes seconds, and its answers change with no weights. A baseline is taught
    only when something is asked that it has not answered before.

    Parameters
    ----------
    baseline : with answers that are a function of the support set and the tile alone
    folder : for ``<hash>.npz``, one for each tile; another version of a baseline's library wants another folder
    """

    def __init__(self, baseline: predictor.Model, folder: Path) -> None:
        self.name = baseline.name
        self._baseline, self._folder = baseline, folder
        folder.mkdir(parents=True, exist_ok=True)

    def encode(self, images: np.ndarray, labels: np.ndarray) -> DeferredFit:
        """What would be learned, for when it is needed."""
        digest = hashlib.sha256(f"{self.name} {images.shape} {labels.shape}".encode())
        for array in (images, labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return DeferredFit(digest.digest(), functools.cache(lambda: self._baseline.encode(images, labels)))

    def predict(self, tiles: np.ndarray, features: DeferredFit) -> np.ndarray:
        """As the baseline."""
        return np.concatenate([self._answer(tiles[i : i + 1], features) for i in range(len(tiles))])

    def _answer(self, tile: np.ndarray, taught: DeferredFit) -> np.ndarray:
        asked = hashlib.sha256(taught.digest + np.ascontiguousarray(tile).tobytes()).hexdigest()
        path = self._folder / f"{asked}.npz"
        if path.exists():
            with np.load(path) as kept:
                return kept["probability"]
        probability = self._baseline.predict(tile, taught.learned())
        with atomic_file(str(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, probability=probability)
        return probability


@dataclass(frozen=True, slots=True, eq=False)
class DeferredFit:
    """Identity of a support set, and what a baseline learns from it, when it has to."""

    digest: bytes
    learned: Callable[[], Any]
