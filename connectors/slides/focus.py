"""The plane of a z-stack that is in focus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewscope.connectors.pixels.levels import Block, sampled_blocks
from fewscope.connectors.slides.channel_image import DecodeError, ImageReader
from fewscope.connectors.slides.pyramid_source import BLOCK
from fewscope.connectors.slides.sampling import chunk_side, levels_of

PLACES = 8
"""Places of `BLOCK` px that are looked at: together half of a megapixel, whatever the size of the image."""

SIGMA = 2.0
"""px; of the Gaussian before the Laplacian. Without smoothing, the variance of the Laplacian follows the noise: of
synthetic stacks with noise of 6 to 15 % of the full intensity it missed the plane by four, with this sigma by none."""


def sharpest_plane(reader: ImageReader, channels: Sequence[int], time: int) -> int:
    """Index of the plane whose Laplacian of a Gaussian varies most, the channels weighing the same.

    It is measured at full resolution, as defocus does not show in a coarse level, in those places where a coarse level
    of the middle plane has most contrast. The first one if all are alike, or none decodes.
    """
    n_planes = reader.image.n_planes
    found = np.zeros((n_planes, len(channels)))
    for block in _places(reader, channels, time):
        try:
            found += [_sharpness(reader.read(0, channels, block, plane, time)) for plane in range(n_planes)]
        except DecodeError:
            continue
    most = found.max(0)
    return int((found / np.where(most > 0, most, 1)).sum(1).argmax())


def _sharpness(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Of each channel of a block (n_channels, h, w)."""
    planes = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
    smooth = (ndimage.gaussian_filter(plane, SIGMA, truncate=3.0) for plane in planes)
    return np.array([ndimage.laplace(plane).var(dtype=np.float64) for plane in smooth])


def _places(reader: ImageReader, channels: Sequence[int], time: int) -> list[Block]:
    """Blocks of the finest level with most contrast, of those that a sample of a coarse level shows."""
    image = reader.image
    finest = levels_of(image)[0]
    side = chunk_side(image, len(channels))
    level, blocks, _ = sampled_blocks(levels_of(image), (BLOCK, BLOCK), (side, side))
    cells: dict[tuple[int, int], float] = {}
    steps = level.row_step, level.col_step
    cell = [max(4, round(BLOCK / step)) for step in steps]
    for block in blocks:
        try:
            values = reader.read(level.index, channels, block, image.n_planes // 2, time)
        except DecodeError:
            continue
        grey = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0).mean(0)
        for row in range(0, grey.shape[0], cell[0]):
            for col in range(0, grey.shape[1], cell[1]):
                part = grey[row : row + cell[0], col : col + cell[1]]
                cells[block[0] + row, block[2] + col] = float(part.var())
    found = []
    for row, col in sorted(cells, key=lambda at: (-cells[at], at))[:PLACES]:
        top = min(int(row * steps[0]), finest.height - 1)
        left = min(int(col * steps[1]), finest.width - 1)
        found.append((top, min(top + BLOCK, finest.height), left, min(left + BLOCK, finest.width)))
    return found
