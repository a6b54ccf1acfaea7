"""Footprints burn back to the label image; GeoJSON and Parquet are the same bytes however they are fed."""

import errno
import gzip
import json
import uuid
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import rasterize

from fewscope.connectors.results import instance_table
from fewscope.connectors.results.instance_table import InstanceTableWriter
from fewscope.connectors.vectors import geojson
from fewscope.connectors.vectors.geojson import (
    FeatureStyle,
    GeoJsonWriter,
    feature_text,
    feature_texts,
    feature_uuid,
    fragment_text,
    geometry_texts,
    merge_sorted,
    read_fragment,
)
from fewscope.errors import OutputError
from fewscope.pipeline.geometry.footprints import footprints

IDENTITY = Affine.identity()
ROTATED = Affine.translation(500, -200) @ Affine.rotation(30) @ Affine.scale(0.5, -0.25)
STYLE = FeatureStyle("ab12", "nucleus", (0, 128, 255))
LABELS = arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3))


def burn(outlines: list[tuple[int, Any]], shape: tuple[int, int], transform: Affine) -> np.ndarray:
    if not outlines:
        return np.zeros(shape, np.int32)
    return rasterize(((g, i) for i, g in outlines), out_shape=shape, transform=transform, dtype="int32")


@settings(max_examples=60)
@given(LABELS, st.sampled_from([IDENTITY, Affine(2, 0, 100, 0, -2, 50), ROTATED]))
def test_burning_the_footprints_gives_the_labels_back(labels: np.ndarray, transform: Affine) -> None:
    outlines = list(footprints(labels, (0, 0), transform))
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    assert [i for i, _ in outlines] == ids.tolist()
    for (i, outline), area in zip(outlines, areas, strict=True):
        assert outline.is_valid, i
        assert outline.geom_type in ("Polygon", "MultiPolygon")
        assert outline.area == pytest.approx(area * abs(transform.determinant))
    np.testing.assert_array_equal(burn(outlines, labels.shape, transform), labels)


@settings(max_examples=30)
@given(LABELS, st.integers(0, 5), st.integers(0, 5), st.integers(0, 100_000), st.booleans())
def test_the_window_does_not_show(labels: np.ndarray, top: int, left: int, far: int, simple: bool) -> None:
    """The same objects in a larger window, elsewhere in the array: equal to the last bit."""
    larger = np.pad(labels, ((top, 3), (left, 2)))
    simplify_px = 1.0 if simple else 0.0
    one = dict(footprints(labels, (far + top, left), ROTATED, simplify_px=simplify_px))
    other = dict(footprints(larger, (far, 0), ROTATED, simplify_px=simplify_px))
    assert {i: g.wkb for i, g in one.items()} == {i: g.wkb for i, g in other.items()}


def test_a_hole_an_island_in_it_and_a_corner_contact() -> None:
    labels = np.array(
        [
            [5, 5, 5, 5, 5, 0],
            [5, 0, 0, 0, 5, 0],
            [5, 0, 5, 0, 5, 0],
            [5, 0, 0, 0, 5, 0],
            [5, 5, 5, 5, 5, 0],
            [0, 0, 0, 0, 0, 5],
        ],
        np.uint32,
    )
    [(i, outline)] = footprints(labels, (0, 0), IDENTITY)
    assert i == 5
    assert outline.geom_type == "MultiPolygon"
    ring = shapely.Polygon([(0, 0), (5, 0), (5, 5), (0, 5)], [[(1, 1), (4, 1), (4, 4), (1, 4)]])
    expected = shapely.MultiPolygon([ring, shapely.box(2, 2, 3, 3), shapely.box(5, 5, 6, 6)])
    assert outline.equals(expected)
    assert outline.area == (labels == 5).sum()


def test_holes_that_touch_at_a_corner_stay_valid() -> None:
    labels = np.ones((4, 4), np.uint8)
    labels[1, 1] = labels[2, 2] = 0
    [(_, outline)] = footprints(labels, (0, 0), IDENTITY)
    assert outline.is_valid
    assert outline.area == 14


def test_ids_beyond_int32_and_chosen_ids() -> None:
    labels = np.array([[0, 2**32 - 1, 7], [3, 3, 7]], np.uint32)
    assert [i for i, _ in footprints(labels, (0, 0), IDENTITY)] == [3, 7, 2**32 - 1]
    assert [i for i, _ in footprints(labels, (0, 0), IDENTITY, ids=[7, 0, 99])] == [7]
    assert list(footprints(labels, (0, 0), IDENTITY, ids=[])) == []
    assert list(footprints(np.zeros((0, 5), np.uint32), (0, 0), IDENTITY)) == []


def test_simplified_outlines_are_valid_near_and_have_fewer_points() -> None:
    rows, cols = np.indices((60, 60))
    disc = (np.hypot(rows - 30, cols - 28) < 22) & ~(np.hypot(rows - 30, cols - 28) < 6)
    transform = Affine.scale(0.1)
    [(_, exact)] = footprints(disc.astype(np.uint8), (0, 0), transform)
    [(_, simple)] = footprints(disc.astype(np.uint8), (0, 0), transform, simplify_px=1.0)
    assert simple.is_valid
    assert shapely.get_num_coordinates(simple) < shapely.get_num_coordinates(exact) / 2
    assert shapely.hausdorff_distance(simple, exact) <= 0.1 * 1.5  # a pixel, and the corner of a stair


@settings(max_examples=60)
@given(LABELS, st.floats(0.1, 5))
def test_simplified_outlines_are_never_lost_nor_invalid(labels: np.ndarray, tolerance: float) -> None:
    outlines = list(footprints(labels, (0, 0), IDENTITY, simplify_px=tolerance))
    assert [i for i, _ in outlines] == np.unique(labels[labels > 0]).tolist()
    assert all(outline.is_valid and outline.area > 0 for _, outline in outlines)


def test_a_feature_is_what_qupath_reads() -> None:
    outline = shapely.Polygon([(0.004, 0), (3.123456, 0), (3, 2.5), (-0.001, 2)])
    text = feature_text(12, outline, STYLE, {"Area µm^2": 7.34567, "Circularity": float("nan")})
    assert "\n" not in text
    feature = json.loads(text)
    assert feature.keys() == {"type", "id", "geometry", "properties"}
    assert feature["type"] == "Feature"
    assert str(uuid.UUID(feature["id"])) == feature["id"] == feature_uuid("ab12", 12)
    assert feature["geometry"] == {
        "type": "Polygon",
        "coordinates": [[[0, 0], [3.12, 0], [3, 2.5], [0, 2], [0, 0]]],
    }
    assert feature["properties"] == {
        "objectType": "detection",
        "classification": {"name": "nucleus", "color": [0, 128, 255]},
        "measurements": {"Area µm^2": 7.3457},
    }
    assert "-0" not in text.partition("geometry")[2]
    assert ".0]" not in text


@settings(max_examples=40)
@given(LABELS, st.integers(0, 4), st.floats(0.05, 1e5))
def test_geometries_are_written_as_shapely_writes_them(
    labels: np.ndarray, decimals: int, scale: float
) -> None:
    transform = Affine.rotation(20) @ Affine.scale(scale)
    outlines = [outline for _, outline in footprints(labels, (3, 5), transform)]
    for outline, text in zip(outlines, geometry_texts(outlines, decimals), strict=True):
        expected = json.loads(shapely.to_geojson(outline))
        assert json.loads(text) == rounded(expected, decimals)


def rounded(value: Any, decimals: int) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item, decimals) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item, decimals) for item in value]
    return float(np.round(value, decimals)) if isinstance(value, float) else value


@pytest.mark.parametrize("wkt", ["POLYGON EMPTY", "LINESTRING (0 0, 1 1)", "GEOMETRYCOLLECTION EMPTY"])
def test_what_qupath_cannot_show_is_an_error(wkt: str) -> None:
    with pytest.raises(ValueError, match="give points, polygons or multipolygons"):
        feature_text(1, shapely.from_wkt(wkt), STYLE)


def test_ids_are_unique_and_stay() -> None:
    texts = feature_texts([1, 2], shapely.points([[1, 2], [3, 4]]), STYLE)
    ids = [json.loads(text)["id"] for text in texts]
    assert len({*ids, feature_uuid("other run", 1)}) == 3
    assert texts == feature_texts(np.array([1, 2]), shapely.points([[1, 2], [3, 4]]), STYLE)
    assert json.loads(texts[1])["geometry"] == {"type": "Point", "coordinates": [3, 4]}
    assert feature_texts([], [], STYLE, {"a": []}) == []


def test_many_features_at_once_are_those_one_by_one() -> None:
    rng = np.random.default_rng(0)
    outlines = [shapely.box(*row) for row in rng.uniform(0, 1e6, (20, 4))]
    values = rng.uniform(-1, 1, 20)
    values[3] = np.inf
    together = feature_texts(range(20), outlines, STYLE, {"a": values, 'odd "name"': values * 100})
    for i, (text, outline) in enumerate(zip(together, outlines, strict=True)):
        assert text == feature_text(i, outline, STYLE, {"a": values[i], 'odd "name"': values[i] * 100})
        assert shapely.from_geojson(text).hausdorff_distance(outline) < 0.01
    assert "measurements" not in json.loads(together[3])["properties"]


@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_collection_holds_what_was_written(where: str, tmp_path: Path) -> None:
    uri = str(tmp_path / "a.geojson.gz") if where == "local" else f"memory://{tmp_path.name}/a.geojson.gz"
    for n in (0, 1, 300):
        texts = feature_texts(range(n), shapely.points(np.arange(2 * n).reshape(n, 2)), STYLE)
        with GeoJsonWriter(uri) as writer:
            for text in texts:
                writer.write(text)
        assert writer.n_features == n
        with fsspec.open(uri, "rb") as file:
            text = gzip.decompress(file.read()).decode()
        collection = json.loads(text)
        assert collection["type"] == "FeatureCollection"
        assert collection["features"] == [json.loads(line) for line in texts]
        assert len(text.splitlines()) == n + 2  # one feature a line


def test_the_units_do_not_show_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ids = np.arange(1, 400)
    texts = feature_texts(ids, shapely.points(rng.uniform(0, 1e5, (399, 2))), STYLE)
    monkeypatch.setattr(geojson, "_FLUSH", 1000)  # several pieces in so small a file
    contents = []
    for n_units in (1, 2, 7):
        unit = rng.integers(0, n_units, 399)
        fragments = []
        for k in range(n_units):
            mine = rng.permutation(np.flatnonzero(unit == k))
            fragments.append(fragment_text(ids[mine], [texts[i] for i in mine]))
        path = tmp_path / str(n_units) / "a.geojson.gz"
        with GeoJsonWriter(str(path)) as writer:
            for _, text in merge_sorted(read_fragment(fragment) for fragment in fragments):
                writer.write(text)
        contents.append(path.read_bytes())
    assert contents[0] == contents[1] == contents[2]
    assert [f["id"] for f in json.loads(gzip.decompress(contents[0]))["features"]] == [
        feature_uuid("ab12", i) for i in ids
    ]


def test_an_instance_that_comes_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="instance 2 comes after 2"):
        list(merge_sorted([[(1, "a"), (2, "b")], [(2, "c")]]))
    with pytest.raises(ValueError, match="instance 1 comes after 3"):
        list(merge_sorted([[(3, "a"), (1, "b")]]))


def table(n: int) -> pa.Table:
    rng = np.random.default_rng(n)
    return pa.table(
        {
            "id": np.arange(1, n + 1, dtype=np.uint32),
            "area_um2": pa.array(rng.uniform(0, 9, n), mask=rng.random(n) < 0.1),
        }
    )


@settings(max_examples=20)
@given(st.integers(0, 200), st.lists(st.integers(0, 200), max_size=6))
def test_row_groups_do_not_depend_on_the_pieces(n: int, cuts: list[int]) -> None:
    rows = table(n)
    edges = [0, *sorted(min(cut, n) for cut in cuts), n]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(instance_table, "ROW_GROUP", 32)
        with InstanceTableWriter("memory://tables/whole.parquet") as writer:
            writer.write(rows)
        with InstanceTableWriter("memory://tables/parts.parquet") as writer:
            for start, stop in pairwise(edges):
                writer.write(rows.slice(start, stop - start))
        assert writer.n_rows == n
    fs = fsspec.filesystem("memory")
    assert fs.cat("/tables/whole.parquet") == fs.cat("/tables/parts.parquet")
    with fs.open("/tables/parts.parquet") as file:
        parquet = pq.ParquetFile(file)
        groups = [parquet.metadata.row_group(k).num_rows for k in range(parquet.metadata.num_row_groups)]
        assert parquet.read() == rows
    assert groups == ([32] * (n // 32) + ([n % 32] if n % 32 else []) or [0][: len(groups)])


def test_a_table_of_no_rows_needs_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with InstanceTableWriter(str(path), table(0).schema):
        pass
    assert pq.read_table(path) == table(0)
    with (
        pytest.raises(ValueError, match="give InstanceTableWriter a schema"),
        InstanceTableWriter(f"{path}2"),
    ):
        pass

    def write_two_kinds() -> None:
        with InstanceTableWriter(f"{path}2") as writer:
            writer.write(table(1))
            writer.write(table(1).select(["id"]))

    with pytest.raises(ValueError, match="are not those of"):
        write_two_kinds()
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


@pytest.mark.parametrize("make", [GeoJsonWriter, InstanceTableWriter])
@pytest.mark.parametrize("where", ["local", "memory"])
def test_a_writer_that_is_stopped_leaves_the_old_file(
    make: Any, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = str(tmp_path) if where == "local" else f"memory://{tmp_path.name}"
    fs, folder = fsspec.url_to_fs(base)
    item = "{}" if make is GeoJsonWriter else table(3)
    monkeypatch.setattr(geojson, "_FLUSH", 0)
    monkeypatch.setattr(instance_table, "ROW_GROUP", 2)
    with make(f"{base}/a") as writer:
        writer.write(item)
    before = fs.cat_file(f"{folder}/a")

    def stop_half_way() -> None:
        with make(f"{base}/a") as writer:
            writer.write(item)
            writer.write(item)
            raise KeyError("of the caller")

    with pytest.raises(KeyError, match="of the caller"):
        stop_half_way()
    assert fs.cat_file(f"{folder}/a") == before
    assert len(fs.ls(folder)) == 1


@pytest.mark.parametrize("make", [GeoJsonWriter, InstanceTableWriter])
def test_a_full_disk_is_one_line_and_an_error_of_the_caller_is_not_blamed_on_it(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match="of the slide") as caught, make(str(tmp_path / "a")):
        raise OSError("of the slide")
    assert not isinstance(caught.value, OutputError)

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="free some space"), make(str(tmp_path / "a")) as writer:
        writer.write("{}" if make is GeoJsonWriter else table(3))
    assert list(tmp_path.iterdir()) == []
