"""Labelled pictures at a coarser resolution than they have, pixel by pixel as a slide is read there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.pixels.resample import resample, taps
from fewscope.connectors.support.pictures import Labelled, Picture, PictureFolder
from fewscope.connectors.support.support_set import POINT, is_same_scale

Value = TypeVar("Value", np.uint8, np.int32)


def at_resolution(folder: PictureFolder, mpp: float | None) -> PictureFolder:
    """Pictures of a folder at this resolution, um per px, where they have a finer one; else as they are.

    Coarser pictures are not enlarged: they do not show what a finer one would.

    Parameters
    ----------
    mpp
        None: as they are.
    """
    if mpp is None or folder.mpp is None or folder.mpp > mpp or is_same_scale(folder.mpp, mpp):
        return folder
    factor = mpp / folder.mpp
    told = (
        f"{folder.uri}: the labelled pictures, of {folder.mpp:.4g} um per px, were resampled to {mpp:.4g}, the "
        "resolution of the source."
    )
    pictures = [replace(picture, read=_coarser(picture, factor)) for picture in folder.pictures]
    return replace(folder, pictures=pictures, mpp=mpp, assumptions=[*folder.assumptions, told])


def _coarser(picture: Picture, factor: float) -> Callable[[], Labelled]:
    return lambda: reduced(picture.read(), factor)


def reduced(labelled: Labelled, factor: float) -> Labelled:
    """A picture with pixels ``factor`` times as wide, above 1: means of its image, labels at the centres of pixels.

    Points stay, however small; a remainder of less than half a pixel at the right and bottom is left out.
    """
    whole, n_channels = labelled.labels.shape, labelled.image.shape[2]
    sides = [max(1, round(side / factor)) for side in whole]
    rows, cols = (taps(0, n, factor, side) for n, side in zip(sides, whole, strict=True))
    known = np.ones(whole, np.bool_)
    image, _ = resample(labelled.image, known, rows, cols, (0, 0), (0,) * n_channels)
    row, col = (
        np.minimum(((np.arange(n) + 0.5) * factor).astype(np.int64), side - 1)
        for n, side in zip(sides, whole, strict=True)
    )
    points = np.nonzero(np.zeros(whole) if labelled.rough is None else labelled.rough == POINT)
    of_points = tuple(
        np.minimum((at / factor).astype(np.int64), n - 1) for at, n in zip(points, sides, strict=True)
    )

    def at_centres(values: NDArray[Value]) -> NDArray[Value]:
        made = values[np.ix_(row, col)]
        made[of_points] = values[points]
        return made

    return Labelled(
        image,
        at_centres(labelled.labels),
        None if labelled.instances is None else at_centres(labelled.instances),
        None if labelled.rough is None else at_centres(labelled.rough),
    )
