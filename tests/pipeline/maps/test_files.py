"""The map of a result: COGs on the source's grid, areas on the ground, polygons and centrelines in one GeoPackage."""

from __future__ import annotations

import math

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from rio_cogeo.cogeo import cog_validate

import fewscope.pipeline.maps.files
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.pipeline.maps.files import coarse_mask
from tests.helpers.finished_runs import finished
from tests.helpers.mapped_scene import HEIGHT, LAKE, LINE, UTM, WIDTH, mapped, scene


@pytest.mark.parametrize("window", [2048, 64])
def test_a_scene_becomes_a_map(tmp_path, monkeypatch, window):
    monkeypatch.setattr(fewscope.pipeline.maps.files, "WINDOW", window)
    path, labels = scene(tmp_path)
    summary = mapped(tmp_path, path, labels)
    out = tmp_path / "out"

    for name in ("mask.tif", "probability.tif"):
        assert cog_validate(out / name, strict=True, quiet=True) == (True, [], []), name
    with rasterio.open(out / "mask.tif") as mask, rasterio.open(path) as given:
        assert mask.transform == given.transform
        assert mask.crs == given.crs
        np.testing.assert_array_equal(mask.dataset_mask(), given.dataset_mask())
        np.testing.assert_array_equal(
            mask.read(1)[given.dataset_mask() > 0] == 1, labels[given.dataset_mask() > 0] > 0
        )
    with rasterio.open(out / "probability.tif") as probability:
        values = probability.read(1)
        assert np.isnan(values[:30, :40]).all()
        np.testing.assert_allclose(values[labels > 0], 0.8)

    assert summary.areas.analysed == (HEIGHT * WIDTH - 30 * 40) * 100
    assert summary.areas.covered == ((labels > 0).sum() * 100,)
    features = geopandas.read_file(out / "features.gpkg", layer="features")
    assert features.crs == "EPSG:32618"
    assert len(features) == labels.max()
    assert features["area_m2"].sum() == pytest.approx(summary.areas.covered[0])
    lake = features[features.contains(LAKE.centroid)]
    assert lake["area_m2"].tolist() == pytest.approx([math.pi * 150**2], rel=0.02)
    lines = geopandas.read_file(out / "features.gpkg", layer="centreline")
    assert lines["length_km"].sum() * 1000 == pytest.approx(shapely.LineString(LINE).length, rel=0.02)
    assert lines["width_mean_m"].tolist() == pytest.approx([100], rel=0.02)
    assert (lines["class"] + lines["role"]).tolist() == ["watermain"]
    for name, layer in (("features", features), ("centreline", lines)):
        assert geopandas.read_parquet(out / f"{name}.parquet").geometry.equals(layer.geometry), name
    (river,) = summary.networks["water"].rivers
    assert river.length_m == pytest.approx(lines["length_km"].sum() * 1000)


def test_in_degrees_the_areas_are_those_on_the_ellipsoid(tmp_path):
    degrees = Affine(1e-4, 0, 10, 0, -1e-4, 60.01)
    path, labels = scene(tmp_path, degrees, "EPSG:4326")
    summary = mapped(tmp_path, path, labels)
    features = geopandas.read_file(tmp_path / "out" / "features.gpkg", layer="features")
    assert summary.areas.covered[0] == pytest.approx(features["area_m2"].sum(), rel=1e-9)
    one_pixel = 1e-4**2 * 111_412 * 55_800  # metres of a degree of latitude and of longitude at 60 N
    assert summary.areas.covered[0] == pytest.approx((labels > 0).sum() * one_pixel, rel=2e-3)


def test_without_a_crs_the_map_is_in_pixels(tmp_path):
    path, labels = scene(tmp_path, Affine.identity(), None)
    summary = mapped(tmp_path, path, labels)
    assert summary.areas.covered == ((labels > 0).sum(),)
    assert summary.networks["water"].length_m == pytest.approx(shapely.LineString(LINE).length / 10, rel=0.02)
    lines = geopandas.read_file(tmp_path / "out" / "features.gpkg", layer="centreline")
    assert lines["length_km"].isna().all()


def test_a_scene_without_water_has_empty_layers(tmp_path):
    path, labels = scene(tmp_path)
    summary = mapped(tmp_path, path, np.zeros_like(labels))
    assert summary.areas.covered == (0,)
    assert summary.networks["water"].rivers == ()
    layers = dict(pyogrio.list_layers(tmp_path / "out" / "features.gpkg"))
    assert layers == {"features": "MultiPolygon", "centreline": "LineString"}
    assert len(geopandas.read_file(tmp_path / "out" / "features.gpkg", layer="features")) == 0


def test_rivers_of_a_huge_raster_are_found_on_a_coarser_mask(tmp_path, monkeypatch):
    monkeypatch.setattr(fewscope.pipeline.maps.files, "MAX_RIVER_PX", HEIGHT * WIDTH // 4)
    path, labels = scene(tmp_path)
    summary = mapped(tmp_path, path, labels)
    assert summary.river_factor == 2
    (river,) = summary.networks["water"].rivers
    assert river.length_m == pytest.approx(shapely.LineString(LINE).length, rel=0.02)
    assert river.width_m == pytest.approx(100, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_coarse_mask_is_the_majority_of_each_block(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(fewscope.pipeline.maps.files, "WINDOW", 7)
    path, labels = scene(tmp_path)
    job = finished(tmp_path / "out", labels, open_source(path, raster=RasterOptions()))
    found, transform = coarse_mask(job.store, 1, factor, UTM)
    height, width = HEIGHT // factor, WIDTH // factor
    assert found.shape == (height, width)
    for row, col in np.ndindex(height, width):
        block = labels[row * factor : (row + 1) * factor, col * factor : (col + 1) * factor] > 0
        is_tie = block.mean() == 0.5
        assert found[row, col] == ((row + col) % 2 == 1 if is_tie else block.mean() > 0.5)
    assert transform @ (1, 1) == UTM @ (factor, factor)
