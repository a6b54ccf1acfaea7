"""LabelMe's JSON beside pictures."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.photographs import load_photograph_support
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import BOX, POINT
from tests.helpers.support_folders import disc, photo, refusal


def shape(label: str, points: list, kind: str = "polygon", **more) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}} | more


def square(left: float, top: float, side: float) -> list[list[float]]:
    return [[left, top], [left + side, top], [left + side, top + side], [left, top + side]]


def save(
    folder, name: str, *shapes: dict, file: str | None = None, picture: str | None = None, **more
) -> None:
    """NAME and its JSON, which holds the picture as LabelMe does."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo()).save(folder / name)
    text = {
        "version": "5.5.0",
        "shapes": list(shapes),
        "imagePath": picture or name,
        "imageData": base64.b64encode((folder / name).read_bytes()).decode(),
        "imageHeight": 224,
        "imageWidth": 224,
    }
    path = folder / (file or name.rpartition(".")[0] + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(text | more))


def png(mask: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_shapes_with_an_area_are_objects(tmp_path):
    save(
        tmp_path,
        "a.png",
        shape("cell", square(10, 10, 20)),
        shape("cell", [[100, 30], [80, 10]], "rectangle"),
        shape("cell", [[112, 112], [112, 152]], "circle"),
        shape("cell", [[10, 150], [59, 199]], "mask", mask=png(np.eye(50, dtype=bool))),
        shape("cell", square(150, 10, 20), "oriented_rectangle"),
        shape("cell", square(190, 10, 20), "rectangle"),  # of X-AnyLabeling
    )
    numbers = load_support(str(tmp_path)).instances[0]
    expected = np.zeros((224, 224), int)
    expected[10:30, 10:30] = 1
    expected[10:30, 80:100] = 2
    expected[10:30, 150:170] = 5
    expected[10:30, 190:210] = 6
    expected[150:200, 10:60][np.eye(50, dtype=bool)] = 4
    row, col = np.mgrid[:224, :224] + 0.5
    circle = (row - 112) ** 2 + (col - 112) ** 2 < 40**2
    assert np.array_equal(np.where(circle, 0, numbers), np.where(circle, 0, expected))
    assert (numbers[circle] == 3).mean() > 0.995
    assert len(np.unique(numbers)) == 7
    support = load_support(str(tmp_path))
    assert np.array_equal(support.rough[0], np.where(np.isin(numbers, (2, 6)), BOX, 0))
    (assumed,) = support.assumptions
    assert "rectangles were taken for boxes around objects" in assumed


def test_points_mark_objects_and_outlines_say_more_than_boxes_and_points(tmp_path):
    save(
        tmp_path,
        "a.png",
        shape("nucleus", [[50.3, 60.6]], "point"),
        shape("cell", [[100.5, 60.5]], "point", group_id=1),
        shape("cell", [[90, 50], [110, 70]], "rectangle", group_id=1),
        shape("cell", [[150.5, 60.5]], "point", group_id=2),
        shape("cell", square(140, 50, 20), group_id=2),
    )
    support = load_support(str(tmp_path))
    row, col = np.mgrid[:224, :224]
    expected = np.where((row + 0.5 - 60.6) ** 2 + (col + 0.5 - 50.3) ** 2 < 9, 1, 0)
    expected[50:70, 90:110] = 2
    expected[50:70, 140:160] = 3
    assert np.array_equal(support.instances[0], expected)
    assert np.array_equal(support.rough[0], np.array([0, POINT, BOX, 0])[expected])


def test_lines_and_points_beside_outlines_are_left_out_with_a_note(tmp_path):
    save(
        tmp_path,
        "a.png",
        shape("cell", square(10, 10, 20)),
        shape("cell", [[1, 1]], "point"),
        shape("cell", [[1, 1], [5, 5]], "line"),
        shape("cell", [[1, 1], [5, 5]]),
        shape("cell", square(1, 1, 9)) | {"shape_type": {"a": 1}},
    )
    (note,) = load_support(str(tmp_path)).notes
    for word in (
        "4 objects left out",
        "a point of cell in a.png, beside outlines",
        "is a line",
        "shape 4 of a.json has no area",
    ):
        assert word in note


def test_groups_are_one_object_and_labels_are_classes(tmp_path):
    save(
        tmp_path,
        "a.png",
        shape("cell", square(10, 10, 20), group_id=1),
        shape("cell", [[60, 60], [69, 69]], "mask", mask=png(np.ones((10, 10), bool)), group_id=1),
        shape("vessel", square(10, 100, 20), group_id=1),
        shape("__ignore__", square(100, 100, 20)),
        shape("_background_", square(150, 100, 20)),
    )
    support = load_support(str(tmp_path))
    assert support.class_names == ("cell", "vessel")
    assert np.unique(support.instances[0]).tolist() == [0, 1, 2]
    assert (support.instances[0] == 1).sum() == 500
    assert (support.labels[0] == IGNORE_LABEL).sum() == 400
    assert (load_support(str(tmp_path), class_names=["vessel"]).labels[0] == 1).sum() == 400


@pytest.mark.parametrize(
    ("picture", "file", "stated"),
    [
        ("a.jpg", "a.json", "a.jpg"),
        ("a.tif", "a.json", "..\\somewhere\\a.tif"),
        ("images/a.jpg", "labels/a.json", "../images/a.jpg"),
        ("imgs/a.jpg", "Annotations/a.json", "a.jpg"),
        ("a.jpg", "b.json", "a.jpg"),
        ("images/a.jpg", "b.json", "/data/images/a.jpg"),
    ],
)
def test_where_the_picture_lies(tmp_path, picture, file, stated):
    save(tmp_path, picture, shape("cell", square(10, 10, 20)), file=file, picture=stated)
    for uri in (tmp_path, tmp_path / file):
        support = load_support(str(uri))
        assert (support.labels == 1).sum() == 400
        assert support.notes == ()
    assert load_photograph_support(tmp_path).class_names == ("cell",)


def test_pictures_without_json_are_left_out_and_those_without_a_shape_are_background(tmp_path):
    save(tmp_path, "10.jpg")
    save(tmp_path, "2.jpg", shape("cell", square(10, 10, 20)))
    Image.fromarray(photo()).save(tmp_path / "other.jpg")
    support = load_support(str(tmp_path))
    assert support.names == ("2.jpg", "10.jpg")
    assert "1 picture without labels left out: other.jpg" in support.notes[0]
    assert "1 of 2 pictures have no object" in support.assumptions[0]


def test_a_name_does_not_lead_out_of_the_folder(tmp_path):
    save(tmp_path, "b.jpg", shape("cell", square(10, 10, 20)), file="five/a.json", picture="../b.jpg")
    assert "its picture '../b.jpg' is not in" in refusal(tmp_path / "five")


@pytest.mark.parametrize(
    ("shapes", "more", "words"),
    [
        ([shape("", square(1, 1, 9))], {}, "shape 1 has no label"),
        ([3], {}, "shape 1 has no label"),
        ([shape("cell", [[1, "a"], [2, 2], [3, 3]])], {}, "shape 1 is no polygon"),
        ([shape("cell", [[1, 1]], "circle")], {}, "shape 1 is no circle"),
        ([shape("cell", [[1, 1], [2, 2]], "point")], {}, "shape 1 is no point"),
        ([shape("cell", [[1, 1], [float("inf"), 1]], "rectangle")], {}, "shape 1 is no rectangle"),
        ([shape("cell", [[1, 1], [2, 2], [3, 3]], "rectangle")], {}, "expected 2 or 4"),
        ([shape("cell", [[1, 1], [9, 9]], "mask")], {}, "shape 1 is no mask"),
        ([shape("cell", [[1, 1], [9, 9]], "mask", mask="%")], {}, "shape 1 is no mask"),
        ([shape("cell", [[1, 1], [9, 9]], "mask", mask="QUJD")], {}, "shape 1 is no mask"),
        ([shape("cell", square(1, 1, 9))], {"imageHeight": 100}, "100 x 224 px"),
        ([], {}, "none of its 1 pictures has an object"),
    ],
)
def test_what_is_damaged_is_refused(tmp_path, shapes, more, words):
    save(tmp_path, "a.png", *shapes, **more)
    assert words in refusal(tmp_path)


def test_a_picture_that_may_be_another_is_refused(tmp_path):
    save(tmp_path, "a.png", shape("cell", square(10, 10, 20)), file="x.json")
    save(tmp_path, "a.png", shape("cell", square(10, 10, 20)), file="y.json")
    assert "keep one of them" in refusal(tmp_path)
    (tmp_path / "y.json").unlink()
    (tmp_path / "z.json").write_text("{")
    assert "z.json" in refusal(tmp_path)


def test_masks_come_first(tmp_path):
    save(tmp_path, "a.jpg", shape("cell", square(10, 10, 20)))
    Image.fromarray(disc() * 255).save(tmp_path / "a.png")
    assert np.array_equal(load_support(str(tmp_path)).labels[0], disc())
