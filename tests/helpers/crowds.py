"""Crowds of overlapping objects: their labels, depth, and a picture of them."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def crowd(seed: int, n: int, radius: float, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Discs with wobbly outlines that overlap by up to half a diameter: labels 1..n, and the depth of each pixel."""
    rng = np.random.default_rng(seed)
    nearest, labels = np.full(shape, np.inf), np.zeros(shape, np.int64)
    centres: list[np.ndarray] = []
    while len(centres) < n:
        centre = rng.uniform(radius, np.array(shape) - radius)
        if all(np.hypot(*(centre - other)) > 1.05 * radius for other in centres):
            centres.append(centre)
            top, left = np.maximum(0, centre - 1.4 * radius).astype(int)
            here = np.s_[top : top + int(3 * radius), left : left + int(3 * radius)]
            down, right = np.indices(nearest[here].shape)
            down, right = down + top - centre[0], right + left - centre[1]
            waves = zip(rng.uniform(0, 0.06, 5), rng.uniform(0, 2 * np.pi, 5), strict=True)
            wobble = 1 + sum(a * np.cos(k * np.arctan2(down, right) + p) for k, (a, p) in enumerate(waves, 2))
            reach = np.hypot(down, right) / (radius * wobble)
            labels[here] = np.where((reach < nearest[here]) & (reach <= 1), len(centres), labels[here])
            nearest[here] = np.minimum(nearest[here], reach)
    depth = np.zeros(shape)
    padded = np.pad(labels, 1)
    for label, box in enumerate(ndimage.find_objects(padded), start=1):
        if box is not None:
            rows, cols = (slice(s.start - 1, s.stop + 1) for s in box)
            distance = ndimage.distance_transform_edt(padded[rows, cols] == label)[1:-1, 1:-1]
            depth[rows.start : rows.stop - 2, cols.start : cols.stop - 2] += distance / distance.max()
    return labels, np.rint(255 * depth).astype(np.uint8)


def painted(labels: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """A picture in which `fakes.ByDepth` sees the objects and their depth; uint8 (H, W, 3)."""
    found = np.where(labels > 0, 255, 0)
    return np.stack([found, depth, 255 - found], axis=-1).astype(np.uint8)
