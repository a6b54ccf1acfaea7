"""Support sets in folders: pairs of image and mask, with one class, several in one mask, or a folder per class."""

from __future__ import annotations

import json
import logging
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.conventions import IGNORE_LABEL, PATCH_SIZE
from fewscope.connectors.source import PLAUSIBLE_MPP
from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.connectors.support.image_files import (
    decode_classes,
    decode_image,
    decode_instances,
    decode_mask,
    read_bytes,
    size_text,
)
from fewscope.connectors.support.support_set import (
    MAX_CLASSES,
    SupportSet,
    alike,
    choose_classes,
    doubts,
    join_classes,
)
from fewscope.errors import SupportError

log = logging.getLogger(__name__)

MAX_PAIRS = 512  # 150 KB each, decoded
IMAGE_FOLDERS = ("image", "images")
LABEL_FOLDERS = ("label", "labels")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
EXAMPLE = '{"mpp": 0.5, "class": "nucleus"}'


@dataclass(frozen=True, slots=True)
class Pair:
    """Paths of an image, its mask and, or None, its objects."""

    image: str
    label: str
    instances: str | None

    @property
    def name(self) -> str:
        """Name of the image's file."""
        return PurePosixPath(self.image).name


def load_folder(uri: str, class_names: Sequence[str]) -> SupportSet:
    """Load a support set from a folder; see `connectors.support.load.load_support`."""
    try:
        filesystem, root = find_filesystem(uri)
        is_folder, exists = filesystem.isdir(root), filesystem.exists(root)
    except Exception as error:  # each driver has its own exceptions
        raise SupportError(f"{uri}: cannot be reached ({' '.join(str(error).split())})") from error
    if not exists:
        raise SupportError(f"{uri}: no such folder; check the path")
    if not is_folder:
        raise SupportError(f"{uri}: is a file, expected a folder of pairs, or a .geojson of annotations")
    stated = _read_statement(filesystem, root, uri)
    pairs = list(find_pairs(filesystem, root, uri))
    if pairs:
        return _load_pairs(filesystem, root, uri, pairs, stated, class_names)
    of_classes = _class_folders(filesystem, root, uri)
    if not of_classes:
        raise SupportError(
            f"{uri}: has no labelled pair; expected image/NAME.png with label/NAME.png, or 1.jpg with 1.png, "
            "or a folder of these for each class"
        )
    if "class" in stated:
        raise SupportError(f"{uri}/support.json: names one class, the folder has {', '.join(of_classes)}")
    chosen = choose_classes(uri, list(of_classes), class_names or stated.get("classes", ()))
    sets = []
    for name in [list(of_classes)[i] for i in chosen]:
        shown, folder = f"{uri.rstrip('/')}/{name}", f"{root.rstrip('/')}/{name}"
        of_class = {"mpp": stated.get("mpp")} | _read_statement(filesystem, folder, shown)
        if "classes" in of_class:
            raise SupportError(f"{shown}/support.json: names several classes, but the folder is one of them")
        sets.append(_load_pairs(filesystem, folder, shown, of_classes[name], of_class | {"class": name}, ()))
    try:
        joined = join_classes(sets) if len(sets) > 1 else sets[0]
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error
    both = [
        f"{uri}: classes {pair} differ in case only; they were taken as two."
        for pair in alike(list(of_classes))
    ]
    return replace(joined, notes=(*joined.notes, *both))


def _class_folders(filesystem: Any, root: str, uri: str) -> dict[str, list[Pair]]:
    """Pairs by the name of their folder, in the order of the names; folders without pairs are skipped."""
    folders = [entry["name"] for entry in filesystem.ls(root, detail=True) if entry["type"] == "directory"]
    folders = [path for path in sorted(folders) if not PurePosixPath(path).name.startswith(".")]
    found = {}
    for path in folders:
        name = PurePosixPath(path.rstrip("/")).name
        if pairs := list(find_pairs(filesystem, path, f"{uri.rstrip('/')}/{name}")):
            found[name] = pairs
        if len(found) > MAX_CLASSES:
            raise SupportError(
                f"{uri}: holds more than {MAX_CLASSES} classes; give the folder of one, or of a few"
            )
    return found


def _load_pairs(
    filesystem: Any,
    root: str,
    uri: str,
    pairs: list[Pair],
    stated: dict[str, Any],
    class_names: Sequence[str],
) -> SupportSet:
    """Support set of the pairs in one folder: of one class, or those in its support.json."""
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

    images, labels, instances, names = [], [], [], []
    for pair in pairs:
        image = decode_image(filesystem, pair.image)
        label = (
            decode_classes(filesystem, pair.label, len(in_masks))
            if in_masks
            else decode_mask(filesystem, pair.label)
        )
        if image.shape[:2] != label.shape:
            raise SupportError(
                f"{pair.label}: is {size_text(label)}, its image {pair.name} is {size_text(image)}; "
                "they must be the same"
            )
        objects = None
        if pair.instances is not None:
            objects = decode_instances(filesystem, pair.instances, label)
        label = values[label]
        if objects is not None and in_masks:
            objects = _by_class(objects, label, len(chosen))
        images.append(_fit(image, None))
        labels.append(_fit(label, IGNORE_LABEL))
        instances.append(None if objects is None else _fit(objects, 0))
        names.append(_describe_fit(pair.name, image))
        is_object = (label > 0) & (label != IGNORE_LABEL)
        if not is_object.any() or is_object.all():
            what = "no object: taken as a negative patch" if not is_object.any() else "no background"
            log.info("%s: %s", pair.label, what)
    every = [objects for objects in instances if objects is not None]
    if every and len(every) < len(instances):
        log.info("%s: %d of %d patches have instances; none are used", uri, len(every), len(instances))
    try:
        found_labels, n_sparse = np.stack(labels), stated.get("sparse", 0)
        some = slice(max(0, len(names) - n_sparse) or None)  # the last ones are labelled in places only
        return SupportSet(
            images=np.stack(images),
            labels=found_labels,
            instances=np.stack(every) if len(every) == len(instances) else None,
            names=tuple(names),
            mpp=stated.get("mpp"),
            class_names=tuple(found[i] for i in chosen),
            notes=tuple(doubts(uri, found_labels[some], [found[i] for i in chosen], names[some])),
            n_sparse=n_sparse,
            corrected=(stated.get("corrected", [0])[0], stated.get("corrected", [0])[-1]),
        )
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error


def _by_class(objects: NDArray[np.int32], label: NDArray[np.uint8], n_classes: int) -> NDArray[np.int32]:
    """Object numbers 1..n of the chosen classes; a number that occurs in two classes is two objects."""
    is_object = (label > 0) & (label <= n_classes)
    pairs = np.where(is_object, objects.astype(np.int64) * (n_classes + 1) + label, 0)
    values, compact = np.unique(pairs, return_inverse=True)
    return (compact.reshape(objects.shape) + (values[0] > 0)).astype(np.int32)


def _read_statement(filesystem: Any, root: str, uri: str) -> dict[str, Any]:
    """The optional support.json: {"mpp": um per px, "class": name}, or "classes", the names of a mask's values 1,
    2..."""
    path = f"{root.rstrip('/')}/support.json"
    if not filesystem.exists(path):
        return {}
    shown = f"{uri.rstrip('/')}/support.json"
    try:
        stated = json.loads(read_bytes(filesystem, path, shown))
    except ValueError as error:
        if isinstance(error, SupportError):
            raise
        raise SupportError(f"{shown}: is not JSON ({error}); write {EXAMPLE}") from error
    if not isinstance(stated, dict) or set(stated) - {"mpp", "class", "classes", "sparse", "corrected"}:
        keys = sorted(stated) if isinstance(stated, dict) else type(stated).__name__
        raise SupportError(f"{shown}: holds {keys}, expected {EXAMPLE}")
    mpp = stated.get("mpp")
    if mpp is not None:
        is_number = isinstance(mpp, int | float) and not isinstance(mpp, bool)
        if not is_number or not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
            raise SupportError(
                f"{shown}: mpp is {mpp!r}, expected {PLAUSIBLE_MPP[0]:g}..{PLAUSIBLE_MPP[1]:g} um per px"
            )
        stated["mpp"] = float(mpp)
    if not isinstance(stated.get("class", ""), str):
        raise SupportError(f"{shown}: class is {reprlib.repr(stated['class'])}, expected a name")
    if "classes" in stated:
        classes = stated["classes"]
        is_list = isinstance(classes, list) and 1 <= len(classes) <= MAX_CLASSES
        if not is_list or not all(isinstance(name, str) and name for name in classes) or "class" in stated:
            raise SupportError(
                f"{shown}: classes are {reprlib.repr(classes)}, expected up to {MAX_CLASSES} names and no "
                '"class" beside them'
            )
    for key, n_numbers in (("sparse", None), ("corrected", 2)):
        values = stated.get(key, 0 if n_numbers is None else [0, 0])
        numbers = [values] if n_numbers is None else values
        if (
            not isinstance(numbers, list)
            or len(numbers) != (n_numbers or 1)
            or not all(map(_is_count, numbers))
        ):
            raise SupportError(
                f"{shown}: {key} is {reprlib.repr(values)}, expected {n_numbers or 1} number(s) from 0 on"
            )
    return stated


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def find_pairs(filesystem: Any, root: str, uri: str) -> Iterator[Pair]:
    """Pairs in the order of their names, numbers by value: 2.jpg before 10.jpg."""
    entries = {PurePosixPath(path).name: path for path in filesystem.ls(root, detail=False)}
    image_folder = next((entries[name] for name in IMAGE_FOLDERS if name in entries), None)
    label_folder = next((entries[name] for name in LABEL_FOLDERS if name in entries), None)
    if (image_folder is None) != (label_folder is None):
        there, missing = ("image/", "label/") if image_folder else ("label/", "image/")
        raise SupportError(f"{uri}: has {there} but no {missing}; put the other half of the pairs there")
    if image_folder is not None and label_folder is not None:
        images, _ = _pictures(filesystem, image_folder)
        labels, instances = _pictures(filesystem, label_folder)
        for stem in sorted(images.keys() | labels.keys(), key=_natural):
            if stem not in labels:
                raise SupportError(
                    f"{images[stem][0]}: has no label of the same name in {label_folder}; add it"
                )
            if stem not in images:
                raise SupportError(
                    f"{labels[stem][0]}: has no image of the same name in {image_folder}; add it"
                )
            for paths in (images[stem], labels[stem]):
                if len(paths) > 1:
                    raise SupportError(f"{paths[0]}: has the same name as {paths[1]}; keep one of them")
            yield Pair(images[stem][0], labels[stem][0], instances.get(stem))
        return
    found, instances = _pictures(filesystem, root)
    for stem in sorted(found, key=_natural):
        photos = [path for path in found[stem] if path.lower().endswith((".jpg", ".jpeg"))]
        masks = [path for path in found[stem] if path.lower().endswith(".png")]
        if len(photos) == 1 and len(masks) == 1:
            yield Pair(photos[0], masks[0], instances.get(stem))
        else:
            log.info("%s: not one .jpg with one .png, skipped", found[stem][0])


def _pictures(filesystem: Any, folder: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Images by stem, and instance maps (``STEM.inst.png``) by stem; hidden files are skipped."""
    pictures: dict[str, list[str]] = {}
    instances: dict[str, str] = {}
    for path in sorted(filesystem.ls(folder, detail=False)):
        name = PurePosixPath(path).name
        if name.startswith(".") or not name.lower().endswith(PICTURES):
            continue
        if name.lower().endswith(".inst.png"):
            instances[name[: -len(".inst.png")]] = path
        else:
            pictures.setdefault(PurePosixPath(name).stem, []).append(path)
    return pictures, instances


def _natural(stem: str) -> tuple[int, int, str]:
    return (0, int(stem), stem) if stem.isascii() and stem.isdigit() else (1, 0, stem)


def _fit(array: NDArray[Any], fill: int | None) -> NDArray[Any]:
    """Crop larger sides to their middle 224 px, and pad smaller ones; nothing is resized, as scale is information.

    The padding is ``fill``, or the repeated edge if it is None.
    """
    for axis in (0, 1):
        spare = array.shape[axis] - PATCH_SIZE
        if spare > 0:
            array = array.take(range(spare // 2, spare // 2 + PATCH_SIZE), axis)
        elif spare < 0:
            width = [(0, 0)] * array.ndim
            width[axis] = (-spare // 2, -spare - (-spare // 2))
            array = (
                np.pad(array, width, "edge") if fill is None else np.pad(array, width, constant_values=fill)
            )
    return array


def _describe_fit(name: str, image: NDArray[np.uint8]) -> str:
    height, width = image.shape[:2]
    if (height, width) == (PATCH_SIZE, PATCH_SIZE):
        return name
    what = (
        "padded"
        if max(height, width) <= PATCH_SIZE
        else "its centre"
        if min(height, width) >= PATCH_SIZE
        else "centre, padded"
    )
    log.info("%s: is %d x %d px, not %d x %d: used %s", name, height, width, PATCH_SIZE, PATCH_SIZE, what)
    return f"{name} ({what}; was {height} x {width})"
