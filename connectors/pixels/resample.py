"""Resampling with a phase fixed to the grid: a window gets the same pixels as the whole.

Working pixel j covers ``[j * scale, (j + 1) * scale)`` of the level. Reduction averages over that area, weighting
partial pixels by their fraction; magnification interpolates linearly between pixel centres. Weights depend on j alone
and sums have one order, so windows are equal exactly, not approximately.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Value = TypeVar("Value", bound="np.unsignedinteger[Any]")
"""Of pixels: uint8 or uint16."""

ROWS_AT_ONCE = 64  # working rows resampled at once: bounds the memory of the float sums
MIN_COVERAGE = 0.5  # least weight of valid pixels under a valid working pixel


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """Sources of n working pixels along one axis: index, int64 (n, k), and weight, float32 (n, k), with sums of 1."""

    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def span(self) -> tuple[int, int]:
        """First index used, and one past the last."""
        return int(self.index.min()), int(self.index.max()) + 1


def taps(start: int, stop: int, scale: float, size: int, offset: float = 0.0) -> Taps:
    """Taps of working pixels ``start..stop-1`` on an axis of ``size`` px, ``scale`` px per working pixel.

    Working pixel 0 begins at ``offset``. Indices are clamped to the axis: a working pixel that reaches past the
    edge repeats it.

    >>> taps(0, 2, 2.0, 4).weight.tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    pixel = np.arange(start, stop, dtype=np.int64)
    if scale >= 1:
        low = pixel * scale + offset
        first = np.floor(low).astype(np.int64)
        index = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
        shared = np.minimum((low + scale)[:, None], index + 1) - np.maximum(low[:, None], index)
        weight = np.maximum(shared, 0) / scale
    else:
        centre = (pixel + 0.5) * scale - 0.5 + offset
        first = np.floor(centre).astype(np.int64)
        index = first[:, None] + np.arange(2)
        right = centre - first
        weight = np.stack([1 - right, right], 1)
    while weight.shape[1] > 1 and not weight[:, -1].any():  # whole factors need no last tap
        index, weight = index[:, :-1], weight[:, :-1]
    return Taps(np.clip(index, 0, size - 1), weight.astype(np.float32))


def resample(
    image: NDArray[Value],
    valid: NDArray[np.bool_],
    rows: Taps,
    cols: Taps,
    origin: tuple[int, int],
    background: tuple[int, ...],
) -> tuple[NDArray[Value], NDArray[np.bool_]]:
    """Working pixels from a piece of a level.

    Parameters
    ----------
    image, valid
        uint8 or uint16 (h, w, C) and bool (h, w): a piece of the level that contains every index of the taps.
    rows, cols
        Taps in the level's coordinates.
    origin
        (row, col) of the piece in the level.
    background
        Value of each channel where working pixels are not valid.

    Returns
    -------
    image : of the same type (len(rows.index), len(cols.index), C), weighted mean of the valid pixels
    valid : bool (len(rows.index), len(cols.index)), True where valid pixels have at least half the weight
    """
    if len(rows.index) > ROWS_AT_ONCE:
        parts = []
        for start in range(0, len(rows.index), ROWS_AT_ONCE):
            part = Taps(rows.index[start : start + ROWS_AT_ONCE], rows.weight[start : start + ROWS_AT_ONCE])
            top, bottom = part.span
            own = slice(top - origin[0], bottom - origin[0])
            parts.append(resample(image[own], valid[own], part, cols, (top, origin[1]), background))
        images, valids = zip(*parts, strict=True)
        return np.concatenate(images), np.concatenate(valids)
    if valid.all():
        mean = _weigh(_weigh(image, rows, origin[0], 0), cols, origin[1], 1)
        return np.rint(mean).astype(image.dtype), np.ones(mean.shape[:2], np.bool_)
    known = np.where(valid[..., None], image, image.dtype.type(0))
    mean = _weigh(_weigh(known, rows, origin[0], 0), cols, origin[1], 1)
    coverage = _weigh(_weigh(valid[..., None].view(np.uint8), rows, origin[0], 0), cols, origin[1], 1)
    # Where all pixels are valid the sum is the mean, with the same bits as above; weights sum to 1 +- 1e-6.
    partial = coverage < 1 - 1e-4
    np.divide(mean, coverage, out=mean, where=partial & (coverage > 0))
    out = np.rint(np.clip(mean, 0, np.iinfo(image.dtype).max)).astype(image.dtype)
    seen = coverage[..., 0] >= MIN_COVERAGE - 1e-4
    out[~seen] = background
    return out, seen


def _weigh(array: NDArray[np.generic], along: Taps, origin: int, axis: int) -> NDArray[np.float32]:
    """Weighted sum over the taps of one axis, in the order of the taps."""
    index = along.index - origin
    shape = [1, 1, 1]
    shape[axis] = -1
    total: NDArray[np.float32] | None = None
    for tap in range(index.shape[1]):
        term = np.multiply(
            _take(array, index[:, tap], axis), along.weight[:, tap].reshape(shape), dtype=np.float32
        )
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None
    return total


def _take(array: NDArray[np.generic], index: NDArray[np.int64], axis: int) -> NDArray[np.generic]:
    """``array.take(index, axis)``; evenly spaced indices are a slice, which copies nothing."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step > 0 and (len(index) < 2 or (np.diff(index) == step).all()):
        along = slice(int(index[0]), int(index[-1]) + 1, step)
        return array[along] if axis == 0 else array[:, along]
    return array.take(index, axis)
