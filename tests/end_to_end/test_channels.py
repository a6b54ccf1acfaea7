"""Runs on sources of many channels: OME-TIFF and rasters, all channels and a choice of them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from benchmarks.channels import land, tissue
from fewscope.connectors.pixels.transform import place_points
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.results.reader import open_result
from fewscope.errors import Cancelled, SourceError
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline.config import RasterConfig, SegmentConfig
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.execution.progress import Monitor
from fewscope.pipeline.execution.ray_pool import RayPool
from fewscope.pipeline.geometry.footprints import footprints
from fewscope.pipeline.plan import make_plan
from fewscope.pipeline.run import segment
from tests.helpers import fakes
from tests.helpers.channel_slides import write_ome_tiff
from tests.helpers.rasters import north_up, write_raster

SIDE = 448
REGIONS = [(0, 0), (224, 224)]


def drawn_on(scene, path, to_world: Affine | None = None) -> str:
    """GeoJSON of what is asked for in `REGIONS`, as it would be drawn by hand; on a raster in its CRS."""
    shapes = []
    for top, left in REGIONS:
        shapes.append(("Region*", shapely.box(left, top, left + 224, top + 224)))
        labels = scene.truth[top : top + 224, left : left + 224].astype(np.uint8)
        shapes += [("cell", shape) for _, shape in footprints(labels, (top, left), Affine.identity())]
    features = []
    for name, shape in shapes:
        placed = shapely.transform(shape, lambda points: place_points(points, to_world or Affine.identity()))
        properties = {"classification": {"name": name}} if to_world is None else {"class": name}
        geometry = shapely.geometry.mapping(placed)
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    collection = {"type": "FeatureCollection", "features": features}
    if to_world is not None:
        collection["crs"] = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    path.write_text(json.dumps(collection))
    return str(path)


@pytest.fixture(scope="module")
def model():
    return load_segmenter(precision="float32")


def run(config: SegmentConfig, model, monitor: Monitor | None = None) -> dict:
    with LocalPool(lambda: model) as pool:
        return segment(config, pool, model, monitor=monitor)


@pytest.mark.slow
def test_a_resumed_run_of_five_channels_gives_the_same_bytes(tmp_path, quick_texture):
    scene = tissue(0, SIDE)
    slide = write_ome_tiff(tmp_path / "tissue.ome.tif", scene.values, scene.names)
    support = drawn_on(scene, tmp_path / "drawn.geojson")
    common = {"adapt_s": 0.0, "instances": "components", "precision": "float32", "shard": 256}
    config = SegmentConfig(slide, support, str(tmp_path / "whole"), **common)
    report = run(config, load_segmenter(precision="float32"))
    assert "5 channels, shown as DAPI blue" in report["run"]["source"]["channels"]
    assert any("stretched to 8 bits" in line for line in report["assumptions"])

    stopped = dataclasses.replace(config, out=str(tmp_path / "stopped"))
    markers = tmp_path / "stopped/.fewscope/markers"
    with pytest.raises(Cancelled):
        run(
            stopped,
            load_segmenter(precision="float32"),
            Monitor(cancel=lambda: any(markers.glob("r*.json"))),
        )
    assert 0 < len(list(markers.glob("r*.json"))) < 4
    run(stopped, load_segmenter(precision="float32"))
    assert fakes.outputs(tmp_path / "stopped") == fakes.outputs(tmp_path / "whole")


def test_workers_of_ray_read_every_channel(ray_here, tmp_path, no_pictures):
    scene = tissue(0, SIDE)
    slide = write_ome_tiff(tmp_path / "tissue.ome.tif", scene.values, scene.names)
    support = drawn_on(scene, tmp_path / "drawn.geojson")
    config = SegmentConfig(
        slide, support, str(tmp_path / "local"), instances="components", threshold=0.5, shard=256
    )
    with LocalPool(fakes.ByColour) as pool:
        segment(config, pool, fakes.ByColour())
    with RayPool(fakes.ByColour, 1) as pool:
        segment(dataclasses.replace(config, out=str(tmp_path / "ray")), pool, fakes.ByColour())
    assert np.asarray(open_result(config.out).mask[0]).any()
    assert fakes.outputs(tmp_path / "ray") == fakes.outputs(tmp_path / "local")


@pytest.mark.slow
def test_all_bands_of_a_scene_tell_a_crop_from_its_lookalikes(tmp_path, model):
    scene = land(0, SIDE)
    raster = write_raster(tmp_path / "scene.tif", scene.values, north_up())
    with rasterio.open(raster, "r+") as dataset:
        dataset.descriptions = scene.names
        to_world = dataset.transform
    support = drawn_on(scene, tmp_path / "drawn.geojson", to_world)
    config = SegmentConfig(
        raster,
        support,
        str(tmp_path / "out"),
        raster=RasterConfig(RasterOptions(all_bands=True)),
        adapt_s=0.0,
        instances="components",
        precision="float32",
    )
    report = run(config, model)
    found = np.asarray(open_result(config.out).mask[0]) > 0
    asked = np.ones((SIDE, SIDE), bool)
    for top, left in REGIONS:
        asked[top : top + 224, left : left + 224] = False
    assert (found & scene.truth & asked).sum() / ((found | scene.truth) & asked).sum() > 0.6
    assert "10 bands, shown as b02 blue, b03 green, b04 red; b05" in report["run"]["source"]["bands"]


def test_patches_of_pictures_do_not_fit_a_slide_of_five_channels(tmp_path, support):
    scene = tissue(0, 448)
    slide = write_ome_tiff(tmp_path / "tissue.ome.tif", scene.values, scene.names)
    config = SegmentConfig(slide, support, str(tmp_path / "out"), mpp=0.5)
    with pytest.raises(SourceError, match=r"5 channels \(DAPI, CD3.* have 3; .*--channels"):
        make_plan(config)
