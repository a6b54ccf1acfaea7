"""Support sets: a few labelled patches of the objects to segment.

They come from a folder of pairs of image and mask (`connectors.support.folder`), or from annotations on a slide or
raster (`connectors.support.annotations`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE, Ranges
from fewscope.errors import SupportError

log = logging.getLogger(__name__)

NEARLY_ALL = 0.95
"""Share of the labelled pixels from which on a class is suspected to be an outline around everything."""

ISLANDS = 4
"""Pieces of background, each within the object, from which on a mask is suspected to be inverted."""

POINT, BOX = 1, 2
"""What is known of an object that has no outline: a point in it, or a box around it."""

MAX_CLASSES = 32
"""Each class costs a decoder pass per tile; more classes suggest a folder that is not a support set."""

MAX_PATCHES = 32
"""Of regions, or of pictures that are split: a support set is a few; more suggests a region around everything."""


@dataclass(frozen=True, slots=True)
class RoughMark:
    """A whole point or box, of which a patch may hold a part, or which lies beside the patch.

    Attributes
    ----------
    patch : int
        Index of the patch.
    number : int
        Of the object in `SupportSet.instances`; it may have no pixel there.
    value : int
        Its class, 1..C.
    kind : int
        `POINT` or `BOX`.
    top, left, bottom, right : float
        Edges of its pixels, px from the corner of the patch; those of a point are of its disc.
    """

    patch: int
    number: int
    value: int
    kind: int
    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True, slots=True, eq=False)
class SupportSet:
    """K labelled patches of C mutually exclusive classes.

    Attributes
    ----------
    images : NDArray[np.uint8]
        numpy.ndarray uint8 (K, 224, 224, 3), RGB, or (K, 224, 224, N) of N channels.
    labels : NDArray[np.uint8]
        numpy.ndarray uint8 (K, 224, 224): 0 background, 1..C an object of that class, 255 not labelled.
    instances : numpy.ndarray or None
        int32 (K, 224, 224), 0 background, 1..n one object each; None if only the class is known.
    names : tuple of str
        Origin of each patch in words, (K,).
    mpp : float or None
        um per px of the patches; None if not stated.
    class_names : tuple of str
        Names of the classes 1..C.
    complete : numpy.ndarray or None
        bool (K, C): whether all objects of the class are labelled in the patch; if not, its background may be of the
        class. None: all are labelled in all patches.
    notes : tuple of str
        Warnings for readers of the result, one sentence each: omitted annotations, suspected mistakes.
    assumptions : tuple of str
        Assumptions made where the files state nothing, one sentence each, with the option that overrides it.
    n_sparse : int
        How many of the last patches are labelled in places only: strokes, points, single objects. They teach, but
        estimates leave them out: they say nothing about the rest of their patch.
    corrected : tuple of int
        How many objects of an earlier result were accepted, and how many rejected, by a click.
    pictures : tuple of int
        Number of the picture that each patch is cut from, (K,): what is held out, is held out of a whole picture. Empty
        if each patch stands for itself.
    rough : NDArray[np.uint8] or None
        (K, 224, 224), `POINT` or `BOX` at the pixels of objects of which only this is known: those of a small disc, or
        of the box; 0 elsewhere. None: all objects have outlines.
    marks : tuple[RoughMark, ...]
        The points and boxes as a whole, where patches are parts of larger pictures.
    labelled : str
        Digest of what was labelled, where the outlines of rough objects were inferred from it.
    ranges : Ranges
        Values of each channel of the labelled pictures that are shown as black and white, if these were chosen by what
        the pictures hold: a source of the same exposure is shown in them, too.

    Raises
    ------
    SupportError
        An array has another dtype or shape, or values that do not fit, or a class has no object or no background.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32] | None
    names: tuple[str, ...]
    mpp: float | None
    class_names: tuple[str, ...]
    complete: NDArray[np.bool_] | None = None
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    n_sparse: int = 0
    corrected: tuple[int, int] = (0, 0)
    pictures: tuple[int, ...] = ()
    ranges: Ranges = ()
    rough: NDArray[np.uint8] | None = None
    marks: tuple[RoughMark, ...] = ()
    labelled: str = ""

    def __post_init__(self) -> None:
        n, n_classes = len(self.names), len(self.class_names)
        for name, array, dtype, shape in (
            ("images", self.images, np.uint8, (n, PATCH_SIZE, PATCH_SIZE, max(3, self.images.shape[-1]))),
            ("labels", self.labels, np.uint8, (n, PATCH_SIZE, PATCH_SIZE)),
            ("instances", self.instances, np.int32, (n, PATCH_SIZE, PATCH_SIZE)),
            ("complete", self.complete, np.bool_, (n, n_classes)),
            ("rough", self.rough, np.uint8, (n, PATCH_SIZE, PATCH_SIZE)),
        ):
            if array is not None and (array.dtype != dtype or array.shape != shape):
                raise SupportError(
                    f"{name} are {array.dtype} {array.shape}, expected {dtype.__name__} {shape}"
                )
        if not 0 <= self.n_sparse <= n:
            raise SupportError(f"{self.n_sparse} of {n} patches are said to be labelled in places")
        if len(self.pictures) not in (0, n):
            raise SupportError(f"pictures of {len(self.pictures)} patches are stated, expected {n}")
        if n < 1:
            raise SupportError("a support set needs at least one labelled patch")
        if not 1 <= n_classes <= MAX_CLASSES or len(set(self.class_names)) < n_classes:
            raise SupportError(f"classes are {self.class_names}, expected 1 to {MAX_CLASSES} different names")
        if not np.isin(self.labels, (*range(n_classes + 1), IGNORE_LABEL)).all():
            raise SupportError(
                f"labels hold {np.unique(self.labels)[:8].tolist()}, expected 0 to {n_classes} and {IGNORE_LABEL}"
            )
        for c, of_class in enumerate(self.labels_by_class):
            of = f" of class {self.class_names[c]!r}" if n_classes > 1 else ""
            for value, what, cure in (
                (1, "object", "label at least one object"),
                (
                    0,
                    "background",
                    "the masks are full, or an outline goes around everything: leave some of the labelled area as "
                    "background",
                ),
            ):
                holds_it = (
                    value == 0 and self.rough is not None and self.rough[of_class == 1].any()
                )  # boxes do
                if not holds_it and not (of_class == value).any():
                    raise SupportError(f"no pixel of the {n} patches is labelled as {what}{of}; {cure}")
        is_object = (self.labels > 0) & (self.labels != IGNORE_LABEL)
        if self.instances is not None and not np.array_equal(self.instances > 0, is_object):
            raise SupportError("instances and labels have different object pixels; make them agree")
        if self.rough is not None and (self.instances is None or (self.rough[~is_object] > 0).any()):
            raise SupportError("points and boxes need instances, of which they are; state them together")
        if self.mpp is not None and not self.mpp > 0:
            raise SupportError(f"mpp {self.mpp} is not positive")

    @property
    def class_name(self) -> str:
        """The names of the classes, joined by commas."""
        return ", ".join(self.class_names)

    @property
    def n_dense(self) -> int:
        """Number of patches of which a whole region is labelled; they come first."""
        return len(self.names) - self.n_sparse

    @property
    def labels_by_class(self) -> NDArray[np.uint8]:
        """Labels of each class, uint8 (C, K, 224, 224): 0 for background, 1 for object, 255 for not known."""
        values = np.arange(1, len(self.class_names) + 1)[:, None, None, None]
        known = np.where(
            self.labels == IGNORE_LABEL, np.uint8(IGNORE_LABEL), (self.labels == values).astype(np.uint8)
        )
        if self.complete is not None:
            known[(self.labels == 0) & ~self.complete.T[..., None, None]] = IGNORE_LABEL
        return known

    def of_class(self, value: int) -> SupportSet:
        """The support set of one class, 1..C, with the other classes as background."""
        if len(self.class_names) == 1:
            return self
        labels = self.labels_by_class[value - 1]
        objects = self.instances
        return SupportSet(
            images=self.images,
            labels=labels,
            instances=None if objects is None else np.where(labels == 1, objects, 0).astype(np.int32),
            names=self.names,
            mpp=self.mpp,
            class_names=(self.class_names[value - 1],),
            n_sparse=self.n_sparse,
            pictures=self.pictures,
            rough=None if self.rough is None else np.where(labels == 1, self.rough, np.uint8(0)),
            marks=tuple(replace(mark, value=1) for mark in self.marks if mark.value == value),
            labelled=f"{self.labelled} of {value}" if self.labelled else "",
        )

    def digest(self) -> str:
        """Hash of everything that can change a result: pixels, labels, instances, mpp and classes."""
        if self.labelled:
            return self.labelled
        digest = hashlib.sha256(repr((self.mpp, self.class_names, self.instances is not None)).encode())
        for array in (self.images, self.labels, self.instances, self.complete, self.rough):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        if self.n_sparse:
            digest.update(f"sparse {self.n_sparse}".encode())
        if self.pictures:
            digest.update(f"pictures {self.pictures}".encode())
        if self.marks:
            digest.update(repr(self.marks).encode())
        return digest.hexdigest()


def is_same_scale(mpp: float, other: float) -> bool:
    """Whether two resolutions, um per px, are close enough for the same patches."""
    return 0.9 < mpp / other < 1.1


def rough_marks(
    labels: NDArray[np.uint8], instances: NDArray[np.int32], rough: NDArray[np.uint8], patch: int = 0
) -> list[RoughMark]:
    """The points and boxes of a picture or patch, all (H, W), as far as it shows them."""
    from scipy import ndimage  # of few support sets

    marks = []
    for number, box in enumerate(ndimage.find_objects(np.where(rough > 0, instances, 0)), start=1):
        if box is not None:
            first = np.argmax(instances[box] == number)
            value, kind = int(labels[box].flat[first]), int(rough[box].flat[first])
            edges = box[0].start, box[1].start, box[0].stop, box[1].stop
            marks.append(RoughMark(patch, number, value, kind, *map(float, edges)))
    return marks


def joined_rough(parts: Sequence[NDArray[np.uint8] | None]) -> NDArray[np.uint8] | None:
    """`SupportSet.rough` of patches, each (224, 224) or None; None if there is no point or box."""
    if not any(part is not None and part.any() for part in parts):
        return None
    none = np.zeros((PATCH_SIZE, PATCH_SIZE), np.uint8)
    return np.stack([none if part is None else part for part in parts])


def choose_classes(uri: str, found: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Indexes in `found` of the classes to use: all, or those of `wanted`, in its order.

    A name stands for the class of exactly that name, else for the only one that differs in case alone.

    Raises
    ------
    SupportError
        There is no such class, or several that differ in case alone; or one is wanted twice.
    """
    if not wanted:
        return list(range(len(found)))
    chosen: list[int] = []
    for name in wanted:
        exact = [i for i, there in enumerate(found) if there == name]
        near = exact or [i for i, there in enumerate(found) if there.casefold() == name.casefold()]
        if not near:
            shown = ", ".join(found[:MAX_CLASSES]) + (", ..." if len(found) > MAX_CLASSES else "")
            raise SupportError(f"{uri}: has no object of class {name!r}, only {shown}")
        if len(near) > 1:
            both = " and ".join(repr(found[i]) for i in near)
            raise SupportError(
                f"{uri}: class {name!r} may be {both}; give --class exactly as one of them is written"
            )
        if near[0] in chosen:
            raise SupportError(f"{uri}: class {found[near[0]]!r} is asked for twice; name it once")
        chosen.append(near[0])
    return chosen


def alike(names: Sequence[str]) -> list[str]:
    """Those of the names that differ in case alone, as text.

    >>> alike(["Cell", "Nucleus", "nucleus"])
    ["'Nucleus' and 'nucleus'"]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.casefold(), []).append(name)
    return [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]


def doubts(
    uri: str, labels: NDArray[np.uint8], class_names: Sequence[str], names: Sequence[str]
) -> list[str]:
    """What looks as if masks were inverted, or filled by an outline around everything; one sentence each.

    Parameters
    ----------
    labels : NDArray[np.uint8]
        uint8 (K, 224, 224) 0 background, 1..C the classes, 255 not labelled.
    names : Sequence[str]
        K names of the patches.
    """
    notes = []
    for value, class_name in enumerate(class_names, start=1):
        known = labels != IGNORE_LABEL
        of_class = labels == value
        share = of_class.sum() / max(1, known.sum())
        inverted = [
            name
            for name, one, valid in zip(names, of_class, known, strict=True)
            if _looks_inverted(one, valid)
        ]
        if inverted:
            which = "all patches" if len(inverted) == len(names) else ", ".join(inverted[:4])
            notes.append(
                f"{uri}: class {class_name} looks inverted in {which}: it fills more than half, around islands of "
                "background. If background and object are exchanged, exchange the values of the masks."
            )
        elif share >= NEARLY_ALL:
            notes.append(
                f"{uri}: {share:.0%} of what is labelled is of class {class_name}. If masks are inverted, or an "
                "outline goes around everything, the result is wrong."
            )
    return notes


def _looks_inverted(of_class: NDArray[np.bool_], known: NDArray[np.bool_]) -> bool:
    """Whether the background of a patch is islands in the object, rather than the object islands in the background."""
    if not known.any() or not 2 * of_class.sum() > known.sum():
        return False
    from scipy import ndimage  # of few patches alone: most need no second look

    background, n_background = ndimage.label(known & ~of_class)
    at_edge = ndimage.binary_dilation(~np.pad(known, 1), np.ones((3, 3)))[1:-1, 1:-1]
    n_islands = n_background - len(set(np.unique(background[at_edge]).tolist()) - {0})
    _, n_objects = ndimage.label(of_class)
    return bool(n_islands >= ISLANDS and n_islands >= 2 * n_objects)
