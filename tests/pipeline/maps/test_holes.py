"""A unit of a raster that could not be done is a hole in the map: nodata, in no area, and objects beside it are cut."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Iterable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio

from fewscope.errors import HolesError
from fewscope.pipeline.config import IndexBands, RasterConfig, SegmentConfig
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import LocalPool, Row, SetAside
from fewscope.pipeline.run import segment
from fewscope.pipeline.tiling.grid import Unit
from tests.helpers import fakes
from tests.helpers.rasters import north_up, write_raster

pytestmark = pytest.mark.usefixtures("no_pictures")

HEIGHT, WIDTH, SHARD = 300, 400, 128
HOLE = slice(128, 256), slice(128, 256)
INSIDE, ACROSS, ALONE = (150, 150, 170, 180), (200, 240, 220, 300), (20, 300, 60, 340)
"""A lake in the hole, one that goes on in it, and one that is not near: rows and columns."""


class LosesOne(LocalPool):
    """As if the unit in the middle had killed every worker that tried it."""

    def run(self, job: Job, units: Iterable[Unit]) -> Generator[tuple[Unit, Row | SetAside], None, None]:
        units = list(units)
        lost = [u for u in units if (u.core.row_off, u.core.col_off) == (HOLE[0].start, HOLE[1].start)]
        yield from ((unit, SetAside("as planned")) for unit in lost)
        yield from super().run(job, [unit for unit in units if unit not in lost])


@pytest.fixture
def config(tmp_path: Path) -> SegmentConfig:
    values = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    values[:] = np.array([40, 60, 200, 150])[:, None, None]
    for top, left, bottom, right in (INSIDE, ACROSS, ALONE):
        values[:, top:bottom, left:right] = np.array([200, 60, 40, 10])[:, None, None]
    source = write_raster(tmp_path / "scene.tif", values, north_up())
    support = fakes.write_support(tmp_path / "support")
    (Path(support) / "support.json").write_text(json.dumps({"class": "lake"}))
    return SegmentConfig(
        source, support, str(tmp_path / "out"), shard=SHARD, threshold=0.5, instances="components",
        raster=RasterConfig(index_bands=IndexBands(2, 4)),
    )  # fmt: skip


def area(rectangle: tuple[int, int, int, int]) -> int:
    top, left, bottom, right = rectangle
    return (bottom - top) * (right - left)


def test_a_hole_is_nodata_and_in_no_area(config: SegmentConfig) -> None:
    out = Path(config.out)
    with LosesOne(fakes.ByColour) as pool, pytest.raises(HolesError):
        segment(config, pool, fakes.ByColour())
    kept_of_across = area(ACROSS) - 20 * (256 - 240)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    for top, left, bottom, right in (INSIDE, ACROSS, ALONE):
        expected[top:bottom, left:right] = 1
    expected[HOLE] = 255
    with rasterio.open(out / "mask.tif") as mask:
        assert mask.nodata == 255
        assert np.array_equal(mask.read(1), expected)
    with rasterio.open(out / "probability.tif") as probability:
        assert np.array_equal(np.isnan(probability.read(1)), expected == 255)

    report = json.loads((out / "report.json").read_text())
    assert report["area_km2"] == pytest.approx((HEIGHT * WIDTH - 128 * 128) * 100 / 1e6)
    assert report["covered_km2"] == pytest.approx((kept_of_across + area(ALONE)) * 100 / 1e6)
    assert report["count"] == 2
    assert report["run"]["water index"]["NDWI: IoU with the mask"] == 1.0
    features = gpd.read_file(out / "features.gpkg", layer="features")
    assert features.area.tolist() == [area(ALONE) * 100, kept_of_across * 100]
    assert features["touches_edge"].tolist() == [False, True]
    assert pq.read_table(out / "instances.parquet")["touches_edge"].to_pylist() == [False, True]


@pytest.mark.slow
def test_what_a_hole_has_left_is_gone_when_it_is_filled(config: SegmentConfig, tmp_path: Path) -> None:
    with LosesOne(fakes.ByColour) as pool, pytest.raises(HolesError):
        segment(config, pool, fakes.ByColour())
    whole = dataclasses.replace(config, out=str(tmp_path / "whole"))
    for one in (config, whole):
        with LocalPool(fakes.ByColour) as pool:
            segment(one, pool, fakes.ByColour())
    for name in (
        "mask.tif",
        "probability.tif",
        "features.parquet",
        "instances.parquet",
        "instances.geojson.gz",
    ):
        assert Path(config.out, name).read_bytes() == Path(whole.out, name).read_bytes(), name
    report = json.loads(Path(config.out, "report.json").read_text())
    assert report["area_km2"] == pytest.approx(HEIGHT * WIDTH * 100 / 1e6)
