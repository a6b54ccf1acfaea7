"""Files of ImageScope: where the class stands, and what its shapes are."""

from __future__ import annotations

import numpy as np
import pytest
from shapely.geometry import box

from tests.helpers.drawn_files import REGION, SQUARE, corners, layer, read, region
from tests.helpers.support_folders import opened_photo


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    with opened_photo(tmp_path_factory.mktemp("slide"), 700) as source:
        yield source


@pytest.mark.parametrize(
    ("attributes", "name", "expected"),
    [
        ("", "Nucleus", "Nucleus"),
        ('<Attribute Name="Description" Id="0" Value="Nucleus"/>', "", "Nucleus"),
        ('<Attribute Name="Description" Id="0" Value="Nucleus"/>', "Layer 1", "Nucleus"),
        ('<Attribute Name="Epithelial" Id="0" Value=""/>', "", "Epithelial"),
        ('<Attribute Name="Description" Id="0" Value=""/>', "", "object"),
        ("", "", "object"),
    ],
)
def test_the_class_of_a_layer_of_imagescope(tmp_path, slide, attributes, name, expected):
    drawn = [
        layer("ROI", region(corners(REGION), Type="1")),
        layer(name, region(corners(SQUARE)), attributes=attributes),
    ]
    found = read(tmp_path, slide, "a.xml", f"<Annotations>{''.join(drawn)}</Annotations>".encode())
    assert [one.name for one in found.objects] == [expected]
    assert found.objects[0].stated == (expected != "object")
    assert len(found.regions) == 1


def test_texts_of_imagescope_say_the_class_where_no_layer_does(tmp_path, slide):
    drawn = layer(
        "",
        region(corners(REGION), Text="Region"),
        region(corners(SQUARE), Text="Nucleus"),
        region(corners(SQUARE)),
    )
    found = read(tmp_path, slide, "a.xml", f"<Annotations>{drawn}</Annotations>".encode())
    assert ([one.name for one in found.objects], len(found.regions)) == (["Nucleus", "object"], 1)
    in_layer = layer("Nucleus", region(corners(REGION), Text="region"), region(corners(SQUARE), Text="pale"))
    found = read(tmp_path, slide, "a.xml", f"<Annotations>{in_layer}</Annotations>".encode())
    assert ([one.name for one in found.objects], len(found.regions)) == (["Nucleus"], 1)


def test_shapes_of_imagescope(tmp_path, slide):
    two = np.array([(140.0, 140.0), (180.0, 200.0)])
    extremes = np.array([(160.0, 140.0), (180.0, 170.0), (160.0, 200.0), (140.0, 170.0)])
    hole = box(150, 150, 160, 160)
    drawn = layer(
        "Nucleus",
        region(two, Type="1"), region(two, Type="2"), region(extremes, Type="2"),
        region(two, Type="3"), region(two, Type="4"),
    )  # fmt: skip
    cut = layer(
        "Vessel",
        region(corners(SQUARE)), region(corners(hole), NegativeROA="1"), region(corners(REGION) + 300, NegativeROA="1"),
    )  # fmt: skip
    found = read(tmp_path, slide, "a.xml", f"<Annotations>{drawn}{cut}</Annotations>".encode())
    ellipse = np.pi * 20 * 30
    areas = [one.geometry.area for one in found.objects]
    assert areas == pytest.approx([2400, ellipse, ellipse, 2300], rel=1e-3)
    assert found.objects[3].geometry.equals(SQUARE.difference(hole))
    assert "2 ellipses of ImageScope were taken as inscribed" in found.assumptions[0]
    assert [text.split(") ")[1] for text in found.left_out] == [
        "is an arrow",
        "is a ruler",
        "is a negative region that lies on no other of its layer",
    ]
