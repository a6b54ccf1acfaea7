"""Pictures whose objects are drawn in files beside them: of COCO, LabelMe, YOLO, Pascal VOC.

Every picture is one region: what is not drawn is background. A pixel belongs to an object if its centre does; where
objects overlap, the smaller one counts. What is of class Ignore is not labelled. Of some objects only a box or a point
is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.slide_options import NO_STACK, StackOptions
from fewscope.connectors.support.image_files import size_text
from fewscope.connectors.support.measured_pictures import PictureReader
from fewscope.connectors.support.pictures import Labelled, Picture, PictureFolder
from fewscope.connectors.support.support_set import MAX_CLASSES, alike, choose_classes
from fewscope.connectors.vectors.polygon_files import burn, listed, polygons_of
from fewscope.errors import SupportError

MAX_PICTURES = 512  # as of pairs

IGNORED = ("ignore", "ignore*", "ignored", "__ignore__")
"""Names of classes, in any case, that say that nothing is known there; the last is LabelMe's."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A mask that lies somewhere on a picture: (h, w) bool, and the row and column of its corner."""

    mask: NDArray[np.bool_]
    row: int = 0
    col: int = 0


Shape: TypeAlias = BaseGeometry | Cutout


@dataclass(frozen=True, slots=True, eq=False)
class PictureObject:
    """One object on a picture.

    Attributes
    ----------
    name : str
        Its class.
    shape : Callable
        Its pixels, given height and width of the picture: polygons in px from the upper left corner, or a mask. It
        raises SupportError if it cannot be read.
    is_ignored : bool
        Nothing is known of its pixels.
    rough : int
        `support_set.POINT` or `BOX` if its shape is only this; 0 if it is an outline.
    """

    name: str
    shape: Callable[[int, int], Shape]
    is_ignored: bool = False
    rough: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DrawnPicture:
    """A picture, and what is drawn on it.

    Attributes
    ----------
    path : str
        Of the picture.
    drawn_in : str
        The file that holds the objects.
    size : tuple of int, or None
        Height and width that this file states, px.
    """

    path: str
    drawn_in: str
    size: tuple[int, int] | None
    objects: list[PictureObject]

    @property
    def name(self) -> str:
        """Name of the picture's file."""
        return PurePosixPath(self.path).name


@dataclass(frozen=True, slots=True)
class DrawnPictures:
    """What files of drawn objects hold, and what of it is not used. Pictures are added by `add`."""

    pictures: list[DrawnPicture] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    _drawn_in: dict[str, str] = field(default_factory=dict)

    def add(self, picture: DrawnPicture) -> None:
        """Append a picture; SupportError if another file holds objects of it."""
        other = self._drawn_in.setdefault(picture.path, picture.drawn_in)
        if other != picture.drawn_in:
            raise SupportError(
                f"{picture.path}: has labels in {other} and in {picture.drawn_in}; keep one of them"
            )
        self.pictures.append(picture)


def folder_of_drawn(
    filesystem: Any,
    uri: str,
    drawn: DrawnPictures,
    stated: dict[str, Any],
    class_names: Sequence[str],
    stack: StackOptions = NO_STACK,
) -> PictureFolder:
    """Labelled pictures of the classes that are asked for, all by default, in the order of their names.

    Parameters
    ----------
    stated : dict
        What support.json says, see `support_json.read_statement`.

    Raises
    ------
    SupportError
        There are too many pictures, none has an object, or there is no such class.
    """
    if len(drawn.pictures) > MAX_PICTURES:
        raise SupportError(
            f"{uri}: lists {len(drawn.pictures)} pictures, at most {MAX_PICTURES} are read; keep the best few"
        )
    found = sorted({one.name for picture in drawn.pictures for one in picture.objects if not is_ignored(one)})
    if not found:
        raise SupportError(
            f"{uri}: none of its {len(drawn.pictures)} pictures has an object that is drawn; draw some{_but(drawn)}"
        )
    names = [found[i] for i in choose_classes(uri, found, class_names or stated.get("classes", ()))]
    if len(names) > MAX_CLASSES:
        raise SupportError(
            f"{uri}: has objects of {len(names)} classes ({listed(names, 3)}), at most {MAX_CLASSES}; pick some with "
            "--class"
        )
    values = {name: value for value, name in enumerate(names, start=1)}
    if len(found) == 1 and not class_names and "class" in stated:
        names = [stated["class"]]
    notes = list(drawn.notes)
    if drawn.left_out:
        n = len(drawn.left_out)
        notes.append(f"{uri}: {n} object{'s' if n > 1 else ''} left out: {listed(drawn.left_out)}.")
    notes += [f"{uri}: classes {pair} differ in case only; they were taken as two." for pair in alike(found)]
    n_empty = sum(not picture.objects for picture in drawn.pictures)
    assumptions = list(drawn.assumptions)
    if n_empty:
        assumptions.append(
            f"{uri}: {n_empty} of {len(drawn.pictures)} pictures have no object, and were taken for background. Remove "
            "those that were not labelled from the file, or from the folder."
        )
    images = PictureReader(filesystem, (picture.path for picture in drawn.pictures), stated, stack)
    return PictureFolder(
        uri=uri,
        pictures=[
            Picture(picture.name, picture.drawn_in, _reader(images, picture, values))
            for picture in drawn.pictures
        ],
        class_names=tuple(names),
        mpp=images.mpp,
        ranges=images.ranges,
        notes=notes,
        assumptions=[*assumptions, *images.assumptions],
    )


def _but(drawn: DrawnPictures) -> str:
    return f"; left out: {listed(drawn.left_out)}" if drawn.left_out else ""


def _reader(images: PictureReader, picture: DrawnPicture, values: dict[str, int]) -> Callable[[], Labelled]:
    def read() -> Labelled:
        image = images.read(picture.path)
        if picture.size is not None and picture.size != image.shape[:2]:
            stated = f"{picture.size[0]} x {picture.size[1]} px"
            raise SupportError(
                f"{picture.path}: is {size_text(image)}, {picture.drawn_in} states {stated}; they must be the same"
            )
        return Labelled(image, *draw(picture.objects, image.shape[:2], values))

    return read


def is_ignored(one: PictureObject) -> bool:
    """Whether nothing is known of an object's pixels."""
    return one.is_ignored or one.name.casefold() in IGNORED


def draw(
    objects: Sequence[PictureObject], size: tuple[int, ...], values: dict[str, int]
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.uint8] | None]:
    """Labels, object numbers and what is rough of a picture, as in `Labelled`.

    Parameters
    ----------
    size : tuple of int
        Height and width, px.
    values : dict
        Value of each class to draw; all others are background.

    Returns
    -------
    (H, W) uint8 0 background, the values, 255 not labelled; (H, W) int32 0 background, 1..n one object each, in the
    order of the file; (H, W) uint8 `POINT` or `BOX` where an object is only this, None if none is.
    """
    height, width = size[:2]
    numbers = np.zeros((height, width), np.int32)
    unknown = np.zeros((height, width), np.int32)
    chosen = [one for one in objects if one.name in values and not is_ignored(one)]
    shapes = [one.shape(height, width) for one in chosen]
    areas = [_area(shape) for shape in shapes]
    for index in sorted(range(len(chosen)), key=lambda i: -areas[i]):
        paint(numbers, shapes[index], index + 1)
    for one in objects:
        if is_ignored(one) and (one.name in values or one.name.casefold() in IGNORED):
            paint(unknown, one.shape(height, width), 1)
    numbers[unknown > 0] = 0
    of_objects = np.array([0, *(values[one.name] for one in chosen)], np.uint8)
    labels = np.where(unknown > 0, np.uint8(IGNORE_LABEL), of_objects[numbers])
    if not any(one.rough for one in chosen):
        return labels, numbers, None
    return labels, numbers, np.array([0, *(one.rough for one in chosen)], np.uint8)[numbers]


def _area(shape: Shape) -> float:
    return float(shape.mask.sum()) if isinstance(shape, Cutout) else float(shape.area)


def paint(numbers: NDArray[np.int32], shape: Shape, number: int) -> None:
    """Set the pixels of a shape that lie on the picture."""
    height, width = numbers.shape
    if isinstance(shape, Cutout):
        top, left = max(0, shape.row), max(0, shape.col)
        mask = shape.mask[top - shape.row :, left - shape.col :][
            : max(0, height - top), : max(0, width - left)
        ]
        numbers[top : top + mask.shape[0], left : left + mask.shape[1]][mask] = number
        return
    if shape.is_empty:
        return
    bounds = np.clip(shape.bounds, 0, [width, height, width, height])
    left, top = np.floor(bounds[:2]).astype(int)
    right, bottom = np.ceil(bounds[2:]).astype(int)
    if left < right and top < bottom:
        burnt = burn([(shape, 1)], (bottom - top, right - left), Affine.translation(left, top))
        numbers[top:bottom, left:right][burnt > 0] = number


def box_of(left: float, top: float, right: float, bottom: float) -> BaseGeometry | None:
    """A box, whichever of its corners come first; None if it has no area."""
    return polygon_of([[left, top, right, top, right, bottom, left, bottom]])


def polygon_of(parts: Any) -> BaseGeometry | None:
    """The area of an object in one or more parts, each a list of coordinates x, y, x, y... or of points [x, y].

    None if it has no area.

    Raises
    ------
    ValueError
        They are no finite coordinates.
    """
    polygons = []
    for part in parts:
        try:
            points = np.asarray(part, float).reshape(-1, 2)
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError("its coordinates are no pairs of numbers") from error
        if not np.isfinite(points).all():
            raise ValueError("its coordinates are not finite")
        if len(points) >= 3 and (polygon := polygons_of(shapely.Polygon(points))) is not None:
            polygons.append(polygon)
    if not polygons:
        return None
    return polygons[0] if len(polygons) == 1 else shapely.union_all(polygons)


def stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width that a file states, px; None if it states none."""
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return int(height), int(width)
    return None


def note_not_listed(uri: str, drawn: DrawnPictures, there: Sequence[str]) -> None:
    """Add a note of the pictures that are ``there`` and that no file of labels knows."""
    used = {picture.path for picture in drawn.pictures}
    others = [PurePosixPath(path).name for path in there if path not in used]
    if others:
        drawn.notes.append(
            f"{uri}: {len(others)} picture{'s' if len(others) > 1 else ''} without labels left out: {listed(others)}."
        )
