"""YOLO's text beside pictures, as Ultralytics, Roboflow, CVAT, LabelImg and Label Studio lay it out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.photographs import load_photograph_support
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import BOX
from tests.helpers.support_folders import disc, photo, refusal

BOX_LINE = "1 0.25 0.5 0.125 0.25"
OUTLINE = "0 0.5 0.5 0.75 0.5 0.75 0.75 0.5 0.75"


def put(root: Path, picture: str, text: str, file: str | None = None) -> Path:
    for path in (root / picture, root / (file or picture.rpartition(".")[0] + ".txt")):
        path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo()).save(root / picture)
    (root / (file or picture.rpartition(".")[0] + ".txt")).write_text(text)
    return root


@pytest.mark.parametrize(
    ("picture", "file", "names"),
    [
        ("a.jpg", "a.txt", {"classes.txt": "cell\nvessel\n"}),
        ("images/a.png", "labels/a.txt", {"classes.txt": "cell\nvessel", "notes.json": "{}"}),
        ("images/a.png", "labels/a.txt", {"labels/classes.txt": "cell\r\nvessel"}),
        ("images/train/a.png", "labels/train/a.txt", {"data.yaml": "names:\n  0: cell\n  1: vessel\n"}),
        ("train/images/a.png", "train/labels/a.txt", {"data.yaml": "names: [cell, vessel]\n"}),
        (
            "obj_train_data/a.png",
            "obj_train_data/a.txt",
            {"obj.names": "cell\nvessel\n", "train.txt": "a.png"},
        ),
    ],
)
def test_layouts_of_other_programs(tmp_path, picture, file, names):
    put(tmp_path, picture, f"{BOX_LINE}\n\n{OUTLINE}\n", file)
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    root = tmp_path / "train" if picture.startswith("train/") else tmp_path
    support = load_support(str(root))
    assert support.class_names == ("cell", "vessel")
    expected = np.zeros((224, 224), int)
    expected[84:140, 42:70] = 2
    expected[112:168, 112:168] = 1
    assert np.array_equal(support.labels[0], expected)
    assert np.array_equal(support.rough[0], np.where(expected == 2, BOX, 0))
    assert (support.notes, support.assumptions) == ((), ())
    assert load_photograph_support(root, ["vessel"]).rough.any()


def test_without_a_file_of_names_classes_have_their_numbers(tmp_path):
    put(tmp_path, "b.png", BOX_LINE)
    put(tmp_path, "10.png", "")
    put(tmp_path, "2.png", "1 0.5 0.5 0 0.1\n" + BOX_LINE)
    Image.fromarray(photo()).save(tmp_path / "c.png")
    (tmp_path / "README.txt").write_text("Hello")
    support = load_support(str(tmp_path))
    assert support.class_names == ("class 1",)
    assert support.names == ("2.png", "10.png", "b.png")
    unlabelled, left_out = support.notes
    assert "line 1 of 2.txt has no area" in left_out
    assert "1 picture without labels left out: c.png" in unlabelled
    assert any("classes.txt, obj.names, data.yaml" in text for text in support.assumptions)
    assert any("1 of 3 pictures have no object" in text for text in support.assumptions)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("0 0.5 0.5 0.1", "line 2"),
        ("0 0.5 0.5 0.1 0.1 0.9", "line 2"),  # a prediction with its confidence
        ("0 120 130 20 20", "from 0 to 1"),
        ("0 0.5 0.5 -0.1 0.1", "line 2"),
        ("-1 0.5 0.5 0.1 0.1", "a class from 0 on"),
        ("0 nan 0.5 0.1 0.1", "line 2"),
        ("0.5 0.5 0.5 0.1 0.1", "line 2"),
        ("cell 0.5 0.5 0.1 0.1", "'cell 0.5"),
        ("7 0.5 0.5 0.1 0.1", "class 7"),
    ],
)
def test_lines_that_are_no_labels_are_refused(tmp_path, line, word):
    put(tmp_path, "a.png", f"{BOX_LINE}\n{line}")
    (tmp_path / "classes.txt").write_text("cell\nvessel")
    said = refusal(tmp_path)
    assert word in said
    assert "a.txt" in said


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("data.yaml", "names: [cell", "data.yaml: is not YAML"),
        ("data.yaml", "names: 3", "its names are no list"),
        ("data.yaml", "names: {a: cell}", "its names are no list"),
        ("data.yaml", "names: !!python/object/apply:os.getcwd []", "is not YAML"),
        ("data.yaml", "names: [cell, cell]", "the same name"),
        ("data.yaml", "names: [vessel, cell]", "name its classes differently"),
    ],
)
def test_names_that_are_not_certain_are_refused(tmp_path, name, text, words):
    put(tmp_path, "a.png", BOX_LINE)
    (tmp_path / "classes.txt").write_text("cell\nvessel" if "differently" in words else "")
    if "differently" not in words:
        (tmp_path / "classes.txt").unlink()
    (tmp_path / name).write_text(text)
    assert words in refusal(tmp_path)


def test_labels_of_two_pictures_or_of_two_kinds_are_refused(tmp_path):
    put(tmp_path, "a.png", BOX_LINE)
    Image.fromarray(photo()).save(tmp_path / "a.bmp")
    assert "a.bmp or " in refusal(tmp_path)
    (tmp_path / "a.bmp").unlink()
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    said = refusal(tmp_path)
    assert "a.json or " in said
    assert "a.txt; keep the files of one kind" in said


def test_two_texts_of_one_picture_are_refused(tmp_path):
    put(tmp_path, "a.png", BOX_LINE)
    put(tmp_path, "a.png", OUTLINE, "labels/a.txt")
    said = refusal(tmp_path)
    assert "labels/a.txt; keep one of them" in said
    assert "a.png: has labels in" in said


def test_other_text_is_no_label_and_masks_come_first(tmp_path):
    put(tmp_path, "a.png", "A smear, 40x.")
    assert "no labelled pair" in refusal(tmp_path)
    put(tmp_path, "a.png", BOX_LINE)
    Image.fromarray(disc() * 255).save(tmp_path / "a_mask.png")
    assert np.array_equal(load_support(str(tmp_path)).labels[0], disc())
