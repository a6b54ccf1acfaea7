"""GeoJSON of slides and maps, and GeoPackages, that are damaged or hostile."""

from __future__ import annotations

import functools
import json
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from hypothesis import strategies as st

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.source import Source
from fewscope.connectors.support.load import load_support
from tests.fuzz.documents import odd_json, squeezed
from tests.fuzz.harness import Case
from tests.fuzz.mutations import damaged
from tests.fuzz.rasters import raster_bytes
from tests.fuzz.workplace import NAMES, SIDE, Options, use_source, workplace
from tests.helpers import fakes
from tests.helpers.rasters import UTM18, north_up


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
