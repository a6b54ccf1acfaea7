"""What the pipeline asks of a model."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Model(Protocol):
    """What the pipeline asks of a model (`model.segmenter.Segmenter`, or a fake in tests)."""

    name: str

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Any:
        """Compile a support set: (K, H, W, 3) uint8 and labels as `model.segmenter.Segmenter.encode` takes them."""
        ...

    def predict(self, tiles: np.ndarray, features: Any) -> np.ndarray:
        """(N, H, W, 3) uint8 -> (N, C, H, W) float32 in [0, 1]: each class by itself.

        A model with an attribute ``has_depth`` that is True takes ``depth=True``, and gives (N, 2C, H, W): after the
        probabilities the depth of each class, 0 at an object's rim and 1 in its middle.
        """
        ...


def predict_maps(model: Model, tiles: np.ndarray, features: Any, depth: bool) -> np.ndarray:
    """`Model.predict`, with depths or without: (N, 2C or C, H, W) float32."""
    if not depth:
        return model.predict(tiles, features)
    return model.predict(tiles, features, depth=True)  # type: ignore[call-arg]


def has_depth(model: Model) -> bool:
    """Whether a model tells how deep in its object a pixel is."""
    return bool(getattr(model, "has_depth", False))


def squeeze_single_class(labels: np.ndarray) -> np.ndarray:
    """Labels by class (C, K, H, W) as a model takes them: without the first axis where there is but one class."""
    return labels[0] if len(labels) == 1 else labels
