"""Files in which objects are drawn, but no region: they work, and the report says what was taken as background."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import shapely
from shapely.geometry import box, mapping

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.support import sparse
from fewscope.connectors.support.annotations import MAX_SPARSE_PATCHES
from fewscope.connectors.support.load import load_support
from fewscope.errors import SupportError
from tests.helpers.rasters import ORIGIN, north_up, waves, write_raster
from tests.helpers.support_folders import opened_photo

SIDE = 2400


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    with opened_photo(tmp_path_factory.mktemp("slide"), SIDE) as source:
        yield source


@pytest.fixture
def load(tmp_path, slide):
    def load(*drawn, **options):
        features = []
        for geometry, name in drawn:
            properties = {"classification": {"name": name}} if name else {}
            features.append({"type": "Feature", "geometry": mapping(geometry), "properties": properties})
        path = tmp_path / "drawn.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return load_support(str(path), source=slide, **options)

    return load


def test_the_surroundings_of_objects_are_background(load):
    support = load(
        (box(500, 500, 520, 520), "cell"), (box(530, 500, 540, 520), "other"), class_names=("cell",)
    )
    assert (support.n_dense, support.n_sparse) == (1, 0)
    label = support.labels[0]
    rows, cols = np.nonzero(label == 1)
    assert (np.ptp(rows) + 1, np.ptp(cols) + 1) == (20, 20)
    known = label != 255
    assert known.sum() == pytest.approx(shapely.box(0, 0, 20, 20).buffer(24).area, abs=30)
    assert (label[rows[0], cols.max() + 11 : cols.max() + 21] == 0).all()  # the object of another class
    assert "24 px around each object" in support.notes[0]
    assert "QuPath" in support.notes[0]


def test_neighbours_are_objects_of_each_other_s_surroundings(load):
    support = load((box(500, 500, 520, 520), "cell"), (box(530, 500, 540, 520), "cell"))
    assert len(support.names) == 1
    assert (support.labels[0] == 1).sum() == 20 * 20 + 10 * 20
    assert support.instances is not None
    assert support.instances.max() == 2


def test_many_objects_are_sampled_all_over_the_slide(load):
    corners = [(x, y) for y in range(40, SIDE - 40, 240) for x in range(40, SIDE - 40, 240)]
    assert len(corners) > 2 * MAX_SPARSE_PATCHES
    support = load(*((box(x, y, x + 12, y + 12), "cell") for x, y in corners))
    assert len(support.names) == MAX_SPARSE_PATCHES
    rows = [int(name.split("(")[1].split(",")[0]) for name in support.names]
    assert min(rows) < SIDE / 4
    assert max(rows) > SIDE * 3 / 4
    assert any(f"{len(corners) - MAX_SPARSE_PATCHES} labels" in note for note in support.notes)


@pytest.mark.parametrize("name", ["cell", None])
def test_an_outline_without_a_class_around_objects_is_a_region(load, name):
    inside = [(box(550, 550, 570, 570), name), (box(600, 560, 615, 590), name)]
    support = load((box(500, 500, 700, 700), None), *inside)
    region = load((box(500, 500, 700, 700), "Region*"), *inside)
    assert np.array_equal(support.labels, region.labels)
    assert not any("24 px" in note for note in support.notes)
    assert any("was taken as one" in text for text in support.assumptions)
    assert not region.assumptions


def test_an_outline_around_the_whole_slide_is_too_large_a_region(load):
    with pytest.raises(SupportError, match="32 patches"):
        load((box(10, 10, SIDE - 10, SIDE - 10), None), (box(550, 550, 570, 570), "cell"))


def test_objects_of_another_slide_are_refused(load):
    with pytest.raises(SupportError, match="is it of another slide"):
        load((box(500, 500, 520, 520), "cell"), (box(5000, 5000, 5020, 5020), "cell"))


def test_a_river_on_a_map(tmp_path):
    scene = tmp_path / "scene.tif"
    write_raster(scene, waves(600, 800).astype(np.uint8), north_up())
    with contextlib.closing(open_source(str(scene), raster=RasterOptions())) as raster:
        left, top = ORIGIN
        course = shapely.LineString([(left + 200, top - 3000), (left + 7800, top - 3200)]).buffer(150)
        feature = {"type": "Feature", "geometry": mapping(course), "properties": {"class": "water"}}
        drawn = {
            "type": "FeatureCollection",
            "features": [feature],
            "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}},
        }
        (tmp_path / "river.geojson").write_text(json.dumps(drawn))
        support = load_support(str(tmp_path / "river.geojson"), source=raster)
    assert len(support.names) >= 3
    assert support.instances is None  # a river that patches cut is no instance
    assert ((support.labels == 1).any((1, 2)) & (support.labels == 0).any((1, 2))).all()
    assert "QGIS" in support.notes[0]


def test_of_many_objects_each_patch_burns_those_that_it_shows(load, monkeypatch):
    """A file may hold all the objects of a slide: looked at in every patch, a hundred thousand take hours."""
    burnt = []

    def counted(shapes, window, burn_shapes=sparse.burn_shapes):
        burnt.append(len(shapes))
        return burn_shapes(shapes, window)

    monkeypatch.setattr(sparse, "burn_shapes", counted)
    corners = [(x, y) for x in range(20, SIDE - 20, 60) for y in range(20, SIDE - 20, 60)]
    support = load(*((box(x, y, x + 20, y + 20), "cell") for x, y in corners))
    assert support.n_dense == MAX_SPARSE_PATCHES
    shown = int(sum(len(np.unique(one)) - 1 for one in support.instances))
    assert sum(burnt) < 10 * shown < MAX_SPARSE_PATCHES * len(corners)
