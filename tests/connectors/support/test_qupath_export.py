"""What QuPath exports besides drawn polygons: cells, points, hierarchies, classes with alike names."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from shapely.geometry import box, mapping

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.annotation_files import kind_of
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import POINT
from fewscope.errors import SupportError
from tests.helpers.support_folders import photo

REGION = (20, 20, 220, 220)
CELLS = [(60, 60), (120, 80), (90, 150), (180, 180)]  # centres; nuclei have a radius of 8 px, cells of 18


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_pyramid(path, photo(300, 300), 0.5)
    source = open_source(str(path))
    yield source
    source.close()


def feature(geometry, name=None, nucleus=None, kind="annotation", title=None, **members):
    properties = {"objectType": kind}
    if name:
        properties["classification"] = {"name": name, "color": [1, 2, 3]}
    if title:
        properties["name"] = title
    drawn = {
        "type": "Feature",
        "geometry": None if geometry is None else mapping(geometry),
        "properties": properties,
        **members,
    }
    if nucleus is not None:
        drawn["nucleusGeometry"] = mapping(nucleus)
    return drawn


def cells(name):
    discs = [(shapely.Point(x, y).buffer(18), shapely.Point(x, y).buffer(8)) for x, y in CELLS]
    return [feature(cell, name, nucleus, "cell") for cell, nucleus in discs]


@pytest.fixture
def load(tmp_path, slide):
    def load(*features, **options):
        path = tmp_path / "drawn.geojson"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
        return load_support(str(path), source=slide, **options)

    return load


def mean_area(support) -> float:
    """Of the objects, px."""
    return float(np.bincount(support.instances.ravel())[1:].mean())


NUCLEUS, CELL = np.pi * 8**2, np.pi * 18**2


@pytest.mark.parametrize(
    ("name", "options", "area", "said"),
    [
        ("Nucleus", {}, NUCLEUS, "the one of the nucleus was learned from. --cell-part cell"),
        ("tumor_nuclei", {}, NUCLEUS, "nucleus was"),
        ("Nuclear*", {}, NUCLEUS, "nucleus was"),
        (None, {"class_names": ("nucleus",)}, NUCLEUS, "nucleus was"),
        ("Tumor", {}, CELL, "the one of the cell was learned from. --cell-part nucleus"),
        ("Mononuclear cell", {}, CELL, "cell was"),
        (None, {}, CELL, "cell was"),
        ("Tumor", {"cell_part": "nucleus"}, NUCLEUS, "nucleus was"),
        ("Nucleus", {"cell_part": "cell"}, CELL, "cell was"),
    ],
)
def test_the_outline_of_a_cell_or_of_its_nucleus(load, name, options, area, said):
    support = load(feature(box(*REGION), "Region*"), *cells(name), **options)
    assert mean_area(support) == pytest.approx(area, rel=0.04)
    assert said in support.assumptions[0]


def test_a_cell_without_a_nucleus_is_no_nucleus(load):
    lonely = feature(shapely.Point(60, 150).buffer(18), "Nucleus", None, "cell")
    drawn_by_hand = feature(shapely.Point(180, 60).buffer(8), "Nucleus")
    region = feature(box(*REGION), "Region*")
    support = load(region, *cells("Nucleus"), lonely, drawn_by_hand)
    assert support.instances.max() == 5
    assert mean_area(support) == pytest.approx(NUCLEUS, rel=0.04)
    assert "1 feature left out: object (feature 6) is a cell without a nucleus" in support.notes[0]
    assert (
        load(region, lonely).instances.max() == 1
    )  # no object of this file has a nucleus: cells are outlined


def test_files_without_cells_are_as_they_were(load):
    plain = load(feature(box(*REGION), "Region*"), feature(box(60, 60, 90, 90), "Nucleus"))
    assert (plain.notes, plain.assumptions) == ((), ())


def test_the_exact_name_of_a_class_comes_first(load):
    drawn = [
        feature(box(*REGION), "Region*"),
        feature(box(40, 40, 60, 60), "Nucleus"),
        feature(box(100, 100, 150, 150), "nucleus"),
    ]
    assert (load(*drawn, class_names=("nucleus",)).labels == 1).sum() == 2500
    assert (load(*drawn, class_names=("Nucleus",)).labels == 1).sum() == 400
    with pytest.raises(SupportError, match="'NUCLEUS' may be 'Nucleus' and 'nucleus'"):
        load(*drawn, class_names=("NUCLEUS",))
    both = load(*drawn)
    assert both.class_names == ("Nucleus", "nucleus")
    assert "differ in case only" in both.notes[0]
    one = load(*drawn[:2], class_names=("NUCLEUS",))
    assert (one.labels == 1).sum() == 400
    with pytest.raises(SupportError, match="asked for twice"):
        load(*drawn[:2], class_names=("Nucleus", "nucleus"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[(name, "region") for name in ("Region*", "region", "REGION*", "ROI", "roi*", " Region ")],
        *[(name, "ignored area") for name in ("Ignore*", "ignore", "IGNORE")],
        *[
            (name, "object")
            for name in ("Regional lymph node", "Regions of necrosis", "Ignored", "ROI border")
        ],
    ],
)
def test_roles_are_these_names_and_no_others(name, kind):
    assert kind_of(name) == kind


def test_a_class_that_begins_like_a_role_is_a_class(load):
    region = feature(box(*REGION), "Region*")
    support = load(region, feature(box(40, 40, 60, 60), "Regional lymph node"))
    assert support.class_names == ("Regional lymph node",)
    assert (support.labels == 1).sum() == 400
    assert "'Regional lymph node' was taken as a class" in support.assumptions[0]


def test_what_has_no_area_is_left_out_and_counted(load):
    line, point = shapely.LineString([(30, 30), (60, 60)]), shapely.Point(40, 40)
    mixed = shapely.GeometryCollection([box(100, 100, 130, 130), point])
    support = load(
        feature(box(*REGION), "Region*"),
        feature(box(40, 40, 60, 60), "A"),
        feature(point, "A", title="seed"),
        feature(line, "A"),
        feature(shapely.Polygon(), "A"),
        feature(None, "A"),
        feature(mixed, "A"),
    )
    assert (support.labels == 1).sum() == 400 + 900
    (note,) = support.notes
    assert "4 features left out: object 'seed' (feature 3) is a Point without an area" in note
    assert "(feature 6) has no geometry" in note


def test_points_mark_objects_where_none_has_an_outline(load):
    region, points = feature(box(*REGION), "Region*"), shapely.MultiPoint([(40, 40), (90, 50)])
    support = load(region, feature(points, "A"), feature(shapely.Point(150, 150), "B"))
    assert support.class_names == ("A", "B")
    assert support.instances.max() == 3
    assert set(np.unique(support.rough)) == {0, POINT}
    assert np.array_equal(support.rough > 0, support.instances > 0)
    for (x, y), value in (((40, 40), 1), ((90, 50), 1), ((150, 150), 2)):
        number = support.instances[0][y + 224 // 2 - 120, x + 224 // 2 - 120]
        rows, cols = np.nonzero(support.instances[0] == number)
        assert np.hypot(rows.mean() + 8.5 - y, cols.mean() + 8.5 - x) < 0.6
        assert (support.labels[0][rows, cols] == value).all()
    assert support.notes == ()
    assert support.digest() != load(region, feature(points.buffer(3), "A")).digest()


def test_points_beside_outlines_count_only_if_their_class_is_asked_for(load):
    drawn = [feature(box(*REGION), "Region*"), feature(box(40, 40, 60, 60), "A")]
    clicks = feature(shapely.MultiPoint([(150, 150), (180, 90)]), "B")
    assert load(*drawn, clicks).class_names == ("A",)
    assert "is a MultiPoint" in load(*drawn, clicks).notes[0]
    both = load(*drawn, clicks, class_names=("A", "B"))
    assert both.class_names == ("A", "B")
    assert ((both.rough > 0) == (both.labels == 2)).all()


def test_points_need_a_region(load):
    points = shapely.MultiPoint([(40, 40), (50, 50)])
    with pytest.raises(SupportError, match=r"marked by points, and no region.*draw a rectangle"):
        load(feature(points, "A"))
    around = load(feature(box(*REGION)), feature(points, "A"))  # without a class: it holds them
    assert (around.labels != 255).sum() == 200 * 200


def test_the_image_itself_and_tissue_cores_are_no_objects(load):
    support = load(
        feature(box(0, 0, 300, 300), kind="root"),
        feature(box(5, 5, 295, 295), kind="tmaCore", title="A-1"),
        feature(box(5, 5, 295, 295), None, None, None, id="TMACoreObject"),
        feature(box(*REGION), "Region*"),
        feature(box(40, 40, 60, 60), "A"),
    )
    assert support.class_names == ("A",)
    assert "3 features left out" in support.notes[0]


def test_an_unclassified_annotation_around_everything_is_refused_with_the_cause(load):
    drawn = [
        feature(box(10, 10, 290, 290)),
        feature(box(*REGION), "Region*"),
        feature(box(40, 40, 60, 60), "A"),
        feature(box(80, 40, 90, 60), "A"),
    ]
    with pytest.raises(SupportError) as error:
        load(*drawn)
    for word in ("feature 1", "no class", "1 of 1 regions", "2 of the other objects", "Ignore*"):
        assert word in str(error.value)
    assert (load(*drawn, class_names=("A",)).labels == 1).sum() == 600  # it is not looked for: harmless


def test_an_unclassified_annotation_around_some_objects_is_noted(load):
    support = load(
        feature(box(*REGION), "Region*"), feature(box(30, 30, 110, 110)), feature(box(40, 40, 60, 60), "A")
    )
    assert "feature 2) has no class and holds 1 of the other objects" in support.notes[0]


def test_an_unclassified_area_without_objects_in_it_is_an_object(load):
    """One class, never named: what covers a region beside another one may be a lake, or a gland."""
    other = feature(box(225, 20, 290, 220), "Region*")
    support = load(feature(box(*REGION), "Region*"), other, feature(box(15, 15, 222, 222)))
    assert support.class_names == ("object",)


def test_a_class_that_fills_nearly_everything_is_noted(load):
    support = load(feature(box(*REGION), "Region*"), feature(box(20, 22, 220, 220), "A"))
    assert "99% of what is labelled is of class A" in support.notes[0]
    with pytest.raises(SupportError, match="an outline goes around everything"):
        load(feature(box(*REGION), "Region*"), feature(box(0, 0, 300, 300), "A"))


def test_more_classes_than_there_can_be_name_their_origin(load):
    places = [(x, y) for x in range(30, 200, 25) for y in range(30, 200, 25)]
    region = feature(box(*REGION), "Region*")
    named = [feature(box(x, y, x + 9, y + 9), title=f"Nucleus {i}") for i, (x, y) in enumerate(places)]
    with pytest.raises(SupportError, match=r"49 classes.*names of the objects, which have no classification"):
        load(region, *named)
    classified = [feature(box(x, y, x + 9, y + 9), f"Nucleus {i}") for i, (x, y) in enumerate(places)]
    with pytest.raises(SupportError, match=r"49 classes.*the classification.*--class"):
        load(region, *classified)
    assert load(region, *classified, class_names=("Nucleus 7",)).class_names == ("Nucleus 7",)


def test_older_and_derived_classifications(load):
    derived = feature(box(40, 40, 60, 60))
    derived["properties"]["classification"] = {"names": ["Tumor", "Positive"], "color": [1, 2, 3]}
    old = feature(box(80, 40, 90, 60))
    old["properties"]["classification"] = {"name": "Stroma", "colorRGB": -3670016}
    plain = feature(box(100, 40, 110, 60))
    plain["properties"]["classification"] = "Other"
    assert load(feature(box(*REGION), "Region*"), derived, old, plain).class_names == (
        "Other",
        "Stroma",
        "Tumor: Positive",
    )


SQUARE = [[[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]]
DEEP = 0
for _ in range(900):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("broken", "word"),
    [
        (
            {"properties": [1], "geometry": {"type": "Polygon", "coordinates": SQUARE}},
            "properties are a list",
        ),
        ({"properties": "A", "geometry": {"type": "Polygon", "coordinates": SQUARE}}, "properties are a str"),
        ({"properties": {}, "geometry": {"type": "Polygon", "coordinates": DEEP}}, "not a polygon"),
        (
            {
                "properties": {},
                "geometry": {"type": "Polygon", "coordinates": [[[10**400, 0], [1, 0], [1, 1]]]},
            },
            "not",
        ),
        (
            {"properties": {}, "geometry": {"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 1]]]]}},
            "not",
        ),
        ({"properties": {}, "geometry": {"type": "GeometryCollection", "geometries": 5}}, "not a polygon"),
    ],
)
def test_broken_features_are_refused_in_one_line(load, broken, word):
    with pytest.raises(SupportError, match=word) as error:
        load(feature(box(*REGION), "Region*"), {"type": "Feature", **broken})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("classification", [5, True, {}, {"name": None}, {"name": ["A"]}, {"names": 3}, []])
def test_odd_classifications_are_no_traceback(load, classification):
    odd = feature(box(40, 40, 60, 60))
    odd["properties"]["classification"] = classification
    support = load(feature(box(*REGION), "Region*"), odd)
    assert support.class_names == (("5",) if classification == 5 else ("object",))
