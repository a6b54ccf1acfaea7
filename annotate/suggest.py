"""Where to look next: windows for a person to choose from.

No rule that was tried beats random windows by much with five to ten labelled patches, and some do harm: windows that
are least sure, or most unlike what is labelled, are rare ground, and teach little of the rest. So half of the eight
are random, and half are typical: each looks like much ground that neither a label nor another window stands for. What
such choices are worth is measured by `benchmarks/corrections.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.annotate.preview import Preview
from fewscope.annotate.settling import random_windows
from fewscope.errors import FewscopeError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.pipeline.calibration.unlike import look_of
from fewscope.pipeline.tiling.foreground import Foreground

N_CANDIDATES = 28
"""Windows that are looked at for each gallery: about a second."""

LEAST_SIDE = PATCH_SIZE / 2
"""Working px along the shorter side of a label's box from which on it stands for ground like its own."""

MAX_LABELLED = 16
"""Labelled boxes whose looks are compared, the last ones."""

Why = Literal["random", "typical"]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A window to look at, working px, and why it is shown."""

    window: Window
    why: Why


def suggest_windows(
    preview: Preview,
    source: int,
    foreground: Foreground,
    labelled_boxes: Sequence[tuple[float, float, float, float]],
    n: int = 8,
    seed: int = 0,
    size: int = PATCH_SIZE,
) -> list[Suggestion]:
    """Windows of a source to look at next, at most one of each place. Takes about a second, in the caller's thread.

    Parameters
    ----------
    preview : Preview
        Its network tells what looks alike; before anything is learned all windows are random.
    source : int
    foreground : Foreground
        Where windows may be.
    labelled_boxes : sequence of (x0, y0, x1, y1)
        Labelled already, working px: no window touches them.
    n : int
        Windows wanted; fewer where there is no more room.
    seed : int
        The same seed, labels and source give the same windows.
    size : int
        Side of a window, working px, a multiple of 32.

    Returns
    -------
    The typical ones first, the most typical one of all.
    """
    candidates = [
        window
        for window in random_windows(foreground, N_CANDIDATES + n, seed, size)
        if not any(_touches(window, box) for box in labelled_boxes)
    ]
    learned, network = preview.learned(), preview.settled()
    if learned is None or network is None:
        return [Suggestion(window, "random") for window in candidates[:n]]
    n_random = min(n - n // 2, len(candidates))

    def look(window: Window) -> NDArray[np.float32] | None:
        try:
            encoded = preview.encode(source, window, to_answer=False)
        except FewscopeError:  # it cannot be read: nothing to look at
            return None
        return None if encoded is None or not encoded[1].any() else look_of(network.features(encoded[0])[0])

    seen = [(window, found) for window in candidates if (found := look(window)) is not None]
    usable, looks = [window for window, _ in seen], [found for _, found in seen]
    n_random = min(n_random, len(usable))
    ground = [look(window) for window in _labelled_windows(labelled_boxes, size)]
    shown = [*(one for one in ground if one is not None), *looks[:n_random]]
    chosen = choose_typical(np.array(looks[n_random:]), np.array(shown), n - n_random)
    return [
        *(Suggestion(usable[n_random + i], "typical") for i in chosen),
        *(Suggestion(window, "random") for window in usable[:n_random]),
    ]


def choose_typical(looks: NDArray[np.float32], shown: NDArray[np.float32], n: int) -> list[int]:
    """Windows that together look like as much as possible of the ground that nothing shown looks like.

    Parameters
    ----------
    looks : (N, D)
        How each window looks, of length 1; the windows are a sample of the ground.
    shown : (M, D)
        The looks of what is labelled, or shown anyway; M may be 0.
    n : int
        How many are wanted.

    Returns
    -------
    Indices of at most n windows: the next one is always that which raises the sum of the windows' likenesses to the
    nearest shown or chosen one most (greedy facility location).
    """
    if not len(looks):
        return []
    alike = looks @ looks.T
    nearest = (looks @ shown.T).max(axis=1) if len(shown) else np.full(len(looks), -1.0)
    chosen: list[int] = []
    while len(chosen) < min(n, len(looks)):
        gain = np.maximum(alike - nearest[:, None], 0).sum(axis=0)
        gain[chosen] = -1
        best = int(gain.argmax())
        chosen.append(best)
        nearest = np.maximum(nearest, alike[:, best])
    return chosen


def _labelled_windows(boxes: Sequence[tuple[float, float, float, float]], size: int) -> list[Window]:
    """Windows in the middle of the boxes that are as large as a region."""
    large = [box for box in boxes if min(box[2] - box[0], box[3] - box[1]) >= LEAST_SIDE]
    return [
        Window(
            max(0, int((x0 + x1 - size) / 2)),
            max(0, int((y0 + y1 - size) / 2)),
            size,
            size,
        )
        for x0, y0, x1, y1 in large[-MAX_LABELLED:]
    ]


def _touches(window: Window, box: tuple[float, float, float, float]) -> bool:
    x0, y0, x1, y1 = box
    return bool(
        window.col_off < x1
        and x0 < window.col_off + window.width
        and window.row_off < y1
        and y0 < window.row_off + window.height
    )
