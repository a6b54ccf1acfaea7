"""Support sets and areas of interest in every vector format; classes by layer and by column."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest
import shapely
from shapely.geometry import box

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.support.load import is_annotations, load_support
from fewscope.connectors.vectors.layers import GEOMETRY, geometry_field, geoparquet_schema
from fewscope.errors import SourceError, SupportError
from tests.helpers.rasters import ORIGIN, UTM18, north_up, waves, write_raster

X, Y = ORIGIN


def ground(left: float, top: float, right: float, bottom: float) -> shapely.Polygon:
    """A rectangle in UTM 18, given in pixels (10 m) of the raster."""
    return box(X + 10 * left, Y - 10 * bottom, X + 10 * right, Y - 10 * top)


REGION, NORTH, WATER, TOWN = (
    ground(20, 20, 220, 220), ground(230, 20, 290, 220), ground(50, 50, 100, 80), ground(120, 120, 140, 150),
)  # fmt: skip
LAKE = ground(240, 40, 270, 100)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write_raster(path, waves(300, 300).astype(np.uint8), north_up())


@pytest.fixture(scope="module")
def source(scene):
    return open_source(scene, raster=RasterOptions())


def write(path: Path, drawn, column="class", driver=None, layer=None, crs=UTM18, append=False) -> str:
    """Write (geometry, class) pairs; geometries may be None."""
    shapes = np.array([None if g is None else shapely.to_wkb(g) for g, _ in drawn], object)
    columns = [np.array([name for _, name in drawn], object)] if column else []
    pyogrio.raw.write(
        str(path), shapes, columns, [column] if column else [], driver=driver, layer=layer, crs=crs,
        geometry_type="Unknown", append=append,
    )  # fmt: skip
    return str(path)


DRAWN = [(REGION, "Region"), (WATER, "water")]
FORMATS = {
    "a.gpkg": "GPKG", "a.geojson": "GeoJSON", "a.fgb": "FlatGeobuf", "a.kml": "KML", "a.gml": "GML",
    "a.sqlite": "SQLite", "a.geojsonl": "GeoJSONSeq", "a.tab": "MapInfo File", "a.jml": "JML", "a.gmt": "OGR_GMT",
}  # fmt: skip


def geoparquet(path: Path) -> str:
    schema = geoparquet_schema(
        pa.schema([geometry_field(), pa.field("class", pa.string())]), "Polygon", UTM18
    )
    columns = {GEOMETRY: [shapely.to_wkb(g) for g, _ in DRAWN], "class": [name for _, name in DRAWN]}
    pq.write_table(pa.table(columns, schema), path)
    return str(path)


def zipped_shapefile(path: Path, folder: str = "") -> str:
    inside = path.parent / "shapes" / folder
    inside.mkdir(parents=True)
    shapefile(inside / "a.shp")
    return shutil.make_archive(str(path.with_suffix("")), "zip", path.parent / "shapes")


def shapefile(path: Path, column="class") -> str:
    shapes = np.array([shapely.to_wkb(g) for g, _ in DRAWN], object)
    names = np.array([name for _, name in DRAWN], object)
    pyogrio.raw.write(
        str(path), shapes, [names], [column], driver="ESRI Shapefile", geometry_type="Polygon", crs=UTM18
    )
    return str(path)


def file_geodatabase(path: Path) -> str:
    shapes = np.array([shapely.to_wkb(g) for g, _ in DRAWN], object)
    names = np.array([name for _, name in DRAWN], object)
    pyogrio.raw.write(
        str(path), shapes, [names], ["class"], driver="OpenFileGDB", geometry_type="Polygon", crs=UTM18
    )
    return str(path)


def compressed(path: Path) -> str:
    plain = write(path.parent / "plain.geojson", DRAWN, driver="GeoJSON")
    path.write_bytes(gzip.compress(Path(plain).read_bytes()))
    return str(path)


MAKERS = {name: lambda path, d=driver: write(path, DRAWN, driver=d) for name, driver in FORMATS.items()} | {
    "a.shp": shapefile,
    "a.zip": zipped_shapefile,
    "deep.zip": lambda path: zipped_shapefile(path, "folder/of/it"),
    "a.parquet": geoparquet,
    "a.gdb": file_geodatabase,
    "a.geojson.gz": compressed,
}


@pytest.mark.filterwarnings("ignore")  # what GDAL remarks on while it writes
@pytest.mark.parametrize(("name", "make"), MAKERS.items(), ids=MAKERS.keys())
def test_every_format_is_a_support_set_and_an_area(tmp_path, scene, source, name, make):
    path = make(tmp_path / name)
    support = load_support(path, source=source)
    assert support.class_names == ("water",)
    assert (support.labels == 1).sum() == pytest.approx(
        50 * 30, abs=50 if "json" in name or "kml" in name else 0
    )
    info = open_source(scene, raster=RasterOptions(aoi=path)).info
    assert (info.height, info.width) == pytest.approx((200, 200), abs=2)


def test_a_folder_of_pairs_is_no_vector_file():
    assert not is_annotations("patches/")
    assert not is_annotations("s3://bucket/nuclei")
    assert is_annotations("a.GDB/")


@pytest.mark.parametrize(
    ("column", "source_said"),
    [
        ("class", ""),
        ("classification", ""),
        ("class_name", ""),
        ("Class Name", ""),
        ("category", "'category'"),
    ],
)
def test_a_shapefile_cuts_the_names_of_its_columns(tmp_path, source, column, source_said):
    with pytest.warns(RuntimeWarning) if len(column) > 10 else pytest.MonkeyPatch.context():
        path = shapefile(tmp_path / "a.shp", column)
    support = load_support(path, source=source)
    assert support.class_names == ("water",)
    assert source_said in "".join(support.assumptions)
    assert bool(source_said) == bool(support.assumptions)


def layered(path: Path, column=None, regions=None, water="water", names=("Rio Ucayali", "Laguna")) -> str:
    """Two regions in one layer, two areas of water in another, with columns of their own."""
    write(path, [(REGION, regions and "north"), (NORTH, regions and "south")], regions, "GPKG", "regions")
    drawn = [(WATER, names[0]), (LAKE, names[1])]
    return write(path, drawn, column, "GPKG", water, append=True)


@pytest.mark.parametrize("column", [None, "name", "type", "label", "class", "classification"])
@pytest.mark.parametrize("regions", [None, "name"])
def test_layers_named_after_their_content_come_before_columns(tmp_path, source, column, regions):
    support = load_support(layered(tmp_path / "a.gpkg", column, regions), source=source)
    assert support.class_names == ("water",)
    assert (support.labels == 1).sum() == 50 * 30 + 30 * 60
    said = " ".join(support.assumptions)
    assert (f"'water', not from its column {column!r} (2 polygons)" in said) == (column is not None)
    assert ("'regions', not from its column 'name'" in said) == (regions is not None)


def test_a_layer_with_a_plain_name_leaves_the_class_to_its_column(tmp_path, source):
    path = layered(tmp_path / "a.gpkg", "class", water="objects", names=("water", "town"))
    assert load_support(path, source=source).class_names == ("town", "water")
    plain = layered(tmp_path / "b.gpkg", None, water="objects")
    assert load_support(plain, source=source).class_names == ("objects",)


def test_a_class_that_is_asked_for_may_be_a_layer(tmp_path, source):
    path = str(tmp_path / "a.gpkg")
    write(Path(path), [(REGION, "Region"), (NORTH, "Region")], "class", "GPKG", "drawn")
    write(Path(path), [(WATER, "Rio"), (LAKE, "Laguna")], "class", "GPKG", "water", append=True)
    assert load_support(path, source=source).class_names == ("Laguna", "Rio")
    assert load_support(path, source=source, class_names=("water",)).class_names == ("water",)


def test_areas_to_ignore_may_have_a_layer(tmp_path, source):
    path = layered(tmp_path / "a.gpkg", "name")
    plain = load_support(path, source=source)
    write(Path(path), [(ground(20, 20, 70, 220), "cloud")], "class", "GPKG", "Ignore", append=True)
    ignoring = load_support(path, source=source)
    assert (plain.labels != 255).sum() - (ignoring.labels != 255).sum() == 50 * 200
    assert ignoring.class_names == ("water",)


def test_a_single_layer_named_regions_is_no_role(tmp_path, source):
    """A GeoJSON's layer is named after its file."""
    path = write(tmp_path / "regions.geojson", DRAWN, driver="GeoJSON")
    assert load_support(path, source=source).class_names == ("water",)


def test_one_feature_without_an_area_is_left_out_and_counted(tmp_path, scene, source):
    line = shapely.LineString([(X + 500, Y - 500), (X + 900, Y - 900)])
    drawn = [*DRAWN, (line, "water"), (shapely.Point(X + 500, Y - 500), "well"), (None, "water")]
    path = write(tmp_path / "a.gpkg", drawn, driver="GPKG")
    support = load_support(path, source=source)
    assert support.class_names == ("water",)
    assert (support.labels == 1).sum() == 50 * 30
    (note,) = support.notes
    assert "3 features left out: object (feature 3) is a LineString without an area" in note
    assert "(feature 5) has no geometry" in note
    info = open_source(scene, raster=RasterOptions(aoi=path)).info
    assert (info.height, info.width) == (200, 200)
    assert any(
        "a LineString (feature 3), a Point (feature 4), a feature without" in said for said in info.notes
    )


def test_points_without_a_region_are_refused(tmp_path, scene, source):
    path = write(tmp_path / "a.gpkg", [(shapely.Point(X + 500, Y - 500), "water")], driver="GPKG")
    with pytest.raises(SupportError, match="marked by points, and no region"):
        load_support(path, source=source)
    with pytest.raises(SourceError, match="holds no polygon"):
        open_source(scene, raster=RasterOptions(aoi=path))


def test_many_classes_name_the_column_that_they_come_from(tmp_path, source):
    drawn = [(ground(20 + i, 20, 20.9 + i, 40), f"Lake {i}") for i in range(40)]
    path = write(tmp_path / "a.gpkg", [(REGION, "Region"), *drawn], "name", "GPKG")
    with pytest.raises(SupportError, match=r"40 classes \(Lake 0, Lake 1.*the column 'name'"):
        load_support(path, source=source)


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("a.zip", b"no archive", "ZIP"),
        ("a.parquet", b"PAR1 no table", "GeoParquet"),
        ("a.kml", b"<kml", "cannot be read as polygons"),
        ("a.gml", b"", "cannot be read as polygons"),
        ("a.geojson.gz", b"\x1f\x8b\x08no", "cannot be read as polygons"),
    ],
)
def test_damaged_files_are_refused_in_one_line(tmp_path, scene, source, name, content, word):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SupportError, match=word) as error:
        load_support(str(path), source=source)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(SourceError, match=word):
        open_source(scene, raster=RasterOptions(aoi=str(path)))


def test_a_parquet_file_that_is_no_geoparquet(tmp_path, source):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(SupportError, match="cannot be read as GeoParquet"):
        load_support(str(tmp_path / "a.parquet"), source=source)
    schema = geoparquet_schema(pa.schema([geometry_field()]), "Polygon", None)
    pq.write_table(pa.table({GEOMETRY: [shapely.to_wkb(REGION)]}, schema), tmp_path / "b.parquet")
    with pytest.raises(SupportError, match="states no CRS"):
        load_support(str(tmp_path / "b.parquet"), source=source)


REFERRING = "<OGRVRTDataSource><OGRVRTLayer name='a'><SrcDataSource>{}</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.vrt.gz", "a.zip"])
def test_files_that_refer_to_others_are_refused(tmp_path, scene, name):
    """Under any name: GDAL knows them by their content."""
    other = write(tmp_path / "other.gpkg", DRAWN, driver="GPKG")
    text = REFERRING.format(other).encode()
    path = tmp_path / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.gpkg", text)
    else:
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with pytest.raises(SourceError, match="refers to other files") as error:
        open_source(scene, raster=RasterOptions(aoi=str(path)))
    assert str(path) in str(error.value)


def test_small_files_that_unpack_to_large_ones_are_refused(tmp_path, scene, monkeypatch):
    monkeypatch.setattr("fewscope.connectors.vectors.polygon_files.MAX_UNPACKED_BYTES", 2**20)
    (tmp_path / "a.geojson.gz").write_bytes(gzip.compress(bytes(2**21)))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.geojson", bytes(2**21))
    for name in ("a.geojson.gz", "a.zip"):
        with pytest.raises(SourceError, match="unpacks to more than 1 MiB"):
            open_source(scene, raster=RasterOptions(aoi=str(tmp_path / name)))
