"""Where to look next: windows for a person to choose the worst from.

No rule of uncertainty that was tried beats random windows with five to ten labelled patches. So half of the eight are
random, and half are unlike all that is labelled and unlike one another: there a support set may fail. What a
person gains by taking the worst is measured by `benchmarks/corrections.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rasterio.windows import Window

from fewscope.annotate.preview import Preview
from fewscope.annotate.settling import random_windows
from fewscope.errors import FewscopeError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.pipeline.calibration.unlike import choose_unlike, look_of
from fewscope.pipeline.tiling.foreground import Foreground

N_CANDIDATES = 28
"""Windows that are looked at for each gallery: about a second."""

Why = Literal["random", "unlike"]


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
        Its network tells what is unlike the labelled ground; before anything is learned all windows are random.
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
    The random ones first.
    """
    candidates = [
        window
        for window in random_windows(foreground, N_CANDIDATES + n, seed, size)
        if not any(_touches(window, box) for box in labelled_boxes)
    ]
    learned, network = preview.learned(), preview.settled()
    if learned is None or learned.examples is None or network is None:
        return [Suggestion(window, "random") for window in candidates[:n]]
    n_random = min(n - n // 2, len(candidates))
    scores, looks = [], []
    usable: list[Window] = []
    for i, window in enumerate(candidates):
        try:
            encoded = preview.encode(source, window)
        except FewscopeError:  # it cannot be read: nothing to look at
            continue
        assert encoded is not None
        maps, valid = encoded
        if i >= n_random and not valid.any():
            continue
        usable.append(window)
        scores.append(float(network.unlike(maps, learned.examples).mean()))
        looks.append(look_of(network.features(maps)[0]))
    n_random = min(n_random, len(usable))
    chosen = choose_unlike(
        np.array(scores[n_random:]), np.array(looks[n_random:]), n - n_random, np.array(looks[:n_random])
    )
    return [
        *(Suggestion(window, "random") for window in usable[:n_random]),
        *(Suggestion(usable[n_random + i], "unlike") for i in chosen),
    ]


def _touches(window: Window, box: tuple[float, float, float, float]) -> bool:
    x0, y0, x1, y1 = box
    return bool(
        window.col_off < x1
        and x0 < window.col_off + window.width
        and window.row_off < y1
        and y0 < window.row_off + window.height
    )
