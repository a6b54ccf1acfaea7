"""Results as the programs that people use open them: GDAL's readers, OME-Zarr's, napari's, and QuPath by its rules."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import ome_zarr_models
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
import tifffile
import zarr
from rasterio.features import rasterize
from rio_cogeo import cog_validate
from scipy import ndimage

from fewscope.connectors.results.reader import open_result
from tests.helpers.finished_runs import segmented_raster, segmented_slide
from tests.helpers.labels import same_objects
from tests.helpers.rasters import UTM18, north_up

pytestmark = pytest.mark.slow

Run = tuple[Path, np.ndarray]
"""The folder of a result, and the truth."""


@pytest.fixture(scope="session")
def slide_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config, truth = segmented_slide(tmp_path_factory.mktemp("slide"))
    return Path(config.out), truth


@pytest.fixture(scope="session")
def raster_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config, truth = segmented_raster(tmp_path_factory.mktemp("raster"))
    return Path(config.out), truth


@pytest.fixture(params=["slide", "raster"])
def run(request: pytest.FixtureRequest) -> Run:
    found: Run = request.getfixturevalue(f"{request.param}_run")
    return found


def features(out: Path) -> list[dict[str, Any]]:
    content = json.loads(gzip.decompress((out / "instances.geojson.gz").read_bytes()))
    assert content["type"] == "FeatureCollection"
    found: list[dict[str, Any]] = content["features"]
    return found


# --- of slides and of rasters ---------------------------------------------------------------------------


def test_ome_zarr_models_accept_the_store(run: Run) -> None:
    group = zarr.open_group(run[0] / "result.zarr", mode="r")
    for part in (group, group["labels/semantic"], group["labels/instances"]):
        ome_zarr_models.open_ome_zarr(part)


NAPARI = """
import json, sys
from napari_ome_zarr import napari_get_reader
layers = napari_get_reader(sys.argv[1])(sys.argv[1])
print()
print(json.dumps([
    [kind, facts.get("name"), [list(level.shape) for level in data], int((data[0] > 0).sum())]
    for data, facts, kind in layers
]))
"""


def test_napari_reads_an_image_and_two_labels_by_their_names(run: Run) -> None:
    """In a process of its own, without a window; skipped where the reader is not installed."""
    if subprocess.run(
        [sys.executable, "-c", "import napari_ome_zarr"], capture_output=True, check=False
    ).returncode:
        pytest.skip("napari-ome-zarr is not installed")
    out, truth = run
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", NAPARI, str(out / "result.zarr")],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"QT_QPA_PLATFORM": "offscreen"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # the reader prints, too
    layers = {re.split("[/:]", name)[-1].strip(): (kind, shapes, n) for kind, name, shapes, n in found}
    result = open_result(str(out))
    for name, kind in (("probability", "image"), ("semantic", "labels"), ("instances", "labels")):
        assert layers[name][0] == kind
        assert layers[name][1] == [list(level.shape) for level in getattr(result, name)]
    assert layers["semantic"][2] == layers["instances"][2] == (truth == 1).sum()


def test_the_table_is_read_by_pandas(run: Run) -> None:
    table = pd.read_parquet(run[0] / "instances.parquet")
    _, n = ndimage.label(run[1] == 1, np.ones((3, 3)))
    assert table["id"].tolist() == list(range(1, n + 1))
    assert table["area_px"].sum() == (run[1] == 1).sum()
    assert table.notna().all().drop(["area_um2", "equivalent_diameter_um"]).all()


def test_outlines_keep_the_rules_of_qupath(run: Run) -> None:
    """What its importer asks for: closed rings, holes within, a type that it knows, a class with a colour, numbers."""
    found = features(run[0])
    assert len({feature["id"] for feature in found}) == len(found) >= 3
    n_holes = 0
    for feature in found:
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        geometry = feature["geometry"]
        assert geometry["type"] in ("Polygon", "MultiPolygon")
        parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        for rings in parts:
            n_holes += len(rings) - 1
            for ring in rings:
                assert ring[0] == ring[-1]
                assert len(ring) >= 4
                assert all(len(position) == 2 for position in ring)
        assert shapely.is_valid(shapely.geometry.shape(geometry)), "holes lie within, and nothing crosses"
        properties = feature["properties"]
        assert properties["objectType"] == "detection", (
            "neither annotation nor cell: those are drawn, or have a nucleus"
        )
        assert "nucleusGeometry" not in feature
        name, colour = properties["classification"]["name"], properties["classification"]["color"]
        assert name in ("blob", "water")
        assert len(colour) == 3
        assert all(isinstance(value, int) and 0 <= value <= 255 for value in colour)
        for measurement, value in properties["measurements"].items():
            assert measurement
            assert isinstance(value, int | float)
            assert np.isfinite(value)
    assert n_holes > 0


# --- slides ---------------------------------------------------------------------------------------------


def test_outlines_of_a_slide_cover_the_pixels_of_its_objects(slide_run: Run) -> None:
    out, truth = slide_run
    shapes = [
        (shapely.geometry.shape(feature["geometry"]), int(feature["properties"]["measurements"]["Id"]))
        for feature in features(out)
    ]
    drawn = rasterize(shapes, truth.shape, dtype="int32")
    assert np.array_equal(drawn, open_result(str(out)).instances[0].compute())
    assert same_objects(drawn, ndimage.label(truth, np.ones((3, 3)))[0])


def test_geopandas_reads_the_outlines_of_a_slide(slide_run: Run) -> None:
    out, truth = slide_run
    frame = gpd.read_file(f"/vsigzip/{out / 'instances.geojson.gz'}")
    assert (
        shapely.area(frame.geometry.values).sum() == truth.sum()
    )  # in pixels, whatever CRS GDAL takes them for
    assert frame.geometry.is_valid.all()


# --- rasters --------------------------------------------------------------------------------------------


def test_rasterio_reads_the_map_on_the_grid_of_the_raster(raster_run: Run) -> None:
    out, truth = raster_run
    with rasterio.open(out / "mask.tif") as mask:
        assert (mask.crs.to_string(), mask.nodata) == (UTM18, 255)
        assert mask.transform == pytest.approx(north_up())
        assert np.array_equal(mask.read(1), truth)
        assert np.array_equal(mask.read_masks(1) > 0, truth != 255)
    with rasterio.open(out / "probability.tif") as probability:
        assert probability.dtypes == ("float32",)
        assert np.array_equal(np.isnan(probability.read(1)), truth == 255)
        assert np.array_equal(probability.read(1) >= 0.5, truth == 1)
    for name in ("mask.tif", "probability.tif"):
        valid, errors, warnings = cog_validate(out / name)
        assert (valid, errors, warnings) == (True, [], [])


def test_tifffile_reads_the_map(raster_run: Run) -> None:
    out, truth = raster_run
    with tifffile.TiffFile(out / "mask.tif") as tiff:
        page = tiff.pages.first
        assert page.is_tiled
        assert page.is_geotiff
        assert page.tags["GDAL_NODATA"].value == "255"
        assert np.array_equal(page.asarray(), truth)


def test_pyogrio_and_geopandas_read_the_same_vectors_from_both_formats(raster_run: Run) -> None:
    """QGIS reads GeoPackage by the library that pyogrio uses."""
    out, truth = raster_run
    assert [name for name, _ in pyogrio.list_layers(out / "features.gpkg")] == ["features", "centreline"]
    for layer, file in (("features", "features.parquet"), ("centreline", "centreline.parquet")):
        packed, parquet = gpd.read_file(out / "features.gpkg", layer=layer), gpd.read_parquet(out / file)
        assert packed.crs == parquet.crs == UTM18
        assert len(packed) == len(parquet) > 0
        assert packed.geometry.is_valid.all()
        assert all(packed.geometry.geom_equals(parquet.geometry))
        assert set(packed.columns) == set(parquet.columns)
    polygons = gpd.read_file(out / "features.gpkg", layer="features")
    drawn = rasterize(polygons.geometry, truth.shape, transform=north_up(), dtype="uint8")
    assert np.array_equal(drawn == 1, truth == 1), "polygons lie on the pixels that they were drawn from"
    assert polygons["area_m2"].tolist() == pytest.approx(polygons.area.tolist())
    assert polygons["class"].unique().tolist() == ["water"]
