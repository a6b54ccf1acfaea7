"""Named polygons of annotation files on slides: areas to segment, regions to count in.

Every polygon of a file is one, whatever its class means in a support set; cells count with their whole outline.
"""

from __future__ import annotations

from dataclasses import dataclass

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.source import SourceInfo
from fewscope.connectors.support.annotation_files import Annotation
from fewscope.connectors.support.slide_files import read_slide_file
from fewscope.connectors.support_options import GeoJsonOrigin, SupportOptions
from fewscope.errors import SourceError, SupportError


@dataclass(frozen=True, slots=True)
class Region:
    """One polygon of a file, or several as one.

    Attributes
    ----------
    name
        Its own name, else its class, else "polygon 3", counted in the file's order.
    class_name
        Its class; nothing where the file states none.
    geometry
        Valid Polygon or MultiPolygon in level-0 px (x, y) from the corner of the slide's file.
    """

    name: str
    class_name: str
    geometry: BaseGeometry


@dataclass(frozen=True, slots=True)
class RegionFile:
    """All polygons of a file, in its order within each kind.

    Attributes
    ----------
    left_out
        What has no area: a title and why, for each.
    assumptions
        Where its coordinates were taken to start, if the slide leaves more than one place.
    """

    regions: tuple[Region, ...]
    left_out: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()


def read_regions(uri: str, *, info: SourceInfo, origin: GeoJsonOrigin = "scan") -> RegionFile:
    """The polygons of GeoJSON of QuPath (also gzipped), XML of ImageScope or ASAP, ``.ndpa``, or ROIs of ImageJ.

    Cores of a tissue microarray in QuPath are of the class `qupath_files.TMA_CORE`, missing ones left out.

    Parameters
    ----------
    uri
        Path or fsspec URL.
    info
        Of the slide or picture that they were drawn on.
    origin
        Where GeoJSON starts, see `connectors.support_options.SupportOptions`; other programs write where theirs does.

    Raises
    ------
    SourceError
        The file is missing, damaged or of none of these kinds, cannot be placed on the slide, or has no polygon.
    """
    options = SupportOptions(cell_part="cell", geojson_origin=origin)
    try:
        found = read_slide_file(uri, info, options, cores=True)
    except SupportError as error:
        raise SourceError(str(error)) from error
    if not found.program:
        found.assumptions.clear()  # which outline of a cell is taken is no question here
    start = found.origin(info, options)
    found.tell_scan_origin(uri, start)
    drawn = [*found.regions, *found.objects, *found.ignored, *found.negatives]
    areas = [
        one for one in drawn if "Polygon" in one.geometry.geom_type
    ]  # the others are marks of a support set
    if not areas:
        raise SourceError(f"{uri}: holds no polygon; draw the outline as one")
    return RegionFile(
        tuple(_region(one, number, start) for number, one in enumerate(areas, start=1)),
        tuple(found.left_out),
        tuple(found.assumptions),
    )


def _region(drawn: Annotation, number: int, start: tuple[int, int]) -> Region:
    class_name = drawn.name if drawn.stated else ""
    return Region(
        drawn.own or class_name or f"polygon {number}",
        class_name,
        shapely.affinity.translate(drawn.geometry, *start) if start != (0, 0) else drawn.geometry,
    )
