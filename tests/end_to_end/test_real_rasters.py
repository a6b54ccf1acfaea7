"""Every odd raster there is through the command line: a map, or one line that says why not; and two real scenes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio

import fewscope.jobs.segmenting
from fewscope.connectors.results.reader import open_result
from fewscope.jobs import segment_raster
from tests.helpers import fakes

SHARED_DATA = Path(
    os.environ.get("FEWSCOPE_SHARED_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data"
)
RASTERS = SHARED_DATA / "rasters"

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module", autouse=True)
def rasters_are_there():
    if RASTERS.is_dir():
        return
    explain = f"no rasters in {RASTERS}; set FEWSCOPE_SHARED_DATA to the folder that holds rasters/"
    if os.environ.get("CI") == "true":
        pytest.fail(explain)
    pytest.skip(explain)


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> str:
    """A support set that states no resolution, and so suits any raster."""
    folder = Path(fakes.write_support(tmp_path_factory.mktemp("patches") / "blobs"))
    (folder / "support.json").unlink()
    return str(folder)


@pytest.fixture
def job(tmp_path, capfd, monkeypatch):
    """``job(raster, support, flags)`` -> (exit code, stderr's lines), with a model that looks at colours, coarsely."""
    monkeypatch.setattr(fewscope.jobs.segmenting, "model_loader", lambda config: fakes.Coarse)

    def call(raster: Path, support: str, *flags: object) -> tuple[int, list[str]]:
        capfd.readouterr()
        command = [str(raster), "--support", support, "--out", str(tmp_path / "out"), "--local"]
        code = segment_raster.main([*command, "--threshold", "0.5", *map(str, flags)])
        return code, capfd.readouterr().err.splitlines()

    return call


# what the command line says of each, or what the report notes where a map is made
REFUSED = {
    "rasterio/all-nodata.tif": ["no pixel of it is valid", "nodata"],
    "rio-tiler/inverted_lat.tif": ["no pixel of it is valid", "nodata"],
}
UNREAD = {"rasterio/corrupt.tif": 512 * 512}  # px of the one block that does not decode
NOTED = {
    "rasterio/RGB.byte.gcp.vrt": "4 control points",
    "rasterio/RGB.byte.rpc.vrt": "RPCs",
    "rasterio/float_nan.tif": "states no CRS",
    "rasterio/rotated.tif": "rotated",
    "rio-cogeo/slc.tif": "210 control points",
    "rio-tiler/cog_gcps.tif": "210 control points",
}
COARSER = {"rio-cogeo/image_web_z5_z11.tif": 611.49622628141}  # 8,448 px at 153 m a side would take a minute
SIDECARS = (".msk", ".ovr", ".md", ".txt", ".xml", "LICENSE")


def formats() -> list[str]:
    """The odd files, by folder and name."""
    folder = RASTERS / "formats"
    files = (path for path in folder.rglob("*") if path.suffix in (".tif", ".vrt"))
    return sorted(str(path.relative_to(folder)) for path in files)


def test_there_is_no_format_that_is_not_tried():
    found = {
        str(path.relative_to(RASTERS / "formats"))
        for path in (RASTERS / "formats").rglob("*")
        if path.is_file()
    }
    left = {name for name in found - set(formats()) if not any(mark in name for mark in SIDECARS)}
    assert not left
    assert {*REFUSED, *UNREAD, *NOTED, *COARSER} <= found


@pytest.mark.slow
@pytest.mark.parametrize("name", formats())
def test_odd_rasters_give_a_map_or_a_clear_error(job, tmp_path, patches, name):
    raster, out = RASTERS / "formats" / name, tmp_path / "out"
    flags = ["--res", COARSER[name]] if name in COARSER else []
    code, lines = job(raster, patches, *flags)
    if name in REFUSED or name in UNREAD:
        assert (code, len(lines)) == (2, 1)
        for word in (str(raster), *REFUSED.get(name, ["--max-unreadable"])):
            assert word in lines[0]
        assert out.exists() == (name in UNREAD)
        if name in UNREAD:
            assert json.loads((out / "report.json").read_text())["unread_px"] == UNREAD[name]
        return
    assert (code, lines) == (0, [])
    result, report = open_result(str(out)), json.loads((out / "report.json").read_text())
    assert report["count"] == result.table.count_rows() == result.instances[0].max().compute()
    assert NOTED.get(name, "") in " ".join(report["notes"])
    with rasterio.open(out / "mask.tif") as mask, rasterio.open(raster) as original:
        assert mask.shape == result.semantic[0].shape
        if name not in NOTED and name not in COARSER:
            assert mask.transform == pytest.approx(original.transform, abs=1e-9)
        valid = mask.read(1) != 255
        assert np.array_equal(mask.read(1)[valid], np.asarray(result.semantic[0])[valid])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bands"), [("s2_cape_lookout_8band.tif", "4,3,2"), ("ucayali/2020.tif", "1,2,3")]
)
def test_real_scenes_keep_their_grid_and_their_area(job, tmp_path, patches, name, bands):
    assert job(RASTERS / name, patches, "--bands", bands) == (0, [])
    report = json.loads((tmp_path / "out/report.json").read_text())
    with rasterio.open(RASTERS / name) as scene, rasterio.open(tmp_path / "out/mask.tif") as mask:
        assert (mask.crs, mask.shape) == (scene.crs, scene.shape)
        assert mask.transform == pytest.approx(scene.transform, abs=1e-9)
        # a sphere in place of the ellipsoid is off by less than 1 %
        box = scene.bounds
        # one of them has a collar that is not declared
        seen = 1 - (scene.read([4, 3, 2]) == 255).all(0).mean()
        zone = np.sin(np.radians(box.top)) - np.sin(np.radians(box.bottom))
        area_km2 = 6371.0072**2 * zone * np.radians(box.right - box.left)
    assert report["area_km2"] == pytest.approx(seen * area_km2, rel=0.01)
    assert 0 < report["covered_km2"] < report["area_km2"]
