"""Polygons of instances: one each however many units they lie in; burnt back, the same; areas of the mask."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cc3d
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter

import fewscope.pipeline.maps.polygons
import fewscope.pipeline.outputs.outlines
from fewscope.connectors.results.instance_table import InstanceTableWriter
from fewscope.connectors.vectors.layers import (
    Layer,
    encode,
    geometry_field,
    geoparquet_schema,
    to_multi,
    write_geopackage,
)
from fewscope.errors import OutputError
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.geometry.footprints import footprints
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.maps.polygons import POLYGON_SCHEMA, PolygonStyle, joined, polygon_tables
from fewscope.pipeline.tiling.grid import plan_units
from tests.helpers.finished_runs import SIDE, finished

CRS = "EPSG:32618"
UTM = Affine(10, 0, 500_000, 0, -10, 9_000_000)


def blobs(height: int, width: int, seed: int, sigma: float = 4) -> np.ndarray:
    """Labels of smooth random shapes, with holes, corners and long arms; uint32."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal((height, width)), sigma)
    return cc3d.connected_components((noise > 0).astype(np.uint8), connectivity=8).astype(np.uint32)


def polygons(out: Path, labels: np.ndarray, style: PolygonStyle, transform: Affine = UTM) -> pa.Table:
    source = SimpleNamespace(info=SimpleNamespace(transform=transform, crs=CRS))
    job = finished(out, labels, source)
    units = plan_units(*labels.shape, SIDE)
    pool = LocalPool(lambda: None)  # type: ignore[arg-type, return-value]
    return pa.concat_tables(polygon_tables(pool, job, units, str(out), style))


def test_polygons_have_the_class_of_their_instance(tmp_path):
    labels = np.zeros((80, 100), np.uint32)
    for number, col in enumerate(
        (10, 60, 40), start=1
    ):  # the second label of class 1 is the third from the left
        labels[20:30, col : col + 8] = number
    source = SimpleNamespace(info=SimpleNamespace(transform=UTM, crs=CRS))
    job = finished(tmp_path, labels, source, {"lake": 2, "river": 1})
    pool = LocalPool(lambda: None)  # type: ignore[arg-type, return-value]
    tables = polygon_tables(pool, job, plan_units(*labels.shape, SIDE), str(tmp_path), in_utm())
    assert pa.concat_tables(tables)["class"].to_pylist() == ["lake", "river", "lake"]


def in_utm(simplify_px: float = 0.0) -> PolygonStyle:
    return PolygonStyle("water", GroundMeasure.of(CRS, UTM, 200, 200), simplify_px)


@pytest.mark.parametrize("traced_px", [2**24, 40**2])
def test_polygons_over_many_units_are_those_of_the_whole_image(tmp_path, monkeypatch, traced_px):
    """Large ones too, which are put together from windows: `joined`."""
    for module in (fewscope.pipeline.outputs.outlines, fewscope.pipeline.maps.polygons):
        monkeypatch.setattr(module, "MAX_TRACED_PX", traced_px)
    monkeypatch.setattr(fewscope.pipeline.outputs.outlines, "MAX_OBJECT_PX", 50**2)
    labels = blobs(210, 190, seed=3)
    table = polygons(tmp_path, labels, in_utm())
    found = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    expected = dict(footprints(labels, (0, 0), UTM))
    assert table["id"].to_pylist() == sorted(expected)
    for instance, outline in zip(table["id"].to_pylist(), found, strict=True):
        assert outline.is_valid
        assert outline.geom_type == "MultiPolygon"
        assert outline.equals(expected[instance])
        n_corners = shapely.get_num_coordinates(expected[instance])
        assert shapely.get_num_coordinates(outline) <= n_corners, "a seam left corners on straight edges"
    burnt = rasterize(
        zip(found, table["id"].to_pylist(), strict=True), labels.shape, transform=UTM, dtype="int32"
    )
    np.testing.assert_array_equal(burnt, labels)
    np.testing.assert_allclose(table["area_m2"], np.bincount(labels.ravel())[1:] * 100)
    assert table["mean_probability"].to_pylist() == pytest.approx([0.8] * table.num_rows)


@settings(max_examples=20)
@given(st.integers(0, 2**16), st.integers(3, 13))
def test_joined_pieces_are_the_whole(seed, cut):
    labels = blobs(18, 18, seed, sigma=1)
    for instance, whole in footprints(labels, (0, 0), Affine.identity()):
        pieces = []
        for row in range(0, 18, cut):
            for col in range(0, 18, cut):
                window = labels[row : row + cut, col : col + cut]
                pieces += [g for _, g in footprints(window, (row, col), Affine.identity(), [instance])]
        found = joined(pieces)[0]
        assert found.is_valid
        assert found.equals(whole)


def test_simplified_polygons_are_valid_near_and_keep_the_area_of_the_mask(tmp_path):
    labels = blobs(150, 150, seed=5)
    exact = polygons(tmp_path / "exact", labels, in_utm())
    simple = polygons(tmp_path / "simple", labels, in_utm(simplify_px=1.5))
    assert simple["area_m2"].equals(exact["area_m2"])
    before, after = (shapely.from_wkb(t["geometry"].to_numpy(zero_copy_only=False)) for t in (exact, simple))
    assert shapely.is_valid(after).all()
    assert shapely.get_num_coordinates(after).sum() < 0.6 * shapely.get_num_coordinates(before).sum()
    assert shapely.hausdorff_distance(before, after).max() <= 1.5 * 10 + 1e-6


def test_a_raster_without_a_crs_has_polygons_without_square_metres(tmp_path):
    labels = blobs(80, 80, seed=1)
    table = polygons(tmp_path, labels, PolygonStyle("water", GroundMeasure(None, "pixels")))
    assert table["area_m2"].null_count == table["perimeter_m"].null_count == table.num_rows > 0
    assert table["area_px"].to_pylist() == np.bincount(labels.ravel())[1:].tolist()


# -- the files -------------------------------------------------------------------------------------------------------

LINES = pa.schema([("name", pa.string()), geometry_field()])


def features() -> tuple[pa.Table, pa.Table]:
    squares = to_multi(np.array([shapely.box(i, 0, i + 0.5, 0.5) for i in range(3)]))
    n = len(squares)
    table = pa.table(
        [
            pa.array(range(1, n + 1), pa.int64()),
            pa.array(["Wasser, süß"] * n),
            pa.array([1.5, None, 3.0], pa.float64()),
            pa.nulls(n, pa.float64()),
            pa.array(range(n), pa.int64()),
            pa.array([0.5] * n),
            pa.array([True, False, True]),
            encode(squares),
        ],
        schema=POLYGON_SCHEMA,
    )
    lines = pa.table(
        [pa.array(["a"]), encode(np.array([shapely.LineString([(0, 0), (1, 1)])]))], schema=LINES
    )
    return table, lines


def layers() -> list[Layer]:
    table, lines = features()
    return [
        Layer("features", POLYGON_SCHEMA, "MultiPolygon", [table[:2], table[2:]]),
        Layer("centreline", LINES, "LineString", [lines]),
    ]


@pytest.mark.parametrize("crs", ["EPSG:32618", "EPSG:4326", None])
def test_a_geopackage_has_its_layers_columns_and_crs(tmp_path, crs):
    path = tmp_path / "deep" / "features.gpkg"
    write_geopackage(str(path), layers(), crs)
    assert [name for name, _ in pyogrio.list_layers(path)] == ["features", "centreline"]
    found = geopandas.read_file(path, layer="features")
    assert (found.crs is None) if crs is None else (found.crs == crs)
    table, _ = features()
    assert found["class"].tolist() == ["Wasser, süß"] * 3
    assert found["area_m2"].isna().tolist() == [False, True, False]
    assert found["touches_edge"].tolist() == [True, False, True]
    expected = shapely.from_wkb(table["geometry"].to_numpy(zero_copy_only=False))
    assert shapely.equals_exact(found.geometry.to_numpy(), expected).all()
    assert geopandas.read_file(path, layer="centreline").geometry[0].wkt == "LINESTRING (0 0, 1 1)"
    assert sorted(p.name for p in path.parent.iterdir()) == ["features.gpkg"], "nothing temporary is left"


def test_the_same_features_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_geopackage(str(tmp_path / name / "features.gpkg"), layers(), CRS)
    one, two = ((tmp_path / name / "features.gpkg").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_empty_layer_is_a_layer(tmp_path):
    path = tmp_path / "features.gpkg"
    write_geopackage(str(path), [Layer("features", POLYGON_SCHEMA, "MultiPolygon", [])], CRS)
    found = geopandas.read_file(path)
    assert len(found) == 0
    assert "area_m2" in found.columns


def test_a_geopackage_goes_to_an_object_store_whole(tmp_path):
    import fsspec

    write_geopackage("memory://maps/features.gpkg", layers(), CRS)
    local = tmp_path / "copy.gpkg"
    local.write_bytes(fsspec.filesystem("memory").cat_file("/maps/features.gpkg"))
    assert len(geopandas.read_file(local, layer="features")) == 3


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        write_geopackage(str(tmp_path / "file" / "features.gpkg"), layers(), CRS)


@pytest.mark.parametrize("crs", ["EPSG:32618", "EPSG:4326", None])
def test_geoparquet_is_read_by_geopandas(tmp_path, crs):
    table, _ = features()
    path = str(tmp_path / "features.parquet")
    schema = geoparquet_schema(POLYGON_SCHEMA, "MultiPolygon", crs)
    with InstanceTableWriter(path, schema) as writer:
        writer.write(table.cast(schema))
    found = geopandas.read_parquet(path)
    assert (found.crs is None) if crs is None else (found.crs == crs)
    assert shapely.area(found.geometry.to_numpy()).tolist() == [0.25] * 3
    assert b"geo" in pq.read_schema(path).metadata
