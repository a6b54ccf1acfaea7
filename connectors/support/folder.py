"""Support sets in folders: labelled pictures of one class, of several, or in a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from fewscope.connectors.slide_options import NO_STACK, StackOptions
from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.connectors.support.joined_classes import join_classes
from fewscope.connectors.support.label_files import (
    find_label_files,
    is_label_file,
    pictures_of_file,
    pictures_of_files,
)
from fewscope.connectors.support.pair_names import Pair, find_pairs
from fewscope.connectors.support.pair_pictures import pictures_of_pairs
from fewscope.connectors.support.picture_patches import cut_patches
from fewscope.connectors.support.pictures import PictureFolder
from fewscope.connectors.support.resampled_pictures import at_resolution
from fewscope.connectors.support.support_json import read_statement
from fewscope.connectors.support.support_set import (
    MAX_CLASSES,
    SupportSet,
    alike,
    choose_classes,
)
from fewscope.errors import SupportError

PAIRS = "image/NAME.png with label/NAME.png, NAME.png with NAME_mask.png, or 1.jpg with 1.png"


def load_folder(
    uri: str, class_names: Sequence[str], stack: StackOptions = NO_STACK, mpp: float | None = None
) -> SupportSet:
    """Load a support set from a folder; see `connectors.support.load.load_support`."""
    filesystem, root = _open(uri)
    if is_label_file(uri):
        return cut_patches(at_resolution(pictures_of_file(filesystem, root, uri, class_names, stack), mpp))
    stated = read_statement(filesystem, root, uri)
    pictures, broken = _pictures(filesystem, root, uri, stated, class_names, stack)
    if pictures is not None:
        return cut_patches(at_resolution(pictures, mpp))
    of_classes = _class_folders(filesystem, root, uri)
    if not of_classes:
        raise broken or SupportError(
            f"{uri}: has no labelled pair; expected {PAIRS}, a folder of these for each class, or pictures with the "
            "labels of COCO, LabelMe, YOLO or Pascal VOC"
        )
    if "class" in stated:
        raise SupportError(f"{uri}/support.json: names one class, the folder has {', '.join(of_classes)}")
    chosen = choose_classes(uri, list(of_classes), class_names or stated.get("classes", ()))
    sets = []
    for name in [list(of_classes)[i] for i in chosen]:
        shown, folder = f"{uri.rstrip('/')}/{name}", f"{root.rstrip('/')}/{name}"
        of_class = {"mpp": stated.get("mpp")} | read_statement(filesystem, folder, shown)
        if "classes" in of_class:
            raise SupportError(f"{shown}/support.json: names several classes, but the folder is one of them")
        of_class |= {"class": name}
        pairs = of_classes[name]
        of_folder = pictures_of_pairs(filesystem, folder, shown, pairs, of_class, (), stack)
        sets.append(cut_patches(at_resolution(of_folder, mpp)))
    try:
        joined = join_classes(sets) if len(sets) > 1 else sets[0]
    except SupportError as error:
        raise SupportError(f"{uri}: {error}") from error
    both = [
        f"{uri}: classes {pair} differ in case only; they were taken as two."
        for pair in alike(list(of_classes))
    ]
    return replace(joined, notes=(*joined.notes, *both))


def open_pictures(uri: str, class_names: Sequence[str]) -> PictureFolder | None:
    """The labelled pictures in a folder, whole; None if it holds none.

    Raises
    ------
    SupportError
        There is no such folder, or it is not certain what its pictures and labels mean.
    """
    filesystem, root = _open(uri)
    if is_label_file(uri):
        return pictures_of_file(filesystem, root, uri, class_names)
    pictures, broken = _pictures(filesystem, root, uri, read_statement(filesystem, root, uri), class_names)
    if pictures is None and broken is not None:
        raise broken
    return pictures


def _open(uri: str) -> tuple[Any, str]:
    """The filesystem of a folder, or of a file of labels, that exists, and its path there."""
    try:
        filesystem, root = find_filesystem(uri)
        is_folder, exists = filesystem.isdir(root), filesystem.exists(root)
    except Exception as error:  # each driver has its own exceptions
        raise SupportError(f"{uri}: cannot be reached ({' '.join(str(error).split())})") from error
    if not exists:
        raise SupportError(f"{uri}: no such folder; check the path")
    if not is_folder and not is_label_file(uri):
        labels = ""
        if uri.lower().endswith((".tif", ".tiff")):
            labels = "; give a raster of labels as polygons without the background (QGIS: Polygonize)"
        raise SupportError(
            f"{uri}: is a file, expected a folder of pairs, or a .geojson of annotations{labels}"
        )
    return filesystem, root


def _pictures(
    filesystem: Any,
    root: str,
    uri: str,
    stated: dict[str, Any],
    class_names: Sequence[str],
    stack: StackOptions = NO_STACK,
) -> tuple[PictureFolder | None, SupportError | None]:
    """The labelled pictures in a folder, or None, and why a file that may hold labels cannot be read.

    Masks come first: JSON may lie beside them for other reasons.
    """
    pairs: list[Pair] = []
    doubt: SupportError | None = None
    try:
        pairs = list(find_pairs(filesystem, root, uri))
    except SupportError as error:
        doubt = error
    if pairs:
        return pictures_of_pairs(filesystem, root, uri, pairs, stated, class_names, stack), None
    files = find_label_files(filesystem, root)
    if files:
        return pictures_of_files(filesystem, root, uri, files, stated, class_names, stack), None
    if doubt is not None:
        raise SupportError(f"{doubt}; {files.broken[0]}") if files.broken else doubt
    return None, files.broken[0] if files.broken else None


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
