"""GeoParquet, which the GDAL of the usual packages does not read."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fewscope.connectors.storage.filesystem import find_filesystem
from fewscope.errors import SourceError

DEFAULT_CRS = "OGC:CRS84"
"""Of a column that states none (https://geoparquet.org/releases/v1.1.0/); null stands for an unknown one."""


def read_geoparquet(uri: str) -> tuple[list[bytes | None], str | None, dict[str, list[Any]]]:
    """The primary geometry of a GeoParquet file.

    Returns
    -------
    shapes : (n,) WKB, None where a row has no geometry
    crs : as text, None where it is unknown
    columns : (n,) values of each column that is no geometry, by its name

    Raises
    ------
    SourceError
        It is not GeoParquet, or its geometries are not WKB.
    """
    try:
        filesystem, path = find_filesystem(uri)
        with filesystem.open(path, "rb") as file, pq.ParquetFile(file) as table:
            geo = json.loads((table.schema_arrow.metadata or {})[b"geo"])
            name = geo["primary_column"]
            about = geo["columns"][name]
            encoding, crs = about["encoding"], about.get("crs", DEFAULT_CRS)
            geometries = set(geo["columns"])
            names = [field.name for field in table.schema_arrow if field.name not in geometries]
            read = table.read([name, *names]) if encoding == "WKB" else None
    except FileNotFoundError as error:
        raise SourceError(f"{uri}: no such file; check the path") from error
    except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{uri}: cannot be read as GeoParquet ({' '.join(str(error).split())}); save it again, or as GeoPackage"
        ) from error
    if read is None:
        raise SourceError(
            f"{uri}: its geometries are encoded as {encoding}, expected WKB; save it as GeoPackage"
        )
    stated = json.dumps(crs) if isinstance(crs, dict) else crs
    return read[name].to_pylist(), stated, {column: read[column].to_pylist() for column in names}
