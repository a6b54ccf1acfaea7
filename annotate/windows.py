"""Windows to look at next, as small pictures with the preview's outlines."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.annotate.correcting import rule_of
from fewscope.annotate.learning import Learning
from fewscope.annotate.session import OpenSource
from fewscope.annotate.tiles import png
from fewscope.connectors.colours import Colour
from fewscope.connectors.pixels.composite import composite
from fewscope.errors import LabelError

if TYPE_CHECKING:
    from fewscope.annotate.preview import Preview

N_WINDOWS = 8
MAX_SIDE = 1024
"""Working px along the side of a picture."""

FOREGROUND_S = 30.0
"""For finding the foreground of a source, once."""

ENLARGED = 2
GRID = 32
"""The network's windows are multiples of it."""


def suggest(learning: Learning, preview: Preview, one: OpenSource) -> list[dict[str, Any]]:
    """Eight windows of a source, in image px, and where their pictures are."""
    from fewscope.annotate.suggest import suggest_windows

    number = int(one.id)
    foreground = preview.foreground(number, FOREGROUND_S)
    if foreground is None:
        raise LabelError(preview.status(number).message or "the image is still being looked at; try again")
    if (area := one.area) is not None:
        limited = replace(foreground, area=area)
        if area.geometry.is_empty or not limited.analysed().any():
            raise LabelError("no tissue was found in the area; draw it larger")
        foreground = limited
    boxes = [tuple(value / one.scale for value in label.geometry.bounds) for label in one.labels.all()]
    found = suggest_windows(
        preview, number, foreground, [(b[0], b[1], b[2], b[3]) for b in boxes], N_WINDOWS, learning.revision
    )
    names = learning.class_names
    answer = []
    for suggestion in found:
        window = suggestion.window
        box = {
            "x0": window.col_off * one.scale,
            "y0": window.row_off * one.scale,
            "x1": (window.col_off + window.width) * one.scale,
            "y1": (window.row_off + window.height) * one.scale,
        }
        query = {"source": one.id, **box, "threshold": 0.5, "revision": learning.revision}
        if names:
            query["class"] = names[0]
        answer.append({**box, "why": suggestion.why, "image": f"/api/window?{urlencode(query)}"})
    return answer


def window_picture(
    learning: Learning,
    preview: Preview | None,
    one: OpenSource,
    window: Window,
    name: str,
    threshold: float,
    colour: Colour,
) -> bytes:
    """PNG of a window, enlarged twice, with the outlines of a class where the preview knows it."""
    if max(window.width, window.height) > MAX_SIDE:
        raise LabelError(f"the window is larger than {MAX_SIDE} px")
    image = composite(one.source.read(window)[0], one.source.info)
    image = np.repeat(np.repeat(image, ENLARGED, 0), ENLARGED, 1)
    index = learning.class_index(name)
    if preview is not None and index is not None:
        probability = answers_of(preview, int(one.id), window, index)
        if probability is not None:
            from fewscope.pipeline.calibration.object_counts import label_objects

            rule = rule_of(learning, index, one.source.info.kind)
            labels = label_objects(probability, threshold, rule.rule, 2, rule.min_area_px)
            image = _outlined(image, labels, colour)
    opaque = np.full((*image.shape[:2], 1), 255, np.uint8)
    return png(np.concatenate([image, opaque], 2))


def answers_of(preview: Preview, source: int, window: Window, index: int) -> NDArray[np.float32] | None:
    """Probability of a class on a window, computed here where the preview has not; None before anything is learned."""
    values, known = preview.probability(source, window, index)
    if known.all():
        return values.astype(np.float32) / np.float32(255)
    learned, network = preview.learned(), preview.settled(0.0)
    if learned is None or network is None:
        return None
    whole = Window(
        window.col_off, window.row_off, -(-window.width // GRID) * GRID, -(-window.height // GRID) * GRID
    )
    encoded = preview.encode(source, whole)
    if encoded is None:
        return None
    answer = np.asarray(network.answer(encoded[0], learned.pack))[0, index]
    found: NDArray[np.float32] = np.where(encoded[1], answer, 0).astype(np.float32)
    return found[: int(window.height), : int(window.width)]


def _outlined(image: NDArray[np.uint8], labels: NDArray[Any], colour: Colour) -> NDArray[np.uint8]:
    """Outlines of labels (h, w) on an image `ENLARGED` times as large."""
    large = np.repeat(np.repeat(labels, ENLARGED, 0), ENLARGED, 1)
    edge = np.zeros(large.shape, bool)
    edge[1:] |= large[1:] != large[:-1]
    edge[:, 1:] |= large[:, 1:] != large[:, :-1]
    edge[:-1] |= edge[1:] & (large[:-1] > 0)
    out = image.copy()
    out[edge] = colour
    return out
