"""Drawings on a slide: which pixels of which patches they label, and what is refused."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.windows import Window

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.errors import SupportError
from tests.helpers.support_folders import photo, refusal


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    """1000 x 1200 px at 0.25 um per px, read at 0.5: 500 x 600 working px."""
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(path, photo(1000, 1200), 0.25)
    source = open_source(str(path), mpp=0.5)
    yield source
    source.close()


def box(left, top, right, bottom, **properties):
    return feature(shapely.box(left, top, right, bottom), **properties)


def feature(geometry, name=None, title=None):
    properties = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    if title:
        properties["name"] = title
    return {"type": "Feature", "geometry": shapely.geometry.mapping(geometry), "properties": properties}


@pytest.fixture
def load(tmp_path, slide):
    def load(*features, class_names=(), content=None):
        path = tmp_path / "drawn.geojson"
        path.write_text(content or json.dumps({"type": "FeatureCollection", "features": features}))
        return load_support(str(path), source=slide, class_names=class_names)

    return load


def test_one_small_region_is_one_patch_centred_on_it(load, slide):
    support = load(box(400, 300, 600, 500, name="Region*"), box(440, 340, 480, 400, name="Nucleus"))
    # Working px: region rows 150..250, cols 200..300, so the patch starts at row 88, col 138.
    assert np.array_equal(support.images[0], slide.read(Window(138, 88, 224, 224))[0])
    expected = np.full((224, 224), IGNORE_LABEL, np.uint8)
    expected[62:162, 62:162] = 0
    expected[82:112, 82:102] = 1
    assert np.array_equal(support.labels[0], expected)
    assert np.array_equal(support.instances[0], expected == 1)
    assert (support.class_name, support.mpp, len(support.names)) == ("Nucleus", 0.5, 1)


def test_a_large_region_is_covered_by_patches_that_do_not_overlap(load):
    support = load(box(0, 0, 1200, 1000, name="region"), box(10, 10, 1190, 990, name="a"))
    assert len(support.names) == 9  # 3 x 3 patches for 500 x 600 px
    assert (support.labels != IGNORE_LABEL).sum() == 500 * 600
    assert (support.labels == 1).sum() == 490 * 590


@settings(max_examples=12)
@given(
    corners=st.lists(
        st.tuples(st.integers(0, 440), st.integers(0, 440)), min_size=3, max_size=7, unique=True
    ),
    offset=st.tuples(st.integers(0, 700), st.integers(0, 500)),
)
def test_a_pixel_is_object_where_its_centre_is_in_the_polygon(tmp_path_factory, slide, corners, offset):
    polygon = shapely.transform(shapely.MultiPoint(corners).convex_hull, lambda xy: xy + np.array(offset))
    if polygon.geom_type != "Polygon" or polygon.area < 500:
        return
    left, top = offset
    region = box(left, top, left + 448, top + 448, name="ROI")
    path = tmp_path_factory.mktemp("drawn") / "a.geojson"
    path.write_text(json.dumps([region, feature(polygon)]))
    labels = load_support(str(path), source=slide).labels[0]
    start_row, start_col = round(top / 2), round(left / 2)
    row, col = np.mgrid[:224, :224]
    x, y = (col + start_col + 0.5) * 2, (row + start_row + 0.5) * 2
    centre = shapely.points(x, y)
    on_edge = shapely.distance(polygon.exterior, centre) < 1e-6
    expected = shapely.contains(polygon, centre)
    known = labels != IGNORE_LABEL
    assert known.sum() >= 223 * 223
    assert np.array_equal((labels == 1)[known & ~on_edge], expected[known & ~on_edge])


def test_holes_parts_and_overlaps(load):
    ring = shapely.box(100, 100, 200, 200) - shapely.box(140, 140, 160, 160)
    parts = shapely.MultiPolygon([shapely.box(220, 100, 240, 120), shapely.box(260, 100, 280, 120)])
    later = shapely.box(180, 180, 220, 220)
    support = load(
        box(80, 80, 300, 300, name="Region"), feature(ring, "a"), feature(parts, "a"), feature(later, "a")
    )
    sizes = np.bincount(support.instances[0].ravel())[1:].tolist()
    assert sizes == [
        50 * 50 - 10 * 10 - 10 * 10,
        2 * 10 * 10,
        20 * 20,
    ]  # the later object wins where two meet
    assert (support.labels == 1).sum() == sum(sizes)


def test_what_is_outside_every_region_is_not_labelled(load):
    support = load(
        box(100, 100, 300, 300, name="Region"),
        box(250, 250, 400, 400, name="a"),
        box(320, 100, 330, 110, name="a"),
    )
    assert (support.labels == 1).sum() == 25 * 25
    assert support.instances.max() == 1
    assert (support.labels != IGNORE_LABEL).sum() == 100 * 100


def test_a_region_at_the_edge_of_the_slide(load):
    support = load(box(0, 0, 100, 100, name="Region"), box(10, 10, 30, 30, name="a"))
    assert (support.labels != IGNORE_LABEL).sum() == 50 * 50
    assert (support.labels == 1).sum() == 100


def test_all_classes_are_used_or_those_that_are_named(load):
    drawn = [box(0, 0, 200, 200, name="Region"), box(10, 10, 30, 30, name="B"), box(50, 50, 90, 90, name="A")]
    support = load(*drawn)
    assert support.class_names == ("A", "B")
    assert np.bincount(support.labels[support.labels != IGNORE_LABEL]).tolist() == [10_000 - 500, 400, 100]
    assert [np.bincount(y[y != IGNORE_LABEL])[1] for y in support.labels_by_class] == [400, 100]
    both = load(*drawn, class_names=["b", "A"])
    assert both.class_names == ("b", "A")
    assert np.bincount(both.labels[both.labels != IGNORE_LABEL]).tolist() == [10_000 - 500, 100, 400]
    one = load(*drawn, class_names=["b"])  # what is of another class is background
    assert ((one.labels == 1).sum(), (one.labels == 0).sum()) == (100, 10_000 - 100)
    assert len({s.digest() for s in (support, both, one)}) == 3
    with pytest.raises(SupportError, match=r"'C', only A, B"):
        load(*drawn, class_names=["A", "C"])


def test_where_two_classes_overlap_the_smaller_object_counts(load):
    gland, nucleus = box(20, 20, 120, 120, name="Gland"), box(40, 40, 60, 60, name="Nucleus")
    region = box(0, 0, 200, 200, name="Region")
    for drawn in ([region, gland, nucleus], [region, nucleus, gland]):
        support = load(*drawn)
        assert np.bincount(support.labels[support.labels != IGNORE_LABEL])[1:].tolist() == [2500 - 100, 100]
        assert np.bincount(support.instances.ravel())[1:].tolist() in ([2400, 100], [100, 2400])


def test_what_is_drawn_as_ignored_is_not_labelled(load):
    support = load(
        box(0, 0, 200, 200, name="Region"), box(10, 10, 30, 30, name="A"), box(20, 0, 60, 200, name="Ignore*")
    )
    assert support.class_names == ("A",)
    assert (support.labels == 1).sum() == 5 * 10
    assert (support.labels != IGNORE_LABEL).sum() == 100 * 100 - 20 * 100


def test_polygons_that_cross_themselves_are_repaired(load):
    bow_tie = shapely.Polygon([(20, 20), (60, 60), (60, 20), (20, 60)])
    support = load(box(0, 0, 200, 200, name="Region"), feature(bow_tie, "a"))
    # Two triangles of 40 x 20 / 2 level-0 px each, four level-0 px to a working one.
    assert (support.labels == 1).sum() == pytest.approx(2 * 40 * 20 / 2 / 4, abs=25)


REGION, OBJECT = box(0, 0, 200, 200, name="Region"), box(10, 10, 30, 30, name="a")


@pytest.mark.parametrize(
    ("features", "word"),
    [
        ([], "no region.*Region*"),
        ([REGION], "no object"),
        (
            [box(1100, 0, 1300, 100, name="Region", title="mine"), OBJECT],
            "'mine'.*out of the slide of 600 x 500",
        ),
        ([REGION, feature(shapely.LineString([(1, 1), (9, 9)]), "a")], "feature 2.*LineString"),
        ([REGION, feature(shapely.Polygon([(0, 0), (5, 5), (9, 9)]), "a")], "feature 2.*no area"),
        ([REGION, {"type": "Feature", "geometry": None, "properties": {}}], "feature 2.*geometry"),
        ([REGION, {**OBJECT, "geometry": {"type": "Polygon", "coordinates": [[[0, "x"]]]}}], "feature 2"),
        ([REGION, 7], "entry 2"),
        ([REGION, box(900, 900, 910, 910, name="a")], "labelled as object"),
        ([REGION, box(-5, -5, 300, 300, name="a")], "labelled as background"),
    ],
)
def test_drawings_that_cannot_be_used_are_refused(load, features, word):
    with pytest.raises(SupportError, match=f"drawn.geojson.*{word.replace('*', '.*')}") as error:
        load(*features)
    assert "\n" not in str(error.value)


def test_a_region_round_everything_is_refused(load, monkeypatch):
    monkeypatch.setattr("fewscope.connectors.support.annotations.MAX_PATCHES", 8)
    with pytest.raises(SupportError, match="takes 9"):
        load(box(0, 0, 1200, 1000, name="Region"), OBJECT)


@pytest.mark.parametrize("content", ["{", "3", '{"type": "Topology"}', "null"])
def test_files_that_are_no_geojson(load, content):
    with pytest.raises(SupportError, match=r"drawn\.geojson"):
        load(content=content)


def test_gzip_lists_and_single_files(tmp_path, slide):
    path = tmp_path / "drawn.json.gz"
    path.write_bytes(gzip.compress(json.dumps([REGION, OBJECT]).encode()))
    assert (load_support(str(path), source=slide).labels == 1).sum() == 100
    path.write_bytes(path.read_bytes()[:30])
    assert "cannot be unpacked" in refusal(path, source=slide)
    assert "source" in refusal(path)
    assert "no such file" in refusal(tmp_path / "none.geojson", source=slide)


def test_no_pixel_is_labelled_in_two_patches(load):
    """Two regions 30 px apart, and one over both: each patch shows the others' pixels, and labels its own."""
    support = load(
        box(200, 200, 300, 300, name="region"),
        box(360, 200, 460, 300, name="region"),
        box(280, 180, 480, 320, name="region"),
        box(220, 220, 240, 240, name="a"),
        box(380, 220, 400, 240, name="a"),
        box(470, 200, 476, 240, name="a"),
    )
    n_labelled = [int((labels != IGNORE_LABEL).sum()) for labels in support.labels]
    assert n_labelled == [50 * 50, 50 * 50, 100 * 70 - 10 * 50 - 50 * 50]  # working px are 2 x 2 of the slide
