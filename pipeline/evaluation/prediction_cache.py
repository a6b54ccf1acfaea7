"""Answers of slow rivals, kept: evaluation is done many times with other weights, and asks them the same each time."""

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


class Remembered:
    """A rival whose answers are kept in a folder, and taken from there when it is asked the same again.

    A forest takes minutes where a network takes seconds, and its answers change with no weights. A rival is taught
    only when something is asked that it has not answered before.

    Parameters
    ----------
    rival : with answers that are a function of the support set and the tile alone
    folder : for ``<hash>.npz``, one for each tile; another version of a rival's library wants another folder
    """

    def __init__(self, rival: predictor.Model, folder: Path) -> None:
        self.name = rival.name
        self._rival, self._folder = rival, folder
        folder.mkdir(parents=True, exist_ok=True)

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Taught:
        """What would be learned, for when it is needed."""
        digest = hashlib.sha256(f"{self.name} {images.shape} {labels.shape}".encode())
        for array in (images, labels):
            digest.update(np.ascontiguousarray(array).tobytes())
        return Taught(digest.digest(), functools.cache(lambda: self._rival.encode(images, labels)))

    def predict(self, tiles: np.ndarray, features: Taught) -> np.ndarray:
        """As the rival."""
        return np.concatenate([self._answer(tiles[i : i + 1], features) for i in range(len(tiles))])

    def _answer(self, tile: np.ndarray, taught: Taught) -> np.ndarray:
        asked = hashlib.sha256(taught.digest + np.ascontiguousarray(tile).tobytes()).hexdigest()
        path = self._folder / f"{asked}.npz"
        if path.exists():
            with np.load(path) as kept:
                return kept["probability"]
        probability = self._rival.predict(tile, taught.learned())
        with atomic_file(str(path)) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, probability=probability)
        return probability


@dataclass(frozen=True, slots=True, eq=False)
class Taught:
    """Identity of a support set, and what a rival learns from it, when it has to."""

    digest: bytes
    learned: Callable[[], Any]
