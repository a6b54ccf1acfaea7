"""Labelled patches of discs, which a network segments with a few of them."""

from __future__ import annotations

import numpy as np


def patches(n: int, seed: int, colour: tuple[int, int, int] = (90, 60, 140)) -> tuple[np.ndarray, np.ndarray]:
    """Discs of a colour on a light ground with noise, and their masks."""
    rng = np.random.default_rng(seed)
    rows, cols = np.mgrid[:224, :224]
    masks = np.zeros((n, 224, 224), bool)
    for mask in masks:
        for row, col, radius in rng.uniform((0, 0, 8), (224, 224, 18), (12, 3)):
            mask |= (rows - row) ** 2 + (cols - col) ** 2 < radius**2
    images = np.where(masks[..., None], colour, (225, 200, 215)) + rng.normal(0, 12, (n, 224, 224, 3))
    return np.clip(images, 0, 255).astype(np.uint8), masks.astype(np.uint8)
