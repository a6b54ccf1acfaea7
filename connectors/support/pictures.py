"""A folder of labelled pictures, whichever way they are labelled: its readers give it, its users cut or resize."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import Ranges


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """A decoded picture and its labels.

    Attributes
    ----------
    image : (H, W, C) uint8
        RGB, or more channels.
    labels : (H, W) uint8
        0 background, 1..C the classes, 255 not labelled.
    instances : NDArray[np.int32] | None
        (H, W) int32, above 0 where labels are an object's, a number for each; None if objects are not separated.
    rough : NDArray[np.uint8] | None
        (H, W) `support_set.POINT` or `BOX` at the pixels of objects of which only this is known; None without any.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32] | None
    rough: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A picture that is read when it is needed: a folder may hold more of them than memory.

    Attributes
    ----------
    name : str
        Of its file.
    labelled_by : str
        Path of its labels.
    """

    name: str
    labelled_by: str
    read: Callable[[], Labelled]


@dataclass(frozen=True, slots=True, eq=False)
class PictureFolder:
    """Labelled pictures of one folder, and what is known of all of them.

    Attributes
    ----------
    n_sparse : int
        How many of the last pictures are labelled in places only.
    complete
        bool (n pictures, C), as `support_set.SupportSet.complete`; None: all are.
    groups
        Number of the larger picture that each is cut from; empty if each stands for itself.
    ranges, corrected, notes, assumptions
        As in `support_set.SupportSet`.
    """

    uri: str
    pictures: list[Picture]
    class_names: tuple[str, ...]
    mpp: float | None
    n_sparse: int = 0
    ranges: Ranges = ()
    corrected: tuple[int, int] = (0, 0)
    notes: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    complete: NDArray[np.bool_] | None = None
    groups: tuple[int, ...] = ()
