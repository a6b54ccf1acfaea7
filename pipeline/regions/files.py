"""Regions with their numbers as files of other programs: GeoJSON for QuPath, a GeoPackage for GIS."""

from __future__ import annotations

import json
import uuid
from typing import Any

import numpy as np
import pyarrow as pa
import shapely

from fewscope.connectors.source import measured_title
from fewscope.connectors.vectors.geojson import MEASUREMENT_DECIMALS, geometry_texts
from fewscope.connectors.vectors.layers import Layer, encode, geometry_field, to_multi, write_geopackage
from fewscope.pipeline.regions.numbers import RegionNumbers
from fewscope.pipeline.regions.summary import RegionSummary
from fewscope.pipeline.regions.table import measures, typed

HOT_SPOT_COLOUR = (194, 0, 122)
DECIMALS = 2  # of coordinates
IN_QUPATH = {"um2": "µm^2", "um": "µm", "mm2": "mm^2", "km2": "km^2", "m2": "m^2"}
PER_CLASS = ("count", "density", "share", "covered", "median", "intensity", "od", "positive", "h")
"""Beginnings of the columns that each class of several has in a GeoPackage."""


def geojson_text(summary: RegionSummary, origin: tuple[int, int]) -> str:
    """Regions and hot spots of a slide as annotations with measurements, as QuPath reads them.

    Parameters
    ----------
    origin
        Level-0 (x, y) of the slide at which the coordinates start.
    """
    features = []
    for row in (*summary.regions, *summary.hot_spots):
        if row.geometry is None or row.geometry.is_empty:
            continue
        moved = shapely.affinity.translate(row.geometry, -origin[0], -origin[1])
        (geometry,) = geometry_texts([moved], DECIMALS)
        properties: dict[str, Any] = {"objectType": "annotation", "name": row.name, "isLocked": True}
        if row.class_name:
            properties["classification"] = {"name": row.class_name}
        if row.kind == "hot spot":
            properties["color"] = list(HOT_SPOT_COLOUR)
        properties["measurements"] = _measurements(summary, row)
        number = uuid.uuid5(
            uuid.NAMESPACE_URL, f"fewscope/{summary.run.attributes['run']}/{row.label}/{geometry}"
        )
        features.append(
            f'{{"type":"Feature","id":"{number}","geometry":{geometry},'
            f'"properties":{json.dumps(properties, ensure_ascii=False)}}}'
        )
    return '{"type":"FeatureCollection","features":[\n' + ",\n".join(features) + "\n]}\n"


def _measurements(summary: RegionSummary, row: RegionNumbers) -> dict[str, float]:
    several = len(row.classes) > 1
    found: dict[str, float] = {} if row.kind == "hot spot" else {"Number": float(row.label)}
    for of_class in row.classes:
        begin = f"{of_class.name}: " if several else ""
        for column, value in measures(row, of_class, summary.units).items():
            if value is None or (column.startswith("share") and not several):
                continue
            of_region = column.startswith(("analysed", "area")) and not column.endswith(("q25", "q75"))
            found[("" if of_region else begin) + _words(column)] = round(float(value), MEASUREMENT_DECIMALS)
    return found


def _words(column: str) -> str:
    """A column as QuPath calls measurements.

    >>> _words("density_per_mm2"), _words("median_diameter_um"), _words("count"), _words("intensity_DAB stain")
    ('Density per mm^2', 'Median diameter µm', 'Count', 'DAB stain: Mean')
    """
    if (title := measured_title(column)) is not None:
        return title
    words = [IN_QUPATH.get(word, word) for word in column.split("_")]
    return " ".join([words[0].capitalize(), *words[1:]])


def write_region_package(uri: str, summary: RegionSummary) -> None:
    """Write regions and hot spots of a raster with their numbers as a GeoPackage in its CRS, a row for each.

    With several classes, the columns of each have its name at their end.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    rows = [
        row
        for row in (*summary.regions, *summary.hot_spots)
        if row.geometry is not None and not row.geometry.is_empty
    ]
    records = []
    for row in rows:
        record: dict[str, Any] = {"region": row.label, "name": row.name, "region_class": row.class_name}
        whole = measures(row, row.all, summary.units)
        record |= {name: value for name, value in whole.items() if not name.startswith("share")}
        if len(row.classes) > 1:
            for of_class in row.classes:
                record |= {
                    f"{name}_{of_class.name}": value
                    for name, value in measures(row, of_class, summary.units).items()
                    if name.startswith(PER_CLASS)
                }
        records.append(record)
    names = list(records[0]) if records else []
    columns = [typed([record[name] for record in records]) for name in names]
    fields = [pa.field(name, column.type) for name, column in zip(names, columns, strict=True)]
    schema = pa.schema([*fields, geometry_field()])
    shapes = to_multi(np.array([row.geometry for row in rows], object))
    table = pa.table([*columns, encode(shapes)], schema=schema)
    write_geopackage(uri, [Layer("regions", schema, "MultiPolygon", [table])], summary.run.result.crs)
