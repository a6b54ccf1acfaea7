"""Which polygons of a file outline the area to segment, and what is said where that is not certain."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from shapely.geometry import box

from fewscope.connectors.open import open_source
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.area_files import AreaOptions, read_area
from fewscope.connectors.support.region_files import Region
from fewscope.errors import SourceError
from tests.helpers.drawn_files import WRITERS, write

TUMOUR, IGNORED, FOLD = box(20, 20, 120, 120), box(30, 30, 40, 40), box(100, 20, 120, 120)
NUCLEUS, REGION = box(50, 50, 56, 56), box(40, 40, 80, 80)
ALL = [
    ("Tumor", TUMOUR),
    ("Ignore*", IGNORED),
    ("Fold", FOLD),
    ("Nucleus", NUCLEUS),
    ("Region*", REGION),
]


@pytest.fixture(scope="module")
def info(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    write_pyramid(path, np.full((256, 256, 3), 220, np.uint8), 0.5)
    source = open_source(str(path), mpp=1.0)  # two level-0 px are one of the working grid
    yield source.info
    source.close()


def area(info, folder, drawing, name="drawn.geojson", of_support=(), **options):
    return read_area(AreaOptions(write(folder, name, drawing), **options), info, of_support)


@pytest.mark.parametrize("name", WRITERS)
def test_all_polygons_but_ignored_ones_outline_the_area(tmp_path, info, name):
    found = area(info, tmp_path, [*ALL[:2], ("Tumor", box(140, 20, 160, 40))], name)
    assert found.geometry.area == (10_000 - 100 + 400) / 4
    assert [(one.class_name, one.n_polygons, one.area_px) for one in found.used] == [("Tumor", 2, 2600)]
    assert [(one.class_name, one.area_px) for one in found.excluded] == [("Ignore*", 25)]


def test_polygons_are_not_compared_with_one_another(tmp_path, info, monkeypatch):
    """It would take hours for all the objects of a slide."""

    def compare(one, other):
        raise AssertionError("polygons were compared")

    monkeypatch.setattr(Region, "__eq__", compare)
    found = area(info, tmp_path, ALL, excluded=("Fold",), classes=("Tumor",))
    assert [one.class_name for one in found.unused] == ["Nucleus", "Region*"]
    assert area(info, tmp_path, [ALL[0]] * 3).geometry.area == 2500


def test_classes_are_chosen_and_left_out_in_any_case(tmp_path, info):
    found = area(info, tmp_path, ALL, classes=("tumor",), excluded=("FOLD",), of_support=("Nucleus",))
    assert found.geometry.equals(box(10, 10, 50, 60).difference(box(15, 15, 20, 20)))
    assert [one.class_name for one in found.unused] == ["Nucleus", "Region*"]
    words = found.described("{:,.0f} px".format)
    assert words.startswith("1 polygon of class Tumor (2,500 px), without 1 polygon of class Fold (500 px)")


def test_a_file_of_what_is_left_out_leaves_the_rest_of_the_slide(tmp_path, info):
    found = area(info, tmp_path, [("Fold", FOLD), ("Ignore*", IGNORED)], excluded=("Fold",))
    assert found.geometry.area == 128**2 - 500 - 25
    assert found.used == ()


@pytest.mark.parametrize(
    ("drawing", "of_support", "suggested"),
    [
        (ALL, ["Nucleus"], "Tumor"),
        (ALL, ["Fold", "Nucleus", "Tumor"], "Tumor"),
        ([ALL[0], ALL[4]], [], "Tumor"),
        ([ALL[3]], ["nucleus"], "Nucleus"),
    ],
)
def test_a_file_that_is_also_a_support_set_must_be_told_apart(tmp_path, info, drawing, of_support, suggested):
    with pytest.raises(SourceError, match=f"which outline the area.*--aoi-class '{suggested}'"):
        area(info, tmp_path, drawing, of_support=of_support)


def test_boxes_alone_are_an_area(tmp_path, info):
    assert area(info, tmp_path, [("Region*", REGION)]).geometry.area == 400


@pytest.mark.parametrize(
    ("drawing", "options", "message"),
    [
        (ALL, {"classes": ("Stroma",)}, "no polygon has the class or name Stroma .*1 polygon of class Tumor"),
        (ALL, {"excluded": ("Pen",)}, "no polygon has the class or name Pen"),
        (ALL, {"classes": ("Fold",), "excluded": ("Fold",)}, "name the same polygons"),
        ([("Tumor", IGNORED), ("Fold", TUMOUR)], {"excluded": ("Fold",)}, "nothing is left"),
        (
            [("Tumor", box(900, 20, 950, 40))],
            {},
            r"\(450, 10\) to \(475, 20\), outside the slide of 128 x 128",
        ),
    ],
)
def test_an_area_that_is_none_says_why(tmp_path, info, drawing, options, message):
    with pytest.raises(SourceError, match=message):
        area(info, tmp_path, drawing, **options)


def test_polygons_outside_the_slide_are_left_out_and_named(tmp_path, info):
    found = area(info, tmp_path, [("Tumor", box(200, 200, 300, 300)), ("Node", box(900, 20, 950, 40))])
    assert found.geometry.equals(box(100, 100, 128, 128))
    assert "outside the slide, and left out: Node" in found.notes[0]


def test_the_origin_is_named_where_it_may_be_the_reason(tmp_path, info):
    scanned = dataclasses.replace(info, scan_origin=(300, 0))
    with pytest.raises(SourceError, match="--geojson-origin file"):
        area(scanned, tmp_path, [("Tumor", TUMOUR)])
    assert area(scanned, tmp_path, [("Tumor", TUMOUR)], origin="file").geometry.area == 2500
