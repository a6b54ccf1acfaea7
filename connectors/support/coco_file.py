"""COCO's JSON as the labels of a folder of pictures (CVAT, Roboflow, Label Studio, Make Sense...).

All objects of a listed picture are in the file; a listed picture without any is background. A crowd (``iscrowd``) is
not labelled. Of an object that has a box and no outline, the box is known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.pixels.run_lengths import decode_run_lengths
from fewscope.connectors.support.drawn_pictures import (
    Cutout,
    DrawnPicture,
    DrawnPictures,
    PictureObject,
    Shape,
    box_of,
    note_not_listed,
    polygon_of,
    stated_size,
)
from fewscope.connectors.support.pair_names import name_order
from fewscope.connectors.support.picture_places import PicturePlaces
from fewscope.connectors.support.support_set import BOX
from fewscope.connectors.vectors.polygon_files import listed
from fewscope.errors import SupportError

SUSPECT = 8
"""Outlines from which on it is no accident that all are upright rectangles: some programs write boxes so."""

KEYS = ("images", "annotations", "categories")


def is_coco(content: Any) -> bool:
    """Whether parsed JSON is COCO's."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in KEYS)


@dataclass(frozen=True, slots=True)
class _Listed:
    """A picture that the file lists."""

    file_name: str
    size: tuple[int, int] | None


def read_coco_file(uri: str, path: str, content: dict[str, Any], places: PicturePlaces) -> DrawnPictures:
    """The pictures that a COCO file lists, and their objects.

    Parameters
    ----------
    uri : str
        The file, for messages.
    path : str
        The file on its filesystem.
    content : dict
        Of the file; see `is_coco`.
    places : PicturePlaces
        Where its pictures are looked for.

    Raises
    ------
    SupportError
        It contradicts itself, or none of its pictures is there.
    """
    pictures = _listed_pictures(uri, content["images"])
    names = _categories(uri, content["categories"])
    drawn = DrawnPictures()
    objects: dict[Any, list[PictureObject]] = {key: [] for key in pictures}
    are_upright: list[bool] = []
    for number, annotation in enumerate(content["annotations"], start=1):
        title = f"annotation {number}"
        if not isinstance(annotation, dict):
            raise SupportError(f"{uri}: {title} is not COCO's; export it again")
        image, category = annotation.get("image_id"), annotation.get("category_id")
        if not _is_key(image) or not _is_key(category) or category not in names:
            raise SupportError(f"{uri}: {title} is of no category or picture; export it again")
        if image not in objects:
            drawn.left_out.append(f"{title} is of a picture that is not listed")
            continue
        one = _object(uri, title, names[category], annotation)
        if one is None:
            drawn.left_out.append(f"{title} has no area")
        else:
            objects[image].append(one)
            if not one.rough:
                are_upright.append(_is_upright(annotation["segmentation"]))
    if len(are_upright) >= SUSPECT and all(are_upright):
        drawn.notes.append(
            f"{uri}: all of its {len(are_upright)} outlines are upright rectangles. If these are boxes around objects, "
            'leave out "segmentation": outlines are inferred from a "bbox" alone.'
        )
    found = {key: places.find(picture.file_name) for key, picture in pictures.items()}
    there = [key for key, place in found.items() if place is not None]
    _check_there(uri, pictures, found, places)
    for key in sorted(there, key=lambda key: name_order(str(found[key]))):
        drawn.add(DrawnPicture(str(found[key]), path, pictures[key].size, objects[key]))
    _note_missing(
        uri, drawn, [pictures[key].file_name for key, place in found.items() if place is None], places
    )
    return drawn


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str)


def _is_upright(segmentation: Any) -> bool:
    """Whether the outlines of an object, which can be read, each have the corners of a box, and no others."""
    if not isinstance(segmentation, list):
        return False
    for part in _parts(segmentation):
        points = np.unique(np.asarray(part, float).reshape(-1, 2), axis=0)
        if len(points) != 4 or {len(np.unique(axis)) for axis in points.T} != {2}:
            return False
    return True


def _parts(segmentation: list[Any]) -> list[Any]:
    """The outlines of an object, of which some programs write a single one as it is."""
    return segmentation if isinstance(segmentation[0], list) else [segmentation]


def _listed_pictures(uri: str, images: list[Any]) -> dict[Any, _Listed]:
    pictures: dict[Any, _Listed] = {}
    for number, image in enumerate(images, start=1):
        is_whole = (
            isinstance(image, dict) and _is_key(image.get("id")) and isinstance(image.get("file_name"), str)
        )
        if not is_whole:
            raise SupportError(f"{uri}: picture {number} has no id or file_name; export it again")
        if image["id"] in pictures:
            raise SupportError(f"{uri}: lists two pictures with the id {image['id']!r}; export it again")
        size = stated_size(image.get("height"), image.get("width"))
        pictures[image["id"]] = _Listed(image["file_name"], size)
    return pictures


def _categories(uri: str, categories: list[Any]) -> dict[Any, str]:
    names: dict[Any, str] = {}
    for number, category in enumerate(categories, start=1):
        name = category.get("name") if isinstance(category, dict) else None
        if not isinstance(name, str) or not name.strip() or not _is_key(category.get("id")):
            raise SupportError(f"{uri}: category {number} has no id or name; export it again")
        names[category["id"]] = name.strip()
    return names


def _object(uri: str, title: str, name: str, annotation: dict[str, Any]) -> PictureObject | None:
    """An object of a picture; None if it has no area."""
    segmentation = annotation.get("segmentation")
    is_ignored = bool(annotation.get("iscrowd")) or bool(annotation.get("ignore"))
    try:
        if isinstance(segmentation, dict):
            return PictureObject(name, _runs(uri, title, segmentation), is_ignored)
        if isinstance(segmentation, list) and segmentation:
            return _with_area(name, polygon_of(_parts(segmentation)), is_ignored)
        if annotation.get("bbox"):
            left, top, width, height = map(float, annotation["bbox"])
            box = box_of(left, top, left + max(width, 0), top + max(height, 0))
            return _with_area(name, box, is_ignored, BOX)
    except (ValueError, TypeError, OverflowError, shapely.errors.ShapelyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise SupportError(
            f"{uri}: {title} has no outline that can be read ({reason}); draw it again"
        ) from error
    return None


def _with_area(
    name: str, polygon: BaseGeometry | None, is_ignored: bool, rough: int = 0
) -> PictureObject | None:
    return None if polygon is None else PictureObject(name, lambda height, width: polygon, is_ignored, rough)


def _runs(uri: str, title: str, segmentation: dict[str, Any]) -> Callable[[int, int], Shape]:
    """The mask of run lengths, decoded when the size of the picture is known."""

    def decode(height: int, width: int) -> Shape:
        try:
            size = segmentation.get("size", [height, width])
            if size != [height, width]:
                raise ValueError(f"its mask is of {size}, the picture of {[height, width]}, height and width")
            return Cutout(decode_run_lengths(segmentation.get("counts"), height, width))
        except (ValueError, TypeError, OverflowError) as error:
            reason = " ".join(str(error).split())[:120]
            raise SupportError(
                f"{uri}: {title} has no outline that can be read ({reason}); draw it again"
            ) from error

    return decode


def _check_there(
    uri: str, pictures: dict[Any, _Listed], found: dict[Any, str | None], places: PicturePlaces
) -> None:
    """Raise SupportError if no picture is there, or one of them is listed twice."""
    if not any(found.values()):
        first = next((picture.file_name for picture in pictures.values()), None)
        if first is None:
            raise SupportError(f"{uri}: lists no picture; export it again")
        raise SupportError(
            f"{uri}: none of its {len(pictures)} pictures ({first!r}...) is in {' or '.join(places.folders)}; put them "
            "there"
        )
    seen: dict[str, str] = {}
    for key, place in found.items():
        if place is not None and place in seen:
            raise SupportError(
                f"{uri}: {seen[place]!r} and {pictures[key].file_name!r} are both {place}; give them different names"
            )
        if place is not None:
            seen[place] = pictures[key].file_name


def _note_missing(uri: str, drawn: DrawnPictures, missing: list[str], places: PicturePlaces) -> None:
    if missing:
        drawn.notes.append(
            f"{uri}: {len(missing)} of its pictures {'are' if len(missing) > 1 else 'is'} not there, and left out: "
            f"{listed(missing)}."
        )
    note_not_listed(uri, drawn, places.pictures())
