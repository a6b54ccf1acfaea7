"""Pascal VOC's XML as the labels of pictures: boxes, one file for each picture, beside it or in Annotations/.

Coordinates are taken for the edges of a box, counted from 0, as LabelImg, CVAT and Label Studio write them. VOC's own
data count pixels from 1: their boxes lack a column and a row of pixels at the left and top.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath

from shapely.geometry.base import BaseGeometry

from fewscope.connectors.storage.safe_xml import child, children, parse_xml, root_tag, text_in
from fewscope.connectors.support.drawn_pictures import (
    DrawnPicture,
    DrawnPictures,
    PictureObject,
    box_of,
    note_not_listed,
    stated_size,
)
from fewscope.connectors.support.pair_names import name_order
from fewscope.connectors.support.picture_places import PicturePlaces
from fewscope.connectors.support.support_set import BOX
from fewscope.errors import SupportError

ROOT = "annotation"
"""NDP.view writes <annotations>, and <annotation> in it; ImageScope <Annotations>, ASAP <ASAP_Annotations>."""

HEAD_BYTES = 4096
"""In which the root lies, after a declaration and comments."""

EDGES = ("xmin", "ymin", "xmax", "ymax")

PICTURE_FOLDERS = ("jpegimages",)
"""Beside those that others use, in lower case."""


def is_voc(content: bytes) -> bool:
    """Whether XML, or its beginning, is Pascal VOC's."""
    return root_tag(content[:HEAD_BYTES]) == ROOT


def read_voc_files(uri: str, contents: Mapping[str, bytes], places: PicturePlaces) -> DrawnPictures:
    """The pictures of Pascal VOC's files, in the order of their names, and the boxes on them; also "difficult" ones.

    Parameters
    ----------
    uri : str
        The folder or file, for messages.
    contents : Mapping[str, bytes]
        Content of each file by its path; see `is_voc`.
    places : PicturePlaces
        Where the pictures are looked for: of the name of the file, else of the name that it states.

    Raises
    ------
    SupportError
        A file is damaged, its picture is missing, or it may be one of several.
    """
    drawn = DrawnPictures()
    for path in sorted(contents, key=name_order):
        root = parse_xml(path, contents[path], SupportError)
        stated = (text_in(root, "filename") or "").strip()
        size = child(root, "size")
        sides = stated_size(*(_whole(text_in(size, name)) for name in ("height", "width")))
        picture = places.picture_of(path, stated or f"{PurePosixPath(path).stem}.jpg")
        drawn.add(DrawnPicture(picture, path, sides, _objects(path, root, drawn)))
    note_not_listed(uri, drawn, places.pictures())
    return drawn


def _objects(path: str, root: ElementTree.Element, drawn: DrawnPictures) -> list[PictureObject]:
    objects = []
    for number, one in enumerate(children(root, "object"), start=1):
        name = (text_in(one, "name") or "").strip()
        edges = [text_in(child(one, "bndbox"), edge) for edge in EDGES]
        try:
            box = box_of(*(float(edge or "") for edge in edges))
        except (ValueError, OverflowError) as error:
            raise SupportError(
                f"{path}: the box of object {number} is {', '.join(map(str, edges))[:60]}, expected "
                f"{', '.join(EDGES)} in px; draw it again"
            ) from error
        if not name:
            raise SupportError(f"{path}: object {number} has no name; give it one")
        if box is None:
            drawn.left_out.append(f"object {number} of {PurePosixPath(path).name} has no area")
        else:
            objects.append(PictureObject(name, partial(_same, box), rough=BOX))
    return objects


def _same(box: BaseGeometry, height: int, width: int) -> BaseGeometry:
    return box


def _whole(text: str | None) -> int | None:
    """A whole number; None if there is none."""
    return int(text) if text is not None and text.strip().isascii() and text.strip().isdigit() else None
