"""Masks are valid Cloud Optimized GeoTIFFs on the source's grid, exactly; the store says where it lies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import ome_zarr_models
import pytest
import rasterio
import zarr
from affine import Affine
from rasterio.crs import CRS
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from fewscope.connectors.results.cog import CogSpec, cog_writer
from fewscope.connectors.results.georeference import write_georeference
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.errors import OutputError

UTM = Affine(9.999999999, 0, 512_345.678901234, 0, -10.000000001, 8_999_999.123456789)
ROTATED = Affine.translation(500_000.1, 4e6) @ Affine.rotation(17.3) @ Affine.scale(10, -10)
DEGREES = Affine(1 / 3600, 0, -74.6, 0, -1 / 3600, -8.3)
CLASSES = ((0, (0, 0, 0, 0)), (1, (230, 85, 13, 255)))


def spec(height: int, width: int, transform: Affine, crs: str | None, **changes: object) -> CogSpec:
    known = {
        "dtype": "uint8",
        "nodata": 255,
        "description": "class",
        "is_categories": True,
        "colours": CLASSES,
    }
    return CogSpec(height, width, transform, crs, **(known | changes))  # type: ignore[arg-type]


def write(path: Path, values: np.ndarray, made: CogSpec, side: int = 512) -> None:
    with cog_writer(str(path), made) as put:
        for row in range(0, values.shape[0], side):
            for col in range(0, values.shape[1], side):
                block = values[row : row + side, col : col + side]
                put(Window(col, row, block.shape[1], block.shape[0]), block)


@pytest.mark.parametrize(
    ("transform", "crs"), [(UTM, "EPSG:32618"), (ROTATED, "EPSG:32618"), (DEGREES, "EPSG:4326")]
)
def test_a_mask_is_a_valid_cog_on_exactly_the_same_grid(tmp_path, transform, crs):
    values = np.random.default_rng(0).choice(np.array([0, 1, 255], np.uint8), (1300, 1111))
    path = tmp_path / "out" / "mask.tif"
    write(path, values, spec(1300, 1111, transform, crs))
    is_valid, errors, warnings = cog_validate(path, strict=True, quiet=True)
    assert (is_valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as dataset:
        assert np.abs(np.array(dataset.transform) - np.array(transform)).max() < 1e-9
        assert dataset.crs == CRS.from_user_input(crs)
        assert dataset.nodata == 255
        assert dataset.descriptions == ("class",)
        assert dataset.colormap(1)[1] == (230, 85, 13, 255)
        assert dataset.overviews(1) == [2, 4]
        np.testing.assert_array_equal(dataset.read(1), values)
        np.testing.assert_array_equal(dataset.dataset_mask() > 0, values != 255)
    assert [p.name for p in path.parent.iterdir()] == ["mask.tif"], "nothing temporary is left"


def test_probabilities_are_floats_with_nan_where_nothing_is_known(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (700, 600)).astype(np.float32) / 255
    values[:100] = np.nan
    path = tmp_path / "probability.tif"
    made = spec(700, 600, UTM, "EPSG:32618", dtype="float32", nodata=np.nan, is_categories=False, colours=())
    write(path, values, made, side=333)
    assert cog_validate(path, strict=True, quiet=True) == (True, [], [])
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert np.isnan(dataset.nodata)
        coarse = dataset.read(1, out_shape=(350, 300))
        inside = values[200:, :].reshape(250, 2, 300, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(coarse[100:], inside, atol=1e-6)  # overviews are means


def test_a_raster_without_a_crs_has_a_cog_without_one(tmp_path):
    path = tmp_path / "mask.tif"
    write(path, np.ones((20, 30), np.uint8), spec(20, 30, Affine.identity(), None))
    with rasterio.open(path) as dataset:
        assert dataset.crs is None
    assert cog_validate(path, quiet=True)[0]


def test_the_same_values_give_the_same_bytes_however_they_are_cut(tmp_path):
    values = np.random.default_rng(0).integers(0, 2, (900, 800)).astype(np.uint8)
    for name, side in (("one", 512), ("two", 300)):
        write(tmp_path / f"{name}.tif", values, spec(900, 800, UTM, "EPSG:32618"), side)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "two.tif").read_bytes()


def test_what_failed_leaves_nothing(tmp_path):
    def fail() -> None:
        with cog_writer(str(tmp_path / "mask.tif"), spec(20, 30, UTM, "EPSG:32618")) as put:
            put(Window(0, 0, 30, 20), np.zeros((20, 30), np.uint8))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(OutputError, match="cannot write"),
        cog_writer(str(tmp_path / "file" / "mask.tif"), spec(20, 30, UTM, None)),
    ):
        pass


def test_a_cog_goes_to_an_object_store_whole(tmp_path):
    import fsspec

    with cog_writer("memory://maps/mask.tif", spec(20, 30, UTM, "EPSG:32618")) as put:
        put(Window(0, 0, 30, 20), np.ones((20, 30), np.uint8))
    (tmp_path / "copy.tif").write_bytes(fsspec.filesystem("memory").cat_file("/maps/mask.tif"))
    assert cog_validate(tmp_path / "copy.tif", quiet=True)[0]


# -- the store -------------------------------------------------------------------------------------------------------


def attributes(folder: Path) -> dict[str, object]:
    return json.loads((folder / "zarr.json").read_text())["attributes"]


@pytest.mark.parametrize(
    ("crs", "code"), [("EPSG:32618", "EPSG:32618"), ("+proj=laea +lat_0=10", None), (None, None)]
)
def test_every_level_of_the_store_says_where_it_lies(tmp_path, crs, code):
    store = ResultStore(str(tmp_path)).create(StoreSpec(height=1500, width=1025, shard=1024))
    before = attributes(tmp_path / "result.zarr")["ome"]
    for _ in range(2):  # a run that resumes writes them again
        write_georeference(store, UTM, crs)
    for group in ("", "labels/semantic", "labels/instances"):
        folder = tmp_path / "result.zarr" / group
        assert attributes(folder).get("proj:code") == code
        for level, (height, width) in enumerate([(1500, 1025), (750, 513), (375, 257)]):
            found = attributes(folder / str(level))
            assert found["spatial:shape"] == [height, width]
            assert Affine(*found["spatial:transform"]) == UTM @ Affine.scale(2**level)  # type: ignore[misc]
            assert ("proj:wkt2" in found) == (crs is not None)
    found = attributes(tmp_path / "result.zarr")
    west, south, east, north = found["spatial:bbox"]  # type: ignore[misc]
    assert (west, north) == (UTM.c, UTM.f)
    assert (east, south) == pytest.approx((UTM.c + 1025 * UTM.a, UTM.f + 1500 * UTM.e))
    assert [c["name"] for c in found["zarr_conventions"]] == (["proj:"] if crs else []) + ["spatial:"]  # type: ignore[attr-defined]
    assert found["ome"] == before
    ome_zarr_models.open_ome_zarr(zarr.open_group(tmp_path / "result.zarr", mode="r"))
