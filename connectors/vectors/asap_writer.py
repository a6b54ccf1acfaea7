"""Outlines as annotations of ASAP: XML with a group for each class, in level-0 pixels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fewscope.connectors.colours import class_colour
from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors
from fewscope.connectors.vectors.outline import Outline, attribute, hexadecimal, keyhole


def write_asap(uri: str, outlines: Iterable[Outline], class_names: Sequence[str]) -> None:
    """Write an ``.xml`` for ASAP, which knows no holes: a line leads to each, and back."""
    with output_errors(uri), atomic_file(uri) as path, open(path, "w", encoding="utf-8") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<ASAP_Annotations>\n<Annotations>\n')
        for outline in outlines:
            colour = hexadecimal(class_colour(outline.value))
            for rings in outline.polygons:
                coordinates = "".join(
                    f'<Coordinate Order="{order}" X="{x:.2f}" Y="{y:.2f}"/>'
                    for order, (x, y) in enumerate(keyhole(rings).tolist())
                )
                file.write(
                    f'<Annotation Name={attribute(outline.title)} Type="Polygon" PartOfGroup={attribute(outline.name)} '
                    f'Color="{colour}"><Coordinates>{coordinates}</Coordinates></Annotation>\n'
                )
        file.write("</Annotations>\n<AnnotationGroups>\n")
        for value, name in enumerate(class_names, start=1):
            colour = hexadecimal(class_colour(value))
            file.write(
                f'<Group Name={attribute(name)} PartOfGroup="None" Color="{colour}"><Attributes/></Group>\n'
            )
        file.write("</AnnotationGroups>\n</ASAP_Annotations>\n")
