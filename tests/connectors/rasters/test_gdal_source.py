"""Rasters: which pixels are real, where they are, and what cannot be read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.errors import SourceError
from tests.helpers.machine import free_ports
from tests.helpers.rasters import ORIGIN, break_tile, north_up, read_all, stacked, waves, write_raster

# -- which pixels are real


def missing() -> np.ndarray:
    """bool (90, 110): a block and a single pixel are missing."""
    real = np.ones((90, 110), bool)
    real[20:50, 30:80] = real[0, 0] = False
    return real


def with_nodata(path, dtype, nodata) -> str:
    values = waves(90, 110, 3, 200).astype(dtype)
    values[:, ~missing()] = nodata
    values[0, 70, 70] = nodata  # in one band only: the pixel is real
    return write_raster(path, values, north_up(), nodata=nodata)


def with_alpha(path) -> str:
    values = waves(90, 110, 4).astype(np.uint8)
    values[3] = missing() * 255
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    return write_raster(path, values, north_up(), colours=colours)


def with_alpha_and_nodata(path) -> str:
    values = waves(90, 110, 4).astype(np.uint8)
    values[3] = 255
    values[3, 20:50, 30:80] = 0
    values[:3, 0, 0] = 0
    colours = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
    return write_raster(path, values, north_up(), colours=colours, nodata=0)


def with_internal_mask(path) -> str:
    return write_raster(path, waves(90, 110).astype(np.uint8), north_up(), mask=missing())


def with_external_mask(path) -> str:
    write_raster(path, waves(90, 110).astype(np.uint8), north_up())
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(missing().astype(np.uint8) * 255)
    assert Path(f"{path}.msk").is_file()
    return str(path)


def with_nan(path) -> str:
    values = waves(90, 110, 3).astype(np.float32)
    values[1, ~missing()] = np.nan  # in one band: it cannot be shown
    return write_raster(path, values, north_up())


@pytest.mark.parametrize(
    "make",
    [
        lambda path: with_nodata(path, np.uint8, 0),
        lambda path: with_nodata(path, np.int16, -32768),
        lambda path: with_nodata(path, np.float32, -3.4028226550889045e38),
        with_alpha,
        with_alpha_and_nodata,
        with_internal_mask,
        with_external_mask,
        with_nan,
    ],
    ids=["nodata 0", "nodata int16", "nodata float", "alpha", "alpha, nodata", "internal", "external", "NaN"],
)
def test_masks_of_every_kind_become_valid(tmp_path, make):
    path = make(tmp_path / "a.tif")
    image, valid = read_all(path)
    assert np.array_equal(valid, missing())
    assert (image[~valid] == 0).all()
    # two scenes that are one and the same miss what it misses
    again = open_source(path, raster=RasterOptions(scenes=(path,))).read(Window(0, 0, 110, 90))
    assert np.array_equal(again[1], missing())


def test_nodata_that_its_type_does_not_hold_is_no_value(tmp_path):
    values = waves(40, 50, 1).astype(np.uint8)
    path = tmp_path / "a.vrt"
    tif = write_raster(tmp_path / "a.tif", values, north_up())
    path.write_text(
        '<VRTDataset rasterXSize="50" rasterYSize="40"><VRTRasterBand dataType="Byte" band="1"><NoDataValue>-9999'
        f"</NoDataValue><SimpleSource><SourceFilename>{tif}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>"
        "</VRTRasterBand></VRTDataset>"
    )
    _, valid = read_all(str(path))
    assert valid.all()


@pytest.mark.parametrize("options", [{}, {"crs": "EPSG:32617", "res": 10.0}])
def test_bands_of_several_types_in_one_file_are_read_together(tmp_path, options):
    """As a VRT has them that joins bytes, reflectances and an index."""
    values = np.round(waves(90, 110))
    types, parts = (np.uint8, np.uint16, np.float32), []
    for number, (band, kind) in enumerate(zip(values, types, strict=True)):
        write_raster(tmp_path / f"{number}.tif", band[None].astype(kind), north_up())
        name = {np.uint8: "Byte", np.uint16: "UInt16", np.float32: "Float32"}[kind]
        parts.append(
            f'<VRTRasterBand dataType="{name}" band="{number + 1}"><SimpleSource><SourceFilename relativeToVRT="1">'
            f"{number}.tif</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        )
    place = ", ".join(map(str, north_up().to_gdal()))
    (tmp_path / "joined.vrt").write_text(
        f'<VRTDataset rasterXSize="110" rasterYSize="90"><SRS>EPSG:32618</SRS><GeoTransform>{place}</GeoTransform>'
        f"{''.join(parts)}</VRTDataset>"
    )
    whole = write_raster(tmp_path / "whole.tif", values.astype(np.float32), north_up())
    found = read_all(str(tmp_path / "joined.vrt"), scale=(0, 255), **options)
    expected = read_all(whole, scale=(0, 255), **options)
    assert np.array_equal(found[1], expected[1])
    assert np.abs(found[0].astype(int) - expected[0])[expected[1]].max() <= 1


def test_a_tile_that_does_not_decode_is_known_and_the_rest_is_read(tmp_path):
    values = waves(300, 400).astype(np.uint8)
    path = write_raster(tmp_path / "a.tif", values, north_up())
    break_tile(path, 5)  # the second row of tiles, the second tile
    source = open_source(path, raster=RasterOptions())
    image, valid = source.read(Window(0, 0, 400, 300))
    expected = np.ones((300, 400), bool)
    expected[128:256, 128:256] = False
    assert np.array_equal(valid, expected)
    assert np.array_equal(image[valid], stacked(values)[valid])
    assert source.unreadable() == (Window(128, 128, 128, 128),)


# -- where they are


def test_the_grid_is_the_files_to_the_last_bit(tmp_path):
    turned = Affine.translation(*ORIGIN) @ Affine.rotation(-17.3) @ Affine.scale(9.7, -9.7)
    for transform in (north_up(9.7), turned, Affine(9.7, 0, ORIGIN[0], 0, 9.7, ORIGIN[1])):
        path = write_raster(tmp_path / "a.tif", waves(30, 40).astype(np.uint8), transform)
        info = open_source(path, raster=RasterOptions()).info
        with rasterio.open(path) as dataset:
            assert info.transform == dataset.transform
        assert ("rotated" in " ".join(info.notes)) == (transform == turned)


@pytest.mark.parametrize("res", [17.0, 20.0, 3.3])
def test_resampling_keeps_the_ground_in_its_place(tmp_path, res):
    path = write_raster(tmp_path / "a.tif", waves(200, 300).astype(np.uint8), north_up())
    info = open_source(path, raster=RasterOptions(res=res)).info
    assert (info.transform.a, info.transform.e) == pytest.approx((res, -res), abs=1e-9)
    assert (info.transform.c, info.transform.f) == ORIGIN
    assert (info.height, info.width) == (round(2000 / res), round(3000 / res))


def test_shrinking_by_two_is_the_mean_of_four(tmp_path):
    values = waves(64, 80).astype(np.uint8)
    image, _ = read_all(write_raster(tmp_path / "a.tif", values, north_up()), res=20)
    expected = stacked(values).reshape(32, 2, 40, 2, 3).mean((1, 3))
    assert np.abs(image - expected).max() <= 0.5


def test_what_is_not_georeferenced_is_read_in_pixels_and_says_so(tmp_path):
    path = write_raster(tmp_path / "a.tif", waves(30, 40).astype(np.uint8), None, None)
    info = open_source(path, raster=RasterOptions()).info
    assert (info.crs, info.transform) == (None, Affine.identity())
    assert "does not say where it is" in info.notes[0]
    path = write_raster(tmp_path / "b.tif", waves(30, 40).astype(np.uint8), north_up(), None)
    assert "states no CRS" in open_source(path, raster=RasterOptions()).info.notes[0]


def test_a_png_with_a_world_file_is_where_that_says(tmp_path):
    values = waves(30, 40).astype(np.uint8)
    path = str(tmp_path / "a.png")
    with rasterio.open(path, "w", driver="PNG", count=3, height=30, width=40, dtype="uint8") as dataset:
        dataset.write(values)
    (tmp_path / "a.pgw").write_text("2.5\n0\n0\n-2.5\n100001.25\n4999998.75\n")
    image, _ = read_all(path)
    assert np.array_equal(image, stacked(values))
    assert open_source(path, raster=RasterOptions()).info.transform == Affine(
        2.5, 0, 100000, 0, -2.5, 5000000
    )


def test_a_raster_in_a_zip_file_is_read_where_it_is(tmp_path):
    write_raster(tmp_path / "a.tif", waves(30, 40).astype(np.uint8), north_up())
    shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path, "a.tif")
    image, _ = read_all(f"/vsizip/{tmp_path}/a.zip/a.tif")
    assert np.array_equal(image, read_all(str(tmp_path / "a.tif"))[0])


READ_ALL = """
import sys
from rasterio.windows import Window
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions

def resident_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6

source = open_source(sys.argv[1], raster=RasterOptions())
source.read(Window(0, 0, 1024, 1024))
before = resident_mb()
for row in range(0, source.info.height, 1024):
    for col in range(0, source.info.width, 1024):
        source.read(Window(col, row, 1024, 1024))
print(resident_mb() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's record of memory")
def test_memory_does_not_grow_with_what_was_read(tmp_path):
    """GDAL keeps decoded blocks up to a twentieth of the machine's memory, if it is not told otherwise."""
    path = str(tmp_path / "large.tif")
    blocks = {"tiled": True, "blockxsize": 256, "blockysize": 256, "sparse_ok": True}
    with rasterio.open(
        path, "w", driver="GTiff", height=20480, width=20480, count=1, dtype="uint8", crs="EPSG:32618",
        transform=north_up(), **blocks,
    ):  # fmt: skip
        pass  # 420 MB of zeros, none of which is in the file
    environment = {k: v for k, v in os.environ.items() if k != "GDAL_CACHEMAX"}
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parents[3])
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, path], env=environment, capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 250


def test_the_fingerprint_is_of_the_content(tmp_path):
    first = write_raster(tmp_path / "a.tif", waves(30, 40).astype(np.uint8), north_up())
    shutil.copy(first, tmp_path / "b.tif")
    other = write_raster(tmp_path / "c.tif", waves(30, 40, seed=1).astype(np.uint8), north_up())
    prints = [
        open_source(str(p), raster=RasterOptions()).info.fingerprint
        for p in (first, tmp_path / "b.tif", other)
    ]
    assert prints[0] == prints[1] != prints[2]


def test_a_file_that_changed_is_refused_in_the_other_process(tmp_path):
    path = write_raster(tmp_path / "a.tif", waves(30, 40).astype(np.uint8), north_up())
    reopen, arguments = open_source(path, raster=RasterOptions()).__reduce__()
    write_raster(path, waves(30, 40, seed=1).astype(np.uint8), north_up())
    with pytest.raises(SourceError, match="changed since"):
        reopen(*arguments)


# -- what cannot be


def empty(path: Path) -> None:
    path.write_bytes(b"")


def no_raster(path: Path) -> None:
    path.write_text("id,name\n1,river\n" * 50)


def cut_short(path: Path) -> None:
    write_raster(path, waves(300, 400).astype(np.uint8), north_up())
    os.truncate(path, 60)


def one_band(path: Path) -> None:
    write_raster(path, waves(30, 40, 1).astype(np.uint8), north_up())


def hardly_wide(path: Path) -> None:
    write_raster(path, waves(30, 40).astype(np.uint8), Affine(1e-231, 0, 500_000, 0, -10, 4_500_000))


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (hardly_wide, {}, ["its pixels have no area", "1e-231", "gdal_edit"]),
        (None, {}, ["no such file"]),
        (empty, {}, ["0 bytes", "copy it again"]),
        (Path.mkdir, {}, ["is a folder", "*.tif"]),
        (no_raster, {}, ["not a raster", "right file"]),
        (cut_short, {}, ["cannot open", "copy"]),
        (one_band, {"bands": (1, 2, 3)}, ["no band 2", "only 1..1", "--bands"]),
        (one_band, {"res": 0.5}, ["--res 0.5", "20 times finer", "10"]),
        (one_band, {"crs": "EPSG:0"}, ["--crs", "EPSG:0", "EPSG:32618"]),
        (one_band, {"bbox": (10, 50, 11, 51)}, ["does not overlap the requested area"]),
        (one_band, {"aoi": "nowhere.gpkg"}, ["no such file"]),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(tmp_path, make, options, words):
    path = tmp_path / "a.tif"
    if make:
        make(path)
    with pytest.raises(SourceError) as error:
        open_source(str(path), raster=RasterOptions(**options))
    message = str(error.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bands": (1, 2, 1, 3)}, "names a band twice"),
        ({"scale": (5, 5)}, "--scale 5 5"),
        ({"res": 0.0}, "--res 0"),
        ({"bbox": (1, 5, 2, 4)}, "no area"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        RasterOptions(**options)


# -- where they may be


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, str]]:
    """(address, name) of a bucket that anybody may read, on this machine's loopback."""
    port = free_ports(1)[0]
    address = f"http://127.0.0.1:{port}"
    # a process of its own: GDAL holds the interpreter while it waits for an answer
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while time.monotonic() < limit and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            time.sleep(0.1)
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1"
    )
    client.create_bucket(Bucket="scenes", ACL="public-read")
    yield address, "scenes"
    server.terminate()
    server.wait(30)


@pytest.mark.slow
def test_remote_rasters_are_read_in_place(tmp_path, bucket, monkeypatch):
    address, name = bucket
    local = write_raster(tmp_path / "a.tif", waves(300, 400).astype(np.uint8), north_up())
    for variable, value in {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
        "no_proxy": "127.0.0.1",
    }.items():
        monkeypatch.setenv(variable, value)
    boto3.client("s3").upload_file(local, name, "a.tif", ExtraArgs={"ACL": "public-read"})
    expected = read_all(local)
    for uri in (f"s3://{name}/a.tif", f"/vsis3/{name}/a.tif", f"{address}/{name}/a.tif"):
        image, valid = read_all(uri)
        assert np.array_equal(image, expected[0]), uri
        assert np.array_equal(valid, expected[1]), uri
    with pytest.raises(SourceError, match=r"none\.tif"):
        open_source(f"s3://{name}/none.tif", raster=RasterOptions())
