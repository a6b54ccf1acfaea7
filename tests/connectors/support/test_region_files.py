"""Polygons of annotation files by name and class, on the slide they were drawn on."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
import shapely
from affine import Affine
from shapely.geometry import MultiPolygon, box, mapping

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.region_files import read_regions
from fewscope.errors import SourceError
from tests.helpers.drawn_files import WRITERS, file, ndpview, write
from tests.helpers.scanned_slides import write_leica

TUMOUR = box(40, 30, 200, 190)
DRAWING = [("Tumor", TUMOUR), ("Region*", box(220, 20, 240, 60)), ("Tumor", box(10, 210, 30, 240))]
SCAN = (96, 64)


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    write_pyramid(path, np.full((256, 256, 3), 220, np.uint8), 0.5)
    with_info = open_source(str(path))
    yield with_info.info
    with_info.close()


def feature(shape, **properties):
    return {"type": "Feature", "geometry": mapping(shape), "properties": properties}


@pytest.mark.parametrize("name", WRITERS)
def test_every_programs_polygons_have_their_class_and_place(tmp_path, info, name):
    found = read_regions(write(tmp_path, name, DRAWING), info=info).regions
    by_class = {one.class_name: [] for one in found}
    for one in found:
        by_class[one.class_name].append(one.geometry)
    assert {key: len(value) for key, value in by_class.items()} == {"Region*": 1, "Tumor": 2}
    assert by_class["Tumor"][0].equals(TUMOUR)


def test_ndpview_is_placed_by_the_glass(tmp_path, info):
    to_nm = Affine.scale(500) @ Affine.translation(-128, -128)
    path = file(tmp_path, "a.ndpa", ndpview(DRAWING, to_nm))
    found = read_regions(path, info=replace(info, from_glass_nm=~to_nm)).regions
    assert shapely.symmetric_difference(found[1].geometry, TUMOUR).area < 1
    with pytest.raises(SourceError, match="glass"):
        read_regions(path, info=info)


def test_names_holes_and_parts_of_gzipped_geojson(tmp_path, info):
    holed = MultiPolygon([shapely.Polygon(TUMOUR.exterior, [box(60, 60, 90, 90).exterior]), box(0, 0, 5, 5)])
    features = [
        feature(holed, name="invasive front", classification={"name": "Tumor"}),
        feature(box(0, 100, 9, 109), name="left"),
        feature(box(0, 120, 9, 129)),
        feature(shapely.LineString([(0, 0), (9, 9)]), name="ruler"),
    ]
    path = file(tmp_path, "a.geojson.gz", gzip.compress(json.dumps(features).encode()))
    found = read_regions(path, info=info)
    assert [(one.name, one.class_name) for one in found.regions] == [
        ("invasive front", "Tumor"),
        ("left", ""),
        ("polygon 3", ""),
    ]
    assert found.regions[0].geometry.area == TUMOUR.area - 900 + 25
    assert len(found.left_out) == 1
    assert "'ruler'" in found.left_out[0]


def test_cores_of_a_microarray_are_regions_unless_missing(tmp_path, info):
    cores = [
        feature(box(0, 0, 9, 9), objectType="tmaCore", name="A-1", isMissing=False),
        feature(box(20, 0, 29, 9), objectType="tmaCore", name="A-2", isMissing=True),
        feature(box(0, 0, 256, 256), objectType="root"),
    ]
    found = read_regions(file(tmp_path, "a.geojson", json.dumps(cores).encode()), info=info).regions
    assert [(one.name, one.class_name) for one in found] == [("A-1", "TMA core")]


def test_geojson_starts_at_the_scanned_area_unless_asked(tmp_path):
    path = tmp_path / "a.scn"
    write_leica(path, np.full((256, 256, 3), 220, np.uint8), SCAN)
    source = open_source(str(path))
    drawn = file(tmp_path, "a.geojson", json.dumps([feature(TUMOUR)]).encode())
    placed = [read_regions(drawn, info=source.info, origin=origin) for origin in ("scan", "file")]
    source.close()
    assert placed[0].regions[0].geometry.equals(shapely.affinity.translate(TUMOUR, *SCAN))
    assert placed[1].regions[0].geometry.equals(TUMOUR)
    assert "--geojson-origin file" in placed[0].assumptions[0]
    assert not placed[1].assumptions


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps([feature(shapely.Point(3, 3))]).encode(), "holds no polygon"),
        (b"no json", "is not GeoJSON"),
    ],
)
def test_a_file_without_polygons_says_so(tmp_path, info, content, message):
    with pytest.raises(SourceError, match=message):
        read_regions(file(tmp_path, "a.geojson", content), info=info)
