"""Outlines as annotations of Hamamatsu's NDP.view: ``.ndpa``, in nanometres from the centre of the glass slide."""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import escape

from affine import Affine

from fewscope.connectors.colours import class_colour
from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.connectors.vectors.outline import Outline, Ring, bounds_of, hexadecimal, keyhole

LENS = 20  # magnification at which NDP.view shows an annotation that is picked from its list


def write_ndpview(uri: str, outlines: Iterable[Outline], from_glass_nm: Affine) -> None:
    """Write an ``.ndpa``; NDP.view knows no holes: a line leads to each, and back.

    Parameters
    ----------
    from_glass_nm
        From nanometres from the centre of the glass to level-0 pixels, `SourceInfo.from_glass_nm`.
    """
    to_glass_nm = ~from_glass_nm
    with output_errors(uri), atomic_file(uri) as path, open(path, "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8" standalone="yes"?>\n<annotations>\n')
        number = 0
        for outline in outlines:
            for rings in outline.polygons:
                number += 1
                file.write(_view(number, outline, place_points(keyhole(rings), to_glass_nm)))
        file.write("</annotations>\n")


def _view(number: int, outline: Outline, ring: Ring) -> str:
    """An ``ndpviewstate`` element of one part of an instance."""
    title = escape("".join(c for c in outline.name if c.isprintable()))
    left, top, right, bottom = bounds_of(ring)
    colour = hexadecimal(class_colour(outline.value))
    points = "".join(f"<point><x>{x:.0f}</x><y>{y:.0f}</y></point>" for x, y in ring.tolist())
    return (
        f'<ndpviewstate id="{number}"><title>{title}</title><details>id {outline.instance}, probability '
        f"{outline.probability:.2f}</details><coordformat>nanometers</coordformat><lens>{LENS}</lens>"
        f"<x>{(left + right) / 2:.0f}</x><y>{(top + bottom) / 2:.0f}</y><z>0</z><showtitle>0</showtitle>"
        "<showhistogram>0</showhistogram><showlineprofile>0</showlineprofile>"
        f'<annotation type="freehand" displayname="AnnotateFreehand" color="{colour}">'
        f"<measuretype>0</measuretype><closed>1</closed><pointlist>{points}</pointlist></annotation></ndpviewstate>\n"
    )
