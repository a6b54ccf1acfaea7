"""Pascal VOC's XML beside pictures."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.slide_folders import drawn_in
from fewscope.connectors.support.load import is_annotations, load_support
from tests.helpers.boxes import Box, write_voc
from tests.helpers.support_folders import photo, refusal

BOXES = [Box("cell", 10, 20, 40, 60), Box("vessel", 100, 30, 140, 50)]


def written(folder) -> str:
    write_voc(folder, {"a": (photo(), BOXES)})
    return (folder / "a.xml").read_text()


@pytest.mark.parametrize(
    ("picture", "file"),
    [
        ("a.png", "a.xml"),
        ("JPEGImages/a.png", "Annotations/a.xml"),
        ("images/a.png", "annotations/a.xml"),
        ("images/a.png", "annotations/b.xml"),
    ],
)
def test_layouts_of_other_programs(tmp_path, picture, file):
    written(tmp_path)
    for old, new in (("a.png", picture), ("a.xml", file)):
        (tmp_path / new).parent.mkdir(exist_ok=True)
        (tmp_path / old).rename(tmp_path / new)
    assert drawn_in(str(tmp_path)) == []
    for uri in (tmp_path, tmp_path / file):
        assert not is_annotations(str(uri))
        support = load_support(str(uri))
        assert support.class_names == ("cell", "vessel")
        expected = np.zeros((224, 224), int)
        for value, box in enumerate(BOXES, start=1):
            expected[box.pixels] = value
        assert np.array_equal(support.labels[0], expected)
        assert np.array_equal(support.rough > 0, support.labels > 0)
        assert support.notes == ()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<name>cell</name>", "", "object 1 has no name"),
        ("<xmin>10</xmin>", "", "the box of object 1 is None, 20"),
        ("<xmin>10</xmin>", "<xmin>left</xmin>", "the box of object 1 is left"),
        ("<xmin>10</xmin>", "<xmin>nan</xmin>", "the box of object 1 is nan"),
        ("</annotation>", "", "is not XML"),
        ("<width>224</width>", "<width>300</width>", "224 x 300 px"),
        ("<annotation ", '<!DOCTYPE x [<!ENTITY e "eee">]><annotation ', "defines entities"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, old, new, words):
    text = written(tmp_path)
    assert old in text
    (tmp_path / "a.xml").write_text(text.replace(old, new))
    assert words in refusal(tmp_path)


def test_boxes_without_an_area_are_left_out_and_pictures_without_a_file_too(tmp_path):
    text = written(tmp_path)
    (tmp_path / "a.xml").write_text(
        text.replace("<xmin>10</xmin>", "<xmin>40</xmin>").replace("<width>224", "<width>0")
    )
    Image.fromarray(photo()).save(tmp_path / "c.png")
    support = load_support(str(tmp_path))
    assert support.class_names == ("vessel",)
    unlabelled, left_out = support.notes
    assert "c.png" in unlabelled
    assert "object 1 of a.xml has no area" in left_out


def test_two_kinds_of_labels_and_a_missing_picture_are_refused(tmp_path):
    written(tmp_path)
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1")
    said = refusal(tmp_path)
    assert "a.xml or " in said
    assert "a.txt; keep the files of one kind" in said
    (tmp_path / "one").mkdir()
    (tmp_path / "a.xml").rename(tmp_path / "one" / "a.xml")
    assert "its picture 'a.png' is not in" in refusal(tmp_path / "one")


def test_the_encoding_does_not_matter(tmp_path):
    text = '<?xml version="1.0" encoding="utf-16"?><!-- <annotations> -->' + written(tmp_path)
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    assert load_support(str(tmp_path)).class_names == ("cell", "vessel")


@pytest.mark.parametrize(
    "text",
    [
        "<Annotations/>",
        '<annotations><ndpviewstate id="1"><annotation type="freehand"/></ndpviewstate></annotations>',
    ],
)
def test_other_xml_beside_a_picture_is_drawn_on_it(tmp_path, text):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(text)
    assert [path for path, _ in drawn_in(str(tmp_path))] == [str(tmp_path / "a.xml")]
    assert is_annotations(str(tmp_path / "a.xml"))
