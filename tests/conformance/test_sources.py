"""One suite that every reader passes: exact positions, threads, pickling, background.

Slides as OpenSlide knows them by the tags that scanners write, rasters as GDAL opens them, and what is put together of
several files. Real slides of other scanners pass the same suite in `tests/end_to_end/test_real_slides_sources.py`.
"""

from __future__ import annotations

import json

import numpy as np
import openslide
import pytest
import rasterio
import tifffile
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slide_options import SlideOptions, StackOptions
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from tests.helpers.channel_slides import write_imagej, write_ome_tiff, write_ome_zarr, write_qptiff
from tests.helpers.rasters import ORIGIN, break_tile, north_up, waves, write_raster
from tests.helpers.scanned_slides import write_leica
from tests.helpers.source_conformance import SourceConformance

HEIGHT, WIDTH = 410, 530


def holes(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """bool: a diagonal strip and a disk are missing."""
    row, col = np.mgrid[:height, :width]
    return (np.abs(row - col) > 9) & ((row - 200) ** 2 + (col - 330) ** 2 > 60**2)


def uint16_with_nodata(folder) -> str:
    values = waves(HEIGHT, WIDTH, 4, 9000).astype(np.uint16)
    values[:, ~holes()] = 0
    return write_raster(folder / "a.tif", values, north_up(), nodata=0)


def masked_with_overviews(folder) -> str:
    values = waves(HEIGHT, WIDTH).astype(np.uint8)
    return write_raster(folder / "a.tif", values, north_up(), mask=holes(), overviews=(2, 4))


def floats_in_strips(folder) -> str:
    values = waves(HEIGHT, WIDTH, 1, 0.4).astype(np.float32)
    values[:, ~holes()] = np.nan
    return write_raster(
        folder / "a.tif", values, north_up(), tiled=False, blockxsize=WIDTH, blockysize=3, nodata=-9999.0
    )


def with_a_broken_tile(folder) -> str:
    path = write_raster(folder / "a.tif", waves(HEIGHT, WIDTH).astype(np.uint8), north_up())
    break_tile(path, 7)
    return path


def rotated(folder) -> str:
    turned = Affine.translation(*ORIGIN) @ Affine.rotation(30) @ Affine.scale(10, -10)
    return write_raster(folder / "a.tif", waves(HEIGHT, WIDTH).astype(np.uint8), turned)


def palette(folder) -> str:
    path = write_raster(folder / "a.tif", (waves(HEIGHT, WIDTH, 1) // 64).astype(np.uint8), north_up())
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {i: (60 * i, 255 - 60 * i, 7 * i, 255) for i in range(4)})
    return path


def control_points_only(folder) -> str:
    corners = [(0, 0), (0, WIDTH), (HEIGHT, 0), (HEIGHT, WIDTH)]
    turned = Affine.translation(*ORIGIN) @ Affine.rotation(12) @ Affine.scale(10, -10)
    points = []
    for row, col in corners:
        x, y = turned.c + turned.a * col + turned.b * row, turned.f + turned.d * col + turned.e * row
        points.append(GroundControlPoint(row=row, col=col, x=x, y=y))
    values = waves(HEIGHT, WIDTH).astype(np.uint8)
    return write_raster(folder / "a.tif", values, None, gcps=points)


def described(folder) -> str:
    """A VRT of two files side by side, in its own folder."""
    values = waves(HEIGHT, WIDTH).astype(np.uint8)
    write_raster(folder / "west.tif", values[:, :, :300], north_up(), mask=holes()[:, :300])
    write_raster(folder / "east.tif", values[:, :, 300:], north_up(x=ORIGIN[0] + 3000), mask=holes()[:, 300:])
    bands = ""
    for band in (1, 2, 3):
        places = ""
        for name, start, width in (("west", 0, 300), ("east", 300, WIDTH - 300)):
            places += (
                f'<SimpleSource><SourceFilename relativeToVRT="1">{name}.tif</SourceFilename>'
                f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{HEIGHT}"/>'
                f'<DstRect xOff="{start}" yOff="0" xSize="{width}" ySize="{HEIGHT}"/></SimpleSource>'
            )
        bands += f'<VRTRasterBand dataType="Byte" band="{band}">{places}</VRTRasterBand>'
    x, y = ORIGIN
    (folder / "a.vrt").write_text(
        f'<VRTDataset rasterXSize="{WIDTH}" rasterYSize="{HEIGHT}"><SRS>EPSG:32618</SRS>'
        f"<GeoTransform>{x}, 10, 0, {y}, 0, -10</GeoTransform>{bands}</VRTDataset>"
    )
    return str(folder / "a.vrt")


def tiles_of_a_mosaic(folder) -> str:
    """Four files with a strip that none of them has, in one glob."""
    values = waves(HEIGHT, WIDTH).astype(np.uint8)
    for row, col, height, width in (
        (0, 0, 200, 260),
        (0, 260, 200, 270),
        (200, 0, 210, 250),
        (200, 260, 210, 270),
    ):
        x, y = ORIGIN[0] + 10 * col, ORIGIN[1] - 10 * row
        part = values[:, row : row + height, col : col + width]
        write_raster(folder / f"{row}-{col}.tif", part, north_up(x=x, y=y))
    return str(folder / "*.tif")


def two_zones(folder) -> str:
    """A pattern for two scenes that overlap, the second in the neighbouring UTM zone."""
    write_raster(folder / "1.tif", waves(300, 320).astype(np.uint8), north_up(30, 735_000), nodata=0)
    values = waves(280, 300, seed=1).astype(np.uint8)
    write_raster(folder / "2.tif", values, north_up(30, 232_000), "EPSG:32619", nodata=0)
    return str(folder / "*.tif")


def slide_picture(height: int, width: int) -> np.ndarray:
    return np.moveaxis(waves(height, width), 0, 2).astype(np.uint8)


def generic_slide(folder) -> str:
    """0.25 um per px, with levels of factor 2 and 4."""
    write_pyramid(folder / "slide.tif", slide_picture(600, 840), 0.25, tile=128, overviews=[2, 4])
    return str(folder / "slide.tif")


def odd_slide(folder) -> str:
    """Sizes that no factor divides: levels whose downsamples are not whole."""
    write_pyramid(folder / "slide.tif", slide_picture(611, 837), 0.25, tile=64, overviews=[2, 4])
    return str(folder / "slide.tif")


def slide_with_a_broken_tile(folder) -> str:
    write_pyramid(folder / "slide.tif", slide_picture(600, 840), 0.25, tile=128, overviews=[])
    break_tile(str(folder / "slide.tif"), 2 * 7 + 3)
    return str(folder / "slide.tif")


def aperio(folder) -> str:
    """As Aperio's scanners describe their slides."""
    image = slide_picture(512, 700)
    with tifffile.TiffWriter(folder / "slide.svs") as writer:
        text = "Aperio Image Library v11.2.1 \r\n700x512 [0,0 700x512] (256x256) |AppMag = 40|MPP = 0.25"
        writer.write(image, tile=(256, 256), photometric="rgb", description=text, metadata=None)
        writer.write(image[::4, ::4], tile=(256, 256), photometric="rgb", description=text, metadata=None)
    return str(folder / "slide.svs")


def leica(folder) -> str:
    """Scanned within a larger plane, of which the rest is empty."""
    write_leica(folder / "slide.scn", slide_picture(300, 400), (96, 64))
    return str(folder / "slide.scn")


SLIDES = {
    "generic TIFF, level 0": (generic_slide, 0.25),
    "generic TIFF, enlarged": (generic_slide, 0.125),
    "generic TIFF, 1.37 times shrunk": (generic_slide, 0.3425),
    "generic TIFF, level 1": (generic_slide, 0.5),
    "generic TIFF, 3.1 times shrunk": (generic_slide, 0.775),
    "odd sizes": (odd_slide, 0.25),
    "odd sizes, level 1": (odd_slide, 0.5),
    "odd sizes, shrunk": (odd_slide, 0.6),
    "a broken tile": (slide_with_a_broken_tile, 0.25),
    "a broken tile, shrunk": (slide_with_a_broken_tile, 0.3425),
    "Aperio": (aperio, 0.25),
    "Aperio, shrunk": (aperio, 0.4),
    "Leica": (leica, 0.5),
    "Leica, shrunk": (leica, 0.7),
}


@pytest.fixture(scope="module", params=SLIDES.values(), ids=SLIDES.keys())
def slide(request, tmp_path_factory):
    make, mpp = request.param
    source = open_source(make(tmp_path_factory.mktemp("slide")), mpp=mpp)
    yield source
    source.close()


class TestSlide(SourceConformance):
    @pytest.fixture
    def source(self, slide):
        return slide


def five_channels(folder) -> str:
    """16 bit, sizes that no factor divides, two levels as SubIFDs."""
    return write_ome_tiff(folder / "slide.ome.tif", waves(411, 533, 5, 9000).astype(np.uint16))


def five_channels_with_a_broken_tile(folder) -> str:
    path = write_ome_tiff(folder / "slide.ome.tif", waves(410, 530, 4, 900).astype(np.uint16), factors=())
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[2]
        offset, size = page.dataoffsets[7], page.databytecounts[7]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    return path


def two_channels_with_gaps(folder) -> str:
    """Floats with NaN, in strips, planes of the two channels in turn with those of time."""
    planes = waves(300, 340, 4).astype(np.float32).reshape(2, 2, 300, 340)
    planes[:, 0, ~holes(300, 340)] = np.nan
    path = folder / "slide.ome.tiff"
    return write_ome_tiff(path, planes, factors=(), axes="TCYX", tile=None, rowsperstrip=7)


def planes_of_ome(folder) -> str:
    """16 bit, two channels, three planes, two time points, with levels."""
    values = waves(300, 340, 12, 9000).astype(np.uint16).reshape(2, 3, 2, 300, 340)
    return write_ome_tiff(folder / "slide.ome.tif", values, axes="TZCYX")


def planes_with_a_broken_tile(folder) -> str:
    values = waves(300, 340, 6, 900).astype(np.uint16).reshape(2, 3, 300, 340)
    path = write_ome_tiff(folder / "slide.ome.tif", values, factors=(), axes="CZYX")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[1]
        offset, size = page.dataoffsets[4], page.databytecounts[4]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(size))
    return path


def rgb_of_ome(folder) -> str:
    """A picture that OpenSlide does not open: in strips."""
    image = slide_picture(300, 340)
    options = {"photometric": "rgb", "tile": None, "rowsperstrip": 16}
    return write_ome_tiff(folder / "slide.ome.tif", image, factors=(), axes="YXS", **options)


def qptiff(folder) -> str:
    return write_qptiff(folder / "slide.qptiff", waves(411, 533, 5, 9000).astype(np.uint16))


def stack_of_imagej(folder) -> str:
    """Big-endian, each plane in one strip."""
    return write_imagej(folder / "slide.tif", waves(411, 533, 4, 9000).astype(np.uint16))


def zarr_of_five(version: str):
    def make(folder) -> str:
        return write_ome_zarr(
            folder / "slide.ome.zarr", waves(411, 533, 5, 900).astype(np.uint16), version=version
        )

    return make


def zarr_with_planes(folder) -> str:
    """All five axes, 8 bit, channels after planes."""
    planes = waves(300, 340, 12).astype(np.uint8).reshape(1, 3, 4, 300, 340)
    return write_ome_zarr(folder / "slide.zarr", planes, axes="tzcyx")


def zarr_with_a_broken_chunk(folder) -> str:
    path = write_ome_zarr(folder / "slide.zarr", waves(411, 533, 4, 900).astype(np.uint16))
    (folder / "slide.zarr/0/c/2/1/3").write_bytes(b"no chunk")
    return path


def png_of_16_bits(folder) -> str:
    values = waves(411, 533, 1, 9000)[0].astype(np.uint16)
    Image.fromarray(values).save(folder / "picture.png")
    return str(folder / "picture.png")


def jpeg(folder) -> str:
    Image.fromarray(slide_picture(411, 533)).save(folder / "picture.jpg")
    return str(folder / "picture.jpg")


def pages_of_a_plain_tiff(folder) -> str:
    planes = waves(411, 533, 5, 900).astype(np.uint16)
    options = {"photometric": "minisblack", "compression": "zlib", "rowsperstrip": 7, "metadata": None}
    tifffile.imwrite(folder / "picture.tif", planes, **options)
    return str(folder / "picture.tif")


CHANNELS = {
    "OME-TIFF": (five_channels, 0.5, SlideOptions()),
    "OME-TIFF, shrunk 1.37 times": (five_channels, 0.685, SlideOptions()),
    "OME-TIFF, level 1, some channels": (five_channels, 1.0, SlideOptions(("CD8", "1", "PanCK", "CD20"))),
    "OME-TIFF, one channel": (five_channels, 1.3, SlideOptions(("cd3",))),
    "OME-TIFF, two channels": (five_channels, 0.5, SlideOptions(("CD3", "DAPI"))),
    "OME-TIFF, a broken tile": (five_channels_with_a_broken_tile, 0.5, SlideOptions()),
    "OME-TIFF, a broken tile, shrunk": (five_channels_with_a_broken_tile, 0.7, SlideOptions()),
    "OME-TIFF, floats with gaps": (two_channels_with_gaps, 0.5, SlideOptions(stack=StackOptions(time=1))),
    "OME-TIFF, maximum of planes": (planes_of_ome, 0.5, SlideOptions(stack=StackOptions("max", time=2))),
    "OME-TIFF, mean of planes, shrunk": (
        planes_of_ome,
        0.8,
        SlideOptions(stack=StackOptions("mean", time=1)),
    ),
    "OME-TIFF, the sharpest plane, level 1": (planes_of_ome, 1.0, SlideOptions(stack=StackOptions(time=2))),
    "OME-TIFF, maximum of planes with a broken tile": (
        planes_with_a_broken_tile,
        0.5,
        SlideOptions(stack=StackOptions("max")),
    ),
    "OME-TIFF, RGB in strips": (rgb_of_ome, 0.6, SlideOptions()),
    "QPTIFF, shrunk 1.37 times": (qptiff, 0.685, SlideOptions()),
    "QPTIFF, level 1": (qptiff, 1.0, SlideOptions()),
    "stack of ImageJ": (stack_of_imagej, 0.5, SlideOptions()),
    "PNG of 16 bits, resolution unknown": (png_of_16_bits, None, SlideOptions()),
    "PNG of 16 bits, shrunk": (png_of_16_bits, 1.37, SlideOptions(scale=(0, 9000))),
    "JPEG": (jpeg, None, SlideOptions()),
    "plain TIFF of five pages": (pages_of_a_plain_tiff, None, SlideOptions()),
    "plain TIFF, pages are planes": (
        pages_of_a_plain_tiff,
        None,
        SlideOptions(stack=StackOptions("max", pages="planes")),
    ),
    "OME-Zarr 0.5": (zarr_of_five("0.5"), 0.5, SlideOptions()),
    "OME-Zarr 0.4, shrunk 1.2 times": (zarr_of_five("0.4"), 0.6, SlideOptions()),
    "OME-Zarr, five axes": (zarr_with_planes, 1.0, SlideOptions()),
    "OME-Zarr, mean of planes": (zarr_with_planes, 0.5, SlideOptions(stack=StackOptions("mean"))),
    "OME-Zarr, a broken chunk": (zarr_with_a_broken_chunk, 0.5, SlideOptions()),
}


@pytest.fixture(scope="module", params=CHANNELS.values(), ids=CHANNELS.keys())
def of_channels(request, tmp_path_factory):
    make, mpp, options = request.param
    source = open_source(make(tmp_path_factory.mktemp("channels")), mpp=mpp, slide=options)
    yield source
    source.close()


class TestChannels(SourceConformance):
    @pytest.fixture
    def source(self, of_channels):
        return of_channels


def test_slides_are_known_by_what_their_scanners_write(tmp_path):
    for make, vendor in ((generic_slide, "generic-tiff"), (aperio, "aperio"), (leica, "leica")):
        (tmp_path / vendor).mkdir()
        with openslide.OpenSlide(make(tmp_path / vendor)) as opened:
            assert opened.properties[openslide.PROPERTY_NAME_VENDOR] == vendor


KINDS = {
    "uint16 with nodata": (uint16_with_nodata, {"bands": (4, 2, 1)}),
    "all bands": (uint16_with_nodata, {"all_bands": True}),
    "all bands, shrunk": (uint16_with_nodata, {"all_bands": True, "res": 14.0}),
    "uint16 shrunk 1.37 times": (uint16_with_nodata, {"res": 13.7}),
    "uint16 enlarged": (uint16_with_nodata, {"res": 6.1}),
    "mask and overviews": (masked_with_overviews, {}),
    "mask and overviews at half": (masked_with_overviews, {"res": 20.0}),
    "mask and overviews at 2.9": (masked_with_overviews, {"res": 29.0}),
    "float strips with NaN": (floats_in_strips, {}),
    "a broken tile": (with_a_broken_tile, {}),
    "a broken tile, shrunk": (with_a_broken_tile, {"res": 16.0}),
    "rotated": (rotated, {}),
    "rotated and shrunk": (rotated, {"res": 17.0}),
    "palette": (palette, {}),
    "control points only": (control_points_only, {}),
    "another CRS": (uint16_with_nodata, {"crs": "EPSG:4326"}),
    "VRT": (described, {}),
    "VRT, shrunk": (described, {"res": 23.0}),
    "mosaic": (tiles_of_a_mosaic, {}),
    "mosaic, shrunk": (tiles_of_a_mosaic, {"res": 27.0}),
    "two UTM zones": (two_zones, {}),
    "two UTM zones, best valid": (two_zones, {"pick": "best", "res": 41.0}),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def opened(request, tmp_path_factory):
    make, options = request.param
    source = open_source(make(tmp_path_factory.mktemp("raster")), raster=RasterOptions(**options))
    yield source
    source.close()


class TestRaster(SourceConformance):
    @pytest.fixture
    def source(self, opened):
        return opened


class TestRasterCutToAnArea(SourceConformance):
    @pytest.fixture(params=[None, 17.0])
    def source(self, request, tmp_path):
        x, y = ORIGIN
        triangle = [[x + 713, y - 3501], [x + 4402, y - 404], [x + 6000, y - 5000], [x + 713, y - 3501]]
        area = {
            "type": "FeatureCollection",
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}},
            "features": [
                {
                    "type": "Feature",
                    "properties": {},
                    "geometry": {"type": "Polygon", "coordinates": [triangle]},
                }
            ],
        }
        (tmp_path / "area.geojson").write_text(json.dumps(area))
        options = RasterOptions(aoi=str(tmp_path / "area.geojson"), res=request.param)
        source = open_source(uint16_with_nodata(tmp_path), raster=options)
        yield source
        source.close()
