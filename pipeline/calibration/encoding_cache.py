"""What the sources of one job share: the encoding of their support set, and all that follows from it alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.calibration.model_selection import SelectedEncoding, select_encoding
from fewscope.pipeline.calibration.rough_labels import outline_rough_objects
from fewscope.pipeline.predictor import Model, precision_of

log = logging.getLogger(__name__)

Found = TypeVar("Found")


class EncodingCache:
    """Keeps the last encoding of a model and what follows from it: sources of one job usually share a support set."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._last: tuple[tuple[str, float, bool, str], SelectedEncoding] | None = None
        self._found: dict[str, Any] = {}
        self._outlined: tuple[tuple[str, float | None], SupportSet] | None = None

    def outlined(self, support: SupportSet, radius: float | None = None) -> SupportSet:
        """`outline_rough_objects` of a support set, or the last result if the arguments are the same."""
        if support.rough is None:
            return support
        asked = support.digest(), radius
        if self._outlined is None or self._outlined[0] != asked:
            self._outlined = asked, outline_rough_objects(support, self._model, radius=radius)
        return self._outlined[1]

    def of(self, support: SupportSet, seconds: float, depth: bool) -> SelectedEncoding:
        """`select_encoding` of a support set, or the last result if the arguments are the same."""
        asked = support.digest(), seconds, depth, precision_of(self._model)
        if self._last is not None and self._last[0] == asked:
            log.info("same support set as for the previous source: its encoding is reused")
            return self._last[1]
        made = select_encoding(
            self._model,
            support.images,
            support.labels_by_class,
            support.instances,
            seconds,
            depth=depth,
            n_sparse=support.n_sparse,
            pictures=support.pictures,
        )
        self._last, self._found = (asked, made), {}
        return made

    def once(self, name: str, find: Callable[[], Found]) -> Found:
        """What follows from the last encoding alone, and not from a source: found once, under its name."""
        if name not in self._found:
            self._found[name] = find()
        found: Found = self._found[name]
        return found
