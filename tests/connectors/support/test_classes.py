"""Support sets of several classes: what is known of each class, and what is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import SupportError
from tests.helpers.support_folders import disc, photo, refusal, save_pair


def blob(row, col, side=40):
    """A square object of a mask (224, 224), 0 and 1."""
    mask = np.zeros((224, 224), np.uint8)
    mask[row : row + side, col : col + side] = 1
    return mask


@pytest.fixture
def folders(tmp_path):
    """cell/ with two patches and vessel/ with two, all of different pictures; objects are of different size."""
    for k in (1, 2):
        save_pair(tmp_path / "cell", str(k), photo(seed=k), blob(10, 20))
        save_pair(tmp_path / "vessel", str(k), photo(seed=10 + k), blob(50, 60, 70))
    return tmp_path


def test_a_folder_for_each_class(folders):
    (folders / "support.json").write_text('{"mpp": 0.5}')
    support = load_support(str(folders))
    assert support.class_names == ("cell", "vessel")
    assert support.names == ("cell/1.png", "cell/2.png", "vessel/1.png", "vessel/2.png")
    assert support.mpp == 0.5
    assert [sorted(np.unique(y).tolist()) for y in support.labels] == [[0, 1]] * 2 + [[0, 2]] * 2
    assert support.complete.tolist() == [[True, False]] * 2 + [[False, True]] * 2


def test_background_of_one_class_is_not_known_of_another_but_its_objects_are(folders):
    cell, vessel = load_support(str(folders)).labels_by_class
    assert np.array_equal(cell[0], blob(10, 20))
    assert np.array_equal(vessel[2], blob(50, 60, 70))
    assert np.array_equal(vessel[0], np.where(blob(10, 20) == 1, 0, IGNORE_LABEL))
    assert np.array_equal(cell[2], np.where(blob(50, 60, 70) == 1, 0, IGNORE_LABEL))


def test_one_picture_in_two_folders_is_one_patch_known_for_both(tmp_path):
    for seed, (name, mask) in enumerate({"cell": blob(10, 20), "vessel": blob(30, 40, 70)}.items()):
        save_pair(tmp_path / name, "a", photo(seed=7), mask)
        save_pair(tmp_path / name, f"only {name}", photo(seed=seed), mask)
        numbers = Image.fromarray(mask.astype(np.uint16))
        for stem in ("a", f"only {name}"):
            numbers.save(tmp_path / name / "label" / f"{stem}.inst.png")
    support = load_support(str(tmp_path))
    assert len(support.images) == 3
    assert "cell/a.png, vessel" in support.names
    shared = support.labels[support.names.index("cell/a.png, vessel")]
    both = blob(10, 20) + blob(30, 40, 70) == 2
    expected = np.where(both, IGNORE_LABEL, blob(10, 20) + 2 * blob(30, 40, 70))
    assert np.array_equal(shared, expected)  # what both claim is not labelled
    cell, vessel = support.labels_by_class[:, support.names.index("cell/a.png, vessel")]
    assert np.array_equal(cell == 0, (expected == 0) | (expected == 2))
    assert np.array_equal(vessel == 0, (expected == 0) | (expected == 1))
    objects = support.instances[support.names.index("cell/a.png, vessel")]
    assert len(np.unique(objects[objects > 0])) == 2
    assert np.array_equal(objects > 0, (expected == 1) | (expected == 2))


def test_some_of_the_classes(folders):
    one = load_support(str(folders), class_names=["Vessel"])
    assert (one.class_names, len(one.images), one.complete) == (("vessel",), 2, None)
    both = load_support(str(folders), class_names=["vessel", "cell"])
    assert both.class_names == ("vessel", "cell")
    assert np.unique(both.labels[0]).tolist() == [0, 1]
    assert both.names[0] == "vessel/1.png"
    assert both.digest() != load_support(str(folders)).digest()
    assert "'bone', only cell, vessel" in refusal(folders, class_names=["bone"])
    (folders / "support.json").write_text('{"classes": ["vessel", "cell"]}')
    assert load_support(str(folders)).class_names == ("vessel", "cell")


def test_several_classes_in_one_mask(tmp_path):
    mask = blob(10, 20) + 2 * blob(100, 100)
    mask[200:] = IGNORE_LABEL
    objects = np.where(mask == IGNORE_LABEL, 0, mask > 0).astype(
        np.uint16
    )  # number 1 in both classes: two objects
    for stem in ("a", "b"):
        save_pair(tmp_path, stem, mask=mask)
        Image.fromarray(objects).save(tmp_path / "label" / f"{stem}.inst.png")
    assert "support.json" in refusal(tmp_path)
    (tmp_path / "support.json").write_text(json.dumps({"mpp": 0.5, "classes": ["cell", "vessel"]}))
    support = load_support(str(tmp_path))
    assert support.class_names == ("cell", "vessel")
    assert np.array_equal(support.labels[0], mask)
    assert np.bincount(support.instances[0].ravel())[1:].tolist() == [1600, 1600]
    vessel = load_support(str(tmp_path), class_names=["vessel"])
    assert np.array_equal(vessel.labels[0], np.where(mask == IGNORE_LABEL, IGNORE_LABEL, mask == 2))
    assert vessel.instances.max() == 1


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ({"classes": []}, "up to"),
        ({"classes": ["a", 3]}, "names"),
        ({"classes": ["a"], "class": "a"}, "beside them"),
        ({"classes": ["cell", "bone"]}, "'bone', only cell, vessel"),
        ({"class": "cell"}, "names one class"),
    ],
)
def test_statements_that_contradict_the_folders_are_refused(folders, statement, word):
    (folders / "support.json").write_text(json.dumps(statement))
    assert word in refusal(folders)


def test_a_mask_of_more_classes_than_names_is_refused(tmp_path):
    save_pair(tmp_path, "a", mask=3 * disc())
    (tmp_path / "support.json").write_text('{"classes": ["x", "y"]}')
    assert "0, 3, expected 0 for background, 1 to 2" in refusal(tmp_path)


def test_classes_at_different_resolutions_are_refused(folders):
    for name, mpp in (("cell", 0.5), ("vessel", 1.0)):
        (folders / name / "support.json").write_text(json.dumps({"mpp": mpp}))
    assert "cell 0.5, vessel 1.0" in refusal(folders)


def test_pairs_of_one_class_are_not_several(tmp_path):
    save_pair(tmp_path, "a")
    assert "a folder for each class" in refusal(tmp_path, class_names=["x", "y"])


def test_a_class_without_objects_is_refused_by_name():
    with pytest.raises(SupportError, match="as object of class 'b'"):
        SupportSet(photo()[None], disc()[None], None, ("1",), None, ("a", "b"))
