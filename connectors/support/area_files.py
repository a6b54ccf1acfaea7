"""The area of a slide that is to be segmented: which polygons of a file it is made of, and which are left out of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.source import SourceInfo
from fewscope.connectors.support.annotation_files import kind_of
from fewscope.connectors.support.qupath_files import TMA_CORE
from fewscope.connectors.support.region_files import Region, read_regions
from fewscope.connectors.support_options import GeoJsonOrigin
from fewscope.connectors.vectors.polygon_files import listed, polygons_of
from fewscope.errors import SourceError

UNCLASSIFIED = "no class"


@dataclass(frozen=True, slots=True)
class AreaOptions:
    """Which polygons outline the area to segment.

    Attributes
    ----------
    uri
        The file.
    classes
        Polygons of these classes, or names, outline it, in any case; empty: all that are not left out.
    excluded
        Polygons of these classes, or names, are left out of it, as are always those of class Ignore*.
    origin
        Where GeoJSON starts, see `connectors.support_options.SupportOptions`.
    """

    uri: str
    classes: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    origin: GeoJsonOrigin = "scan"


@dataclass(frozen=True, slots=True)
class OfClass:
    """Polygons of one class of an area: how many, and what they cover together, in px of the working grid."""

    class_name: str
    n_polygons: int
    area_px: float


@dataclass(frozen=True, slots=True)
class DrawnArea:
    """The area of a file on a slide.

    Attributes
    ----------
    geometry
        Valid Polygon or MultiPolygon in px (x, y) of the working grid, inside the slide.
    used, excluded
        What it is made of, and what is left out of it. Nothing used: all of the slide but what is left out.
    unused
        Polygons of the file that are neither.
    notes, assumptions
        What is to be known of it.
    """

    uri: str
    geometry: BaseGeometry
    used: tuple[OfClass, ...]
    excluded: tuple[OfClass, ...]
    unused: tuple[OfClass, ...]
    notes: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()

    def described(self, area: Callable[[float], str]) -> str:
        """What it is made of, in words; ``area`` writes an area, given in px of the working grid."""
        made_of = _listed(self.used, area) or "all of it"
        without = f", without {_listed(self.excluded, area)}" if self.excluded else ""
        unused = f"; not used: {_listed(self.unused, area)}" if self.unused else ""
        return f"{made_of}{without}; in all {area(float(self.geometry.area))}{unused}"


def read_area(options: AreaOptions, info: SourceInfo, of_support: Sequence[str] = ()) -> DrawnArea:
    """The area of a slide that a file of annotations outlines.

    Without ``options.classes``, all polygons outline it. Where a file holds several classes, and some are those of a
    support set (Region*, or ``of_support``), it is not certain which outline the area, and asked for.

    Parameters
    ----------
    info
        Of the slide.
    of_support
        Classes of objects that are looked for.

    Raises
    ------
    SourceError
        The file cannot be read, it is not certain what outlines the area, a class has no polygon, or the area is empty
        or outside the slide.
    """
    found = read_regions(options.uri, info=info, origin=options.origin)
    uri = options.uri
    _check_names(options, found.regions)
    excluded, rest = _split(found.regions, lambda one: _is_excluded(one, options))
    if options.classes:
        used, unused = _split(rest, lambda one: _is(one, options.classes))
        if not used:
            raise SourceError(f"{uri}: --aoi-class and --aoi-exclude name the same polygons; leave one out")
    else:
        used, unused = _without_cores(rest)
        _check_certain(uri, used, of_support)
    used, excluded, unused = (_on_grid(some, info) for some in (used, excluded, unused))
    slide = shapely.box(0, 0, info.width, info.height)
    outline = _covered(used, slide) if used else slide
    if outline.is_empty:
        raise SourceError(_outside(uri, used, info))
    area = polygons_of(shapely.difference(outline, _covered(excluded, slide)))
    if area is None:
        raise SourceError(
            f"{uri}: nothing is left of the area, all of it is excluded ({_words(_classes(excluded))})"
        )
    notes = (
        [f"{uri}: left out of the area asked for: {listed(list(found.left_out))}."] if found.left_out else []
    )
    if lost := [one.name for one in used if not slide.intersects(one.geometry)]:
        notes.append(f"{uri}: outside the slide, and left out: {listed(lost)}.")
    return DrawnArea(
        uri,
        area,
        used=_by_class(used, slide),
        excluded=_by_class(excluded, slide),
        unused=_by_class(unused, slide),
        notes=tuple(notes),
        assumptions=found.assumptions,
    )


def _check_names(options: AreaOptions, regions: Sequence[Region]) -> None:
    """Raise SourceError if no polygon has a class that is asked for."""
    for option, names in (("--aoi-class", options.classes), ("--aoi-exclude", options.excluded)):
        for name in names:
            if not any(_is(region, (name,)) for region in regions):
                raise SourceError(
                    f"{options.uri}: no polygon has the class or name {name} ({option}); it holds "
                    f"{_words(_classes(regions))}"
                )


def _split(
    regions: Sequence[Region], is_first: Callable[[Region], bool]
) -> tuple[list[Region], list[Region]]:
    """Those for which it is true, and the others."""
    answers = [is_first(one) for one in regions]
    return (
        [one for one, yes in zip(regions, answers, strict=True) if yes],
        [one for one, yes in zip(regions, answers, strict=True) if not yes],
    )


def _on_grid(regions: Sequence[Region], info: SourceInfo) -> list[Region]:
    """Regions in px of the working grid."""
    to_grid = ~info.transform
    matrix = [to_grid.a, to_grid.b, to_grid.d, to_grid.e, to_grid.c, to_grid.f]
    return [replace(one, geometry=shapely.affinity.affine_transform(one.geometry, matrix)) for one in regions]


def _covered(regions: Sequence[Region], slide: BaseGeometry) -> BaseGeometry:
    """What regions cover together of the slide."""
    whole = shapely.union_all([one.geometry for one in regions])
    return polygons_of(shapely.intersection(whole, slide)) or shapely.Polygon()


def _by_class(regions: Sequence[Region], slide: BaseGeometry) -> tuple[OfClass, ...]:
    return tuple(
        OfClass(name, len(of_name), float(_covered(of_name, slide).area))
        for name, of_name in _classes(regions).items()
    )


def _is(region: Region, names: Sequence[str]) -> bool:
    own = {(region.class_name or UNCLASSIFIED).casefold(), region.name.casefold()}
    return any(name.casefold() in own for name in names)


def _is_excluded(region: Region, options: AreaOptions) -> bool:
    if _is(region, options.excluded):
        return True
    return kind_of(region.class_name) == "ignored area" and not _is(region, options.classes)


def _without_cores(regions: list[Region]) -> tuple[list[Region], list[Region]]:
    """What outlines an area, and cores of a microarray beside it, which do so only where nothing else does."""
    cores, others = _split(regions, lambda one: one.class_name == TMA_CORE)
    return (others, cores) if others else (cores, [])


def _check_certain(uri: str, used: Sequence[Region], of_support: Sequence[str]) -> None:
    """Raise SourceError if polygons of a support set are among those that may outline the area."""
    classes = _classes(used)
    looked_for = {name.casefold() for name in of_support}
    of_set = [
        name for name in classes if name.casefold() in looked_for or kind_of(name) in ("region", "background")
    ]
    objects = [name for name in of_set if name.casefold() in looked_for]
    if not of_set or (len(classes) == 1 and not objects):
        return
    others = [name for name in classes if name not in of_set]
    suggested = max(others or of_set, key=lambda name: max(one.geometry.area for one in classes[name]))
    raise SourceError(
        f"{uri}: holds {_words(classes)}: which outline the area? {', '.join(of_set)} "
        f"{'belongs' if len(of_set) == 1 else 'belong'} to the support set; give --aoi-class, such as --aoi-class "
        f"'{suggested}'"
    )


def _classes(regions: Sequence[Region]) -> dict[str, list[Region]]:
    """Regions by their class, in the order of the names."""
    found: dict[str, list[Region]] = {}
    for one in sorted(regions, key=lambda one: one.class_name):
        found.setdefault(one.class_name or UNCLASSIFIED, []).append(one)
    return found


def _listed(classes: Sequence[OfClass], area: Callable[[float], str]) -> str:
    return listed([f"{_counted(one.n_polygons, one.class_name)} ({area(one.area_px)})" for one in classes], 6)


def _counted(n: int, class_name: str) -> str:
    of_class = f"of {class_name}" if class_name == UNCLASSIFIED else f"of class {class_name}"
    return f"{n} polygon{'s' if n > 1 else ''} {of_class}"


def _words(classes: dict[str, list[Region]]) -> str:
    return listed([_counted(len(some), name) for name, some in classes.items()], 6)


def _outside(uri: str, used: Sequence[Region], info: SourceInfo) -> str:
    """The message for polygons, in px of the working grid, that all lie outside the slide."""
    left, top, right, bottom = shapely.total_bounds([one.geometry for one in used])
    origin = (
        f" Its coordinates were taken to start at the scanned area, {info.scan_origin[0]}, {info.scan_origin[1]}: if "
        "they start at the corner of the slide, give --geojson-origin file"
        if info.scan_origin != (0, 0)
        else ""
    )
    return (
        f"{uri}: its polygons reach from pixel ({left:.0f}, {top:.0f}) to ({right:.0f}, {bottom:.0f}), outside the "
        f"{info.noun} of {info.width} x {info.height} px; were they drawn on another one?{origin}"
    )
