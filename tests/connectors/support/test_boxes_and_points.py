"""Pictures whose objects are marked by boxes and points: every reader's boxes arrive as boxes in the support set."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.photographs import has_small_objects, load_photograph_support
from fewscope.connectors.support.joined_classes import join_classes
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.several import load_several, write_folder
from fewscope.connectors.support.support_set import BOX, POINT, SupportSet
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import SupportError
from tests.helpers.boxes import FORMATS, Box, write_coco
from tests.helpers.support_folders import opened_photo, photo, refusal, save_pair

SIZE = (300, 500)


def boxes_apart(draw: st.DrawFn) -> list[Box]:
    """Boxes in a picture of `SIZE`, none of which touches another: each in a cell of a grid of its own."""
    boxes = []
    for row in range(0, SIZE[0], 100):
        for col in range(0, SIZE[1], 100):
            if draw(st.booleans()):
                top, left = draw(st.integers(row, row + 40)), draw(st.integers(col, col + 40))
                sides = draw(st.tuples(st.integers(3, 50), st.integers(3, 50)))
                name = draw(st.sampled_from(["cell", "other cell"]))
                boxes.append(Box(name, left, top, left + sides[1], top + sides[0]))
    return boxes or [Box("cell", 10, 20, 30, 50)]


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS.keys())
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(boxes=st.composite(boxes_apart)())
def test_boxes_in_are_boxes_out_also_where_patches_cut_them(tmp_path_factory, write, boxes):
    folder = tmp_path_factory.mktemp("boxes")
    image = photo(*SIZE)
    write(folder, {"a": (image, boxes)})
    support = load_support(str(folder))
    names = sorted({box.name for box in boxes})
    assert support.class_names == tuple(names)
    seen = np.zeros(SIZE, int)
    for k, name in enumerate(support.names):
        row, col = map(int, name[name.index("(") + 1 : -1].split(", "))
        window = np.s_[row : row + 224, col : col + 224]
        expected, numbers = np.zeros(SIZE, np.uint8), np.zeros(SIZE, int)
        for number, box in enumerate(boxes, start=1):
            expected[box.pixels] = names.index(box.name) + 1
            numbers[box.pixels] = number
        known = support.labels[k] != IGNORE_LABEL
        assert np.array_equal(support.images[k], image[window])
        assert np.array_equal(support.labels[k][known], expected[window][known])
        assert np.array_equal(support.rough[k] == BOX, (expected[window] > 0) & known)
        marks = {mark.number: mark for mark in support.marks if mark.patch == k}
        for number in np.unique(support.instances[k][support.instances[k] > 0]):
            (of_box,) = np.unique(numbers[window][support.instances[k] == number])
            box, mark = boxes[of_box - 1], marks[number]
            whole = mark.top + row, mark.left + col, mark.bottom + row, mark.right + col
            assert whole == (box.top, box.left, box.bottom, box.right)
            assert (mark.value, mark.kind) == (names.index(box.name) + 1, BOX)
        seen[window] += known
    assert seen.max() == 1


def test_points_beside_a_patch_are_known_there(tmp_path):
    Image.fromarray(photo(224, 448)).save(tmp_path / "a.png")
    shapes = [{"label": "cell", "points": [[x + 0.3, 100.3]], "shape_type": "point"} for x in (100, 230, 400)]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    support = load_support(str(tmp_path))
    assert [np.unique(objects).tolist() for objects in support.instances] == [[0, 1], [0, 2, 3]]
    assert (support.rough[support.labels == 1] == POINT).all()
    places = [(mark.patch, mark.number, (mark.left + mark.right) / 2) for mark in support.marks]
    assert places == [(0, 1, 100), (0, 2, 230), (1, 2, 6), (1, 3, 176)]


def test_each_class_of_several_keeps_its_boxes(tmp_path):
    boxes = [Box("cell", 10, 20, 40, 60), Box("vessel", 300, 20, 440, 60)]
    write_coco(tmp_path, {"a": (photo(*SIZE), boxes)})
    support = load_support(str(tmp_path))
    for value, name in enumerate(support.class_names, start=1):
        alone, view = load_support(str(tmp_path), class_names=[name]), support.of_class(value)
        assert np.array_equal(view.labels, alone.labels)
        assert np.array_equal(view.rough, alone.rough)
        assert {replace(mark, number=0) for mark in view.marks} == {
            replace(mark, number=0) for mark in alone.marks
        }


def test_the_digest_tells_boxes_from_outlines_and_whole_boxes_from_parts(tmp_path):
    write_coco(tmp_path, {"a": (photo(*SIZE), [Box("cell", 200, 20, 300, 60)])})
    support = load_support(str(tmp_path))
    others = replace(support, marks=()), replace(support, marks=(), rough=None)
    assert len({one.digest() for one in (support, *others)}) == 3


def test_a_patch_that_is_nothing_but_boxes_has_background_in_them(tmp_path):
    write_coco(tmp_path, {"a": (photo(), [Box("cell", 0, 0, 224, 112), Box("cell", 0, 112, 224, 224)])})
    support = load_support(str(tmp_path))
    assert (support.labels == 1).all()
    assert support.notes == ()
    with pytest.raises(SupportError, match="no pixel of the 1 patches is labelled as background"):
        replace(support, rough=None)


def test_points_of_several_slides_are_kept_in_a_folder_of_patches(tmp_path):
    """What a run of the page learns from is what is drawn there."""

    def feature(geometry: str, coordinates: list, name: str) -> dict:
        return {
            "type": "Feature",
            "geometry": {"type": geometry, "coordinates": coordinates},
            "properties": {"classification": {"name": name}},
        }

    ring = [[10, 10], [210, 10], [210, 210], [10, 210], [10, 10]]
    features = [
        feature("Polygon", [ring], "Region*"),
        *(feature("Point", [x, 150], "cell") for x in (60, 100, 140)),
    ]
    with opened_photo(tmp_path, 300) as slide:
        files = []
        for name, some in (("a", features), ("b", features[:1])):
            (tmp_path / name).mkdir()
            path = tmp_path / name / "labels.geojson"
            path.write_text(json.dumps({"type": "FeatureCollection", "features": some}))
            files.append((str(path), slide))
        joined = load_several(files, SupportOptions())
    write_folder(str(tmp_path / "folder"), joined)
    again = load_support(str(tmp_path / "folder"))
    assert again.digest() == joined.digest()
    assert np.array_equal(again.rough, joined.rough)
    assert (again.rough[again.labels == 1] == POINT).all()
    Image.fromarray(np.full((224, 224), 3, np.uint8)).save(tmp_path / "folder" / "label" / "1.rough.png")
    assert "1.rough.png: holds [3]" in refusal(tmp_path / "folder")


def of_class(folder: Path, name: str, image: np.ndarray, rough: int) -> SupportSet:
    """The support set of one class that has an object in the middle."""
    numbers = np.zeros(image.shape[:2], np.uint8)
    numbers[100:120, 100:120] = 3
    save_pair(folder / name, "1", image, (numbers > 0).astype(np.uint8))
    Image.fromarray(numbers).save(folder / name / "label" / "1.inst.png")
    if rough:
        Image.fromarray((numbers > 0).astype(np.uint8) * rough).save(folder / name / "label" / "1.rough.png")
    return load_support(str(folder / name))


def test_folders_of_classes_are_joined_with_their_boxes(tmp_path):
    first = of_class(tmp_path, "a", photo(), 0)
    second = of_class(tmp_path, "b", photo(300, 300, seed=1), BOX)
    joined = join_classes([first, second])
    assert np.array_equal(load_support(str(tmp_path)).rough, joined.rough)
    assert np.array_equal(joined.rough, np.where(joined.labels == 2, BOX, 0))
    assert [replace(mark, patch=0, value=1) for mark in joined.marks] == [
        replace(mark, patch=0) for mark in second.marks
    ]
    assert {(mark.patch, mark.value) for mark in joined.marks} == {(k, 2) for k in range(1, 5)}


def test_boxes_tell_fields_of_view_from_photographs(tmp_path):
    many = [Box("cell", x, y, x + 20, y + 20) for x in range(20, 460, 50) for y in range(20, 260, 50)]
    write_coco(tmp_path / "many", {"a": (photo(*SIZE), many)})
    write_coco(tmp_path / "one", {"a": (photo(*SIZE), [Box("dog", 100, 50, 400, 250)])})
    assert has_small_objects(str(tmp_path / "many"))
    assert not has_small_objects(str(tmp_path / "one"))
    support = load_photograph_support(tmp_path / "one")
    rows, cols = np.nonzero(support.labels[0] == 1)
    assert (rows.min(), rows.max() + 1) == pytest.approx((50 * 224 / 300, 250 * 224 / 300), abs=1)
    assert (cols.min(), cols.max() + 1) == pytest.approx((100 * 224 / 500, 400 * 224 / 500), abs=1)
    assert np.array_equal(support.rough > 0, support.labels == 1)
    (tmp_path / "points").mkdir()
    Image.fromarray(photo(*SIZE)).save(tmp_path / "points" / "a.png")
    shapes = [{"label": "dog", "points": [[250, 150]], "shape_type": "point"}]
    (tmp_path / "points" / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    assert has_small_objects(str(tmp_path / "points"))
    with pytest.raises(SupportError, match=r"a.json: marks objects by points.*draw boxes or outlines"):
        load_photograph_support(tmp_path / "points")
