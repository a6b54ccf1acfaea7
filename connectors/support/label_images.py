"""Masks that hold object numbers (label images of Cellpose, StarDist, scikit-image, QuPath...): told by all of a set.

Object numbers and classes look alike: both are whole numbers from 1 on. Numbers are of one connected piece each, there
are many of them, and they are without gaps, or larger than any class may be. What is less certain has to be stated in
support.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.support.image_files import decode_mask, decode_numbers
from fewscope.connectors.support.support_set import MAX_CLASSES
from fewscope.errors import SupportError

WHOLE = 0.9
"""Share of an object's pixels in its largest piece from which on it counts as one piece: cut ones leave splinters."""

NEARLY_ALL = 0.9
"""Share of the objects that are one piece, and of the pictures whose numbers have no gaps."""

FEW = 8
"""Up to so many values they may be classes, each of which happens to be one piece: organs, parts of a cell."""


@dataclass(slots=True)
class Evidence:
    """What the masks of a set show.

    Attributes
    ----------
    first : str
        The first mask that has more than two values; "" without any.
    values : set of int
        Of all such masks, without 0.
    n_objects, n_whole : int
        Values of each such mask, and how many of them are one piece.
    n_masks, n_without_gaps : int
        Such masks, and how many of them hold 1..n.
    """

    first: str = ""
    first_values: tuple[int, ...] = ()
    values: set[int] = field(default_factory=set)
    n_objects: int = 0
    n_whole: int = 0
    n_masks: int = 0
    n_without_gaps: int = 0

    def add(self, path: str, numbers: NDArray[np.int32]) -> None:
        """Take a mask into account; numbers (H, W) int32, 0 background."""
        if not self.first:
            self.first = path
            self.first_values = tuple(np.unique(numbers).tolist())
        is_whole = whole_values(numbers)
        self.values |= is_whole.keys()
        self.n_objects += len(is_whole)
        self.n_whole += sum(is_whole.values())
        self.n_masks += 1
        self.n_without_gaps += max(is_whole, default=0) == len(is_whole)

    @property
    def are_pieces(self) -> bool:
        """Whether nearly each value of each mask is one piece."""
        return self.n_whole >= NEARLY_ALL * self.n_objects

    @property
    def are_numbers(self) -> bool:
        """Whether the values are object numbers, and hardly anything else."""
        are_like_numbers = (
            self.n_without_gaps >= NEARLY_ALL * self.n_masks or max(self.values, default=0) > MAX_CLASSES
        )
        return self.are_pieces and len(self.values) > FEW and are_like_numbers


def whole_values(numbers: NDArray[np.int32]) -> dict[int, bool]:
    """Values of a mask (H, W) int32 without 0, and whether each is one piece.

    >>> whole_values(np.array([[1, 1, 0, 2], [0, 0, 0, 0], [2, 0, 3, 0]], np.int32))
    {1: True, 2: False, 3: True}
    """
    pieces = cc3d.connected_components(np.ascontiguousarray(numbers), connectivity=8)
    sizes = np.bincount(pieces.ravel())
    values = np.zeros(len(sizes), np.int64)
    values[pieces.ravel()] = numbers.ravel()
    sizes[values == 0] = 0
    found, index = np.unique(values, return_inverse=True)
    total, largest = np.zeros(len(found)), np.zeros(len(found))
    np.add.at(total, index, sizes)
    np.maximum.at(largest, index, sizes)
    return {
        int(value): bool(most >= WHOLE * n)
        for value, most, n in zip(found, largest, total, strict=True)
        if value
    }


def weigh(filesystem: Any, masks: Sequence[str]) -> Evidence:
    """What the masks at these paths show."""
    evidence = Evidence()
    for path in masks:
        numbers = decode_numbers(filesystem, path)
        if numbers is not None and numbers.min() < numbers.max():  # not one that a single object fills
            evidence.add(path, numbers)
    return evidence


def hold_numbers(evidence: Evidence, stated: bool | None) -> bool:
    """Whether masks of more than two values hold object numbers.

    Parameters
    ----------
    stated : bool or None
        What support.json says.

    Raises
    ------
    SupportError
        They may be object numbers or classes.
    """
    if stated is not None:
        return stated
    if evidence.are_numbers:
        return True
    if evidence.are_pieces and len(evidence.first_values) > 2 and evidence.first_values[0] == 0:
        values = evidence.first_values
        shown = ", ".join(map(str, values[:6])) + (", ..." if len(values) > 6 else "")
        raise SupportError(
            f"{evidence.first}: is a mask of {len(values)} values ({shown}), each of one piece: object numbers or "
            'classes? Write "instances": true or "classes": [names] into support.json'
        )
    return False  # what cannot be read as a mask of two values is refused by `decode_mask`


def assumption(uri: str, evidence: Evidence) -> str:
    """The sentence for the report."""
    return (
        f"{uri}: masks of more than two values (up to {max(evidence.values)}) were taken for object numbers, "
        f'{evidence.n_objects} in all, as nearly each is one piece. In support.json, "classes": [names] takes the '
        'values for classes, "instances": false all above 0 for one object.'
    )


def decode_label_image(filesystem: Any, path: str) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """Decode one mask of a set of label images.

    Returns
    -------
    (H, W) uint8 0 background, 1 object; (H, W) int32 its objects: of a mask of two values its connected pieces, as
    everywhere.
    """
    numbers = decode_numbers(filesystem, path)
    if numbers is None:
        mask = decode_mask(filesystem, path)
        is_object = np.ascontiguousarray(mask == 1)
        numbers = cc3d.connected_components(is_object, connectivity=8).astype(np.int32)
        return mask, numbers
    return (numbers > 0).astype(np.uint8), numbers
