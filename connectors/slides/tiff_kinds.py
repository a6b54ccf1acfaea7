"""Kinds of TIFF whose directories are the channels of one image, and what each states of them.

A new kind is one line in `KINDS`.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tifffile

from fewscope.connectors.colours import Colour
from fewscope.connectors.pixels.composite import unique_names
from fewscope.connectors.slides.channel_image import UM_PER_UNIT, Channel, Stated, regular_times
from fewscope.connectors.slides.ome_xml import read_ome_xml
from fewscope.connectors.storage.safe_xml import parse_xml
from fewscope.errors import SourceError

Images = tuple[list[Any], list[Stated]]
"""The series of tifffile that are images of their own, and what is stated of each."""

GREY = (255, 255, 255)
"""Says nothing about a channel's colour."""


@dataclass(frozen=True, slots=True)
class TiffKind:
    """One line of `KINDS`.

    Attributes
    ----------
    name
        As reports name it.
    knows
        Whether an open file is of this kind.
    read
        Its images; the address is for errors.
    """

    name: str
    knows: Callable[[tifffile.TiffFile], bool]
    read: Callable[[str, tifffile.TiffFile], Images]


def kind_of(tiff: tifffile.TiffFile) -> TiffKind | None:
    """The kind of an open file; None for all others."""
    return next((kind for kind in KINDS if kind.knows(tiff)), None)


def _ome(uri: str, tiff: tifffile.TiffFile) -> Images:
    stated = read_ome_xml(uri, tiff.ome_metadata or "")  # first: tifffile parses it as it is
    found = list(tiff.series)
    return found, stated if len(stated) == len(found) else [Stated() for _ in found]


def _qptiff(uri: str, tiff: tifffile.TiffFile) -> Images:
    """QPTIFF of Akoya's (formerly PerkinElmer's) scanners: each directory describes its channel in XML.

    The levels are directories of the file, all channels of one after those of another; thumbnail, macro and label are
    left out.
    """
    image = tiff.series[0]
    described = [_description(uri, page) for page in image.pages]
    names = [_text(one, "Biomarker") or _text(one, "Name") for one in described]
    colours = [_colour_of_text(_text(one, "Color")) for one in described]
    channels = map(Channel, unique_names(names), colours)
    return [image], [Stated(tuple(channels), tags_mpp(tiff.pages.first))]


def _description(uri: str, page: Any) -> ElementTree.Element | None:
    text = page.description.strip()  # whatever encoding its first line states
    return parse_xml(uri, text, SourceError) if text else None


def _text(element: ElementTree.Element | None, name: str) -> str:
    found = None if element is None else element.findtext(name)
    return (found or "").strip()


def _colour_of_text(text: str) -> Colour | None:
    try:
        red, green, blue = (int(part) for part in text.split(","))
    except ValueError:
        return None
    return (red, green, blue) if (red, green, blue) != GREY and max(red, green, blue) <= 255 else None


def tags_mpp(page: Any) -> tuple[str, str, str] | None:
    """From the resolution tags, per inch or cm."""
    unit = {2: 25400.0, 3: 1e4}.get(int(page.resolutionunit))
    if unit is None or "XResolution" not in page.tags or not all(page.resolution):
        return None
    return "TIFF resolution", *(f"{unit / float(value):.6g}" for value in page.resolution)  # type: ignore[return-value]


def _imagej(uri: str, tiff: tifffile.TiffFile) -> Images:
    """ImageJ's and Fiji's stacks: names and colours of the channels from labels and lookup tables."""
    image = tiff.series[0]
    metadata = tiff.imagej_metadata or {}
    sizes = dict(zip(image.axes, image.shape, strict=True))
    n_channels = sizes.get("C", sizes.get("I", 1))
    if image.kind != "imagej":
        raise SourceError(f"{uri}: does not hold the planes that ImageJ has counted in it; save it again")
    labels = metadata.get("Labels")
    names = labels if isinstance(labels, list) and len(labels) == n_channels else [""] * n_channels
    tables = metadata.get("LUTs")
    colours: Sequence[Colour | None] = [None] * n_channels
    if isinstance(tables, list) and len(tables) == n_channels:
        colours = [_colour_of_table(table) for table in tables]
    channels = map(Channel, unique_names([str(name).strip() for name in names]), colours)
    unit = UM_PER_UNIT.get(str(metadata.get("unit", "")).replace("\\u00B5", "\u00b5").strip().lower())
    page = tiff.pages.first
    mpp = None
    if unit is not None and "XResolution" in page.tags and all(page.resolution):
        mpp = "ImageJ", *(f"{unit / float(value):.6g}" for value in page.resolution)
    every = metadata.get("finterval"), metadata.get("tunit")
    times_s = regular_times(*every, sizes.get("T") or sizes.get("I") or sizes.get("Z", 1))
    return [image], [Stated(tuple(channels), mpp, times_s)]  # type: ignore[arg-type]


def _colour_of_table(table: Any) -> Colour | None:
    """The colour of the brightest value of a lookup table (3, 256)."""
    values = np.asarray(table)
    if values.shape != (3, 256):
        return None
    red, green, blue = (int(value) for value in values[:, -1])
    return None if (red, green, blue) == GREY else (red, green, blue)


KINDS = (
    TiffKind("OME-TIFF", lambda tiff: bool(tiff.is_ome and tiff.ome_metadata), _ome),
    TiffKind("QPTIFF", lambda tiff: bool(tiff.is_qpi), _qptiff),
    TiffKind("ImageJ TIFF", lambda tiff: bool(tiff.is_imagej), _imagej),
)
"""The first that knows a file is taken."""
