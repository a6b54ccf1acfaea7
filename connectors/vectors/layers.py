"""Georeferenced polygons and lines: layers of a GeoPackage, and GeoParquet; streamed, deterministic.

Tables are Arrow batches with geometries as WKB in the column ``geometry``, in the raster's CRS.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyproj
import shapely

from fewscope.connectors.storage.atomic import atomic_file
from fewscope.connectors.storage.filesystem import output_errors

GEOMETRY = "geometry"
_ARROW_WKB = {b"ARROW:extension:name": b"geoarrow.wkb"}  # by which GDAL recognises the column


def geometry_field() -> pa.Field:
    """The Arrow field that holds geometries."""
    return pa.field(GEOMETRY, pa.binary(), metadata=_ARROW_WKB)


def encode(geometries: Geometries) -> pa.Array:
    """Encode geometries (n,) as a column of WKB."""
    return pa.array(shapely.to_wkb(geometries), pa.binary())


class Layer:
    """A table of features, given batch by batch.

    Parameters
    ----------
    name : str
        Name of the layer.
    schema : pa.Schema
        Arrow schema with a `geometry_field`.
    geometry_type : str
        "MultiPolygon" or "LineString", for all features.
    batches : Iterable[pa.Table]
        Tables of that schema, possibly none; iterated once.
    """

    def __init__(self, name: str, schema: pa.Schema, geometry_type: str, batches: Iterable[pa.Table]) -> None:
        self.name, self.schema, self.geometry_type = name, schema, geometry_type
        self._tables = iter(batches)
        self.failure: Exception | None = None  # what the batches raised: GDAL tells only that they ended

    def reader(self) -> pa.RecordBatchReader:
        """The features as one Arrow stream; at most one table is in memory."""
        return pa.RecordBatchReader.from_batches(self.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for table in self._tables:
                yield from table.cast(self.schema).to_batches()
        except Exception as error:
            self.failure = error
            raise


def write_geopackage(uri: str, layers: Iterable[Layer], crs: str | None) -> None:
    """Write layers into one GeoPackage, which appears when it is complete.

    The same features give the same bytes: the date of change is fixed.

    Parameters
    ----------
    uri : str
        Path or fsspec URL, ``.gpkg``.
    crs : str or None
        CRS of all layers, in any notation that PROJ reads; None without.

    Raises
    ------
    OutputError
        It cannot be written.
    Exception
        What the batches of a layer raise.
    """
    import pyogrio  # takes half a second if pandas is installed, which pyogrio then imports

    wkt = pyproj.CRS.from_user_input(crs).to_wkt() if crs else None
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "1970-01-01T00:00:00Z"})
    with output_errors(uri), atomic_file(uri) as path, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")  # the report has a note
        for index, layer in enumerate(layers):
            try:
                pyogrio.write_arrow(
                    layer.reader(),
                    path,
                    layer=layer.name,
                    driver="GPKG",
                    geometry_name=GEOMETRY,
                    geometry_type=layer.geometry_type,
                    crs=wkt,
                    append=index > 0,
                    layer_options={"GEOMETRY_NAME": "geom", "FID": "fid"},
                )
            except Exception as error:
                if layer.failure is None:
                    raise
                raise layer.failure from error


def geoparquet_schema(schema: pa.Schema, geometry_type: str, crs: str | None) -> pa.Schema:
    """The schema of a GeoParquet 1.1 file, for `InstanceTableWriter`.

    https://geoparquet.org/releases/v1.1.0/ : WKB, x before y regardless of the CRS, the CRS as PROJJSON.
    """
    column = {"encoding": "WKB", "geometry_types": [geometry_type], "crs": projjson(crs)}
    metadata = {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}
    plain = pa.schema([field.remove_metadata() for field in schema])
    return plain.with_metadata({"geo": json.dumps(metadata, sort_keys=True)})


def to_multi(geometries: Geometries) -> Geometries:
    """Polygons as multipolygons: a layer of a GeoPackage has one type of geometry.

    >>> to_multi(np.array([shapely.box(0, 0, 1, 1)]))[0].geom_type
    'MultiPolygon'
    """
    parts, index = shapely.get_parts(geometries, return_index=True)
    wrapped: Geometries = shapely.multipolygons(parts, indices=index)
    return wrapped


Geometries = npt.NDArray[np.object_]


def projjson(crs: str | None) -> dict[str, Any] | None:
    """The CRS as PROJJSON, for GeoParquet and GeoZarr; None without one."""
    return pyproj.CRS.from_user_input(crs).to_json_dict() if crs else None
