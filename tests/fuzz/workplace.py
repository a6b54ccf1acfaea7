"""What all kinds of input share: a folder of right files, and what a job reads of a source."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from rasterio.windows import Window

from fewscope.connectors.source import Source

SIDE = 320
NAMES = ((), (), ("nucleus",), ("nucleus", "other"))  # classes asked for
Options = dict[str, Any]


@functools.cache
def workplace() -> Path:
    """A folder of right files, for as long as this process lives."""
    folder = tempfile.TemporaryDirectory(prefix="fewscope-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[Any] = []


def use_source(source: Source) -> None:
    """Read what a job reads: an overview, and windows at both ends."""
    try:
        source.overview(64)
        height, width = source.info.height, source.info.width
        source.read(Window(0, 0, min(64, width), min(64, height)))
        source.read(Window(max(0, width - 64), max(0, height - 64), 70, 70))
        source.unreadable()
    finally:
        source.close()
