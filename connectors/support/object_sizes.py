"""How large the objects of a support set are on the ground, before any pixel of it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from fewscope.connectors.source import Source
from fewscope.connectors.storage.library_errors import library_errors
from fewscope.connectors.support.annotation_files import OUTLINED, UNNAMED, AnnotationFile
from fewscope.connectors.support.annotations import read_annotations
from fewscope.connectors.support.sparse import starts
from fewscope.connectors.support.support_set import POINT
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import SupportError


class ReadAhead:
    """An `AnnotationReader` that has read some files before it is asked for them: a million objects take minutes."""

    def __init__(self) -> None:
        self._read: dict[tuple[str, SupportOptions], AnnotationFile] = {}

    def ahead(self, uri: str, source: Source, options: SupportOptions) -> AnnotationFile:
        """The annotations in a file, which are kept until they are asked for; not to be changed."""
        with library_errors(SupportError, uri):
            found = self._read[_key(uri, options)] = read_annotations(uri, source, options)
        return found

    def __call__(self, uri: str, source: Source, options: SupportOptions) -> AnnotationFile:
        """The annotations in a file."""
        return self._read.pop(_key(uri, options), None) or read_annotations(uri, source, options)


def _key(uri: str, options: SupportOptions) -> tuple[str, SupportOptions]:
    """What annotations depend on: not on a resolution, as pictures do."""
    return uri, replace(options, mpp=None)


def region_patches(drawn: Sequence[tuple[AnnotationFile, float | None]], mpp: float) -> list[int]:
    """Number of patches that the regions drawn on slides take at a working resolution, of each file.

    Parameters
    ----------
    drawn
        Annotations, and um per px of the slide that they were drawn on.
    mpp
        The working resolution, um per px.
    """
    found = []
    for of_file, native in drawn:
        scale = (native or mpp) / mpp
        bounds = [[scale * side for side in one.geometry.bounds] for one in of_file.regions]
        found.append(
            sum(len(starts(top, bottom)) * len(starts(left, right)) for left, top, right, bottom in bounds)
        )
    return found


def largest_region(drawn: Sequence[tuple[AnnotationFile, float | None]]) -> float | None:
    """Side of the square that is as large as the largest region, um; None without a region.

    Parameters
    ----------
    drawn
        Annotations, and um per px of the slide that they were drawn on.
    """
    sides = [
        (native or np.nan) * one.geometry.area**0.5 for of_file, native in drawn for one in of_file.regions
    ]
    return max(sides, default=None)


def classes_at_points(drawn: Sequence[AnnotationFile], options: SupportOptions) -> list[str]:
    """Names of the classes of which points mark objects; of those of ``class_names``, if there are any of these."""
    names = sorted({one.name for of_file in drawn for one in of_file.objects if one.rough == POINT})
    return _asked(names, drawn, options)


def typical_diameters(
    drawn: Sequence[tuple[AnnotationFile, float | None]], options: SupportOptions
) -> dict[str, float]:
    """Typical diameter of the objects of each class that were drawn on slides of a known resolution.

    The diameter is the hydraulic one, 4 times the area by the perimeter: that of a circle is its diameter, that of a
    long strip, such as an epithelium, twice its width. Objects that were painted in part, or accepted as the preview of
    the page has found them, do not count.

    Parameters
    ----------
    drawn
        Annotations, and the side of a pixel of their coordinates, um or another unit: of slides, of the finest level.
    options
        Objects of other classes than ``class_names`` do not count, if there are any of these.

    Returns
    -------
    In the unit of the sides, by class, the median of its outlines and boxes; without classes that have neither
    """
    of_classes: dict[str, list[NDArray[np.float64]]] = {}
    for of_file, side in drawn:
        objects = [one for one in of_file.objects if one.mark in ("", OUTLINED)]
        names = np.array([one.name for one in objects], object)
        outlines = np.array([one.geometry for one in objects], object)
        area, perimeter = shapely.area(outlines), shapely.length(outlines)
        for name in sorted(set(names[area > 0])):
            of_class = (names == name) & (area > 0)
            diameters = 4 * area[of_class] / perimeter[of_class] * (side or np.nan)
            of_classes.setdefault(name, []).append(diameters)
    asked = _asked(sorted(of_classes), [of_file for of_file, _ in drawn], options)
    found = {name: float(np.median(np.concatenate(of_classes[name]))) for name in asked}
    return {name: diameter for name, diameter in found.items() if diameter > 0}


def _asked(names: Sequence[str], drawn: Sequence[AnnotationFile], options: SupportOptions) -> list[str]:
    """Those of the names that are asked for: all if none is, or if no object has a class, as all are of that one."""
    if not options.class_names or {one.name for of_file in drawn for one in of_file.objects} == {UNNAMED}:
        return list(names)
    wanted = {name.casefold() for name in options.class_names}
    return [name for name in names if name.casefold() in wanted]
