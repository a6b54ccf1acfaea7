"""Outlines as annotations of Aperio ImageScope: XML with a layer for each class, in level-0 pixels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from fewscope.connectors.colours import Colour, class_colour
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.connectors.vectors.outline import (
    Bounds,
    Outline,
    Ring,
    attribute,
    bounds_of,
    keyhole,
    length_of,
    signed_area,
)

_COPIED = 2**20  # characters at a time


def write_imagescope(
    uri: str,
    outlines: Iterable[Outline],
    class_names: Sequence[str],
    mpp: float | None,
    is_inhabited: Callable[[Bounds, int], bool] = lambda bounds, instance: False,
) -> None:
    """Write an ``.xml`` for ImageScope.

    Holes are regions of the negative pen, which ImageScope cuts out of everything in the layer. A hole in which another
    instance may lie, or a part of its own, is therefore reached by a line from outside instead.

    Parameters
    ----------
    mpp
        Micrometres per level-0 pixel; None if it is not known.
    is_inhabited
        Whether an instance other than the given one may lie in a box.
    """
    with output_errors(uri), atomic_file(uri) as path, open(path, "w", encoding="utf-8") as file:
        layers = [tempfile.TemporaryFile("w+", encoding="utf-8") for _ in class_names]  # noqa: SIM115
        try:
            counts = [0] * len(layers)
            for outline in outlines:
                layer = outline.value - 1
                for ring, is_hole in _regions(outline, is_inhabited):
                    counts[layer] += 1
                    layers[layer].write(_region(counts[layer], ring, is_hole, mpp))
            stated = f' MicronsPerPixel="{mpp:.6f}"' if mpp else ""
            file.write(f'<?xml version="1.0" encoding="utf-8"?>\n<Annotations{stated}>\n')
            for number, (name, layer_file) in enumerate(zip(class_names, layers, strict=True), start=1):
                _write_layer(file, number, name, layer_file)
            file.write("</Annotations>\n")
        finally:
            for layer_file in layers:
                layer_file.close()


def colour_number(colour: Colour) -> int:
    """A colour as ImageScope counts them: red in the lowest byte.

    >>> colour_number((255, 0, 0)), colour_number((0, 0, 255))
    (255, 16711680)
    """
    red, green, blue = colour
    return red | green << 8 | blue << 16


def _write_layer(file: IO[str], number: int, name: str, regions: IO[str]) -> None:
    file.write(
        f'<Annotation Id="{number}" Name={attribute(name)} ReadOnly="0" NameReadOnly="0" LineColorReadOnly="0" '
        f'Incremental="0" Type="4" LineColor="{colour_number(class_colour(number))}" Visible="1" Selected="0" '
        'MarkupImagePath="" MacroName="">\n<Attributes/>\n<Regions>\n<RegionAttributeHeaders/>\n'
    )
    regions.seek(0)
    while piece := regions.read(_COPIED):
        file.write(piece)
    file.write("</Regions>\n<Plots/>\n</Annotation>\n")


def _regions(outline: Outline, is_inhabited: Callable[[Bounds, int], bool]) -> Iterator[tuple[Ring, bool]]:
    """Each ring, and whether it is cut out."""
    parts = [bounds_of(rings[0]) for rings in outline.polygons]
    for whole, *holes in outline.polygons:
        joined: list[Ring] = []
        cut: list[Ring] = []
        for hole in holes:
            bounds = bounds_of(hole)
            has_others = any(_contains(bounds, part) for part in parts) or is_inhabited(
                bounds, outline.instance
            )
            (joined if has_others else cut).append(hole)
        yield keyhole((whole, *joined)), False
        for hole in cut:
            yield hole, True


def _contains(box: Bounds, other: Bounds) -> bool:
    return box[0] <= other[0] and box[1] <= other[1] and box[2] >= other[2] and box[3] >= other[3]


def _region(number: int, ring: Ring, is_hole: bool, mpp: float | None) -> str:
    length, area = length_of(ring), abs(signed_area(ring))
    in_um = f' LengthMicrons="{length * mpp:.2f}" AreaMicrons="{area * mpp**2:.2f}"' if mpp else ""
    vertices = "".join(f'<Vertex X="{x:.2f}" Y="{y:.2f}" Z="0"/>' for x, y in ring.tolist())
    return (
        f'<Region Id="{number}" Type="0" Zoom="1" Selected="0" ImageLocation="" ImageFocus="-1" Length="{length:.2f}" '
        f'Area="{area:.2f}"{in_um} Text="" NegativeROA="{int(is_hole)}" InputRegionId="0" Analyze="1" '
        f'DisplayId="{number}"><Attributes/><Vertices>{vertices}</Vertices></Region>\n'
    )
