"""What is tried: the right files of each kind, what is done to them, and what Fewscope does with them."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sqlite3
import struct
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from hypothesis import strategies as st
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.source import Source
from fewscope.connectors.support.load import load_support
from tests.fuzz.documents import odd_json, odd_tree, squeezed
from tests.fuzz.harness import Case, Kind
from tests.fuzz.mutations import ODD_NUMBERS, damaged, damaged_tiff, tiff_entries
from tests.helpers import fakes
from tests.helpers.rasters import UTM18, north_up, waves, write_raster

SIDE = 320
Options = dict[str, Any]


@functools.cache
def workplace() -> Path:
    """A folder of right files, for as long as this process lives."""
    folder = tempfile.TemporaryDirectory(prefix="fewscope-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[Any] = []


def use_source(source: Source) -> None:
    """Read what a job reads: an overview, and windows at both ends."""
    try:
        source.overview(64)
        height, width = source.info.height, source.info.width
        source.read(Window(0, 0, min(64, width), min(64, height)))
        source.read(Window(max(0, width - 64), max(0, height - 64), 70, 70))
        source.unreadable()
    finally:
        source.close()


# --- slides ---------------------------------------------------------------------------------------------


@functools.cache
def slide_bytes(compress: str) -> bytes:
    path = workplace() / f"{compress}.tif"
    from fewscope.connectors.slides.pyramid_tiff import write_pyramid

    write_pyramid(path, fakes.picture(SIDE, SIDE), fakes.MPP, tile=128, overviews=[2], compress=compress)  # type: ignore[arg-type]
    return path.read_bytes()


@st.composite
def huge_tiles(draw: st.DrawFn, data: bytes) -> bytes:
    """A TIFF that states a huge tile, or a huge picture, and holds a few bytes of it."""
    copy = bytearray(data)
    tags = draw(st.sampled_from(((322, 323), (256, 257, 322, 323), (256, 257), (257,), (322,))))
    # without huge tiles, a picture of 100,000 px is a right one, which takes minutes to read
    side = draw(st.sampled_from((16_384, 59_904, 99_840, 2**31 - 16) if 322 in tags else (8192, 2**31 - 16)))
    for tag, place in tiff_entries(data):
        if tag in tags:
            struct.pack_into("<HII", copy, place + 2, 4, 1, side)
    return bytes(copy)


@st.composite
def slides(draw: st.DrawFn) -> Case:
    data = slide_bytes(draw(st.sampled_from(("deflate", "jpeg"))))
    data = draw(st.one_of(damaged(data), damaged_tiff(data), damaged_tiff(data), huge_tiles(data)))
    entry = draw(st.sampled_from(("slide.tif", "a slide ä.svs", "x.ndpi")))
    return Case({entry: data}, entry, {"slide_mpp": draw(st.sampled_from((None, 0.5)))})


def use_slide(path: Path, options: Options) -> None:
    use_source(open_source(str(path), mpp=0.5, slide_mpp=options["slide_mpp"]))


# --- rasters --------------------------------------------------------------------------------------------

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


# --- annotations ----------------------------------------------------------------------------------------


@functools.cache
def right_slide() -> Source:
    path = workplace() / "right-slide.tif"
    return open_source(fakes.write_slide(path, fakes.picture(SIDE, SIDE)), mpp=fakes.MPP)


@functools.cache
def right_raster() -> Source:
    path = workplace() / "right-raster.tif"
    path.write_bytes(raster_bytes())
    return open_source(str(path), raster=RasterOptions())


def _feature(shape: Any, name: str) -> dict[str, Any]:
    return {
        "type": "Feature",
        "id": f"{name}-{int(shape.area)}",
        "geometry": json.loads(shapely.to_geojson(shape)),
        "properties": {"objectType": "annotation", "classification": {"name": name, "color": [1, 2, 3]}},
    }


def qupath() -> dict[str, Any]:
    """A region and three objects, in pixels, as QuPath writes them."""
    circle = shapely.Point(100, 100).buffer(20, 3)
    ring = shapely.Polygon(shapely.box(140, 60, 190, 110).exterior, [shapely.box(150, 70, 170, 90).exterior])
    two = shapely.MultiPolygon([shapely.box(60, 150, 80, 170), shapely.box(90, 150, 110, 170)])
    features = [_feature(shapely.box(40, 40, 240, 240), "Region*")]
    features += [_feature(shape, "nucleus") for shape in (circle, ring, two)]
    cell = _feature(shapely.box(200, 200, 220, 220), "nucleus")
    cell["nucleusGeometry"] = json.loads(shapely.to_geojson(shapely.box(205, 205, 215, 215)))
    cell["properties"]["objectType"] = "cell"
    return {"type": "FeatureCollection", "features": [*features, cell]}


def on_map() -> dict[str, Any]:
    """The same in metres, as QGIS writes it, with the CRS in the file."""
    place = north_up()
    features = []
    for feature in qupath()["features"]:
        shape = shapely.from_geojson(json.dumps(feature["geometry"]))
        moved = shapely.affinity.affine_transform(
            shape, [place.a, place.b, place.d, place.e, place.c, place.f]
        )
        name = feature["properties"]["classification"]["name"]
        features.append(_feature(moved, name) | {"properties": {"class": name.rstrip("*"), "number": 3}})
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    return {"type": "FeatureCollection", "crs": crs, "features": features}


NAMES = ((), (), ("nucleus",), ("nucleus", "other"))


@st.composite
def annotations(draw: st.DrawFn) -> Case:
    data = draw(odd_json(qupath()))
    if draw(st.integers(0, 7)) == 0:
        squeezed_data = squeezed(data)
        data = draw(damaged(squeezed_data)) if draw(st.booleans()) else squeezed_data
        return Case({"labels.geojson.gz": data}, "labels.geojson.gz", {"class_names": ()})
    entry = draw(st.sampled_from(("labels.geojson", "a b ä.json")))
    return Case({entry: data}, entry, {"class_names": draw(st.sampled_from(NAMES))})


def use_annotations(path: Path, options: Options) -> None:
    load_support(str(path), source=right_slide(), **options)


@st.composite
def map_annotations(draw: st.DrawFn) -> Case:
    data = draw(odd_json(on_map()))
    options = {"as": draw(st.sampled_from(("support", "aoi"))), "class_names": draw(st.sampled_from(NAMES))}
    return Case({"labels.geojson": data}, "labels.geojson", options)


def use_map_annotations(path: Path, options: Options) -> None:
    if options["as"] == "aoi":
        use_source(open_source(right_raster().info.uri, raster=RasterOptions(aoi=str(path))))
    else:
        load_support(str(path), source=right_raster(), class_names=options["class_names"])


@functools.cache
def geopackage() -> bytes:
    path = workplace() / "right.gpkg"
    features = on_map()["features"]
    shapes = [shapely.to_wkb(shapely.from_geojson(json.dumps(one["geometry"]))) for one in features]
    names = np.array([one["properties"]["class"] for one in features], object)
    pyogrio.raw.write(
        path, np.array(shapes, object), [names], ["class"], layer="labels", driver="GPKG",
        geometry_type="Unknown", crs=UTM18, SPATIAL_INDEX="NO",
    )  # fmt: skip
    return path.read_bytes()


STATEMENTS = (
    "UPDATE labels SET geom = NULL",
    "UPDATE labels SET geom = x'00'",
    "UPDATE labels SET geom = zeroblob(1000) WHERE fid = 2",
    "UPDATE labels SET geom = substr(geom, 1, 40) WHERE fid > 1",
    "UPDATE labels SET class = NULL",
    "UPDATE labels SET class = x'ff00ff' WHERE fid = 2",
    "UPDATE labels SET class = 3.5",
    "UPDATE labels SET class = 'a' || char(10) || 'b' || char(27) WHERE fid > 1",
    "UPDATE labels SET class = 'Region'",
    "UPDATE gpkg_geometry_columns SET srs_id = 4326",
    "UPDATE gpkg_geometry_columns SET srs_id = -77",
    "UPDATE gpkg_geometry_columns SET column_name = 'other'",
    "UPDATE gpkg_geometry_columns SET geometry_type_name = 'POINT'",
    "UPDATE gpkg_contents SET data_type = 'tiles'",
    "UPDATE gpkg_contents SET table_name = 'none'",
    "UPDATE gpkg_spatial_ref_sys SET definition = 'x' WHERE srs_id = 32618",
    "DELETE FROM labels",
    "DELETE FROM gpkg_contents",
    "DROP TABLE gpkg_geometry_columns",
    'ALTER TABLE labels RENAME COLUMN class TO "a\'b"',
)


@st.composite
def geopackages(draw: st.DrawFn) -> Case:
    data = geopackage()
    if draw(st.booleans()):
        data = draw(damaged(data))
    else:
        with sqlite3.connect(":memory:") as base:
            base.deserialize(data)
            base.execute("PRAGMA writable_schema = ON")
            for (trigger,) in base.execute(
                "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            ).fetchall():
                base.execute(f'DROP TRIGGER "{trigger}"')  # they call functions that only GDAL has
            for statement in draw(st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=3)):
                try:
                    base.execute(statement)
                except sqlite3.Error:  # the statement before removed what this one changes
                    continue
            base.commit()
            data = base.serialize()
        base.close()
    options = {"as": draw(st.sampled_from(("support", "aoi"))), "class_names": draw(st.sampled_from(NAMES))}
    return Case({"labels.gpkg": data}, "labels.gpkg", options)


# --- folders of pictures --------------------------------------------------------------------------------

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16", "CMYK", "YCbCr", "LAB", "F", "HSV")
SIZES = ((224, 224), (224, 224), (224, 224), (1, 1), (223, 225), (100, 300), (448, 448), (1, 5000))


def _picture(mode: str, size: tuple[int, int], seed: int, file_format: str) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 2, (size[1], size[0]), np.uint8) * 255
    picture = Image.fromarray(noise)
    if mode == "LAB":
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    try:
        converted = Image.new(mode, size) if mode in ("LAB", "HSV") else picture.convert(mode)
        converted.save(buffer, format=file_format)
    except (OSError, ValueError, KeyError):  # a mode that the format does not have
        buffer = io.BytesIO()
        picture.convert("L").save(buffer, format=file_format)
    return buffer.getvalue()


def png_bomb(width: int, height: int, bits: int, colour: int) -> bytes:
    """A PNG that states a size and holds a few kilobytes of its rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    rows = zlib.compress(bytes(4_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@st.composite
def pictures(draw: st.DrawFn, seed: int) -> bytes:
    mode, size = draw(st.sampled_from(MODES)), draw(st.sampled_from(SIZES))
    match draw(st.integers(0, 6)):
        case 0:
            sides = draw(st.sampled_from(((60_000, 60_000), (2**31 - 1, 1), (0, 0), (13_000, 13_000))))
            return png_bomb(*sides, *draw(st.sampled_from(((8, 2), (1, 0), (16, 6), (8, 3)))))
        case 1:
            return draw(damaged(_picture(mode, size, seed, "PNG")))
        case 2:
            return _picture(mode, size, seed, draw(st.sampled_from(("TIFF", "JPEG", "BMP", "GIF"))))
    return _picture(mode, size, seed, "PNG")


@st.composite
def folders(draw: st.DrawFn) -> Case:
    right_image, right_label = _picture("RGB", (224, 224), 1, "PNG"), _picture("L", (224, 224), 2, "PNG")
    files = {"patches/image/a.png": right_image, "patches/label/a.png": right_label}
    files |= {"patches/image/b.png": right_image, "patches/label/b.png": right_label}
    stated = {"mpp": 0.5, "class": "nucleus", "classes": ["nucleus", "vessel"]}
    if draw(st.booleans()):
        del stated["class" if draw(st.booleans()) else "classes"]
        files["patches/support.json"] = json.dumps(stated).encode()
    if draw(st.integers(0, 3)) == 0:
        files["patches/support.json"] = draw(odd_json(stated))
    for _ in range(draw(st.integers(1, 2))):
        name = draw(
            st.sampled_from(("label/a.png", "label/a.png", "image/a.png", "label/a.inst.png", "label/c.png"))
        )
        files[f"patches/{name}"] = draw(pictures(draw(st.integers(0, 3))))
    return Case(files, "patches", {"class_names": draw(st.sampled_from(NAMES))})


def use_folder(path: Path, options: Options) -> None:
    load_support(str(path), **options)


# --- weights --------------------------------------------------------------------------------------------


@functools.cache
def weights_bytes() -> bytes:
    from fewscope.model.weights import SHIPPED

    return (SHIPPED / "compact.safetensors").read_bytes()


@st.composite
def weights(draw: st.DrawFn) -> Case:
    data = weights_bytes()
    (size,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    match draw(st.integers(0, 3)):
        case 0:
            data = draw(damaged(data))
        case 1:
            text = draw(odd_json(header))
            data = struct.pack("<Q", len(text)) + text + body
        case 2:
            text = json.dumps(draw(odd_tree(header)), default=str).encode()
            data = struct.pack("<Q", draw(st.sampled_from((len(text), *ODD_NUMBERS, 2**63)))) + text + body
        case 3:
            place = 8 + size + 4 * draw(st.integers(0, len(body) // 4 - 1))
            odd = struct.pack("<f", draw(st.sampled_from((float("nan"), float("inf"), 1e38))))
            data = data[:place] + odd + data[place + 4 :]
    return Case({"net.safetensors": data}, "net.safetensors")


def use_weights(path: Path, _options: Options) -> None:
    from fewscope.model.segmenter import load_segmenter

    load_segmenter("compact", str(path))


# --- what runs leave ------------------------------------------------------------------------------------

STATE_SIDE, STATE_UNIT = 256, 128


@functools.cache
def state() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files of a folder whose units are done; and what the finished run must hold, in bytes."""
    import fewscope.pipeline.run

    folder = workplace() / "state"
    number = fewscope.pipeline.run.number_instances
    fewscope.pipeline.run.number_instances = _stop
    try:
        _segment(folder / "out")
    except KeyboardInterrupt:
        pass
    finally:
        fewscope.pipeline.run.number_instances = number
    files = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    _segment(folder / "out")
    return files, fakes.outputs(folder / "out")


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


def _segment(out: Path) -> None:
    import fewscope.pipeline.report.builder
    from fewscope.pipeline.config import SegmentConfig
    from fewscope.pipeline.execution.pool import LocalPool
    from fewscope.pipeline.run import segment

    draw, fewscope.pipeline.report.builder.draw = fewscope.pipeline.report.builder.draw, fakes.no_pictures
    try:
        slide, support = _state_inputs()
        config = SegmentConfig(
            slide, support, str(out), shard=STATE_UNIT, threshold=0.5, instances="components"
        )
        with LocalPool(fakes.ByColour) as pool:
            segment(config, pool, fakes.ByColour())
    finally:
        fewscope.pipeline.report.builder.draw = draw


@functools.cache
def _state_inputs() -> tuple[str, str]:
    slide = fakes.write_slide(workplace() / "state-slide.tif", fakes.picture(STATE_SIDE, STATE_SIDE))
    return slide, fakes.write_support(workplace() / "state-support")


@st.composite
def states(draw: st.DrawFn) -> Case:
    """One to three files of an interrupted run damaged, emptied, lost, or exchanged with another of its kind."""
    files = dict(state()[0])
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(files)))
        match draw(st.sampled_from(("damage", "damage", "damage", "lose", "empty", "swap", "json"))):
            case "damage":
                files[name] = draw(damaged(files[name]))
            case "lose":
                del files[name]
            case "empty":
                files[name] = b""
            case "swap":
                other = draw(st.sampled_from([one for one in sorted(files) if one[-4:] == name[-4:]]))
                files[name], files[other] = files[other], files[name]
            case "json" if name.endswith(".json"):
                with contextlib.suppress(ValueError):  # damaged before
                    files[name] = draw(odd_json(json.loads(files[name])))
    return Case(files, "out")


def use_state(path: Path, _options: Options) -> None:
    """The same command again: the same bytes as a run that was never stopped, or one line."""
    _segment(path)
    found, expected = fakes.outputs(path), state()[1]
    different = sorted(
        name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
    )
    assert not different, f"a silently different result: {', '.join(different[:5])}"


KINDS = (
    Kind("slides", slides, use_slide, 120),
    Kind("made-rasters", made_rasters, use_raster, 60),
    Kind("rasters", damaged_rasters, use_raster, 80),
    Kind("vrt", vrts, use_raster, 60),
    Kind("stac", stac, use_raster, 60),
    Kind("annotations", annotations, use_annotations, 120),
    Kind("map-annotations", map_annotations, use_map_annotations, 60),
    Kind("geopackages", geopackages, use_map_annotations, 40),
    Kind("folders", folders, use_folder, 60),
    Kind("weights", weights, use_weights, 12),
    Kind("saved-state", states, use_state, 4),
)
"""One row of the table each."""
