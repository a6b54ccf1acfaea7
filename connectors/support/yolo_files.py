"""YOLO's text as the labels of pictures: a line for each object, a file for each picture, beside it or in labels/.

A line is ``class cx cy w h``, a box, or ``class x1 y1 x2 y2 x3 y3...``, an outline, in parts of the picture's sides.
What the classes are called is in a file of names.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import shapely
import yaml
from numpy.typing import NDArray

from fewscope.connectors.support.drawn_pictures import (
    DrawnPicture,
    DrawnPictures,
    PictureObject,
    Shape,
    box_of,
    note_not_listed,
    polygon_of,
)
from fewscope.connectors.support.image_files import read_bytes
from fewscope.connectors.support.pair_names import IMAGE_FOLDERS, LABEL_FOLDERS, name_order
from fewscope.connectors.support.picture_places import PicturePlaces
from fewscope.connectors.support.support_set import BOX
from fewscope.errors import SupportError

OF_CVAT = "obj_train_data"
"""Folder in which CVAT puts pictures and labels."""

LISTS = ("classes.txt", "obj.names")
"""Files of names, a line for each."""

YAML = (".yaml", ".yml")
SUBSETS = ("train", "valid", "val", "test")
"""Folders beside which the file of names lies, where one of them is given."""

LARGEST = 2**20
"""Bytes of a file of names."""

OUTSIDE = 0.01
"""Part of a side by which coordinates may lie outside the picture: they are rounded."""


@dataclass(frozen=True, slots=True)
class YoloFiles:
    """Files of labels in a folder.

    Attributes
    ----------
    labels : dict
        Picture of each file of labels, by their paths.
    texts : dict
        Its content.
    places : list of str
        Folders of the pictures.
    """

    labels: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    places: list[str] = field(default_factory=list)


def find_yolo_files(filesystem: Any, root: str) -> YoloFiles:
    """Files of labels in a folder: texts of numbers that are called as a picture is; none if it holds none.

    Raises
    ------
    SupportError
        One of them may be of two pictures, or is no such text although others are.
    """
    found = YoloFiles()
    for folder, pictures in _label_folders(filesystem, root):
        texts = [
            path for path in sorted(filesystem.ls(folder, detail=False)) if path.lower().endswith(".txt")
        ]
        if not texts:
            continue
        places = PicturePlaces(filesystem, pictures)
        of_stems: dict[str, list[str]] = defaultdict(list)
        for picture in places.pictures():
            of_stems[PurePosixPath(picture).stem].append(picture)
        for path in texts:
            of_stem = of_stems.get(PurePosixPath(path).stem, [])
            if of_stem and (text := _text(filesystem, path)) is not None:
                if len(of_stem) > 1 and text.strip():
                    raise SupportError(f"{path}: may be of {of_stem[0]} or {of_stem[1]}; keep one of them")
                found.labels[path], found.texts[path] = of_stem[0], text
                found.places.extend(place for place in places.folders if place not in found.places)
    are_labels = any(_is_label(text) for text in found.texts.values())
    return found if are_labels else YoloFiles()


def _label_folders(filesystem: Any, root: str) -> list[tuple[str, list[str]]]:
    """Folders in which labels may lie, and those of their pictures."""
    found = [(root, [root])]
    for folder in _folders(filesystem, root):
        name = PurePosixPath(folder).name
        if name == OF_CVAT:
            found.append((folder, [folder]))
        if name.lower() in LABEL_FOLDERS:
            images = [
                path
                for path in _folders(filesystem, root)
                if PurePosixPath(path).name.lower() in IMAGE_FOLDERS
            ]
            found.append((folder, [folder, root, *images]))
            for subset in _folders(filesystem, folder):
                beside = [f"{path}/{PurePosixPath(subset).name}" for path in images]
                found.append((subset, [subset, *beside]))
    return found


def _folders(filesystem: Any, root: str) -> list[str]:
    entries = filesystem.ls(root, detail=True)
    return sorted(entry["name"].rstrip("/") for entry in entries if entry["type"] == "directory")


def _text(filesystem: Any, path: str) -> str | None:
    """Content of a file; None if it is no text."""
    if not filesystem.info(path).get("size"):
        return ""  # a picture without an object
    try:
        return read_bytes(filesystem, path, path).decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _is_label(text: str) -> bool:
    """Whether the first line of a text is five numbers or more, the first of them that of a class."""
    numbers = _numbers(next((line for line in text.splitlines() if line.strip()), ""))
    return len(numbers) >= 5 and numbers[0].is_integer()


def _numbers(line: str) -> list[float]:
    """Those of a line; none if it holds anything else."""
    try:
        return [float(part) for part in line.split()]
    except ValueError:
        return []


def read_yolo_files(filesystem: Any, root: str, uri: str, files: YoloFiles) -> DrawnPictures:
    """The labelled pictures of a folder, in the order of their names, and their objects.

    Raises
    ------
    SupportError
        A line cannot be read, its class has no name although others have, or two files are of one picture.
    """
    drawn = DrawnPictures()
    names = _class_names(filesystem, root, uri, files)
    if not names:
        drawn.assumptions.append(
            f"{uri}: no file says what its classes are called ({', '.join(LISTS)}, data.yaml); they were given their "
            "numbers as names."
        )
    for path in sorted(files.labels, key=name_order):
        objects = _objects(path, files.texts[path], names, drawn)
        drawn.add(DrawnPicture(files.labels[path], path, None, objects))
    note_not_listed(uri, drawn, PicturePlaces(filesystem, files.places).pictures())
    return drawn


def _objects(path: str, text: str, names: dict[int, str], drawn: DrawnPictures) -> list[PictureObject]:
    objects = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        values = np.array(_numbers(line))
        n = len(values) - 1
        is_label = n >= 4 and n % 2 == 0 and np.isfinite(values).all() and values[0].is_integer()
        if not is_label or values[0] < 0 or (values[1:] < -OUTSIDE).any() or (values[1:] > 1 + OUTSIDE).any():
            raise SupportError(
                f"{path}: line {number} is {line.strip()[:60]!r}, expected a class from 0 on, and four numbers for "
                "a box, or three points or more for an outline, from 0 to 1; export it again"
            )
        index = int(values[0])
        if names and index not in names:
            raise SupportError(
                f"{path}: line {number} is of class {index}, and only {len(names)} classes have a name; complete "
                "the file of names"
            )
        name = names.get(index, f"class {index}")
        if _shape(values[1:], 1000, 1000) is None:
            drawn.left_out.append(f"line {number} of {PurePosixPath(path).name} has no area")
            continue
        shape = partial(_shape_on, values[1:])
        objects.append(PictureObject(name, shape, rough=BOX if n == 4 else 0))
    return objects


def _shape_on(values: NDArray[np.float64], height: int, width: int) -> Shape:
    """`_shape`, empty where a small picture leaves it no area."""
    return _shape(values, height, width) or shapely.Polygon()


def _shape(values: NDArray[np.float64], height: int, width: int) -> Shape | None:
    """A box or an outline on a picture of so many px; None if it has no area."""
    placed = values.reshape(-1, 2) * (width, height)
    if len(placed) > 2:
        return polygon_of([placed])
    middle, sides = placed
    return box_of(*(middle - sides / 2), *(middle + sides / 2)) if (sides > 0).all() else None


def _class_names(filesystem: Any, root: str, uri: str, files: YoloFiles) -> dict[int, str]:
    """Names of the classes by their numbers; none if no file states them."""
    folders = [root, *sorted({str(PurePosixPath(path).parent) for path in files.labels})]
    if PurePosixPath(root).name.lower() in SUBSETS:
        folders.append(str(PurePosixPath(root).parent))
    found: dict[str, dict[int, str]] = {}
    for folder in dict.fromkeys(folder.rstrip("/") for folder in folders):
        for path in sorted(filesystem.ls(folder, detail=False)):
            name = PurePosixPath(path).name.lower()
            if name in LISTS and path not in files.labels:
                lines = (
                    read_bytes(filesystem, path, path, LARGEST).decode("utf-8-sig", "replace").splitlines()
                )
                found[path] = {k: line.strip() for k, line in enumerate(lines) if line.strip()}
            elif name.endswith(YAML):
                found[path] = _names_in_yaml(read_bytes(filesystem, path, path, LARGEST), path)
    found = {path: names for path, names in found.items() if names}
    for path, names in found.items():
        first = next(iter(found))
        if names != found[first]:
            raise SupportError(f"{uri}: {first} and {path} name its classes differently; keep one of them")
        if len(set(names.values())) < len(names):
            raise SupportError(f"{path}: two classes have the same name; give them different ones")
    return next(iter(found.values()), {})


def _names_in_yaml(content: bytes, path: str) -> dict[int, str]:
    """``names`` of a YAML file, a list or names by numbers; none if it states none."""
    try:
        parsed = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SupportError(f"{path}: is not YAML ({reason}); export it again") from error
    names = parsed.get("names") if isinstance(parsed, dict) else None
    if names is None:
        return {}
    entries: list[tuple[Any, Any]] = []
    if isinstance(names, list):
        entries = list(enumerate(names))
    elif isinstance(names, dict):
        entries = list(names.items())
    if not entries or not all(isinstance(key, int) and str(name).strip() for key, name in entries):
        raise SupportError(f"{path}: its names are no list of names; write names: [cell, vessel]")
    return {key: str(name).strip() for key, name in entries}
