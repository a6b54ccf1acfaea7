"""Affine transforms of points."""

import numpy as np
import numpy.typing as npt
from affine import Affine


def place_points(points: npt.NDArray[np.float64], transform: Affine) -> npt.NDArray[np.float64]:
    """World coordinates (x, y), float (n, 2), of points (col, row), float (n, 2), from the corner of the first pixel.

    >>> place_points(np.array([[1.0, 2.0]]), Affine.translation(100, 200) @ Affine.scale(10, -10)).tolist()
    [[110.0, 180.0]]
    """
    a, b, c, d, e, f = transform[:6]
    col, row = points[:, 0], points[:, 1]
    return np.stack([a * col + b * row + c, d * col + e * row + f], axis=1)
