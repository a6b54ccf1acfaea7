"""What all slides share: windows of the working grid, and overviews, from the levels of a pyramid."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic

from rasterio.windows import Window

from fewscope.connectors.pixels.levels import (
    AnyLevel,
    Block,
    best_level,
    block_window,
    overview_shape,
    render,
)
from fewscope.connectors.source import Pixels, SourceInfo, window_bounds
from fewscope.errors import SourceError

BLOCK = 256
"""Level px; side of what is lost around an unreadable place."""

MAX_PIXELS = 2**38
"""Of a slide: 26 cm x 26 cm at 0.5 um per px."""

DARK_LEVEL = 64
"""Median of 255 below which a slide is fluorescence and its background black."""


class PyramidSource(ABC, Generic[AnyLevel]):
    """A slide on its working grid; a subclass reads rectangles of a level. See `connectors.source.Source`.

    Parameters
    ----------
    info
        Metadata of the slide.
    levels
        Levels of the pyramid, finest first.
    """

    def __init__(self, info: SourceInfo, levels: Sequence[AnyLevel]) -> None:
        self._info = info
        self._levels = tuple(levels)
        self._lock = threading.Lock()
        self._failed: set[tuple[AnyLevel, Block]] = set()

    @abstractmethod
    def _read_level(self, level: AnyLevel, bounds: Block) -> Iterator[tuple[Block, Pixels]]:
        """Pixels of a level, piece by piece, in whole blocks; those that fail to decode go to ``_failed``."""

    @property
    def info(self) -> SourceInfo:
        """Metadata, known without reading pixels."""
        return self._info

    def read(self, window: Window) -> Pixels:
        """See `connectors.source.Source.read`."""
        scale = self._info.transform
        return self._render(window_bounds(window), (self._info.height, self._info.width), (scale.e, scale.a))

    def overview(self, max_side: int) -> Pixels:
        """See `connectors.source.Source.overview`; read from the coarsest level that is fine enough."""
        (height, width), steps = self._overview_grid(max_side)
        return self._render((0, height, 0, width), (height, width), steps)

    def read_zoomed(self, window: Window, step: float) -> Pixels:
        """See `connectors.source.ZoomableSource.read_zoomed`; image px are those of level 0."""
        grid = math.ceil(self._info.native_height / step), math.ceil(self._info.native_width / step)
        return self._render(window_bounds(window), grid, (step, step))

    def unreadable(self, max_side: int | None = None) -> tuple[Window, ...]:
        """See `connectors.source.Source.unreadable`: the unreadable blocks of the level that was read."""
        info = self._info
        steps = info.transform.e, info.transform.a
        level = best_level(self._levels, min(self._overview_grid(max_side)[1] if max_side else steps))
        with self._lock:
            blocks = sorted(block for failed_level, block in self._failed if failed_level == level)
        return tuple(block_window(block, level, steps, (info.height, info.width)) for block in blocks)

    def _overview_grid(self, max_side: int) -> tuple[tuple[int, int], tuple[float, float]]:
        """Size of the overview, and its pixels' steps in level-0 px."""
        info = self._info
        height, width = overview_shape(info.height, info.width, max_side)
        steps = (info.transform.e * info.height / height, info.transform.a * info.width / width)
        return (height, width), steps

    def _render(self, bounds: Block, grid: tuple[int, int], steps: tuple[float, float]) -> Pixels:
        """Window ``bounds`` of a ``grid`` with pixels of ``steps`` (row, col) level-0 px."""
        level = best_level(self._levels, min(steps))
        return render(bounds, grid, steps, level, self._read_level, self._info.background)


def grid_size(uri: str, height: int, width: int, scale: float) -> tuple[int, int]:
    """(rows, cols) of a working grid whose pixels measure ``scale`` px of level 0.

    Raises
    ------
    SourceError
        The file states a size that no slide has.
    """
    if height * width > MAX_PIXELS:
        raise SourceError(f"{uri}: states {width} x {height} px, more than any slide has; copy it again")
    return max(1, int(height / scale + 0.5)), max(1, int(width / scale + 0.5))


def level_steps(whole: tuple[int, int], size: tuple[int, int], reported: float) -> tuple[float, float] | None:
    """Level-0 px per px of a level, (row, col); None if the level has another aspect ratio than the slide.

    Parameters
    ----------
    whole, size
        (height, width) of level 0 and of the level.
    reported
        The factor that the file or its reader states.
    """
    steps = whole[0] / size[0], whole[1] / size[1]
    factor = round(reported)
    # Writers round the size of a level up or down: 4443 px shrunk by 2 are 2221 or 2222 px.
    if abs(whole[0] / factor - size[0]) < 1 and abs(whole[1] / factor - size[1]) < 1:
        return float(factor), float(factor)
    return steps if max(steps) / min(steps) < 1.02 else None
