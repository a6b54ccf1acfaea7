"""Rasters, VRTs and STAC items that are damaged or hostile."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from tests.fuzz.documents import odd_json
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged, damaged_tiff
from tests.fuzz.slides import huge_tiles
from tests.fuzz.workplace import SIDE, Options, use_source, workplace
from tests.helpers.rasters import UTM18, north_up, waves, write_raster

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "uint64", "complex64")
TRANSFORMS = (
    north_up(),
    Affine(10, 0, 5e5, 0, 10, 4e6),  # south up
    Affine(7, 7, 5e5, 7, -7, 4e6),
    Affine(0, 0, 0, 0, 0, 0),
    Affine(1e-12, 0, 0, 0, -1e-12, 0),
    Affine(1e12, 0, 0, 0, -1e12, 0),
    Affine(10, 0, 5e5, 0, 0, 4e6),
    Affine(0.1, 0, -179.9, 0, -0.1, 89.9),
    Affine(10, 0, 1e30, 0, -10, -1e30),
    None,
)
CRSS = (UTM18, "EPSG:4326", "EPSG:3857", "EPSG:3031", "EPSG:4978", "EPSG:5703", "+proj=ortho +lat_0=40", None)


@st.composite
def made_rasters(draw: st.DrawFn) -> Case:
    """Right GeoTIFFs of every type, size, place and nodata; hostile values in the pixels."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    n_bands = draw(st.sampled_from((1, 1, 2, 3, 3, 4, 5, 13)))
    height, width = draw(st.sampled_from(((40, 30), (1, 1), (1, 200), (200, 1), (130, 129), (3, 5))))
    values = waves(height, width, n_bands, 100).astype(dtype)
    match draw(st.integers(0, 4)):
        case 0:
            values[...] = 0
        case 1 if dtype.kind in "fc":
            values[..., ::2] = draw(st.sampled_from((np.nan, np.inf, -np.inf, 3e38)))
        case 2 if dtype.kind in "iu":
            values[..., ::2] = np.iinfo(dtype).max
            values[..., 1::2] = np.iinfo(dtype).min
    profile: dict[str, Any] = {"tiled": False, "blockxsize": None, "blockysize": None}
    nodata = draw(st.sampled_from((None, None, 0, 255, -9999, float("nan"), 1e300, 0.5)))
    mask = draw(
        st.sampled_from((None, None, np.zeros((height, width), bool), np.ones((height, width), bool)))
    )
    path = workplace() / "made.tif"
    path.unlink(missing_ok=True)
    chosen: dict[str, Any] = {
        "transform": draw(st.sampled_from(TRANSFORMS)),
        "crs": draw(st.sampled_from(CRSS)),
        "mask": mask,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            write_raster(path, values, nodata=nodata, **chosen, **profile)
        except (
            ValueError,
            rasterio.errors.RasterioError,
            OverflowError,
        ):  # a nodata value out of the type's range
            path.unlink(missing_ok=True)
            write_raster(path, values, **chosen, **profile)
    return Case({"raster.tif": path.read_bytes()}, "raster.tif", draw(raster_options()))


@st.composite
def raster_options(draw: st.DrawFn) -> Options:
    return draw(
        st.sampled_from(
            (
                {},
                {},
                {"bands": (1,)},
                {"bands": (3, 2, 1)},
                {"bands": (1, 1, 99)},
                {"scale": (0.0, 1.0)},
                {"scale": (0.0, 1e300)},
                {"keep_ratios": True},
                {"res": 20.0},
                {"res": 1e-3},
                {"res": 1e9},
                {"crs": "EPSG:3857"},
                {"crs": "EPSG:99999"},
                {"nodata": 0.0},
                {"nodata": "file"},
                {"bbox": (-75.0, 40.0, -74.9, 40.7)},
                {"bbox": (-1e300, -1e300, 1e300, 1e300)},
            )
        )
    )


def use_raster(path: Path, options: Options) -> None:
    use_source(open_source(str(path), raster=RasterOptions(**options)))


@functools.cache
def raster_bytes() -> bytes:
    path = workplace() / "right.tif"
    values = waves(SIDE, SIDE).astype(np.uint8)
    write_raster(path, values, north_up(), nodata=0, overviews=(2,), compress="lzw")
    return path.read_bytes()


@st.composite
def damaged_rasters(draw: st.DrawFn) -> Case:
    data = raster_bytes()
    data = draw(st.one_of(damaged(data), damaged_tiff(data), damaged_tiff(data), huge_tiles(data), one_gcp()))
    return Case({"raster.tif": data}, "raster.tif", draw(raster_options()))


@st.composite
def one_gcp(draw: st.DrawFn) -> bytes:
    """A GeoTIFF that is placed by control points: too few, on one line, or all the same."""
    points = draw(st.lists(st.sampled_from(((0, 0), (0, 9), (9, 9), (5, 0))), min_size=1, max_size=5))
    gcps = [rasterio.control.GroundControlPoint(row, col, 5e5 + col, 4e6 - row) for row, col in points]
    path = workplace() / "gcp.tif"
    path.unlink(missing_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        profile = {"driver": "GTiff", "width": 10, "height": 10, "count": 1, "dtype": "uint8"}
        with rasterio.open(path, "w", **profile) as file:
            file.write(np.ones((1, 10, 10), np.uint8))
            file.gcps = (gcps, rasterio.crs.CRS.from_string(UTM18))
    return path.read_bytes()


VRT = """<VRTDataset rasterXSize="320" rasterYSize="320"><SRS>EPSG:32618</SRS>
<GeoTransform>500000, 10, 0, 4500000, 0, -10</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><NoDataValue>0</NoDataValue><SimpleSource>
<SourceFilename relativeToVRT="1">right.tif</SourceFilename><SourceBand>1</SourceBand>
<SourceProperties RasterXSize="320" RasterYSize="320" DataType="Byte" BlockXSize="128" BlockYSize="128"/>
<SrcRect xOff="0" yOff="0" xSize="320" ySize="320"/><DstRect xOff="0" yOff="0" xSize="320" ySize="320"/>
</SimpleSource></VRTRasterBand></VRTDataset>"""


@st.composite
def vrts(draw: st.DrawFn) -> Case:
    """VRT texts: numbers, types and names changed; references to themselves, to nothing, to devices, to the network."""
    text = VRT
    for _ in range(draw(st.integers(1, 3))):
        old, new = draw(
            st.sampled_from(
                (
                    ("320", draw(st.sampled_from(("0", "-1", "1e9", "2147483647", "a", "")))),
                    ("Byte", draw(st.sampled_from(("Float64", "CFloat32", "Nothing", "UInt16")))),
                    (
                        "right.tif",
                        draw(st.sampled_from(("raster.vrt", "none.tif", "/dev/zero", "/etc/hostname"))),
                    ),
                    ("right.tif", "/vsicurl/http://127.0.0.1:1/a.tif"),
                    ("10, 0", draw(st.sampled_from(("nan, 0", "1e400, 0", "0, 0", "")))),
                    ("EPSG:32618", draw(st.sampled_from(("EPSG:0", "", "x" * 4000, "EPSG:4326")))),
                    (
                        "SimpleSource",
                        draw(st.sampled_from(("ComplexSource", "KernelFilteredSource", "Other"))),
                    ),
                    ('band="1"', 'band="1" subClass="VRTDerivedRasterBand"'),
                    ("<NoDataValue>0", "<PixelFunctionType>none</PixelFunctionType><NoDataValue>nan"),
                )
            )
        )
        text = text.replace(old, new)
    data = draw(damaged(text.encode())) if draw(st.booleans()) else text.encode()
    entry = draw(st.sampled_from(("raster.vrt", "raster.tif")))
    return Case({entry: data, "right.tif": raster_bytes()}, entry, {})


STAC = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "stac_version": "1.0.0",
            "id": "scene",
            "properties": {"datetime": "2024-01-01T00:00:00Z", "proj:epsg": 32618},
            "geometry": {"type": "Point", "coordinates": [-75, 40]},
            "assets": {"visual": {"href": "right.tif", "type": "image/tiff", "eo:bands": [{"name": "red"}]}},
        }
    ],
}


@st.composite
def stac(draw: st.DrawFn) -> Case:
    files = {"items.json": draw(odd_json(STAC)), "right.tif": raster_bytes()}
    return Case(files, "items.json", draw(st.sampled_from(({}, {"assets": ("visual",)}))))
