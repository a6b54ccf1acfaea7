"""A finished result in the page: table, histogram, tiles, exports, of a million objects too."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely
from affine import Affine
from rasterio.windows import Window
from scipy import ndimage

from fewscope.annotate.results import ALPHA, Filters, ResultTable
from fewscope.annotate.tiles import TileAddress, TileGrid
from fewscope.connectors.results.store import ResultStore, StoreSpec
from fewscope.errors import PageRunError
from fewscope.pipeline.instances.measurements import INSTANCE_SCHEMA
from tests.helpers.finished_runs import finished

SCALE = 2.0  # image px per working px


def scene() -> np.ndarray:
    """uint32 (200, 300): discs of several sizes, numbered in raster order of their first pixel."""
    mask = np.zeros((200, 300), bool)
    rows, cols = np.mgrid[:200, :300]
    for k, (y, x) in enumerate((y, x) for y in range(20, 190, 40) for x in range(20, 290, 40)):
        mask |= (rows - y) ** 2 + (cols - x) ** 2 <= (4 + k % 5) ** 2
    return ndimage.label(mask)[0].astype(np.uint32)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return scene()


@pytest.fixture(scope="module")
def found(tmp_path_factory, labels) -> ResultTable:
    out = tmp_path_factory.mktemp("result")
    source = SimpleNamespace(info=SimpleNamespace(transform=Affine.scale(SCALE)))
    finished(out, labels, source)
    return ResultTable(out, SCALE)


def test_filters_and_sorting_agree_with_the_picture(found, labels):
    areas = np.bincount(labels.ravel())[1:]
    rows = found.view(Filters(min_area=100, max_area=200), "area_px", descending=True)
    expected = sorted((int(a) for a in areas if 100 <= a <= 200), reverse=True)
    area = found.columns.index("area_px")
    assert [row[area] for row in found.rows(rows)] == expected
    assert len(found.view(Filters(min_probability=0.99))) == 0
    assert len(found.view(Filters(class_name="object"))) == len(areas)
    assert len(found.view(Filters(class_name="another"))) == 0
    with pytest.raises(PageRunError, match="no column"):
        found.view(Filters(), "__class__")
    with pytest.raises(PageRunError, match="expected a number"):
        Filters.of({"min_area": "small"})


def test_places_are_in_image_pixels_and_lead_back_to_the_row(found, labels):
    for row in found.rows(found.view(Filters())[::7]):
        values = dict(zip(found.columns, row, strict=True))
        at = labels[int(values["image_y"] / SCALE), int(values["image_x"] / SCALE)]
        assert at == values["id"]
        assert found.at(values["image_x"], values["image_y"]) == values
    assert found.at(0, 0) is None
    assert found.at(-5, 10**9) is None


def test_a_histogram_counts_every_row(found):
    drawn = found.histogram("area_px", 12, Filters())
    assert sum(drawn["counts"]) == found.table.num_rows
    assert len(drawn["edges"]) == 13
    assert drawn["unit"] == "px"
    with pytest.raises(PageRunError, match="no column of numbers"):
        found.histogram("touches_edge", 12, Filters())


def test_tiles_of_instances_are_the_stored_labels(found, labels):
    grid = TileGrid(int(300 * SCALE), int(200 * SCALE))
    assert grid.max_zoom == 2
    tile = found.tile(grid, TileAddress(2, 1, 0), False, Filters())
    ids = tile[..., 0].astype(int) << 16 | tile[..., 1].astype(int) << 8 | tile[..., 2]
    assert np.array_equal(ids, np.repeat(np.repeat(labels[:128, 128:256], 2, 0), 2, 1))
    half = found.tile(grid, TileAddress(1, 0, 0), False, Filters())
    assert np.array_equal(half[:200, :, 2] > 0, labels[:, :256] > 0)
    assert not half[200:, :, 3].any()
    large = Filters(min_area=150)
    filtered = found.tile(grid, TileAddress(1, 0, 0), True, large)
    passing = np.isin(labels, found.view(large) + 1)
    assert np.array_equal(filtered[:200, :, 3] > 0, passing[:, :256])
    inside = filtered[..., 3] == ALPHA
    coloured = found.tile(grid, TileAddress(1, 0, 0), True, large, {"object": (1, 2, 3), "other": (9, 9, 9)})
    assert (coloured[inside, :3] == (1, 2, 3)).all(), "the colour that the page shows"


def test_exports_hold_what_passes_the_filters(found, labels, tmp_path):
    filters = Filters(min_area=150)
    n = len(found.view(filters))
    text = b"".join(found.csv(filters)).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == n
    assert all(float(row["area_px"]) >= 150 for row in rows)
    drawn = json.loads(b"".join(found.geojson(filters, Affine.translation(-5, 0))))
    assert len(drawn["features"]) == n
    one = drawn["features"][0]
    shape = shapely.geometry.shape(one["geometry"])
    own = int(one["properties"]["measurements"]["Id"])
    ys, xs = np.nonzero(labels == own)
    assert shape.bounds == pytest.approx(
        (xs.min() * 2 - 5, ys.min() * 2, xs.max() * 2 - 3, ys.max() * 2 + 2), abs=1.5
    )


def test_names_of_classes_are_no_formulas_in_csv(tmp_path, labels):
    out = tmp_path / "result"
    source = SimpleNamespace(info=SimpleNamespace(transform=Affine.scale(SCALE)))
    finished(out, labels, source, {"=1+1": 10, "b": int(labels.max()) - 10})
    table = ResultTable(out, SCALE)
    assert len(table.view(Filters(class_name="=1+1"))) == 10
    text = b"".join(table.csv(Filters(class_name="=1+1"))).decode()
    assert "'=1+1" in text
    assert ",=1+1" not in text


def million(out: Path, n: int) -> ResultTable:
    """A result whose table has n rows; the picture is empty."""
    rng = np.random.default_rng(5)
    side = 4096
    columns = {
        "id": pa.array(np.arange(1, n + 1, dtype=np.uint32)),
        "centroid_row": pa.array(rng.uniform(0, side, n)),
        "centroid_col": pa.array(rng.uniform(0, side, n)),
        "area_px": pa.array(rng.integers(4, 4000, n)),
        "mean_probability": pa.array(rng.uniform(0.5, 1, n)),
        "touches_edge": pa.array(np.zeros(n, bool)),
    }
    for name in INSTANCE_SCHEMA.names:
        columns.setdefault(name, pa.nulls(n, INSTANCE_SCHEMA.field(name).type))
    ResultStore(str(out)).create(StoreSpec(side, side, shard=1024, chunk=512))
    pq.write_table(
        pa.table({name: columns[name] for name in INSTANCE_SCHEMA.names}), out / "instances.parquet"
    )
    return ResultTable(out, 1.0)


@pytest.mark.slow
def test_a_million_rows_are_sorted_once_and_paged(tmp_path, monkeypatch):
    table = million(tmp_path / "result", 1_000_000)
    filters = Filters(min_area=1000, max_probability=0.9)
    area, probability = table.table["area_px"].to_numpy(), table.table["mean_probability"].to_numpy()
    rows = table.view(filters, "mean_probability", descending=True)
    assert len(rows) == ((area >= 1000) & (probability <= 0.9)).sum()
    assert (np.diff(probability[rows]) <= 0).all()
    sorted_again: list[int] = []
    monkeypatch.setattr(pc, "array_sort_indices", lambda *a, **k: sorted_again.append(1))
    for offset in (0, 100, 500_000):  # pages of the same view cost their own rows alone
        page = table.view(filters, "mean_probability", descending=True)[offset : offset + 100]
        assert len(table.rows(page)) == min(100, len(rows) - offset)
    assert not sorted_again
    assert rows.dtype == np.int32
    assert sum(table.histogram("area_px", 40, filters)["counts"]) == len(rows)


def test_the_whole_window_of_a_result_is_not_read_for_a_tile(found, monkeypatch):
    read: list[Window] = []
    whole = found.store.array("instances", 0)

    class Watched:
        def __getitem__(self, key):
            rows, cols = key
            read.append(Window(cols.start, rows.start, cols.stop - cols.start, rows.stop - rows.start))
            return whole[key]

    monkeypatch.setattr(found.store, "array", lambda *_: Watched())
    found.tile(TileGrid(600, 400), TileAddress(2, 0, 0), False, Filters())
    assert max(window.width for window in read) <= 129
