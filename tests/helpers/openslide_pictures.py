"""What the tests of slides that OpenSlide reads share."""

from __future__ import annotations

import numpy as np
import pytest

from fewscope.errors import SourceError


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth gradient with noise, so that a shift by a pixel shows."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[:height, :width]
    smooth = np.stack([row * 255 / height, col * 255 / width, (row + col) % 256], 2)
    return np.clip(smooth * 0.7 + rng.integers(0, 76, (height, width, 3)), 0, 255).astype(np.uint8)


def one_line(error: pytest.ExceptionInfo[SourceError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
