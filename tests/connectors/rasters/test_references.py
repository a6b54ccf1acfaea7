"""Files that make GDAL read other files or addresses: within their folder, or not without the user's word."""

from __future__ import annotations

from pathlib import Path

import pytest
import rasterio

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.errors import SourceError
from tests.helpers.rasters import north_up, read_all, waves, write_raster

VRT = """<VRTDataset rasterXSize="50" rasterYSize="40"><GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename relativeToVRT="{relative}">{name}</SourceFilename>
<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"""
WMS = "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/${z}</ServerUrl></Service></GDAL_WMS>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the user's with a raster in it, and another raster beside the folder."""
    (tmp_path / "mine").mkdir()
    for name in ("mine/a.tif", "other.tif"):
        write_raster(tmp_path / name, waves(40, 50), north_up())
    return tmp_path / "mine"


def refusal(path: Path) -> str:
    with pytest.raises(SourceError) as error:
        open_source(str(path), raster=RasterOptions())
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("relative", [0, 1])
def test_a_vrt_of_rasters_in_its_own_folder_is_read(folder, relative):
    (folder / "v.vrt").write_text(
        VRT.format(relative=relative, name="a.tif" if relative else folder / "a.tif")
    )
    source = open_source(str(folder / "v.vrt"), raster=RasterOptions())
    assert (source.info.height, source.info.width) == (40, 50)


@pytest.mark.parametrize("kernel", ["", "<Kernel/>", "<Kernel><Size>0</Size><Coefs>1</Coefs></Kernel>"])
def test_a_filter_without_a_kernel_which_gdal_crashes_on_is_refused(folder, kernel):
    vrt = VRT.format(relative=1, name="a.tif").replace("SimpleSource>", "KernelFilteredSource>")
    (folder / "v.vrt").write_text(vrt.replace("</KernelF", kernel + "</KernelF"))
    assert "has no kernel" in refusal(folder / "v.vrt")


@pytest.mark.parametrize("name", ["v.vrt", "v.tif"])
def test_a_vrt_behind_something_else_is_no_way_round(folder, name):
    """GDAL takes it for a VRT."""
    (folder / name).write_bytes(b"#" + VRT.format(relative=1, name="../other.tif").encode())
    assert rasterio.open(folder / name).driver == "VRT"
    assert "damaged VRT" in refusal(folder / name)


def test_a_filter_with_a_kernel_is_read(folder):
    vrt = VRT.format(relative=1, name="a.tif").replace("SimpleSource>", "KernelFilteredSource>")
    kernel = "<Kernel normalized='1'><Size>3</Size><Coefs>1 1 1 1 1 1 1 1 1</Coefs></Kernel>"
    (folder / "v.vrt").write_text(vrt.replace("</KernelF", kernel + "</KernelF"))
    image, _ = read_all(str(folder / "v.vrt"))
    assert image.shape == (40, 50, 3)


@pytest.mark.parametrize(
    "name",
    ["../other.tif", "{parent}/other.tif", "/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif"],
)
def test_a_vrt_of_other_places_has_to_be_allowed(folder, name):
    name = name.format(parent=folder.parent)
    (folder / "v.vrt").write_text(VRT.format(relative=int(name.startswith("..")), name=name))
    said = refusal(folder / "v.vrt")
    assert name in said
    assert "--allow-remote-references" in said
    if "http" not in name:
        allowed = RasterOptions(allow_remote_references=True)
        assert open_source(str(folder / "v.vrt"), raster=allowed).info.width == 50


def test_a_link_out_of_the_folder_is_followed_before_it_is_trusted(folder):
    (folder / "link.tif").symlink_to(folder.parent / "other.tif")
    (folder / "v.vrt").write_text(VRT.format(relative=1, name="link.tif"))
    assert "outside its own folder" in refusal(folder / "v.vrt")


def test_a_vrt_within_a_vrt_is_looked_into(folder):
    (folder / "inner.vrt").write_text(VRT.format(relative=1, name="../other.tif"))
    (folder / "outer.vrt").write_text(VRT.format(relative=1, name="inner.vrt"))
    assert "../other.tif" in refusal(folder / "outer.vrt")


def test_vrts_that_refer_to_each_other_end_in_an_error(folder):
    for one, other in (("x", "y"), ("y", "x")):
        (folder / f"{one}.vrt").write_text(VRT.format(relative=1, name=f"{other}.vrt"))
    assert "deep" in refusal(folder / "x.vrt")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (VRT.format(relative=1, name="a.tif"), "is a VRT under another name"),
        (WMS, "description of a service"),
        ('{"type": "FeatureCollection", "stac_version": "1.0.0", "features": []}', "is JSON"),
        ("\ufeff  \n" + WMS, "description of a service"),
    ],
)
def test_what_is_named_as_a_picture_must_be_one(folder, content, expected):
    (folder / "scene.tif").write_text(content, encoding="utf-8")
    assert expected in refusal(folder / "scene.tif")


def test_a_damaged_vrt_is_one_line(folder):
    (folder / "v.vrt").write_text("<VRTDataset rasterXSize='50' rasterYSize='40'><VRTRasterBand>")
    assert "damaged VRT" in refusal(folder / "v.vrt")


def test_a_mosaic_and_its_further_files_are_held_to_the_same(folder):
    (folder / "v.vrt").write_text(VRT.format(relative=1, name="../other.tif"))
    with pytest.raises(SourceError, match="outside its own folder"):
        open_source(str(folder / "a.tif"), raster=RasterOptions(scenes=(str(folder / "v.vrt"),)))
