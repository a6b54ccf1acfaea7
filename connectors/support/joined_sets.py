"""Several support sets as one: patches of all of them, with classes joined by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.support.support_set import RoughMark, SupportSet, is_same_scale, joined_rough
from fewscope.errors import SupportError

NamedSet = tuple[str, SupportSet]
"""Where a support set is from, and the set."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Patches of one folder or file; unlike a `SupportSet`, it may lack objects or background of any class.

    Attributes
    ----------
    images, labels, instances, names, n_sparse, pictures, marks
        As in `SupportSet`, of the classes of all parts together.
    complete
        bool (K, C).
    rough
        (K, 224, 224); None without points and boxes.
    are_whole
        Whether instances are whole, so that they can be counted.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32] | None
    names: tuple[str, ...]
    n_sparse: int
    complete: NDArray[np.bool_]
    pictures: tuple[int, ...] = ()
    rough: NDArray[np.uint8] | None = None
    marks: tuple[RoughMark, ...] = ()
    are_whole: bool = True


def joined_names(of_parts: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    """For each part, its names of classes and those in all parts together.

    A name stands for the same name of the parts before, else for the only one of them that differs in case alone.

    >>> joined_names([["Nucleus"], ["nucleus", "vessel"]])
    [{'Nucleus': 'Nucleus'}, {'nucleus': 'Nucleus', 'vessel': 'vessel'}]
    """
    known: list[str] = []
    found = []
    for names in of_parts:
        before, of_part = list(known), dict[str, str]()
        for name in names:
            near = [one for one in before if one.casefold() == name.casefold()]
            of_part[name] = (
                near[0] if len(near) == 1 and name not in before and near[0] not in names else name
            )
            if of_part[name] not in known:
                known.append(of_part[name])
        found.append(of_part)
    return found


def part_of(one: NamedSet, joint: Mapping[str, str], class_names: Sequence[str]) -> Part | None:
    """The part that is a support set; None if it has none of the classes.

    Objects of other classes are background; of classes that the set does not know, its background is not known.

    Parameters
    ----------
    joint
        The set's names of classes, and those in all parts together.
    class_names
        The classes of all parts together that are looked for, in their order.
    """
    uri, support = one
    own = [joint[name] for name in support.class_names]
    values = np.array([class_names.index(name) + 1 if name in class_names else 0 for name in own])
    if not values.any():
        return None
    table = np.zeros(IGNORE_LABEL + 1, np.uint8)
    table[1 : len(own) + 1], table[IGNORE_LABEL] = values, IGNORE_LABEL
    labels = table[support.labels]
    is_object = (labels > 0) & (labels != IGNORE_LABEL)
    complete = np.zeros((len(labels), len(class_names)), bool)
    of_own = np.ones((len(labels), len(own)), bool) if support.complete is None else support.complete
    complete[:, values[values > 0] - 1] = of_own[:, values > 0]
    rough = None if support.rough is None else np.where(is_object, support.rough, np.uint8(0))
    return Part(
        images=support.images,
        labels=labels,
        instances=None
        if support.instances is None
        else np.where(is_object, support.instances, 0).astype(np.int32),
        names=tuple(f"{short(uri)}: {name}" for name in support.names),
        n_sparse=support.n_sparse,
        complete=complete,
        pictures=support.pictures,
        rough=rough,
        marks=tuple(
            replace(mark, value=int(values[mark.value - 1]))
            for mark in support.marks
            if values[mark.value - 1]
        ),
    )


def short(uri: str) -> str:
    """The last part of a path or URL."""
    return PurePath(uri.rstrip("/")).name or uri


def check_alike(sets: Sequence[NamedSet], mpp: float | None, n_channels: int | None, of: str) -> None:
    """Check that support sets can be joined: with each other, and with a source.

    Parameters
    ----------
    mpp, n_channels
        Of the source, or None.
    of
        The source, in words.

    Raises
    ------
    SupportError
        They are at different resolutions, or have different channels.
    """
    for uri, one in sets:
        if mpp and one.mpp and not is_same_scale(one.mpp, mpp):
            raise SupportError(
                f"{uri}: is at {one.mpp:.4g} um per px, {of} at {mpp:.4g}; give --mpp {one.mpp:.4g}, or label pictures "
                f"at {mpp:.4g}"
            )
        if n_channels is not None and one.images.shape[-1] != n_channels:
            raise SupportError(
                f"{uri}: its pictures have {one.images.shape[-1]} channels, {of} has {n_channels}; choose the same ones"
            )
        if mpp is None and one.mpp:
            mpp, of = one.mpp, uri
        if n_channels is None:
            n_channels, of = one.images.shape[-1], uri


def join_parts(parts: Sequence[Part], class_names: Sequence[str], mpp: float | None) -> SupportSet:
    """The support set of all parts: first the patches of which a whole region is labelled, in the order of the parts.

    Objects are told apart where they are in all parts, or where some are known by a point or box alone: then the
    connected components of the others count as objects.

    Raises
    ------
    SupportError
        All of them together have no object, or no background, of some class.
    """
    is_rough = any(part.rough is not None and part.rough.any() for part in parts)
    has_instances = is_rough or all(part.instances is not None and part.are_whole for part in parts)
    instances = [_numbered(part) if has_instances else None for part in parts]
    starts = np.cumsum([0, *(len(part.names) for part in parts)])
    order = np.array(
        [
            start + k
            for dense in (True, False)
            for start, part in zip(starts, parts, strict=False)
            for k in range(len(part.names))
            if (k < len(part.names) - part.n_sparse) == dense
        ]
    )
    place = np.argsort(order)  # of each patch of the parts, one after the other

    def joined(arrays: Sequence[NDArray[np.generic]]) -> NDArray[np.generic]:
        return np.concatenate(arrays)[order]

    none = np.zeros((PATCH_SIZE, PATCH_SIZE), np.uint8)
    rough = [none if part.rough is None else part.rough[k] for part in parts for k in range(len(part.names))]
    names = [name for part in parts for name in part.names]
    complete = joined([part.complete for part in parts])
    return SupportSet(
        images=joined([part.images for part in parts]),  # type: ignore[arg-type]
        labels=joined([part.labels for part in parts]),  # type: ignore[arg-type]
        instances=joined([one for one in instances if one is not None]) if has_instances else None,  # type: ignore[arg-type]
        names=tuple(names[k] for k in order),
        mpp=mpp,
        class_names=tuple(class_names),
        complete=None if complete.all() else complete,  # type: ignore[arg-type]
        n_sparse=sum(part.n_sparse for part in parts),
        pictures=_pictures(parts, order),
        rough=joined_rough([rough[k] for k in order]),
        marks=tuple(
            replace(mark, patch=int(place[start + mark.patch]))
            for start, part in zip(starts, parts, strict=False)
            for mark in part.marks
        ),
    )


def _pictures(parts: Sequence[Part], order: NDArray[np.int64]) -> tuple[int, ...]:
    """Numbers of the pictures of all patches; none if each stands for itself."""
    if not any(part.pictures for part in parts):
        return ()
    numbers: list[int] = []
    for part in parts:
        own = part.pictures or tuple(range(len(part.names)))
        first = max(numbers, default=-1) + 1
        numbers += [first + number for number in own]
    return tuple(numbers[k] for k in order)


def _numbered(part: Part) -> NDArray[np.int32]:
    """Instances of a part; where it has none, the connected components of each class."""
    if part.instances is not None:
        return part.instances
    from scipy import ndimage  # of few support sets

    found = np.zeros(part.labels.shape, np.int32)
    for k, labels in enumerate(part.labels):
        for value in np.unique(labels[(labels > 0) & (labels != IGNORE_LABEL)]):
            numbers, _ = ndimage.label(labels == value, np.ones((3, 3)))
            found[k] = np.where(numbers > 0, numbers + found[k].max(), found[k])
    return found
