"""COCO's JSON beside pictures: as CVAT, Roboflow, Label Studio and Make Sense lay it out."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.photographs import load_photograph_support
from fewscope.connectors.pixels.run_lengths import decode_run_lengths
from fewscope.connectors.support.load import is_annotations, load_support
from fewscope.connectors.support.support_set import BOX
from fewscope.errors import MissingPackageError, SupportError
from tests.helpers.support_folders import disc, photo, refusal


def square(left: float, top: float, side: float) -> list[float]:
    return [left, top, left + side, top, left + side, top + side, left, top + side]


def content(*annotations: dict, names=("a.png",), categories=("cell",), **sides) -> dict:
    """COCO's JSON; annotations are of the first picture and category unless they say otherwise."""
    stated = {"height": 224, "width": 224} | sides
    return {
        "info": {},
        "images": [{"id": k, "file_name": name, **stated} for k, name in enumerate(names)],
        "categories": [{"id": 10 + k, "name": name} for k, name in enumerate(categories)],
        "annotations": [
            {"id": k, "image_id": 0, "category_id": 10} | one for k, one in enumerate(annotations)
        ],
    }


@pytest.fixture
def folder(tmp_path):
    """A folder, and a function that puts pictures and a file of labels into it."""

    def put(labels: dict, *names: str, file: str = "_annotations.coco.json", size=(224, 224)):
        for name in names or ("a.png",):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photo(*size)).save(tmp_path / name)
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(json.dumps(labels))
        return tmp_path

    return put


TWO = (
    {"segmentation": [square(10, 20, 30)]},
    {"segmentation": [square(100, 20, 10), square(130, 20, 10)]},
)


def of_two() -> np.ndarray:
    numbers = np.zeros((224, 224), np.int32)
    numbers[20:50, 10:40] = 1
    numbers[20:30, 100:110] = numbers[20:30, 130:140] = 2
    return numbers


@pytest.mark.parametrize(
    ("file", "names", "stated"),
    [
        ("_annotations.coco.json", ["a.png"], "a.png"),
        ("annotations.json", ["images/a.png"], "a.png"),
        ("result.json", ["images/a.png"], "images\\a.png"),
        ("instances_default.json", ["a.tif"], "./a.tif"),
        ("annotations/instances_default.json", ["images/a.png"], "a.png"),
        ("annotations/instances_default.json", ["images/default/a.png"], "a.png"),
        ("annotations/instances_val.json", ["val/a.png"], "a.png"),
        ("Annotations/x.json", ["Imgs/sub/a.png"], "sub/a.png"),
        ("labels.json", ["images/a.png"], "/somewhere/on/another_machine/a.png"),
        ("labels.json", ["images/a.png"], "C:\\Users\\a.png"),
        ("labels.json", ["a.png"], "https://example.org/x/a.png"),
    ],
)
def test_layouts_of_other_programs(folder, file, names, stated):
    root = folder(content(*TWO, names=[stated]), *names, file=file)
    for uri in (root, root / file):
        assert not is_annotations(str(uri))
        support = load_support(str(uri))
        assert np.array_equal(support.instances[0], of_two())
        assert np.array_equal(support.labels[0], of_two() > 0)
        assert np.array_equal(support.images[0], photo())
        assert support.class_names == ("cell",)
        assert (support.notes, support.assumptions) == ((), ())
    assert np.array_equal(load_photograph_support(root / file).labels[0], of_two() > 0)


@pytest.mark.parametrize(
    "name", ["../a.png", "..\\a.png", "x/../../a.png", "/a.png", "file:///{}/a.png", "{}/a.png"]
)
def test_a_name_does_not_lead_out_of_the_folder(tmp_path, name):
    Image.fromarray(photo()).save(tmp_path / "a.png")
    inside = tmp_path / "five"
    inside.mkdir()
    (inside / "c.json").write_text(json.dumps(content(*TWO, names=[name.format(tmp_path)])))
    assert "none of its 1 pictures" in refusal(inside)


def runs(mask: np.ndarray, *, compressed: bool) -> dict:
    encoded = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": list(mask.shape), "counts": encoded["counts"].decode()}
    flat = mask.ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(np.r_[0, flat, 2]))  # runs start with 0
    return {"size": list(mask.shape), "counts": np.diff(np.r_[0, ends]).tolist()}


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths(folder, compressed):
    masks = disc().astype(bool), ~disc().astype(bool) & (np.arange(224) < 50)
    root = folder(content(*({"segmentation": runs(mask, compressed=compressed)} for mask in masks)))
    assert np.array_equal(load_support(str(root)).instances[0], masks[0] + 2 * masks[1])


def test_compressed_run_lengths_need_pycocotools(folder, monkeypatch):
    root = folder(content({"segmentation": runs(disc(), compressed=True)}))
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingPackageError, match=r"pip install fewscope\[eval\]"):
        load_support(str(root))


@pytest.mark.parametrize(
    "counts",
    [[1], [-1, 50177], [True, 50175], [50176, 1], ["a"], "ÿ", 3, None, [[50176]], "P" * 90],
)
def test_run_lengths_of_another_size_are_refused(folder, counts):
    with pytest.raises(ValueError, match=r".") as error:
        decode_run_lengths(counts, 224, 224)
    assert not isinstance(error.value, SupportError)
    root = folder(content({"segmentation": {"size": [224, 224], "counts": counts}}))
    assert "annotation 1" in refusal(root / "_annotations.coco.json")


def test_the_smaller_object_counts_and_pixel_centres_decide(folder):
    root = folder(
        content({"segmentation": [square(50.4, 50.6, 10)]}, {"segmentation": [square(20, 20, 100)]})
    )
    numbers = load_support(str(root)).instances[0]
    expected = np.zeros((224, 224), int)
    expected[20:120, 20:120] = 2
    expected[51:61, 50:60] = 1
    assert np.array_equal(numbers, expected)


def test_parts_of_an_object_may_overlap_and_reach_beyond_the_picture(folder):
    root = folder(content({"segmentation": [square(-20, -20, 50), square(10, 10, 50)]}))
    expected = np.zeros((224, 224), int)
    expected[:30, :30] = expected[10:60, 10:60] = 1
    assert np.array_equal(load_support(str(root)).instances[0], expected)


def test_classes_are_the_categories_that_occur(folder):
    labels = content(
        {"segmentation": [square(10, 10, 20)], "category_id": 12},
        {"segmentation": [square(60, 10, 20)], "category_id": 11},
        categories=("cells-of-roboflow", "vessel", "nucleus"),
    )
    root = folder(labels)
    support = load_support(str(root))
    assert support.class_names == ("nucleus", "vessel")
    assert (support.labels[0, 20, 20], support.labels[0, 20, 70]) == (1, 2)
    vessel = load_support(str(root), class_names=["Vessel"])
    assert vessel.class_names == ("vessel",)
    assert (vessel.labels[0, 20, 20], vessel.labels[0, 20, 70]) == (0, 1)
    assert "nucleus, vessel" in refusal(root, class_names=["gland"])
    with pytest.raises(SupportError, match="choose one of them with --class"):
        load_photograph_support(root)
    assert load_photograph_support(root, ["vessel"]).labels.sum() == 400
    (root / "support.json").write_text('{"mpp": 0.25, "classes": ["vessel"]}')
    assert (load_support(str(root)).mpp, load_support(str(root)).class_names) == (0.25, ("vessel",))


def test_crowds_and_what_is_ignored_are_not_labelled(folder):
    root = folder(
        content(
            {"segmentation": [square(10, 10, 20)]},
            {"segmentation": [square(60, 10, 20)], "iscrowd": 1},
            {"segmentation": [square(100, 10, 20)], "category_id": 11},
            {"segmentation": [], "bbox": [140, 10, 20, 20], "iscrowd": 1},
            {"segmentation": [square(10, 100, 20)], "iscrowd": 1, "category_id": 12},
            categories=("cell", "Ignore", "other"),
        )
    )
    label = load_support(str(root), class_names=["cell"]).labels[0]
    unknown = np.zeros((224, 224), bool)
    for left in (60, 100, 140):
        unknown[10:30, left : left + 20] = True
    assert np.array_equal(label == IGNORE_LABEL, unknown)
    assert (label == 1).sum() == 400
    assert load_support(str(root), class_names=["cell"]).rough is None


def test_boxes_that_are_written_as_outlines_are_told(folder):
    squares = [{"segmentation": [square(10 + 25 * k, 10, 20)]} for k in range(8)]
    (note,) = load_support(str(folder(content(*squares)))).notes
    assert "all of its 8 outlines are upright rectangles" in note
    triangle = {"segmentation": [[10, 100, 40, 100, 40, 140]]}
    assert load_support(str(folder(content(*squares, triangle)))).notes == ()
    assert load_support(str(folder(content(*squares[:7])))).notes == ()


def test_what_is_of_no_listed_picture_is_not_read(folder):
    squares = [{"segmentation": [square(10 + 25 * k, 10, 20)]} for k in range(8)]
    for broken in (["x", 1, 2], [1, 2, 3]):
        root = folder(content(*squares, {"segmentation": [broken], "image_id": 9}))
        upright, left_out = load_support(str(root)).notes
        assert "all of its 8 outlines are upright rectangles" in upright
        assert "annotation 9 is of a picture that is not listed" in left_out


def test_objects_with_a_box_and_no_outline_are_boxes(folder):
    root = folder(
        content(
            {"segmentation": [square(10, 10, 20)]},
            {"segmentation": [], "bbox": [140, 10, 20, 30]},
            {"bbox": [169.6, 10.2, 20, 20]},
            {"segmentation": None, "bbox": [150, 30, 8, 8]},
            {"bbox": [-10, 200, 30, 90]},
            {"bbox": [10, 100, 20, 20], "category_id": 11},
            {"bbox": [60, 60, 0, 20]},
            {"bbox": [60, 60, 20, -20]},
            categories=("cell", "other"),
        )
    )
    support = load_support(str(root), class_names=["cell"])
    expected = np.zeros((224, 224), int)
    expected[10:30, 10:30] = 1
    expected[10:40, 140:160] = 2
    expected[10:30, 170:190] = 3
    expected[30:38, 150:158] = 4  # the smaller one counts
    expected[200:, :20] = 5
    assert np.array_equal(support.instances[0], expected)
    assert np.array_equal(support.labels[0], expected > 0)
    assert np.array_equal(support.rough[0], np.where(expected > 1, BOX, 0))
    assert "2 objects left out: annotation 7 has no area, annotation 8" in support.notes[0]
    other = load_support(str(root), class_names=["other"])
    assert np.array_equal(other.rough, np.where(other.labels == 1, BOX, 0))


def test_pictures_without_an_object_are_background_and_others_are_left_out(folder):
    labels = content(*TWO, names=("a.png", "empty.png", "gone.png"))
    root = folder(labels, "a.png", "empty.png", "unknown.png")
    support = load_support(str(root))
    assert support.names == ("a.png", "empty.png")
    assert not support.labels[1].any()
    missing, unlisted = support.notes
    assert "1 of its pictures is not there" in missing
    assert "gone.png" in missing
    assert "1 picture without labels left out: unknown.png" in unlisted
    (assumed,) = support.assumptions
    assert "1 of 2 pictures have no object" in assumed


def test_objects_without_an_area_are_left_out_with_a_note(folder):
    root = folder(content(*TWO, {"segmentation": [[1, 1, 5, 5]]}, {}, {"image_id": 9, "bbox": [1, 1, 9, 9]}))
    (note,) = load_support(str(root)).notes
    for word in (
        "3 objects left out",
        "annotation 3 has no area",
        "annotation 4",
        "annotation 5 is of a picture",
    ):
        assert word in note


def test_masks_come_first(folder):
    root = folder(content(*TWO), "a.png")
    Image.fromarray(disc() * 255).save(root / "a_mask.png")
    assert np.array_equal(load_support(str(root)).labels[0], disc())
    assert np.array_equal(load_support(str(root / "_annotations.coco.json")).labels[0], of_two() > 0)


def test_a_larger_picture_is_split(folder):
    root = folder(content({"segmentation": [square(300, 100, 20)]}, height=300, width=400), size=(300, 400))
    support = load_support(str(root))
    assert len(support.names) == 4
    assert (support.labels == 1).sum() == 400


BAD = {
    "no id": ({"images": [{"file_name": "a.png"}]}, "picture 1"),
    "two of an id": ({"images": [{"id": 0, "file_name": "a.png"}] * 2}, "two pictures with the id 0"),
    "one picture twice": (
        {"images": [{"id": k, "file_name": n} for k, n in enumerate(("a.png", "./a.png"))]},
        "both",
    ),
    "no picture": ({"images": []}, "lists no picture"),
    "other picture": ({"images": [{"id": 0, "file_name": "b.png"}]}, "'b.png'"),
    "too many": (
        {"images": [{"id": k, "file_name": f"{k}.png"} for k in range(600)]},
        "none of its 600",
    ),
    "no category": ({"categories": [{"id": 10}]}, "category 1"),
    "other category": ({"categories": []}, "annotation 1"),
    "not a dict": ({"annotations": [3]}, "annotation 1"),
    "no numbers": (
        {"annotations": [{"image_id": 0, "category_id": 10, "segmentation": [["a"] * 6]}]},
        "annotation 1",
    ),
    "odd numbers": (
        {"annotations": [{"image_id": 0, "category_id": 10, "segmentation": [[1] * 7]}]},
        "annotation 1",
    ),
    "not finite": (
        {"annotations": [{"image_id": 0, "category_id": 10, "bbox": [1, 2, 3, 1e400]}]},
        "annotation 1",
    ),
    "no box": ({"annotations": [{"image_id": 0, "category_id": 10, "bbox": [1, 2, 3]}]}, "annotation 1"),
    "of another size": ({"images": [{"id": 0, "file_name": "a.png", "height": 9, "width": 9}]}, "9 x 9 px"),
}


@pytest.mark.parametrize(("change", "word"), BAD.values(), ids=BAD.keys())
def test_what_contradicts_itself_is_refused(folder, change, word):
    root = folder(content(*TWO) | change)
    assert word in refusal(root)


def test_two_files_may_be_meant(folder):
    folder(content(*TWO), file="annotations/instances_train.json")
    root = folder(content(*TWO), "a.png", file="annotations/instances_val.json")
    said = refusal(root)
    assert "instances_train.json or " in said
    assert load_support(str(root / "annotations" / "instances_val.json")).names == ("a.png",)
    (root / "annotations" / "instances_val.json").write_text("{")
    assert "instances_val.json: is not JSON" in refusal(root)


def test_other_json_is_no_label(folder):
    root = folder({"images": [], "annotations": {}})
    assert "no labelled pair" in refusal(root)
    assert is_annotations(str(root / "_annotations.coco.json"))
    (root / "x.json").write_text(
        '{"type": "FeatureCollection", "features": [], "images": ["annotations", "categories"]}'
    )
    assert is_annotations(str(root / "x.json"))
    assert is_annotations(str(root / "none.json"))
