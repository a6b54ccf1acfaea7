"""OME-XML, the metadata of OME-TIFF: images, their channels, and the size of a pixel.

https://docs.openmicroscopy.org/ome-model/6.3.1/ome-xml/; elements are found by name in any version of the schema.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import xml.etree.ElementTree as ElementTree

from fewscope.connectors.colours import Colour
from fewscope.connectors.pixels.composite import unique_names
from fewscope.connectors.slides.channel_image import (
    SECONDS_PER_UNIT,
    UM_PER_UNIT,
    Channel,
    Stated,
    regular_times,
)
from fewscope.connectors.storage.safe_xml import parse_xml, tag_of
from fewscope.errors import SourceError

MAX_PLANES = 2**16
"""More are a mistake in the file: each would be looked up before a pixel is read."""


def read_ome_xml(uri: str, text: str) -> list[Stated]:
    """What OME-XML states of its images, in its order.

    Raises
    ------
    SourceError
        It is not XML, or states more planes than a file holds.
    """
    root = parse_xml(uri, text, SourceError)
    images: list[Stated] = []
    for image in root.iter():
        if tag_of(image) != "Image":
            continue
        pixels = next((part for part in image if tag_of(part) == "Pixels"), None)
        if pixels is None:
            continue
        n_planes = 1
        for axis in "CZT":
            n_planes *= int(pixels.get(f"Size{axis}", 1))
        if not 0 < n_planes <= MAX_PLANES:
            raise SourceError(
                f"{uri}: states {n_planes} planes, at most {MAX_PLANES} are read; check its OME-XML"
            )
        parts = [part for part in pixels if tag_of(part) == "Channel"]
        names = unique_names([(part.get("Name") or "").strip() for part in parts])
        colours = [_colour(part.get("Color")) for part in parts]
        channels = tuple(Channel(*pair) for pair in zip(names, colours, strict=True))
        images.append(Stated(channels, _mpp(pixels), _times(pixels)))
    return images


def _colour(text: str | None) -> Colour | None:
    """RGB of a signed 32-bit RGBA; white, the schema's default, says nothing."""
    try:
        value = int(text or "-1") & 0xFFFFFFFF
    except ValueError:
        return None
    red, green, blue = value >> 24 & 255, value >> 16 & 255, value >> 8 & 255
    return None if (red, green, blue) == (255, 255, 255) else (red, green, blue)


def _mpp(pixels: ElementTree.Element) -> tuple[str, str, str] | None:
    found = []
    for axis in "XY":
        unit = UM_PER_UNIT.get((pixels.get(f"PhysicalSize{axis}Unit") or "µm").strip().lower())
        size = pixels.get(f"PhysicalSize{axis}")
        if unit is None or not size:
            return None
        try:
            found.append(f"{float(size) * unit:.6g}")
        except ValueError:
            found.append(size)
    return "OME-XML", found[0], found[1]


def _times(pixels: ElementTree.Element) -> tuple[float, ...]:
    """Seconds of the time points from the first: as the planes state, else at regular steps; empty if nothing is."""
    n_times = int(pixels.get("SizeT", 1))
    found: dict[int, float] = {}
    for plane in pixels:
        taken = plane.get("DeltaT")
        unit = SECONDS_PER_UNIT.get(plane.get("DeltaTUnit", "s").strip().lower())
        if tag_of(plane) == "Plane" and taken and unit:
            with contextlib.suppress(ValueError):
                found.setdefault(int(plane.get("TheT", 0)), float(taken) * unit)
    seconds = [found.get(number, math.nan) for number in range(n_times)]
    if n_times > 1 and all(one < other for one, other in itertools.pairwise(seconds)):
        return tuple(round(one - seconds[0], 9) for one in seconds)
    return regular_times(pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit"), n_times)
