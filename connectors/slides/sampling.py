"""Levels of an image of channels, how much of one is read at once, and a sample of its values."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.pixels.levels import Level, sampled_blocks
from fewscope.connectors.slides.channel_image import ChannelImage, DecodeError, ImageReader
from fewscope.connectors.slides.pyramid_source import BLOCK, level_steps

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 2**20  # of stored values read at once


def levels_of(image: ChannelImage) -> tuple[Level, ...]:
    """Usable levels, finest first. Levels with another aspect ratio than the image's are skipped."""
    height, width = image.shapes[0]
    levels = []
    for index, shape in enumerate(image.shapes):
        steps = level_steps((height, width), shape, max(1.0, height / shape[0]))
        if steps is not None:
            levels.append(Level(index, *shape, *steps))
    return tuple(levels)


def chunk_side(image: ChannelImage, n_channels: int) -> int:
    """Side of what is read at once, px: at most `CHUNK_BYTES` of stored values, in whole blocks."""
    side = 8 * BLOCK
    while side > BLOCK and side**2 * n_channels * image.dtype.itemsize > CHUNK_BYTES:
        side //= 2
    return side


def sample_of(
    reader: ImageReader, channels: Sequence[int], plane: int = 0, time: int = 0
) -> NDArray[np.generic]:
    """Finite values from all over a coarse level, (n_channels, n), without the blocks that fail to decode."""
    side = chunk_side(reader.image, len(channels))
    level, blocks, share = sampled_blocks(levels_of(reader.image), (BLOCK, BLOCK), (side, side))
    parts = []
    for block in blocks:
        try:
            values = reader.read(level.index, channels, block, plane, time)
        except DecodeError as error:
            log.debug("level %d at %s: %s", level.index, block, error)
        else:
            parts.append(values.reshape(len(channels), -1)[:, ::share])
    sample = np.concatenate(parts, axis=1) if parts else np.zeros((len(channels), 0), reader.image.dtype)
    return sample[:, np.isfinite(sample).all(0)] if sample.dtype.kind == "f" else sample
