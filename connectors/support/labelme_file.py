"""LabelMe's JSON as the labels of pictures: one file for each, beside it or in a folder of labels."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.support.drawn_pictures import (
    Cutout,
    DrawnPicture,
    DrawnPictures,
    PictureObject,
    Shape,
    box_of,
    note_not_listed,
    paint,
    polygon_of,
    stated_size,
)
from fewscope.connectors.support.image_files import decode_png_mask
from fewscope.connectors.support.pair_names import name_order
from fewscope.connectors.support.picture_places import PicturePlaces
from fewscope.connectors.support.sparse import POINT_RADIUS
from fewscope.connectors.support.support_set import BOX, POINT
from fewscope.errors import SupportError

BACKGROUND = "_background_"
"""LabelMe's name for what is none of the classes."""


def is_labelme(content: Any) -> bool:
    """Whether parsed JSON is LabelMe's."""
    return (
        isinstance(content, dict)
        and isinstance(content.get("shapes"), list)
        and isinstance(content.get("imagePath"), str)
    )


def read_labelme_files(
    uri: str, contents: Mapping[str, dict[str, Any]], places: PicturePlaces
) -> DrawnPictures:
    """The pictures of LabelMe's files, in the order of their names, and their objects.

    Parameters
    ----------
    uri : str
        The folder or file, for messages.
    contents : Mapping[str, dict]
        Content of each file by its path; see `is_labelme`.
    places : PicturePlaces
        Where the pictures are looked for: of the name of the file, else of the name that it states.

    Raises
    ------
    SupportError
        A file is damaged, its picture is missing, or it may be one of several.
    """
    drawn = DrawnPictures()
    for path in sorted(contents, key=name_order):
        content = contents[path]
        picture = places.picture_of(path, content["imagePath"])
        size = stated_size(content.get("imageHeight"), content.get("imageWidth"))
        drawn.add(DrawnPicture(picture, path, size, _objects(path, content["shapes"], drawn)))
    _leave_out_points(drawn)
    if any(one.rough == BOX for picture in drawn.pictures for one in picture.objects):
        drawn.assumptions.append(
            f"{uri}: rectangles were taken for boxes around objects, whose outlines are inferred; draw polygons around "
            "what is a rectangle itself."
        )
    note_not_listed(uri, drawn, places.pictures())
    return drawn


def _leave_out_points(drawn: DrawnPictures) -> None:
    """Leave out points of classes that have outlines or boxes: beside these, they are more often a slip of the hand."""
    every = [one for picture in drawn.pictures for one in picture.objects]
    others = {one.name for one in every if one.rough != POINT}
    for picture in drawn.pictures:
        slips = [one for one in picture.objects if one.rough == POINT and one.name in others]
        picture.objects[:] = [one for one in picture.objects if one not in slips]
        drawn.left_out.extend(f"a point of {one.name} in {picture.name}, beside outlines" for one in slips)


def _objects(path: str, shapes: list[Any], drawn: DrawnPictures) -> list[PictureObject]:
    """Objects of one file; shapes of the same label and group are one."""
    groups: dict[tuple[Any, ...], list[tuple[Shape, int]]] = {}
    for number, shape in enumerate(shapes, start=1):
        title = f"shape {number} of {PurePosixPath(path).name}"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str) or not label.strip():
            raise SupportError(f"{path}: shape {number} has no label; save it again in LabelMe")
        name = label.strip()
        kind = shape.get("shape_type") or "polygon"
        if name == BACKGROUND:
            continue
        if not isinstance(kind, str) or kind not in SHAPES:
            drawn.left_out.append(f"{title} is a {str(kind)[:20]}")
            continue
        try:
            outline = SHAPES[kind](shape)
        except (ValueError, TypeError, KeyError, OverflowError, shapely.errors.ShapelyError) as error:
            reason = " ".join(str(error).split())[:120]
            raise SupportError(
                f"{path}: shape {number} is no {kind} that can be read ({reason}); draw it again"
            ) from error
        if outline is None:
            drawn.left_out.append(f"{title} has no area")
            continue
        group = shape.get("group_id")
        key = (name, str(group)) if group is not None else (name, None, number)
        groups.setdefault(key, []).append((outline, ROUGH.get(kind, 0)))
    return [_object(key[0], parts) for key, parts in groups.items()]


def _object(name: str, parts: list[tuple[Shape, int]]) -> PictureObject:
    """An object of shapes, each with `BOX`, `POINT` or 0; an outline among them says more than the others."""
    kinds = [kind for _, kind in parts]
    rough = 0 if 0 in kinds else max(kinds)
    kept = [shape for shape, kind in parts if kind == rough]
    return PictureObject(name, _together(kept), rough=rough)


def _together(parts: list[Shape]) -> Callable[[int, int], Shape]:
    """One shape of several parts."""
    outlines = [part for part in parts if not isinstance(part, Cutout)]
    masks = [part for part in parts if isinstance(part, Cutout)]
    if not masks:
        whole = shapely.union_all(outlines)
        return lambda height, width: whole

    def draw(height: int, width: int) -> Shape:
        numbers = np.zeros((height, width), np.int32)
        for part in parts:
            paint(numbers, part, 1)
        return Cutout(numbers > 0)

    return draw


def _points(shape: dict[str, Any], *expected: int) -> np.ndarray:
    """The points (n, 2) of a shape; ValueError if they are as many as none of ``expected``."""
    points = np.asarray(shape["points"], float).reshape(-1, 2)
    if len(points) not in expected:
        raise ValueError(f"it has {len(points)} points, expected {' or '.join(map(str, expected))}")
    if not np.isfinite(points).all():
        raise ValueError("its coordinates are not finite")
    return points


def _polygon(shape: dict[str, Any]) -> BaseGeometry | None:
    return polygon_of([shape["points"]])


def _rectangle(shape: dict[str, Any]) -> BaseGeometry | None:
    points = _points(shape, 2, 4)  # X-AnyLabeling writes all four corners
    return box_of(*points.min(axis=0), *points.max(axis=0))


def _point(shape: dict[str, Any]) -> BaseGeometry:
    (middle,) = _points(shape, 1)
    return shapely.Point(middle).buffer(POINT_RADIUS)


def _circle(shape: dict[str, Any]) -> BaseGeometry | None:
    centre, rim = _points(shape, 2)
    radius = math.hypot(*(rim - centre))
    return shapely.Point(centre).buffer(radius, quad_segs=64) if radius > 0 else None


def _mask(shape: dict[str, Any]) -> Cutout | None:
    """A mask in a box: a PNG as text, whose corner is the first point."""
    corner, _ = _points(shape, 2)
    text = shape.get("mask")
    if not isinstance(text, str):
        raise ValueError("it holds no mask")
    try:
        content = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"its mask is not base64: {error}") from error
    mask = decode_png_mask(content)
    left, top = (round(float(value)) for value in corner)
    return Cutout(mask, top, left) if mask.any() else None


SHAPES: dict[str, Callable[[dict[str, Any]], Shape | None]] = {
    "polygon": _polygon,
    "oriented_rectangle": _polygon,
    "rectangle": _rectangle,
    "point": _point,
    "circle": _circle,
    "mask": _mask,
}
"""Lines have no area."""

ROUGH = {"rectangle": BOX, "point": POINT}
"""Shapes that are no outlines."""
