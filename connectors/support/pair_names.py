"""Which picture of a folder is the image, and which its mask: by the names of folders and files."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fewscope.errors import SupportError

log = logging.getLogger(__name__)

IMAGE_FOLDERS = ("image", "images", "img", "imgs")
LABEL_FOLDERS = (
    *("label", "labels", "mask", "masks", "gt", "annotation", "annotations", "segmentation", "segmentations"),
)
"""In any case. The first two of each are looked for first: they may lie beside others."""

PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
INSTANCES, ROUGH = ".inst.png", ".rough.png"

MASK_NAME = re.compile(
    r"(.+?)[-_ ](?:cp_)?(?:masks?|labels?|labell?ed|seg|segmentation|gt)", re.IGNORECASE | re.DOTALL
)
"""Stems of masks that lie beside NAME: NAME_mask, NAME_cp_masks (Cellpose), NAME-labelled (QuPath)..."""


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

    @property
    def rough(self) -> str | None:
        """Path, where a file may lie, of a map of the points and boxes among its objects; None without objects."""
        return None if self.instances is None else self.instances[: -len(INSTANCES)] + ROUGH


def find_pairs(filesystem: Any, root: str, uri: str) -> Iterator[Pair]:
    """Pairs in the order of their names, numbers by value: 2.jpg before 10.jpg.

    Raises
    ------
    SupportError
        Half of a pair is missing, or it is not certain which pictures belong together.
    """
    folders = _folders(filesystem, root)
    image_folder = _half(filesystem, folders, IMAGE_FOLDERS)
    label_folder = _half(filesystem, folders, LABEL_FOLDERS)
    if image_folder and label_folder:
        yield from _pairs_of_folders(filesystem, image_folder, label_folder)
        return
    old = [path for path in (image_folder, label_folder) if path and _is_old(path)]
    if old:
        there, missing = ("image/", "label/") if image_folder else ("label/", "image/")
        raise SupportError(f"{uri}: has {there} but no {missing}; put the other half of the pairs there")
    yield from _pairs_side_by_side(filesystem, root)


def mask_names(names: Sequence[str]) -> set[str]:
    """Of the names of the pictures in one folder, those of masks: by their names alone, as `find_pairs` takes them.

    >>> sorted(mask_names(["a.tif", "a_cp_masks.tif", "b.png", "1.jpg", "1.png", "2.png", "2.inst.png"]))
    ['1.png', '2.inst.png', 'a_cp_masks.tif']
    """
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(PurePosixPath(name).stem, []).append(name)
    masks = {name for name in names if name.lower().endswith((INSTANCES, ROUGH))}
    for stem, of_stem in stems.items():
        if _named_after(stem, stems) is not None:
            masks.update(of_stem)
        elif pair := _photo_and_mask(of_stem):
            masks.add(pair[1])
    return masks


def image_folder_of(filesystem: Any, root: str) -> str | None:
    """The folder in ``root`` that is called images, or the like; None if there is none."""
    return _half(filesystem, _folders(filesystem, root), IMAGE_FOLDERS)


def _folders(filesystem: Any, root: str) -> list[str]:
    entries = filesystem.ls(root, detail=True)
    return sorted(entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")


def _is_old(path: str) -> bool:
    return PurePosixPath(path).name in (*IMAGE_FOLDERS[:2], *LABEL_FOLDERS[:2])


def _half(filesystem: Any, folders: Sequence[str], names: Sequence[str]) -> str | None:
    """The folder of one half of the pairs; SupportError if it may be one or another."""
    by_name = {PurePosixPath(path).name: path for path in folders}
    for name in names[:2]:
        if name in by_name:
            return by_name[name]
    others = [path for name, path in by_name.items() if name.lower() in names]
    others = [path for path in others if any(_pictures(filesystem, path))]
    if len(others) > 1:
        raise SupportError(f"{others[0]}: may be meant, or {others[1]}; keep one of them")
    return others[0] if others else None


def _pairs_of_folders(filesystem: Any, image_folder: str, label_folder: str) -> Iterator[Pair]:
    images, _ = _pictures(filesystem, image_folder)
    of_stems, instances = _pictures(filesystem, label_folder)
    labels: dict[str, list[str]] = {}
    for stem, paths in of_stems.items():
        labels.setdefault(stem if stem in images else _named_after(stem, images) or stem, []).extend(paths)
    for stem in sorted(images.keys() | labels.keys(), key=by_number):
        if stem not in labels:
            raise SupportError(f"{images[stem][0]}: has no label of the same name in {label_folder}; add it")
        if stem not in images:
            raise SupportError(f"{labels[stem][0]}: has no image of the same name in {image_folder}; add it")
        for paths in (images[stem], labels[stem]):
            if len(paths) > 1:
                raise SupportError(f"{paths[0]}: has the same name as {paths[1]}; keep one of them")
        yield Pair(images[stem][0], labels[stem][0], _objects_of(stem, labels[stem][0], instances))


def _pairs_side_by_side(filesystem: Any, root: str) -> Iterator[Pair]:
    """1.jpg with 1.png, and NAME.png (.tif, .jpg...) with NAME_mask.png, NAME-labels.tif..."""
    found, instances = _pictures(filesystem, root)
    photo_and_mask = {stem: pair for stem, paths in found.items() if (pair := _photo_and_mask(paths))}
    masks: dict[str, list[str]] = {}
    for stem, paths in found.items():
        image = _named_after(stem, found)
        if image is not None and stem not in photo_and_mask:
            masks.setdefault(image, []).extend(paths)
    for stem in sorted(found, key=by_number):
        paths, pair, named = found[stem], photo_and_mask.get(stem), masks.get(stem, [])
        if named:
            _check_certain(paths, pair, named, is_mask=_named_after(stem, found) is not None)
            yield Pair(paths[0], named[0], _objects_of(stem, named[0], instances))
        elif pair:
            yield Pair(*pair, instances.get(stem))
        elif not any(paths[0] in of_image for of_image in masks.values()):
            log.info("%s: not one .jpg with one .png, and no NAME_mask beside it: skipped", paths[0])


def _photo_and_mask(paths: Sequence[str]) -> tuple[str, str] | None:
    """The .jpg and the .png of files of one name, as FSS-1000 has them; None if they are no such pair."""
    photos = [path for path in paths if path.lower().endswith((".jpg", ".jpeg"))]
    masks = [path for path in paths if path.lower().endswith(".png")]
    return (photos[0], masks[0]) if len(photos) == len(masks) == 1 else None


def _check_certain(
    paths: Sequence[str], pair: tuple[str, str] | None, named: Sequence[str], *, is_mask: bool
) -> None:
    """Raise SupportError unless one picture has one mask."""
    if is_mask:
        raise SupportError(
            f"{paths[0]}: is a mask by its name, but so is {named[0]} of it; rename one of them"
        )
    if pair:
        raise SupportError(f"{pair[0]}: its mask may be {pair[1]} or {named[0]}; keep one of them")
    if len(named) > 1:
        raise SupportError(f"{paths[0]}: its mask may be {named[0]} or {named[1]}; keep one of them")
    if len(paths) > 1:
        raise SupportError(f"{named[0]}: may be the mask of {paths[0]} or {paths[1]}; keep one of them")


def _named_after(stem: str, images: dict[str, list[str]]) -> str | None:
    """The image whose name the stem of a mask begins with.

    >>> _named_after("cell_cp_masks", {"cell": ["cell.png"]})
    'cell'
    """
    match = MASK_NAME.fullmatch(stem)
    return match[1] if match and match[1] in images else None


def _objects_of(stem: str, label: str, instances: dict[str, str]) -> str | None:
    return instances.get(stem) or instances.get(PurePosixPath(label).stem)


def _pictures(filesystem: Any, folder: str) -> tuple[dict[str, list[str]], dict[str, str]]:
    """Images by stem, and instance maps (``STEM.inst.png``) by stem; hidden files are skipped."""
    pictures: dict[str, list[str]] = {}
    instances: dict[str, str] = {}
    for path in sorted(filesystem.ls(folder, detail=False)):
        name = PurePosixPath(path).name
        if name.startswith(".") or not name.lower().endswith(PICTURES) or name.lower().endswith(ROUGH):
            continue
        if name.lower().endswith(INSTANCES):
            instances[name[: -len(INSTANCES)]] = path
        else:
            pictures.setdefault(PurePosixPath(name).stem, []).append(path)
    return pictures, instances


def name_order(path: str) -> tuple[int, int, str]:
    """Key to sort files by: `by_number` of their names without the ending."""
    return by_number(PurePosixPath(path).stem)


def by_number(stem: str) -> tuple[int, int, str]:
    """Key to sort names by: numbers by their value, before all others."""
    return (0, int(stem), stem) if stem.isascii() and stem.isdigit() else (1, 0, stem)
