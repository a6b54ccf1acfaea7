"""Support sets drawn on maps: any vector format and CRS, burnt at the working grid."""

from __future__ import annotations

import json

import numpy as np
import pyogrio
import pytest
import shapely
from rasterio.features import shapes as trace
from rasterio.warp import transform as transform_points
from rasterio.windows import Window
from shapely.geometry import box, mapping, shape

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.support.load import load_support
from fewscope.errors import SupportError
from tests.helpers.rasters import ORIGIN, UTM18, north_up, waves, write_raster

X, Y = ORIGIN


def ground(left: float, top: float, right: float, bottom: float) -> shapely.Polygon:
    """A rectangle in UTM 18, given in pixels (10 m) of the raster."""
    return box(X + 10 * left, Y - 10 * bottom, X + 10 * right, Y - 10 * top)


REGION = ground(100, 60, 260, 220)
RIVER = shapely.Polygon(  # no edge of it runs through the centre of a pixel
    [(X - 501.3, Y - 902.7), (X + 4507.9, Y - 1511.1), (X + 4507.9, Y - 1903.1), (X - 501.3, Y - 1299.1)]
)
DRAWN = [(REGION, "Region"), (RIVER, "water"), (ground(300, 100, 320, 120), "water")]


@pytest.fixture
def source(tmp_path):
    path = write_raster(tmp_path / "scene.tif", waves(300, 400).astype(np.uint8), north_up())
    return open_source(path, raster=RasterOptions())


def in_crs(geometry: shapely.Polygon, crs: str) -> shapely.Polygon:
    if crs == UTM18:
        return geometry
    return shapely.transform(
        geometry, lambda p: np.column_stack(transform_points(UTM18, crs, p[:, 0], p[:, 1]))
    )


def write_vectors(path, drawn, crs: str = UTM18, column: str = "class") -> str:
    """One layer with a column of classes; GeoJSON, GPKG or shapefile by the name."""
    drivers = {".geojson": "GeoJSON", ".gpkg": "GPKG", ".shp": "ESRI Shapefile"}
    geometries = np.array([shapely.to_wkb(in_crs(geometry, crs)) for geometry, _ in drawn], object)
    names = np.array([name for _, name in drawn], object)
    pyogrio.raw.write(
        str(path),
        geometries,
        [names],
        [column],
        driver=drivers[path.suffix],
        geometry_type="Polygon",
        crs=crs,
    )
    return str(path)


def expected_patch() -> np.ndarray:
    """The label of the one patch, from the geometry of pixel centres."""
    col, row = np.meshgrid(np.arange(68, 292) + 0.5, np.arange(28, 252) + 0.5)
    points = shapely.points(X + 10 * col, Y - 10 * row)
    water = shapely.contains(RIVER, points)
    return np.where(shapely.contains(REGION, points), water.astype(np.uint8), np.uint8(IGNORE_LABEL))


@pytest.mark.parametrize(
    ("name", "crs"),
    [
        ("a.gpkg", UTM18),
        ("a.shp", "EPSG:32619"),
        ("a.geojson", "EPSG:4326"),
        ("a.gpkg", "EPSG:3857"),
    ],
)
def test_polygons_of_any_format_and_crs_are_burnt_where_they_are(tmp_path, source, name, crs):
    support = load_support(write_vectors(tmp_path / name, DRAWN, crs), source=source)
    assert support.class_names == ("water",)
    assert support.instances is None  # a river that leaves its region is no sample of how many there are
    assert support.labels.shape == (1, 224, 224)
    differing = support.labels[0] != expected_patch()
    assert differing.sum() <= (0 if crs == UTM18 else 2)  # centres within centimetres of an edge
    image, _ = source.read(Window(68, 28, 224, 224))  # centred on the region
    assert np.array_equal(support.images[0], image)


def test_a_polygon_burnt_and_traced_back_is_the_same_polygon(tmp_path, source):
    lake = ground(120, 80, 200, 180).difference(ground(140, 100, 170, 130))
    path = write_vectors(tmp_path / "a.gpkg", [(REGION, "Region"), (lake, "lake")])
    label = load_support(path, source=source).labels[0]
    to_world = north_up(x=X + 680, y=Y - 280)
    traced = [shape(geometry) for geometry, value in trace(label, transform=to_world) if value == 1]
    assert len(traced) == 1
    assert load_support(path, source=source).instances is not None  # a whole lake counts as one
    assert traced[0].symmetric_difference(lake).area == 0


def test_layers_can_say_what_is_a_region(tmp_path, source):
    path = str(tmp_path / "a.gpkg")
    for layer, geometry in (("regions", REGION), ("water", RIVER)):
        pyogrio.raw.write(
            path, np.array([shapely.to_wkb(geometry)], object), [], [], layer=layer, driver="GPKG",
            geometry_type="Polygon", crs=UTM18, append=layer == "water",
        )  # fmt: skip
    assert np.array_equal(load_support(path, source=source).labels[0], expected_patch())


def test_a_resampled_source_has_its_polygons_burnt_on_the_resampled_grid(tmp_path, source):
    path = write_vectors(tmp_path / "a.gpkg", DRAWN)
    coarse = open_source(source.info.uri, raster=RasterOptions(res=20))
    label = load_support(path, source=coarse).labels[0]
    known = label != IGNORE_LABEL
    assert known.sum() == 80 * 80
    assert (label == 1).sum() == pytest.approx(RIVER.intersection(REGION).area / 400, rel=0.01)


def test_areas_to_ignore_are_not_labelled(tmp_path, source):
    drawn = [*DRAWN, (ground(100, 60, 150, 220), "Ignore")]
    label = load_support(write_vectors(tmp_path / "a.gpkg", drawn), source=source).labels[0]
    assert (label[:, 32:82] == IGNORE_LABEL).all()
    assert np.array_equal(label[:, 82:], expected_patch()[:, 82:])


def as_geojson(path, *features: tuple) -> str:
    listed = [
        {"type": "Feature", "properties": properties, "geometry": mapping(in_crs(geometry, "EPSG:4326"))}
        for geometry, properties in features
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": listed}))
    return str(path)


def test_what_qupath_calls_a_class_is_a_class_here(tmp_path, source):
    classes = [{"classification": {"name": name, "color": [1, 2, 3]}} for name in ("Region*", "water")]
    path = as_geojson(tmp_path / "a.geojson", (REGION, classes[0]), (RIVER, classes[1]))
    assert load_support(path, source=source).class_names == ("water",)


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        ([(REGION, "Region")], ["no object"]),
        (
            [(ground(900, 900, 999, 999), "Region"), (RIVER, "water")],
            ["out of the raster", "400 x 300", "CRS"],
        ),
        ([(ground(-9000, -9000, 9000, 9000), "Region"), (RIVER, "water")], ["32 patches", "2240"]),
        ([(ground(0, 200, 90, 290), "Region"), (RIVER, "water")], ["labelled as object"]),
    ],
)
def test_drawings_that_cannot_be_used_are_refused(tmp_path, source, drawn, words):
    path = write_vectors(tmp_path / "a.gpkg", drawn)
    with pytest.raises(SupportError) as error:
        load_support(path, source=source)
    for word in (path, *words):
        assert word in str(error.value)


def test_files_that_are_no_vectors_are_refused(tmp_path, source):
    (tmp_path / "a.gpkg").write_text("no database")
    with pytest.raises(SupportError, match="GeoJSON, GPKG or a shapefile"):
        load_support(str(tmp_path / "a.gpkg"), source=source)
    with pytest.raises(SupportError, match="no such file"):
        load_support(str(tmp_path / "b.gpkg"), source=source)
    line = as_geojson(tmp_path / "c.geojson", (shapely.LineString([(X, Y), (X + 99, Y)]), {"class": "water"}))
    with pytest.raises(SupportError, match="LineString without an area"):
        load_support(line, source=source)
