"""The river demo's scene is what its truth says, and its support set is drawn from that truth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.support.load import load_support
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.rivers.network import trace_network

PROGRAM = (sys.executable, str(Path(__file__).resolve().parents[2] / "examples/make_demo_scene.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scene")
    run = subprocess.run([*PROGRAM, str(out), "--side", "1024"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return out


def test_a_scene_too_small_for_five_regions_is_refused(tmp_path):
    run = subprocess.run([*PROGRAM, str(tmp_path / "small"), "--side", "500"], capture_output=True, text=True)
    assert (run.returncode, run.stderr.count("\n")) == (2, 1)
    assert "at least 1024 px" in run.stderr
    assert not (tmp_path / "small").exists()


@pytest.mark.slow
def test_the_scene_is_a_satellite_picture_with_nodata(folder):
    with rasterio.open(folder / "scene.tif") as scene, rasterio.open(folder / "truth.tif") as truth:
        assert (scene.count, scene.dtypes[0], scene.crs.to_epsg(), scene.overviews(1)) == (
            4,
            "uint16",
            32718,
            [2, 4],
        )
        valid = scene.dataset_mask() > 0
        assert not valid[0, 0]
        assert 0.9 < valid.mean() < 1
        np.testing.assert_array_equal(valid, truth.read(1) != 255)
        near_infrared, water = scene.read(4), truth.read(1) == 1
    assert np.median(near_infrared[water]) < 0.3 * np.median(near_infrared[valid & ~water]), (
        "water is dark in NIR"
    )


def test_the_truth_is_true(folder):
    """Its river's length and width are those measured on its own mask."""
    facts = json.loads((folder / "truth.json").read_text())
    with rasterio.open(folder / "truth.tif") as truth:
        water, transform = truth.read(1) == 1, truth.transform
    assert facts["water_km2"] == pytest.approx(water.sum() * 100 / 1e6, rel=1e-3)
    network = trace_network(water, transform, GroundMeasure.of("EPSG:32718", transform, *water.shape))
    assert network.rivers[0].main_length_m / 1000 == pytest.approx(facts["river_km"], rel=0.02)
    own = [reach for reach in network.reaches if reach.river == 1]
    widths = np.concatenate([reach.widths_m for reach in own])
    assert np.median(widths) == pytest.approx(facts["river_width_m"], rel=0.02)


def test_the_support_set_has_five_regions_with_the_water_that_is_there(folder):
    source = open_source(str(folder / "scene.tif"), raster=RasterOptions(bands=(4, 3, 2)))
    support = load_support(str(folder / "support.geojson"), source=source)
    assert support.class_names == ("water",)
    drawn = json.loads((folder / "support.geojson").read_text())["features"]
    regions = [feature for feature in drawn if feature["properties"]["class"] == "Region"]
    assert len(regions) == 5
    with rasterio.open(folder / "truth.tif") as truth:
        water, transform = truth.read(1) == 1, truth.transform
    in_utm = [
        rasterio.warp.transform_geom("EPSG:4326", "EPSG:32718", feature["geometry"])
        for feature in drawn
        if feature["properties"]["class"] == "water"
    ]
    burnt = rasterize([(shape, 1) for shape in in_utm], water.shape, transform=transform).astype(bool)
    assert np.count_nonzero(burnt & ~water) < 0.01 * np.count_nonzero(burnt), "all that is drawn is water"
