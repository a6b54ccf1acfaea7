"""Support sets: a few labelled patches of the objects to segment.

They come from a folder of pairs of image and mask (`connectors.support.folder`), or from annotations on a slide or
raster (`connectors.support.annotations`).
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

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
                if not (of_class == value).any():
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
        return digest.hexdigest()


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


def join_classes(sets: Sequence[SupportSet]) -> SupportSet:
    """Join support sets of one class each into one, in their order.

    An object of one class is background for the others; the background of a patch is not known for classes that it was
    not labelled for. Patches with the same image become one, labelled for all their classes, so that they are held out
    together. A pixel that two classes claim is not labelled.

    Raises
    ------
    SupportError
        The sets differ in resolution, or a set has the same image twice.
    """
    mpps = {one.mpp for one in sets}
    if len(mpps) > 1:
        stated = ", ".join(f"{one.class_name} {one.mpp}" for one in sets)
        raise SupportError(f"the classes are at different um per px ({stated}); make them the same")
    has_instances = all(one.instances is not None for one in sets)
    places: dict[bytes, int] = {}
    images: list[NDArray[np.uint8]] = []
    labels, instances, names = [], [], []
    complete: list[NDArray[np.bool_]] = []
    for c, one in enumerate(sets):
        for k, image in enumerate(one.images):
            place = places.setdefault(image.tobytes(), len(images))
            if place == len(images):
                images.append(image)
                labels.append(np.zeros((PATCH_SIZE, PATCH_SIZE), np.uint8))
                instances.append(np.zeros((PATCH_SIZE, PATCH_SIZE), np.int32))
                names.append(f"{one.class_name}/{one.names[k]}")
                complete.append(np.zeros(len(sets), bool))
            elif complete[place][c]:
                raise SupportError(f"{one.names[k]} of {one.class_name} has the same image as another one")
            else:
                names[place] += f", {one.class_name}"
            complete[place][c] = True
            is_object = one.labels[k] == 1
            unknown = (labels[place] == IGNORE_LABEL) | (one.labels[k] == IGNORE_LABEL)
            claimed = is_object & (labels[place] > 0) & ~unknown
            if claimed.any():
                log.info("%s: %d px are of two classes: ignored", names[place], claimed.sum())
            if one.instances is not None:
                ids = one.instances[k] + instances[place].max()
                instances[place] = np.where(is_object, ids, instances[place]).astype(np.int32)
            labels[place][is_object] = c + 1
            labels[place][claimed | unknown] = IGNORE_LABEL
            instances[place][claimed | unknown] = 0
    return SupportSet(
        images=np.stack(images),
        labels=np.stack(labels),
        instances=np.stack(instances) if has_instances else None,
        names=tuple(names),
        mpp=sets[0].mpp,
        class_names=tuple(one.class_name for one in sets),
        complete=np.stack(complete),
        notes=tuple(note for one in sets for note in one.notes),
        assumptions=tuple(assumption for one in sets for assumption in one.assumptions),
        ranges=sets[0].ranges if len({one.ranges for one in sets}) == 1 else (),
    )
