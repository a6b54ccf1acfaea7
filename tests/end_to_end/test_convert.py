"""Small trees in the true formats of VOC and COCO become class folders that the corpus reads."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from fewscope.connectors.datasets.class_folders import ClassFolders, class_names
from fewscope.connectors.datasets.voc_coco import VOC_CLASSES, fold_classes
from fewscope.jobs.convert import main

PALETTE = np.random.default_rng(0).integers(0, 255, (256, 3), np.uint8)


def write_voc(root, sets, side=(96, 64)):
    """`sets`: {image set: {picture: {class number: [boxes]}}}; a void rim of one pixel round each object."""
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for image_set, pictures in sets.items():
        (root / "ImageSets" / "Segmentation" / f"{image_set}.txt").write_text(
            "".join(f"{p}\n" for p in pictures)
        )
        for name, classes in pictures.items():
            values = np.zeros(side, np.uint8)
            objects = np.zeros(side, np.uint8)
            n = 0
            for value, boxes in classes.items():
                for top, left, bottom, right in boxes:
                    n += 1
                    for array, content in ((values, value), (objects, n)):
                        array[top - 1 : bottom + 1, left - 1 : right + 1] = 255
                        array[top:bottom, left:right] = content
            Image.fromarray(np.full((*side, 3), 90, np.uint8)).save(root / "JPEGImages" / f"{name}.jpg")
            for folder, array in (("SegmentationClass", values), ("SegmentationObject", objects)):
                picture = Image.fromarray(array)
                picture.putpalette(PALETTE.tobytes())
                picture.save(root / folder / f"{name}.png")


def test_the_folds_of_pascal_5i_are_five_classes_after_the_other():
    for fold in range(4):
        train, test = fold_classes(fold)
        assert len(train) == 15
        assert test == VOC_CLASSES[5 * fold : 5 * fold + 5]
        assert not set(train) & set(test)
    assert sorted(VOC_CLASSES) == list(VOC_CLASSES)  # numbered in the order of the alphabet
    with pytest.raises(ValueError, match=r"not in 0\.\.3"):
        fold_classes(4)


def test_a_fold_takes_test_classes_from_validation_pictures_and_the_others_from_training_pictures(tmp_path):
    cat, dog, car = (VOC_CLASSES.index(name) + 1 for name in ("cat", "dog", "car"))
    box = [(10, 10, 40, 40)]
    write_voc(
        tmp_path / "voc",
        {
            "train": {"t1": {dog: box, cat: [(50, 10, 80, 40)]}, "t2": {dog: [*box, (10, 45, 30, 60)]}},
            "val": {"v1": {cat: box, dog: [(50, 10, 80, 40)]}, "v2": {cat: box}, "v3": {car: [(5, 5, 8, 8)]}},
        },
    )
    assert main(["voc", str(tmp_path / "voc"), "--out", str(tmp_path / "out"), "--fold", "1"]) == 0
    assert class_names(tmp_path / "out", "train") == ["dog"]
    assert class_names(tmp_path / "out", "test") == ["cat"]  # the car is too small
    dogs = next(ClassFolders(tmp_path / "out").classes("train"))
    assert dogs.keys == ("1", "2")  # of t1 and t2, none of v1
    assert [int(o.max()) for o in dogs.instances] == [1, 2]
    for mask, area in zip(dogs.masks, (30 * 30, 30 * 30 + 20 * 15), strict=True):  # without the void rim
        assert float(mask.mean()) == pytest.approx(area / (96 * 64), rel=0.05)
    cats = next(ClassFolders(tmp_path / "out").classes("test"))
    row, col = np.argwhere(cats.masks[0]).mean(0)
    assert row == pytest.approx(224 * 25 / 96, abs=1)
    assert col == pytest.approx(224 * 25 / 64, abs=1)


def test_without_a_fold_all_classes_come_from_trainval(tmp_path, capsys):
    write_voc(tmp_path / "voc", {"trainval": {f"p{i}": {1: [(10, 10, 40, 40)]} for i in range(3)}})
    args = ["voc", str(tmp_path / "voc"), "--out", str(tmp_path / "out"), "--max-pairs", "2"]
    assert main(args) == 0
    assert class_names(tmp_path / "out") == ["aeroplane"]
    assert len(next(ClassFolders(tmp_path / "out").classes()).images) == 2
    assert "2  aeroplane" in capsys.readouterr().out
    assert main(args) == 2  # not into a folder with pictures
    assert "is not empty" in capsys.readouterr().err


@pytest.fixture
def coco(tmp_path):
    """Three pictures of 50 x 80: a triangle, run lengths in both forms, a crowd."""
    (tmp_path / "pictures").mkdir()
    for k in (1, 2, 3):
        Image.new("RGB", (80, 50), (k * 40, 9, 9)).save(tmp_path / "pictures" / f"{k:012d}.jpg")
    block = np.zeros((50, 80), np.uint8, order="F")
    block[10:30, 20:60] = 1
    text = coco_mask.encode(block)
    flat = block.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()  # starts with zeros, as COCO's do
    second = [[60, 30, 78, 30, 78, 48, 60, 48]]
    shapes = [
        (1, 7, [[0, 0, 40, 0, 0, 40]], 0),
        (1, 7, second, 0),
        (2, 7, {"size": [50, 80], "counts": text["counts"].decode()}, 0),
        (3, 7, {"size": [50, 80], "counts": counts}, 1),
        (2, 9, {"size": [50, 80], "counts": counts}, 0),
        (3, 9, second, 0),
    ]
    content = {
        "images": [{"id": k, "file_name": f"{k:012d}.jpg", "height": 50, "width": 80} for k in (1, 2, 3)],
        "categories": [
            {"id": 7, "name": "traffic light", "supercategory": "outdoor"},
            {"id": 9, "name": "cat", "supercategory": "animal"},
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": crowd}
            for i, (image, category, shape, crowd) in enumerate(shapes)
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def test_cocos_polygons_and_run_lengths_become_masks_and_objects(coco):
    out = coco / "out"
    assert (
        main(["coco", str(coco / "instances.json"), "--images", str(coco / "pictures"), "--out", str(out)])
        == 0
    )
    cat, light = ClassFolders(out).classes()
    assert (cat.name, cat.domain) == ("cat", "animal")
    assert (light.name, light.domain) == ("traffic_light", "outdoor")
    assert light.keys == ("1", "2")  # without the crowd of picture 3
    areas = [float(m.mean()) * 50 * 80 for m in light.masks]
    assert areas == pytest.approx([40 * 40 / 2 + 18 * 18, 20 * 40], rel=0.04)
    assert [int(o.max()) for o in light.instances] == [2, 1]
    np.testing.assert_array_equal(cat.masks[0], light.masks[1])  # the same shape, as list and as text
    assert light.images[1, ..., 0].mean() == pytest.approx(80, abs=3)  # of the second picture


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "instances.json").write_text("[]"), "is not in COCO's format"),
        (lambda root: (root / "pictures" / "000000000001.jpg").unlink(), "000000000001.jpg"),
        (lambda root: Image.new("RGB", (9, 9)).save(root / "pictures" / "000000000001.jpg"), "is 9x9.*80x50"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(coco, spoil, message, capsys):
    spoil(coco)
    args = [
        "coco",
        str(coco / "instances.json"),
        "--images",
        str(coco / "pictures"),
        "--out",
        str(coco / "out"),
    ]
    assert main(args) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)


def test_a_folder_that_is_not_vocs_says_what_is_missing(tmp_path, capsys):
    assert main(["voc", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "give the folder that holds JPEGImages" in capsys.readouterr().err
