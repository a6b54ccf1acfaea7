"""Support sets of one class each as one of all classes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.support.support_set import RoughMark, SupportSet, joined_rough
from fewscope.errors import SupportError

log = logging.getLogger(__name__)


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
    rough: list[NDArray[np.uint8]] = []
    marks: list[RoughMark] = []
    complete: list[NDArray[np.bool_]] = []
    for c, one in enumerate(sets):
        for k, image in enumerate(one.images):
            place = places.setdefault(image.tobytes(), len(images))
            if place == len(images):
                images.append(image)
                labels.append(np.zeros((PATCH_SIZE, PATCH_SIZE), np.uint8))
                instances.append(np.zeros((PATCH_SIZE, PATCH_SIZE), np.int32))
                rough.append(np.zeros((PATCH_SIZE, PATCH_SIZE), np.uint8))
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
                before = _highest_number(instances[place], marks, place)
                ids = one.instances[k] + before
                instances[place] = np.where(is_object, ids, instances[place]).astype(np.int32)
                marks += [
                    replace(mark, patch=place, number=mark.number + before, value=c + 1)
                    for mark in one.marks
                    if mark.patch == k
                ]
            rough[place][is_object] = 0 if one.rough is None else one.rough[k][is_object]
            labels[place][is_object] = c + 1
            labels[place][claimed | unknown] = IGNORE_LABEL
            instances[place][claimed | unknown] = 0
            rough[place][claimed | unknown] = 0
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
        rough=joined_rough(rough),
        marks=tuple(marks),
    )


def _highest_number(instances: NDArray[np.int32], marks: Sequence[RoughMark], patch: int) -> int:
    """Highest number of an object in a patch, or of a mark of it."""
    return int(max(instances.max(), *(mark.number for mark in marks if mark.patch == patch), 0))
