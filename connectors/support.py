"""Support sets: the few labelled patches that say what to look for.

From a folder of picture and mask pairs, or from annotations drawn on a slide (`connectors.annotations`).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from connectors.patches import (
    IGNORE,
    PATCH,
    SupportError,
    decode_image,
    decode_instances,
    decode_mask,
    read_bytes,
    size_text,
)
from connectors.source import PLAUSIBLE_MPP, Source

log = logging.getLogger(__name__)

MAX_PAIRS = 512  # 150 KB each once decoded
IMAGE_FOLDERS = ("image", "images")
LABEL_FOLDERS = ("label", "labels")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
__all__ = ["IGNORE", "PATCH", "SupportError", "SupportSet", "is_drawn", "load_support"]


@dataclass(frozen=True, slots=True, eq=False)
class SupportSet:
    """K labelled patches of one class.

    Attributes
    ----------
    images
        uint8 (K, 224, 224, 3).
    labels
        uint8 (K, 224, 224): 0 background, 1 object, 255 not labelled.
    instances
        int32 (K, 224, 224), 0 background, 1..n one object each, or None where only the class is known.
    names
        K, for people: where each patch comes from.
    mpp
        um per px of the patches, None if not stated.
    class_name
        What the objects are.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32] | None
    names: tuple[str, ...]
    mpp: float | None
    class_name: str

    def __post_init__(self) -> None:
        n = len(self.names)
        for name, array, dtype, shape in (
            ("images", self.images, np.uint8, (n, PATCH, PATCH, 3)),
            ("labels", self.labels, np.uint8, (n, PATCH, PATCH)),
            ("instances", self.instances, np.int32, (n, PATCH, PATCH)),
        ):
            if array is not None and (array.dtype != dtype or array.shape != shape):
                raise SupportError(
                    f"{name} are {array.dtype} {array.shape}, expected {dtype.__name__} {shape}"
                )
        if n < 1:
            raise SupportError("a support set needs at least one labelled patch")
        if not np.isin(self.labels, (0, 1, IGNORE)).all():
            raise SupportError(
                f"labels hold {np.unique(self.labels)[:8].tolist()}, expected 0, 1 and {IGNORE}"
            )
        for value, what, cure in (
            (1, "object", "label at least one object"),
            (0, "background", "leave some of the labelled area as background"),
        ):
            if not (self.labels == value).any():
                raise SupportError(f"no pixel of the {n} patches is labelled as {what}; {cure}")
        if self.instances is not None and not np.array_equal(self.instances > 0, self.labels == 1):
            raise SupportError("instances and labels differ in what is object; make them agree")
        if self.mpp is not None and not self.mpp > 0:
            raise SupportError(f"mpp {self.mpp} is not positive")

    def digest(self) -> str:
        """Hash of everything that can change a result: pixels, labels, instances, mpp and class."""
        digest = hashlib.sha256(repr((self.mpp, self.class_name, self.instances is not None)).encode())
        for array in (self.images, self.labels, self.instances):
            if array is not None:
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def is_drawn(uri: str) -> bool:
    """Whether a support set is annotations drawn on a slide, by its name; else it is a folder of pairs."""
    return uri.lower().removesuffix(".gz").endswith((".geojson", ".json"))


def load_support(uri: str, *, source: Source | None = None, class_name: str | None = None) -> SupportSet:
    """Read a support set.

    Parameters
    ----------
    uri
        A folder (path or fsspec URL) of pairs: ``image/`` and ``label/`` with the same names, or ``1.jpg
        1.png`` side by side, with optional ``1.inst.png`` and ``support.json`` (``{"mpp": 0.5, "class":
        "nucleus"}``). Or a ``.geojson`` / ``.json`` (``.gz``) of QuPath with regions and the objects in them,
        drawn on ``source``.
    source
        The slide of the annotations.
    class_name
        Which class to look for, where several are drawn; otherwise only a name.

    Raises
    ------
    SupportError
        One line: the file, what is wrong, and what to do.
    """
    if is_drawn(uri):
        from connectors.annotations import load_annotations  # here, because it needs the types above

        return load_annotations(uri, source, class_name)
    return _load_folder(uri, class_name)


@dataclass(frozen=True, slots=True)
class _Pair:
    image: str
    label: str
    instances: str | None

    @property
    def name(self) -> str:
        return PurePosixPath(self.image).name


def _load_folder(uri: str, class_name: str | None) -> SupportSet:
    try:
        filesystem, root = fsspec.core.url_to_fs(uri)
        is_folder, exists = filesystem.isdir(root), filesystem.exists(root)
    except Exception as error:  # unknown protocol, missing driver, no credentials: each its own exception
        raise SupportError(f"{uri}: cannot be reached ({' '.join(str(error).split())})") from error
    if not exists:
        raise SupportError(f"{uri}: no such folder; check the path")
    if not is_folder:
        raise SupportError(f"{uri}: is a file, expected a folder of pairs, or a .geojson of annotations")
    stated = _read_statement(filesystem, root, uri)

    pairs = list(_find_pairs(filesystem, root, uri))
    if not pairs:
        raise SupportError(
            f"{uri}: holds no labelled pair; expected image/NAME.png with label/NAME.png, or 1.jpg with 1.png"
        )
    if len(pairs) > MAX_PAIRS:
        raise SupportError(
            f"{uri}: holds {len(pairs)} pairs, at most {MAX_PAIRS} are read; keep the best few"
        )

    images, labels, instances, names = [], [], [], []
    for pair in pairs:
        image = decode_image(filesystem, pair.image)
        label = decode_mask(filesystem, pair.label)
        if image.shape[:2] != label.shape:
            raise SupportError(
                f"{pair.label}: is {size_text(label)}, its picture {pair.name} is {size_text(image)}; "
                "they must be the same"
            )
        objects = None
        if pair.instances is not None:
            objects = decode_instances(filesystem, pair.instances, label)
        images.append(_fit(image, None))
        labels.append(_fit(label, IGNORE))
        instances.append(None if objects is None else _fit(objects, 0))
        names.append(_describe_fit(pair.name, image))
        if not (label == 1).any() or (label == 1).all():
            what = "no object: taken as a negative patch" if not label.any() else "no background"
            log.info("%s: %s", pair.label, what)
    every = [objects for objects in instances if objects is not None]
    if every and len(every) < len(instances):
        log.info("%s: %d of %d patches have instances; none are used", uri, len(every), len(instances))
    try:
        return SupportSet(
            images=np.stack(images),
            labels=np.stack(labels),
            instances=np.stack(every) if len(every) == len(instances) else None,
            names=tuple(names),
            mpp=stated.get("mpp"),
            class_name=class_name or stated.get("class") or PurePosixPath(root.rstrip("/")).name or "object",
        )
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error


def _read_statement(filesystem: Any, root: str, uri: str) -> dict[str, Any]:
    """The optional support.json: {"mpp": um per px, "class": name}."""
    path = f"{root.rstrip('/')}/support.json"
    if not filesystem.exists(path):
        return {}
    shown = f"{uri.rstrip('/')}/support.json"
    try:
        stated = json.loads(read_bytes(filesystem, path, shown))
    except ValueError as error:
        if isinstance(error, SupportError):
            raise
        raise SupportError(
            f'{shown}: is not JSON ({error}); write {{"mpp": 0.5, "class": "nucleus"}}'
        ) from error
    if not isinstance(stated, dict) or set(stated) - {"mpp", "class"}:
        keys = sorted(stated) if isinstance(stated, dict) else type(stated).__name__
        raise SupportError(f'{shown}: holds {keys}, expected {{"mpp": 0.5, "class": "nucleus"}}')
    mpp = stated.get("mpp")
    if mpp is not None:
        is_number = isinstance(mpp, int | float) and not isinstance(mpp, bool)
        if not is_number or not PLAUSIBLE_MPP[0] <= mpp <= PLAUSIBLE_MPP[1]:
            raise SupportError(
                f"{shown}: mpp is {mpp!r}, expected {PLAUSIBLE_MPP[0]:g}..{PLAUSIBLE_MPP[1]:g} um per px"
            )
        stated["mpp"] = float(mpp)
    if not isinstance(stated.get("class", ""), str):
        raise SupportError(f"{shown}: class is {stated['class']!r}, expected a name")
    return stated


def _find_pairs(filesystem: Any, root: str, uri: str) -> Iterator[_Pair]:
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
                    f"{labels[stem][0]}: has no picture of the same name in {image_folder}; add it"
                )
            for paths in (images[stem], labels[stem]):
                if len(paths) > 1:
                    raise SupportError(f"{paths[0]}: has the same name as {paths[1]}; keep one of them")
            yield _Pair(images[stem][0], labels[stem][0], instances.get(stem))
        return
    found, instances = _pictures(filesystem, root)
    for stem in sorted(found, key=_natural):
        photos = [path for path in found[stem] if path.lower().endswith((".jpg", ".jpeg"))]
        masks = [path for path in found[stem] if path.lower().endswith(".png")]
        if len(photos) == 1 and len(masks) == 1:
            yield _Pair(photos[0], masks[0], instances.get(stem))
        else:
            log.info("%s: not one .jpg with one .png, left out", found[stem][0])


def _pictures(filesystem: Any, folder: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Pictures by stem, and instance maps (``STEM.inst.png``) by stem; hidden files are left out."""
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
    """Cut the middle 224 px out of larger sides, pad smaller ones; nothing is resized: scale carries meaning.

    The padding is ``fill``, or the repeated edge where it is None.
    """
    for axis in (0, 1):
        spare = array.shape[axis] - PATCH
        if spare > 0:
            array = array.take(range(spare // 2, spare // 2 + PATCH), axis)
        elif spare < 0:
            width = [(0, 0)] * array.ndim
            width[axis] = (-spare // 2, -spare - (-spare // 2))
            array = (
                np.pad(array, width, "edge") if fill is None else np.pad(array, width, constant_values=fill)
            )
    return array


def _describe_fit(name: str, image: NDArray[np.uint8]) -> str:
    height, width = image.shape[:2]
    if (height, width) == (PATCH, PATCH):
        return name
    what = (
        "padded"
        if max(height, width) <= PATCH
        else "its centre"
        if min(height, width) >= PATCH
        else "centre, padded"
    )
    log.info("%s: is %d x %d px, not %d x %d: used %s", name, height, width, PATCH, PATCH, what)
    return f"{name} ({what}; was {height} x {width})"
