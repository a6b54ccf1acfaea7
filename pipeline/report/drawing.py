"""Outlines, hatching and colours on pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from PIL import Image, ImageDraw
from scipy.ndimage import find_objects
from shapely.geometry.base import BaseGeometry
from skimage.color import lab2rgb
from skimage.measure import find_contours

from fewscope.connectors.colours import Colour
from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.pipeline.report.seam_check import Floats, Mask

RGB = npt.NDArray[np.uint8]
Canvas = npt.NDArray[np.float32]
FOUND: Colour = (255, 214, 0)  # where there is one class; several have their own
CASING: Colour = (20, 20, 40)
EDGE: Colour = (110, 120, 135)  # of the tissue: seen on white and on black
AREA: Colour = (0, 84, 209)  # outline of what was asked for
GREY: Colour = (150, 150, 150)  # over what was not looked at
AGREES, MISSED, EXTRA = (0, 114, 178), (213, 94, 0), (240, 228, 66)  # of Okabe and Ito's palette


@dataclass(frozen=True, slots=True)
class Picture:
    """One image of the page: a data URI, its size, and the working pixels that its width spans."""

    uri: str
    width: int
    height: int
    span_px: float


def colour_map() -> RGB:
    """256 colours from dark violet to pale yellow in equal steps of CIELAB lightness: (256, 3) uint8."""
    t = np.linspace(0, 1, 256)
    hue = np.radians(305 - 205 * t)  # violet, blue, green, yellow: safe for every kind of colour blindness
    chroma = 38 + 26 * t**2
    lab = np.stack([16 + 74 * t, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    return np.clip(np.round(lab2rgb(lab) * 255), 0, 255).astype(np.uint8)


def agreement(
    image: RGB, label: npt.NDArray[Any], predicted: npt.NDArray[Any], complete: Mask | None = None
) -> RGB:
    """Label and prediction (classes, 0 for none) compared on the patch in grey: both, label only, prediction only.

    A prediction of a class that the patch is not labelled for (`complete`, of each class) is neither right nor wrong.
    """
    known = np.ones(label.shape, bool) if complete is None else np.append(True, complete)[predicted * 1]
    is_object = (label > 0) & (label != IGNORE_LABEL)
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    canvas = np.repeat((255 - (255 - grey) * 0.7)[..., None], 3, axis=2)
    for colour, where in (
        (AGREES, is_object & (label == predicted)),
        (MISSED, is_object & (label != predicted)),
        (EXTRA, (label == 0) & (predicted > 0) & known),
    ):
        canvas = _tint(canvas, colour, 0.65 * where)
    doubled = np.repeat(np.repeat(canvas, 2, axis=0), 2, axis=1)
    return _hatch(_bytes(doubled), label == IGNORE_LABEL)


def _hatch(image: RGB, where: Mask) -> RGB:
    """Diagonal lines over what was not labelled; `image` is twice as large as `where`."""
    doubled = np.repeat(np.repeat(where, 2, axis=0), 2, axis=1)
    row, col = np.indices(doubled.shape)
    canvas = _tint(image.astype(np.float32), (255, 255, 255), 0.55 * doubled)
    return _bytes(_tint(canvas, (70, 80, 95), 0.7 * (doubled & ((row + col) % 14 < 2))))


# Brushes


def outlined(
    image: RGB,
    labels: npt.NDArray[Any],
    scale: float,
    pen: float = 1.8,
    classes: npt.NDArray[Any] | None = None,
    colours: Sequence[Colour] = (FOUND,),
) -> RGB:
    """`image` enlarged by `scale`, each label's outline drawn on it with a dark casing.

    Labels are (H, W), 0 = background; touching ones are outlined one by one. `pen`: width of the line, in
    pixels of the result. `classes` (H, W): the class 1..C of each label's pixels, for its one of the C colours.
    """
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    canvas = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32)
    values, dense = np.unique(labels, return_inverse=True)
    dense = dense.reshape(labels.shape) + (1 if values[0] != 0 else 0)
    dense = np.pad(
        dense, 1, mode="edge"
    )  # the outline of a cut object leaves the picture, and does not follow its edge
    of_pixels = np.ones(labels.shape, int) if classes is None else classes
    of_pixels = np.pad(of_pixels, 1, mode="edge")
    contours: list[list[Floats]] = [[] for _ in colours]
    for i, box in enumerate(find_objects(dense), start=1):
        inside = dense[box] == i
        offset = np.array([box[0].start - 1, box[1].start - 1])
        of_class = contours[int(of_pixels[box][inside].max()) - 1]
        of_class += [contour + offset for contour in find_contours(np.pad(inside.astype(float), 1), 0.5)]
    canvas = _stroke(canvas, [c for of_class in contours for c in of_class], scale, 2 * pen, CASING, 0.5)
    for of_class, colour in zip(contours, colours, strict=True):
        canvas = _stroke(canvas, of_class, scale, pen, colour, 1.0)
    return _bytes(canvas)


def _stroke(
    canvas: Canvas, contours: list[Floats], scale: float, width: float, colour: Colour, alpha: float
) -> Canvas:
    """Draw smooth lines, given in pixel centres of an array that was padded by one."""
    height, wide = canvas.shape[:2]
    stencil = Image.new("L", (wide * 2, height * 2))
    pen = ImageDraw.Draw(stencil)
    for contour in contours:
        points = (contour[:, ::-1] - 0.5) * (2 * scale)  # centre of padded pixel 1 = 0.5 px from the edge
        pen.line([tuple(p) for p in points.tolist()], fill=255, width=round(2 * width))
    mask = np.asarray(stencil.resize((wide, height), Image.Resampling.BOX), np.float32) / 255
    return _tint(canvas, colour, alpha * mask)


def with_area(canvas: Canvas, area: BaseGeometry, shape: tuple[int, int]) -> Canvas:
    """`canvas` with the outline of an area, given in px of a grid of `shape` (height, width) that it shows whole."""
    scale = np.array([canvas.shape[0] / shape[0], canvas.shape[1] / shape[1]])
    rings = [ring for polygon in shapely.get_parts(area) for ring in (polygon.exterior, *polygon.interiors)]
    lines = [shapely.get_coordinates(ring)[:, ::-1] * scale + 0.5 for ring in rings]
    return _stroke(_stroke(canvas, lines, 1, 6.0, (255, 255, 255), 0.7), lines, 1, 3.0, AREA, 1.0)


def _tint(canvas: Canvas, colour: Colour, alpha: npt.NDArray[Any]) -> Canvas:
    """`canvas` (H, W, 3) mixed with one colour; `alpha` (H, W) in 0..1."""
    return canvas + (np.array(colour, np.float32) - canvas) * alpha[..., None].astype(np.float32)


def _bytes(canvas: npt.NDArray[Any]) -> RGB:
    return np.clip(np.round(canvas), 0, 255).astype(np.uint8)


def picture(canvas: npt.NDArray[Any], span_px: float, lines: bool = False) -> Picture:
    """Pack an image (H, W, 3) as a JPEG data URI; `lines`: colour at full resolution keeps their hue."""
    buffer = io.BytesIO()
    # not optimize=True: its output buffer is too small for noisy images ("broken data stream")
    Image.fromarray(_bytes(canvas)).save(buffer, "JPEG", quality=85, subsampling=0 if lines else 2)
    uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, canvas.shape[1], canvas.shape[0], float(span_px))
