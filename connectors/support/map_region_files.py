"""Named polygons of vector files on maps: parcels, districts, basins to count in."""

from __future__ import annotations

from fewscope.connectors.support.region_files import Region, RegionFile
from fewscope.connectors.vectors.placement import Target
from fewscope.connectors.vectors.polygon_files import Feature, describe, polygons_of, read_features
from fewscope.errors import ConfigError, SourceError

NAME_COLUMN = "name"
"""Holds the names of regions where no other column is asked for."""


def read_map_regions(uri: str, target: Target, name_column: str | None = None) -> RegionFile:
    """The polygons of a GeoPackage, GeoJSON, shapefile or other vector file, in the CRS of ``target``.

    Several layers are read as one; where there are, the layer of a region is its class.

    Parameters
    ----------
    uri
        Path or URL.
    target
        The raster that they lie on.
    name_column
        Holds the names of the regions, in any case; None: `NAME_COLUMN`, if there is one, else their numbers.

    Raises
    ------
    SourceError
        The file is missing or damaged, cannot be placed on the raster, or has no polygon.
    ConfigError
        It has no such column.
    """
    features = read_features(uri, target)
    column = (name_column or NAME_COLUMN).casefold()
    names = [_value(feature, column) for feature in features]
    if name_column and not any(names):
        known = sorted({name for feature in features for name in feature.properties})
        there = f"has {', '.join(known)}" if known else "has none"
        raise ConfigError(f"--name {name_column}: {uri} has no such column with values; it {there}")
    several = len({feature.layer for feature in features}) > 1
    regions, left_out, n_repaired = list[Region](), list[str](), 0
    for feature, name in zip(features, names, strict=True):
        polygons = None if feature.geometry is None else polygons_of(feature.geometry)
        if polygons is None:
            left_out.append(f"{describe(feature)} (feature {feature.number})")
            continue
        n_repaired += not feature.geometry.is_valid  # type: ignore[union-attr]
        shown = name or f"feature {feature.number}"
        regions.append(Region(shown, feature.layer if several else "", polygons))
    if not regions:
        raise SourceError(f"{uri}: holds no polygon; draw the outline as one")
    return RegionFile(tuple(regions), tuple(left_out), _repaired(uri, n_repaired))


def _value(feature: Feature, column: str) -> str:
    return next((value for name, value in feature.properties.items() if name.casefold() == column), "")


def _repaired(uri: str, n: int) -> tuple[str, ...]:
    if not n:
        return ()
    return (f"{uri}: repaired {n} polygon{'s' * (n > 1)} whose outline crosses itself.",)
