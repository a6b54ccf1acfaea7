"""Label images: comparing them, and crowds of touching objects."""

from __future__ import annotations

import numpy as np


def same_objects(labels: np.ndarray, expected: np.ndarray) -> bool:
    """Equal up to renaming: the pairs of names that occur are one to one."""
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
