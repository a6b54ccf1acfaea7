"""Maps to look at: water and centrelines drawn on what was seen, with a scale bar and an arrow to north."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from affine import Affine
from PIL import Image, ImageDraw, ImageFont

from fewscope.connectors.pixels.transform import place_points
from fewscope.pipeline.geometry.geodesy import GroundMeasure

RGB = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

INK: Colour = (25, 30, 40)
PAPER: Colour = (255, 255, 255)
KEPT: Colour = (150, 176, 196)
GAINED: Colour = (0, 114, 178)
LOST: Colour = (213, 94, 0)
UNKNOWN: Colour = (225, 225, 225)
"""Water that stayed, came, went; ground that one date does not show. Distinguishable for colour-blind readers."""

SUPERSAMPLING = 2
"""Times that lines and letters are drawn larger, then shrunk, so that their edges are smooth."""


@dataclass(frozen=True, slots=True)
class MapView:
    """A picture's grid on the ground.

    Attributes
    ----------
    height, width : int
        Size of the picture, px.
    transform : Affine
        Picture's pixel corner (col, row) -> x, y.
    ground : GroundMeasure
        How to measure.
    """

    height: int
    width: int
    transform: Affine
    ground: GroundMeasure

    @classmethod
    def of(cls, height: int, width: int, transform: Affine, ground: GroundMeasure, longest: int) -> MapView:
        """The whole of a raster (height, width), scaled to `longest` px, at most four times enlarged."""
        scale = min(4.0, longest / max(height, width))
        shape = max(1, round(height * scale)), max(1, round(width * scale))
        return cls(*shape, transform @ Affine.scale(width / shape[1], height / shape[0]), ground)

    @property
    def pixel_m(self) -> float:
        """Width of the picture's pixel in its middle, m; NaN without a CRS."""
        return self.ground.pixel_m(self.transform, self.height / 2, self.width / 2)[1]


def grey(image: RGB) -> RGB:
    """A pale grey version of what was seen, for colours to stand out on."""
    levels = np.asarray(Image.fromarray(image).convert("L"), np.float32)
    return np.repeat((255 - (255 - levels) * 0.45)[..., None], 3, axis=2).astype(np.uint8)


def tinted(image: RGB, where: Mask, colour: Colour, alpha: float) -> RGB:
    """The image (H, W, 3) with a colour laid over part of it."""
    mixed = image.astype(np.float32)
    mixed[where] += (np.array(colour, np.float32) - mixed[where]) * alpha
    return np.round(mixed).astype(np.uint8)


def change_picture(
    background: RGB, before: tuple[Mask, Mask], after: tuple[Mask, Mask], alpha: float = 0.9
) -> RGB:
    """Water gained, lost and kept between two dates, each (water, valid) of the picture's size."""
    both = before[1] & after[1]
    picture = tinted(background, ~both, UNKNOWN, alpha)
    for colour, where in (
        (KEPT, before[0] & after[0]),
        (LOST, before[0] & ~after[0]),
        (GAINED, after[0] & ~before[0]),
    ):
        picture = tinted(picture, where & both, colour, alpha)
    return picture


def with_lines(image: RGB, view: MapView, lines: Sequence[tuple[Floats, Colour]], width: float = 2.0) -> RGB:
    """The image with lines, each (n, 2) x, y in the CRS and a colour."""
    picture = _enlarged(image)
    pen = ImageDraw.Draw(picture)
    for line, colour in lines:
        points = [tuple(point) for point in _pixels(line, view)]
        pen.line(points, fill=colour, width=round(width * SUPERSAMPLING), joint="curve")
    return _shrunk(picture)


def with_map_elements(
    image: RGB, view: MapView, legend: Sequence[tuple[str, Colour]] = (), title: str = ""
) -> RGB:
    """The map with a scale bar, an arrow to north, a legend and a title, as far as these are known."""
    picture = _enlarged(image)
    pen = ImageDraw.Draw(picture)
    size = max(11, min(20, view.width // 55)) * SUPERSAMPLING
    font = _font(size)
    margin = size
    if title:
        _label(pen, (margin, margin), title, _font(round(size * 1.5)))
    if np.isfinite(view.pixel_m):
        _scale_bar(pen, view, picture.size, margin, font)
    north = view.ground.north(view.transform, view.height / 2, view.width / 2)
    if north is not None:
        _north_arrow(pen, north, (picture.size[0] - 2 * margin, round(2.4 * margin)), font)
    if legend:
        _legend(pen, legend, picture.size, margin, font)
    return _shrunk(picture)


def scale_length(view: MapView, share: float = 0.22) -> float:
    """Length of the scale bar, m: 1, 2 or 5 times a power of ten, at most a share of the picture's width."""
    most = view.pixel_m * view.width * share
    power = 10.0 ** math.floor(math.log10(most))
    return max(step * power for step in (1, 2, 5) if step * power <= most)


def _pixels(line: Floats, view: MapView) -> list[list[float]]:
    """x, y of the enlarged picture."""
    points: list[list[float]] = (place_points(line, ~view.transform) * SUPERSAMPLING).tolist()
    return points


def _enlarged(image: RGB) -> Image.Image:
    size = image.shape[1] * SUPERSAMPLING, image.shape[0] * SUPERSAMPLING
    return Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)


def _shrunk(picture: Image.Image) -> RGB:
    size = picture.size[0] // SUPERSAMPLING, picture.size[1] // SUPERSAMPLING
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow is built without FreeType"
    return font


def _label(
    pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, font: ImageFont.FreeTypeFont
) -> None:
    pen.text(place, text, fill=INK, font=font, stroke_width=max(2, round(font.size / 7)), stroke_fill=PAPER)


def _scale_bar(
    pen: ImageDraw.ImageDraw, view: MapView, size: tuple[int, int], margin: int, font: ImageFont.FreeTypeFont
) -> None:
    length = scale_length(view)
    pixels = length / view.pixel_m * SUPERSAMPLING
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    left, bottom = margin, size[1] - margin
    thick = max(12, margin // 3)
    pen.rectangle((left - 3, bottom - thick - 3, left + pixels + 3, bottom + 3), fill=PAPER)
    pen.rectangle((left, bottom - thick, left + pixels, bottom), fill=INK)
    if pixels > 16:  # of a map of a few pixels the bar is too short for a white half
        pen.rectangle((left + pixels / 2, bottom - thick + 4, left + pixels - 4, bottom - 4), fill=PAPER)
    _label(pen, (left, bottom - thick - font.size * 1.5), text, font)


def _north_arrow(
    pen: ImageDraw.ImageDraw,
    north: tuple[float, float],
    middle: tuple[int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    up = np.array([north[1], north[0]])  # x, y of the picture
    side = np.array([-up[1], up[0]])
    length = 1.3 * font.size
    centre = np.array(middle, float)
    tip, base = centre + up * length, centre - up * length * 0.6
    shape = [tip, base + side * length * 0.5, base + up * length * 0.35, base - side * length * 0.5]
    pen.polygon([tuple(point) for point in shape], fill=INK, outline=PAPER, width=3)
    width = pen.textlength("N", font=font)
    place = centre - up * length * 1.5 - (width / 2, font.size / 2)
    _label(pen, (float(place[0]), float(place[1])), "N", font)


def _legend(
    pen: ImageDraw.ImageDraw,
    legend: Sequence[tuple[str, Colour]],
    size: tuple[int, int],
    margin: int,
    font: ImageFont.FreeTypeFont,
) -> None:
    line = font.size * 1.45
    width = max(pen.textlength(text, font=font) for text, _ in legend) + 3.2 * font.size
    left, top = size[0] - width - margin / 2, size[1] - line * len(legend) - 1.2 * margin
    pen.rounded_rectangle(
        (left, top, size[0] - margin / 2, size[1] - margin / 2),
        radius=margin / 3,
        fill=PAPER,
        outline=(190, 195, 200),
        width=2,
    )
    for index, (text, colour) in enumerate(legend):
        y = top + margin / 3 + index * line
        pen.rectangle(
            (left + font.size * 0.5, y + font.size * 0.35, left + font.size * 2, y + font.size * 1.0),
            fill=colour,
        )
        pen.text((left + font.size * 2.5, y), text, fill=INK, font=font)
