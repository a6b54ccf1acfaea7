"""Annotations without a region: what stands in for regions, since every object was drawn but no rectangle around them.

An outline without a class that holds other objects is a region: it is what people draw to say where they looked. Where
there is none, the surroundings of every object are background, except for other objects. With 24 px of them, five
patches of the ten validation classes on microscopy and satellite images score a mean IoU of 0.680, and with all that is
drawn around them 0.683; where only three objects of each patch are drawn, so that others lie in their surroundings
unmarked, 0.666 (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import shapely

from fewscope.connectors.support.annotation_files import OUTLINED, AnnotationFile
from fewscope.connectors.vectors.polygon_files import listed

SURROUNDINGS = 24.0
"""Working px around an object that count as background."""


def holders_of(annotations: AnnotationFile) -> set[int]:
    """Indexes of the outlines without a class that hold other objects."""
    if all(one.stated for one in annotations.objects):
        return set()
    outlines = np.array([one.geometry for one in annotations.objects], object)
    around, _ = shapely.STRtree(outlines).query(outlines, predicate="contains_properly")
    return {int(index) for index in around if not annotations.objects[index].stated}


def with_regions(annotations: AnnotationFile) -> AnnotationFile:
    """The same annotations; without a region, the outlines around objects are regions, as they are read."""
    if annotations.regions or annotations.has_marks:
        return annotations
    holders, objects = holders_of(annotations), annotations.objects
    return replace(
        annotations,
        regions=[objects[index] for index in sorted(holders)],
        objects=[one for index, one in enumerate(objects) if index not in holders],
    )


def stand_in_for_regions(uri: str, annotations: AnnotationFile) -> None:
    """Make the outlines around objects regions, else mark every object as one whose surroundings are background."""
    if holders := holders_of(annotations):
        annotations.regions += [annotations.objects[index] for index in sorted(holders)]
        titles = [one.title for one in annotations.regions]
        annotations.objects = [one for index, one in enumerate(annotations.objects) if index not in holders]
        annotations.assumptions.append(
            f"{uri}: has no region of class Region*; {listed(titles)}, without a class and with other objects inside, "
            f"{'was taken as one' if len(titles) == 1 else 'were taken as regions'}."
        )
        return
    annotations.objects = [replace(one, mark=OUTLINED) for one in annotations.objects]
    annotations.surroundings = SURROUNDINGS


def note_on_surroundings(uri: str, how_to: str) -> str:
    """What the report says of labels without a region."""
    return (
        f"{uri}: has no region, so that {SURROUNDINGS:g} px around each object were taken as background, other objects "
        "excepted, and nothing else is known to be background. Estimates of quality and count are of such ground "
        f"alone, and may be off. For better ones, {how_to}."
    )
