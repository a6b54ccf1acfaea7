"""A slide whose scanned area begins elsewhere than at the corner of the file, from annotations to outlines."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from fewscope.connectors.results.reader import open_result
from fewscope.errors import RunMismatch
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.scanned_slides import write_leica

pytestmark = pytest.mark.usefixtures("no_pictures")

ORIGIN = (96, 64)


def features(config: SegmentConfig) -> list[dict]:
    """The features of the GeoJSON."""
    return json.loads(gzip.decompress((Path(config.out) / "instances.geojson.gz").read_bytes()))["features"]


def run(config: SegmentConfig) -> dict:
    with LocalPool(fakes.ByColour) as pool:
        return segment(config, pool, fakes.ByColour())


@pytest.fixture
def config(tmp_path) -> SegmentConfig:
    image = fakes.picture()
    write_leica(tmp_path / "a.scn", image, ORIGIN)
    support = fakes.write_support(tmp_path / "support", mpp=0.5)
    return SegmentConfig(
        str(tmp_path / "a.scn"), support, str(tmp_path / "out"), mpp=0.5, foreground="all", min_area_um2=0,
        threshold=0.5, adapt_s=0, instances="components",
    )  # fmt: skip


def test_outlines_start_at_the_scanned_area_and_the_table_at_the_corner_of_the_file(config):
    report = run(config)
    found = features(config)
    table = open_result(config.out).table.to_table()
    centroids = [shapely.geometry.shape(f["geometry"]).centroid.coords[0] for f in found]
    in_file = np.column_stack([table["x"], table["y"]]) - ORIGIN
    assert len(found) == report["count"] > 20
    distance = np.hypot(*(np.array(centroids) - in_file).T)
    assert np.median(distance) < 0.5
    # every object is where it is in the picture that was scanned
    truth = fakes.colour_probability(fakes.picture()) >= 0.5
    inside = [shapely.geometry.shape(f["geometry"]).representative_point().coords[0] for f in found]
    assert all(truth[int(y), int(x)] for x, y in inside)
    assert any("x, y = 96, 64" in line and "--geojson-origin" in line for line in report["assumptions"])
    with pytest.raises(RunMismatch, match="geojson_origin"):
        run(dataclasses.replace(config, geojson_origin="file"))


@pytest.mark.slow
def test_outlines_and_points_can_start_at_the_corner_of_the_file(config, tmp_path):
    run(config)
    other = dataclasses.replace(config, out=str(tmp_path / "file"), geojson_origin="file")
    points = dataclasses.replace(config, out=str(tmp_path / "points"), outlines="points")
    run(other)
    run(points)
    shapes = [shapely.geometry.shape(f["geometry"]) for f in features(config)]
    moved = [shapely.affinity.translate(shape, *ORIGIN) for shape in shapes]
    assert all(
        a.equals(shapely.geometry.shape(b["geometry"])) for a, b in zip(moved, features(other), strict=True)
    )
    table = open_result(points.out).table.to_table()
    written = np.array([f["geometry"]["coordinates"] for f in features(points)])
    assert np.abs(written + ORIGIN - np.column_stack([table["x"], table["y"]])).max() < 0.006  # two decimals
