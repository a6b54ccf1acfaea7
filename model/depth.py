"""Depth: how far inside its own object a pixel lies, which separates touching objects."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def instance_depth(instances: np.ndarray) -> np.ndarray:
    """Depth of every pixel inside its object.

    Parameters
    ----------
    instances : np.ndarray
        (H, W) int, 0 = background, 1..n = one object each.

    Returns
    -------
    (H, W) uint8: Euclidean distance to the nearest pixel that is not of the same object, scaled to 255 at its maximum
    in the object; 0 outside. The image's edge is no rim; an object cut by it is scaled by the median maximum of the
    others if that is larger than its own.
    """
    depth = np.zeros(instances.shape, np.float32)
    largest, cut = (
        {},
        set(np.unique(np.concatenate([instances[[0, -1]].ravel(), instances[:, [0, -1]].ravel()]))),
    )
    boxes = ndimage.find_objects(instances)
    for label, box in enumerate(boxes, start=1):
        if box is None:
            continue
        grown = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        inside = instances[grown] == label
        distance = ndimage.distance_transform_edt(inside)
        depth[grown][inside] = distance[inside]
        largest[label] = float(distance.max())
    whole = [d for label, d in largest.items() if label not in cut]
    typical = float(np.median(whole)) if whole else 1.0
    scale = np.ones(len(boxes) + 1, np.float32)
    for label, d in largest.items():
        scale[label] = max(d, typical) if label in cut else d
    return np.rint(255 * depth / scale[instances]).astype(np.uint8)
