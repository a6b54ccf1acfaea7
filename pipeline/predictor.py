"""The interface of a model, as the pipeline uses it."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Model(Protocol):
    """A few-shot segmentation model (`model.segmenter.Segmenter`, or a fake in tests)."""

    name: str

    def encode(self, images: np.ndarray, labels: np.ndarray) -> Any:
        """Encode a support set once.

        Parameters
        ----------
        images : (K, H, W, channels) uint8
        labels : np.ndarray
            (K, H, W) or (C, K, H, W) uint8, as in `model.segmenter.Segmenter.encode`.
        """
        ...

    def predict(self, tiles: np.ndarray, features: Any) -> np.ndarray:
        """Predict tiles, (N, H, W, channels) uint8: (N, C, H, W) float32 in 0..1, a probability for each class.

        A model whose attribute ``has_depth`` is True accepts ``depth=True`` and then returns (N, 2C, H, W): the
        probabilities, followed by the depth of each class, 0 at the boundary of an object and 1 at its centre.
        """
        ...


def predict_maps(model: Model, tiles: np.ndarray, features: Any, depth: bool) -> np.ndarray:
    """`Model.predict` with or without depth: (N, 2C or C, H, W) float32."""
    if not depth:
        return model.predict(tiles, features)
    return model.predict(tiles, features, depth=True)  # type: ignore[call-arg]


def has_depth(model: Model) -> bool:
    """Whether a model predicts the depth of pixels in their objects."""
    return bool(getattr(model, "has_depth", False))


def second_opinion(features: Any) -> Any | None:
    """Features for a prediction by the pixel classifier alone, or by the network alone if that already is; None where
    there is but one."""
    other = getattr(features, "second_opinion", None)
    return None if other is None else other()


def precision_of(model: Model) -> str:
    """In which precision a model has tiles predicted, "float32" or "bfloat16"; "" where it does not say."""
    return str(getattr(model, "precision", ""))


def set_precision(model: Model, precision: str) -> None:
    """Have all that a model encodes from now on be predicted with in a precision; a model that has none keeps that."""
    if precision and precision_of(model):
        model.precision = precision  # type: ignore[attr-defined]


def precisions_of(model: Model) -> tuple[str, ...]:
    """The precisions that a model's processor computes in natively; nothing where it does not say."""
    return tuple(getattr(model, "precisions", ()))


def processor_of(model: Model) -> str:
    """The kind of processor that a model computes on; "" where it does not say."""
    return str(getattr(model, "processor", ""))


def squeeze_single_class(labels: np.ndarray) -> np.ndarray:
    """Labels by class (C, K, H, W) for `Model.encode`: without the first axis for a single class."""
    return labels[0] if len(labels) == 1 else labels
