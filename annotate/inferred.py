"""Outlines of objects that are marked by points, for the preview: by the settled network, as runs infer them."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import SupportError
from fewscope.model.settled import SettledPack, SettledSegmenter
from fewscope.pipeline.calibration.rough_labels import outline_rough_objects
from fewscope.pipeline.plan import given_radius

QUICK_ROUNDS = 1
"""How often the network learns and says again what is object; on the demonstration slide more gain nothing."""


class SettledModel:
    """A settled network as `pipeline.predictor.Model`."""

    name = "settled"

    def __init__(self, network: SettledSegmenter) -> None:
        self._network = network

    def encode(self, images: np.ndarray, labels: np.ndarray) -> SettledPack:
        """Compile."""
        return self._network.pack(images, labels)

    def predict(self, tiles: np.ndarray, features: SettledPack) -> np.ndarray:
        """Answer, (N, C, H, W) float32."""
        return self._network.answer(self._network.maps(tiles), features)


class InferredOutlines:
    """Keeps the outlines that were inferred last: most corrections change no patch with a point. Threads may share it.

    They are inferred from the patches with points alone, where these hold all classes, so that they depend on nothing
    else.

    Parameters
    ----------
    object_radius_um : float or None
        Typical radius, px where no um per px is known; None to estimate it.
    """

    def __init__(self, object_radius_um: float | None = None) -> None:
        self._radius_um = object_radius_um
        self._lock = threading.Lock()
        self._last: tuple[str, SupportSet] | None = None

    def of(self, support: SupportSet, network: SettledSegmenter) -> SupportSet:
        """`outline_rough_objects` of a support set."""
        if support.rough is None:
            return support
        used = np.union1d(
            np.flatnonzero(support.rough.any(axis=(1, 2))), [mark.patch for mark in support.marks]
        ).astype(np.int64)
        try:
            part = patches_of(support, used)
        except SupportError:  # a class has no object there, or no background
            used, part = np.arange(len(support.names)), support
        digest = part.digest()
        with self._lock:
            if self._last is None or self._last[0] != digest:
                self._last = (
                    digest,
                    outline_rough_objects(
                        part, SettledModel(network), QUICK_ROUNDS, given_radius(self._radius_um, part.mpp)
                    ),
                )
            found = self._last[1]
        labels, instances = support.labels.copy(), support.instances
        labels[used] = found.labels
        if instances is not None and found.instances is not None:
            instances = instances.copy()
            instances[used] = found.instances
        return replace(
            support, labels=labels, instances=instances, rough=None, marks=(), labelled=support.digest()
        )


def patches_of(support: SupportSet, patches: NDArray[np.int64]) -> SupportSet:
    """The support set of some patches.

    Raises
    ------
    SupportError
        They have no object, or no background, of some class.
    """
    place = {int(k): i for i, k in enumerate(patches)}
    return replace(
        support,
        images=support.images[patches],
        labels=support.labels[patches],
        instances=None if support.instances is None else support.instances[patches],
        names=tuple(support.names[k] for k in patches),
        complete=None if support.complete is None else support.complete[patches],
        rough=None if support.rough is None else support.rough[patches],
        marks=tuple(replace(one, patch=place[one.patch]) for one in support.marks if one.patch in place),
        pictures=(),
        n_sparse=0,
        labelled="",
    )
