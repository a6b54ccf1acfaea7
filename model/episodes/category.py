"""Classes of labelled images in memory, as training draws episodes from them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

log = logging.getLogger(__name__)


class ClassArrays(Protocol):
    """One class of a data set as a reader gives it: numpy arrays, N pairs of image and mask.

    `fewscope.connectors.datasets.class_folders.ClassImages` is one.
    """

    @property
    def name(self) -> str:
        """Name of the class."""
        ...

    @property
    def domain(self) -> str:
        """Domain or super-category; "" if unknown."""
        ...

    @property
    def images(self) -> NDArray[np.uint8]:
        """RGB, uint8 (N, 224, 224, 3)."""
        ...

    @property
    def masks(self) -> NDArray[np.bool_]:
        """Object, bool (N, 224, 224)."""
        ...

    @property
    def instances(self) -> NDArray[np.int32] | None:
        """Objects, int32 (N, 224, 224): 0 = background, 1..n = one object each; None if not every pair has them."""
        ...

    @property
    def void(self) -> NDArray[np.bool_] | None:
        """Pixels that are neither object nor background, bool (N, 224, 224); None without any."""
        ...


class ClassDataset(Protocol):
    """A data set of classes that can be opened anywhere: picklable, so every training worker reads it itself."""

    def classes(
        self, split: str | None = None, *, domains: Collection[str] = (), shippable_only: bool = False
    ) -> Iterable[ClassArrays]:
        """Read the classes of a split (None: all) one after the other."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Category:
    """One class, all its pairs as tensors.

    Attributes
    ----------
    name : str
        Name of the class.
    domain : str
        Its domain or super-category, "" if unknown.
    images : (N, 3, 224, 224) uint8
    masks : (N, 224, 224) bool
    instances : Tensor | None
        (N, 224, 224) int32, 0 = background, 1..n = one object each; None unless every pair has them.
    void : Tensor | None
        (N, 224, 224) bool, pixels that are neither object nor background; None without any.
    """

    name: str
    domain: str
    images: Tensor
    masks: Tensor
    instances: Tensor | None = None
    void: Tensor | None = None

    @classmethod
    def of(cls, arrays: ClassArrays) -> Category:
        """Convert what a reader gives."""
        return cls(
            arrays.name,
            arrays.domain,
            torch.from_numpy(arrays.images).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(arrays.masks),
            None if arrays.instances is None else torch.from_numpy(arrays.instances),
            None if arrays.void is None else torch.from_numpy(arrays.void),
        )


def load_categories(
    dataset: ClassDataset, split: str | None = None, *, shippable_only: bool = False
) -> list[Category]:
    """Read all classes of a split into memory.

    Parameters
    ----------
    dataset : ClassDataset
        Where from.
    split : str | None
        Name of the split; None for all classes.
    shippable_only : bool
        Leave out pairs whose licence forbids shipping the weights.

    Raises
    ------
    DatasetError
        As the data set's reader raises it.
    """
    categories = [Category.of(one) for one in dataset.classes(split, shippable_only=shippable_only)]
    n_pairs = sum(len(category.images) for category in categories)
    log.info("%d classes, %d pairs from %s", len(categories), n_pairs, dataset)
    return categories
