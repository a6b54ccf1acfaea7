"""Layers of a GeoPackage are streamed from work that may fail: the failure is told, and no file is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import shapely

from fewscope.connectors.vectors.layers import Layer, encode, geometry_field, write_geopackage
from fewscope.errors import WorkerError

SCHEMA = pa.schema([pa.field("name", pa.string()), geometry_field()])


def table(name: str) -> pa.Table:
    return pa.table({"name": [name], "geometry": encode([shapely.box(0, 0, 1, 1)])}, schema=SCHEMA)


@pytest.mark.parametrize("before", [0, 1, 3])
def test_what_a_batch_raises_is_raised(tmp_path: Path, before: int) -> None:
    """Not only that GDAL could not read a batch: a job says in one line that its cluster is gone."""

    def batches() -> Iterator[pa.Table]:
        for k in range(before):
            yield table(str(k))
        raise WorkerError("the cluster is gone")

    whole = Layer("whole", SCHEMA, "Polygon", [table("a")])
    broken = Layer("broken", SCHEMA, "Polygon", batches())
    with pytest.raises(WorkerError, match="the cluster is gone"):
        write_geopackage(str(tmp_path / "features.gpkg"), [whole, broken], "EPSG:32633")
    assert not list(tmp_path.iterdir())


def test_what_gdal_refuses_is_an_error_of_its_own(tmp_path: Path) -> None:
    wrong = Layer("wrong", SCHEMA, "no such type", [table("a")])
    with pytest.raises(Exception, match="no such type"):
        write_geopackage(str(tmp_path / "features.gpkg"), [wrong], None)
