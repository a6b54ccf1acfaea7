"""Folders with borrowed pictures are read as the data sets whose shape they have."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import borrowed_sets
from fewscope.connectors.datasets.class_folders import ClassFolders
from fewscope.connectors.datasets.voc_coco import VOC_CLASSES, coco_names, read_coco
from fewscope.jobs import convert

N_PAIRS = 5
SIDE = 224


@pytest.fixture
def lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five classes of five pairs each, three of them for training, with two squares in every picture."""
    monkeypatch.setattr(borrowed_sets, "PAIRS", N_PAIRS)
    data = tmp_path / "lent"
    (data / "splits").mkdir(parents=True)
    names = [f"class_{c}" for c in range(5)]
    for c, name in enumerate(names):
        (data / name).mkdir()
        for k in range(1, N_PAIRS + 1):
            mask = np.zeros((SIDE, SIDE), bool)
            mask[20 : 60 + 10 * k, 30 : 80 + 10 * c] = True
            mask[150:200, 100 + 10 * k : 200] = True
            Image.fromarray(mask).save(data / name / f"{k}.png")
            picture = np.full((SIDE, SIDE, 3), 40 * c, np.uint8)
            Image.fromarray(picture + mask[..., None] * np.uint8(60)).save(data / name / f"{k}.jpg")
    (data / "splits" / "train.txt").write_text("\n".join(names[:3]))
    (data / "splits" / "val.txt").write_text("\n".join(names[3:]))
    return data


def test_fss_1000(lent: Path, tmp_path: Path) -> None:
    """The test classes, under the names of a file, are the lent validation classes, turned where one comes again."""
    out, names = tmp_path / "fss", tmp_path / "names.txt"
    names.write_text("abacus\nabe's_flyingfish\nzucchini\n")
    command = ["fss", "--data", str(lent), "--out", str(out), "--train", "4", "--names", str(names)]
    assert borrowed_sets.main(command) == 0
    test = list(ClassFolders(out).classes("test"))
    assert [c.name for c in test] == ["abacus", "abe's_flyingfish", "zucchini"]
    lent_first, lent_second = list(ClassFolders(lent).classes("val"))
    np.testing.assert_array_equal(test[0].masks, lent_first.masks)
    np.testing.assert_array_equal(test[1].masks, lent_second.masks)
    np.testing.assert_array_equal(test[2].masks, np.rot90(lent_first.masks, 1, (1, 2)))
    assert [len(list(ClassFolders(out).classes(split))) for split in ("train", "val")] == [4, 2]


def test_pascal_voc(lent: Path, tmp_path: Path) -> None:
    voc, out = tmp_path / "voc", tmp_path / "fold"
    assert borrowed_sets.main(["voc", "--data", str(lent), "--out", str(voc)]) == 0
    assert convert.main(["voc", str(voc), "--fold", "1", "--min-area", "0", "--out", str(out)]) == 0
    test = list(ClassFolders(out).classes("test"))
    assert {c.name for c in test} == set(VOC_CLASSES[5:10])
    assert len(list(ClassFolders(out).classes("train"))) == 15
    for category in test:
        assert len(category.images) == 3
        assert category.void is not None
        assert 0 < category.void.mean() < 0.2
        assert not (category.void & category.masks).any()


def test_coco_in_both_orders_of_folds(lent: Path, tmp_path: Path) -> None:
    coco = tmp_path / "coco"
    assert borrowed_sets.main(["coco", "--data", str(lent), "--out", str(coco)]) == 0
    annotations = [coco / "annotations" / f"instances_{name}2014.json" for name in ("train", "val")]
    names = coco_names(annotations[0])
    assert (len(names), names[0], names[-1]) == (80, "person", "toothbrush")
    first = next(read_coco(annotations[0], coco / "train2014"))
    assert first.instances is not None
    assert first.instances.max() == 2  # squares
    np.testing.assert_array_equal(first.mask, next(ClassFolders(lent).classes()).masks[0])
    for order, test_classes in (("interleaved", names[1::4]), ("consecutive", names[20:40])):
        out = tmp_path / order
        command = ["coco", *map(str, annotations), "--images", str(coco / "train2014"), str(coco / "val2014")]
        command += ["--fold", "1", "--fold-order", order, "--out", str(out)]
        assert convert.main(command) == 0
        test = list(ClassFolders(out).classes("test"))
        assert {c.name for c in test} == {name.replace(" ", "_") for name in test_classes}
        assert all(c.domain in borrowed_sets.COCO_CLASSES for c in test)
        assert len(list(ClassFolders(out).classes("train"))) == 60
