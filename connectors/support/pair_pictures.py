"""Pictures that are labelled by masks: of two values, of classes, or of object numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.slide_options import NO_STACK, StackOptions
from fewscope.connectors.support import label_images
from fewscope.connectors.support.image_files import (
    decode_classes,
    decode_instances,
    decode_mask,
    decode_numbers,
    decode_rough,
    size_text,
)
from fewscope.connectors.support.measured_pictures import PictureReader
from fewscope.connectors.support.pair_names import Pair
from fewscope.connectors.support.pictures import Labelled, Picture, PictureFolder
from fewscope.connectors.support.support_json import of_each
from fewscope.connectors.support.support_set import choose_classes
from fewscope.errors import SupportError

MAX_PAIRS = 512  # 150 KB each, decoded

Decode = Callable[[str], tuple[NDArray[np.uint8], NDArray[np.int32] | None]]
"""Labels (H, W) 0, 1..C, 255, and objects (H, W), of a mask."""


def pictures_of_pairs(
    filesystem: Any,
    root: str,
    uri: str,
    pairs: Sequence[Pair],
    stated: dict[str, Any],
    class_names: Sequence[str],
    stack: StackOptions = NO_STACK,
) -> PictureFolder:
    """The pictures of the pairs in one folder: of one class, or those in its support.json.

    Parameters
    ----------
    stated : dict
        What support.json says, see `support_json.read_statement`.
    class_names : sequence of str
        Which classes to use, all if empty; the name, if there is one class.
    stack : StackOptions
        Which plane and time point of pictures that are stacks.

    Raises
    ------
    SupportError
        There are too many pairs, no such class, or the meaning of the masks is not certain.
    """
    if len(pairs) > MAX_PAIRS:
        raise SupportError(
            f"{uri}: holds {len(pairs)} pairs, at most {MAX_PAIRS} are read; keep the best few"
        )
    in_masks: list[str] | None = stated.get("classes")
    if in_masks is None and len(class_names) > 1:
        raise SupportError(
            f"{uri}: holds pairs of one class, not of {', '.join(class_names)}; make a folder for each class"
        )
    name = PurePosixPath(root.rstrip("/")).name or "object"
    found = in_masks or [*class_names, stated.get("class") or name][:1]
    chosen = choose_classes(uri, found, class_names)
    values = np.zeros(IGNORE_LABEL + 1, np.uint8)  # from values of the masks to those of the chosen classes
    values[IGNORE_LABEL] = IGNORE_LABEL
    values[np.array(chosen) + 1] = np.arange(1, len(chosen) + 1)
    assumptions: list[str] = []
    decode = (
        (lambda path: (decode_classes(filesystem, path, len(found)), None))
        if in_masks
        else _decoder(filesystem, uri, pairs, stated, assumptions)
    )

    labelled_for = of_each(stated, "labelled_for", len(pairs), uri)
    images = PictureReader(filesystem, (pair.image for pair in pairs), stated, stack)

    def read(pair: Pair) -> Labelled:
        image = images.read(pair.image)
        label, objects = decode(pair.label)
        if image.shape[:2] != label.shape:
            raise SupportError(
                f"{pair.label}: is {size_text(label)}, its image {pair.name} is {size_text(image)}; "
                "they must be the same"
            )
        if pair.instances is not None:
            objects = decode_instances(filesystem, pair.instances, label)
        rough = None
        if pair.rough is not None and filesystem.exists(pair.rough):
            rough = decode_rough(filesystem, pair.rough, label)
        label = values[label]
        if rough is not None:
            rough[(label == 0) | (label == IGNORE_LABEL)] = 0
        if objects is not None and in_masks:
            objects = _by_class(objects, label, len(chosen))
        return Labelled(image, label, objects, rough)

    return PictureFolder(
        uri=uri,
        pictures=[Picture(pair.name, pair.label, _reader(read, pair)) for pair in pairs],
        class_names=tuple(found[i] for i in chosen),
        mpp=images.mpp,
        ranges=images.ranges,
        n_sparse=stated.get("sparse", 0),
        corrected=(stated.get("corrected", [0])[0], stated.get("corrected", [0])[-1]),
        assumptions=[*assumptions, *images.assumptions],
        complete=np.array([[found[i] in one for i in chosen] for one in labelled_for])
        if labelled_for
        else None,
        groups=tuple(of_each(stated, "pictures", len(pairs), uri)),
    )


def _reader(read: Callable[[Pair], Labelled], pair: Pair) -> Callable[[], Labelled]:
    return lambda: read(pair)


def _decoder(
    filesystem: Any, uri: str, pairs: Sequence[Pair], stated: dict[str, Any], assumptions: list[str]
) -> Decode:
    """How the masks of a set without classes are read: all in the same way."""
    masks = [pair.label for pair in pairs if pair.instances is None]
    says = stated.get("instances")
    evidence = label_images.weigh(filesystem, masks)
    if label_images.hold_numbers(evidence, says):
        if says is None:
            assumptions.append(label_images.assumption(uri, evidence))
        return lambda path: label_images.decode_label_image(filesystem, path)
    if says is None or not evidence.n_masks:
        return lambda path: (decode_mask(filesystem, path), None)

    def all_above_0(path: str) -> tuple[NDArray[np.uint8], None]:
        numbers = decode_numbers(filesystem, path)
        return decode_mask(filesystem, path) if numbers is None else (numbers > 0).astype(np.uint8), None

    return all_above_0


def _by_class(objects: NDArray[np.int32], label: NDArray[np.uint8], n_classes: int) -> NDArray[np.int32]:
    """Object numbers 1..n of the chosen classes; a number that occurs in two classes is two objects."""
    is_object = (label > 0) & (label <= n_classes)
    pairs = np.where(is_object, objects.astype(np.int64) * (n_classes + 1) + label, 0)
    values, compact = np.unique(pairs, return_inverse=True)
    return (compact.reshape(objects.shape) + (values[0] > 0)).astype(np.int32)
