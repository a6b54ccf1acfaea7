"""COCO's run lengths: masks column by column, as numbers or as COCO's compressed text."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewscope.errors import MissingPackageError


def decode_run_lengths(counts: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The mask of run lengths, bool (height, width).

    Parameters
    ----------
    counts : list of int, str or bytes
        Lengths of runs of 0 and 1 in turn, or COCO's text for them.
    height, width : int
        px; those of the picture, never what a file states without a check.

    Raises
    ------
    ValueError
        They are no run lengths of a mask of that size.
    MissingPackageError
        They are compressed, and pycocotools is not installed.

    >>> decode_run_lengths([1, 3], 2, 2).astype(int).tolist()
    [[0, 1], [1, 1]]
    """
    if isinstance(counts, list):
        if not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n <= height * width for n in counts
        ):
            raise ValueError("run lengths that are no numbers of pixels")
        if sum(counts) != height * width:
            raise ValueError(f"run lengths of {sum(counts)} px, expected {height} x {width}")
        values = np.arange(len(counts)) % 2 == 1
        return np.repeat(values, counts).reshape((height, width), order="F")
    if not isinstance(counts, str | bytes):
        raise ValueError("neither a list of run lengths nor COCO's text for them")
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingPackageError(
            "pycocotools is not installed, which reads COCO's compressed masks; install it with: pip install "
            "fewscope[eval]"
        ) from error
    text = counts.encode() if isinstance(counts, str) else counts
    return np.asarray(coco.decode({"size": [height, width], "counts": text}), bool)
