"""What a preview does once: where the foreground of its sources is, and tiles on which the network's norms settle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.connectors.source import Source
from fewscope.errors import FewscopeError, SourceError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.pipeline.tiling.foreground import OVERVIEW_SIDE, Foreground, find_foreground

SETTLED_TILES = 8
"""Tiles that the norms are settled on: on three unseen tasks they did as well as the statistics of the patches."""

SETTLED_SOURCES = 4
"""The first sources, which give these tiles: the same ones, whatever is looked at first."""

LEAST_COVERED = 0.5
"""Part of such a tile that must be foreground, and readable, if there are tiles like that."""

N_CANDIDATES = 256


def find_foreground_of(source: Source) -> Foreground:
    """The foreground of a source, as a run finds it by default."""
    image, valid = source.overview(OVERVIEW_SIDE)
    info = source.info
    unreadable = source.unreadable(OVERVIEW_SIDE)
    choice = "all" if info.is_field else "auto"
    return find_foreground(image, valid, unreadable, (info.height, info.width), choice, info.kind)


def random_windows(foreground: Foreground, n: int, seed: int, size: int = PATCH_SIZE) -> list[Window]:
    """Windows that are mostly foreground, from all over a source, without overlap; fewer if there are not so many.

    Parameters
    ----------
    foreground : Foreground
        Of the source.
    n : int
        Windows wanted.
    seed : int
        The same seed gives the same windows.
    size : int
        Side, working px; smaller sources give one window that reaches beyond them.
    """
    height, width = foreground.shape
    rng = np.random.default_rng(seed)
    rows, cols = np.nonzero(foreground.analysed())
    if not len(rows):
        return []
    chosen = rng.integers(0, len(rows), N_CANDIDATES * 2)
    within = rng.random((2, len(chosen)))
    mask_height, mask_width = foreground.mask.shape
    # the middle of a window anywhere in a pixel of the mask
    tops = (rows[chosen] + within[0]) * height / mask_height - size / 2
    lefts = (cols[chosen] + within[1]) * width / mask_width - size / 2
    tops = np.clip(np.round(tops), 0, max(height - size, 0)).astype(int)
    lefts = np.clip(np.round(lefts), 0, max(width - size, 0)).astype(int)
    windows = [Window(int(left), int(top), size, size) for top, left in zip(tops, lefts, strict=True)]
    covered = np.array([_covered(foreground, window) for window in windows])
    order = np.argsort(covered < LEAST_COVERED, kind="stable")  # in random order, the covered ones first
    taken: list[Window] = []
    for i in order:
        if len(taken) == n:
            break
        if not any(_overlaps(windows[i], other) for other in taken):
            taken.append(windows[i])
    return taken


def unlabelled_tiles(
    sources: Sequence[Source], foregrounds: Mapping[int, Foreground], n: int = SETTLED_TILES
) -> NDArray[np.uint8]:
    """Tiles (N, 224, 224, 3) uint8 of the foreground of the sources whose foreground is known, N up to n.

    Raises
    ------
    SourceError
        No pixel of them can be read.
    """
    found: list[NDArray[np.uint8]] = []
    per_source = -(-n // max(1, min(len(foregrounds), n)))
    said = ""
    for source in sorted(foregrounds):
        for window in random_windows(foregrounds[source], per_source, seed=0):
            try:
                image, valid = sources[source].read(window)
            except FewscopeError as error:  # the others will do
                said = said or str(error)
                continue
            if valid.mean() >= LEAST_COVERED or (valid.any() and not found):
                found.append(image)
    if not found:
        names = ", ".join(sources[source].info.uri for source in sorted(foregrounds))
        raise SourceError(said or f"{names}: no pixels can be read; is the file complete?")
    return np.stack(found[:n])


def _covered(foreground: Foreground, window: Window) -> float:
    height, width = foreground.shape
    inside = Window(
        window.col_off,
        window.row_off,
        min(window.width, width - window.col_off),
        min(window.height, height - window.row_off),
    )
    return float(foreground.on_window(inside).mean())


def _overlaps(one: Window, other: Window) -> bool:
    return abs(one.row_off - other.row_off) < one.height and abs(one.col_off - other.col_off) < one.width
