"""Folds, SBD, void and the clean-up of FSS-1000, on small trees in the true formats."""

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from fewscope.connectors.datasets.class_folders import ClassFolders, class_names
from fewscope.connectors.datasets.voc_coco import (
    VOC_CLASSES,
    Labelled,
    coco_fold,
    draw_classes,
    read_sbd,
    write_pairs,
)
from fewscope.errors import ConfigError, DatasetError

CAT = VOC_CLASSES.index("cat") + 1


def pair(folder, name="a", size=(300, 400), void=None):
    """A black image with an object in the middle; `size` is height and width."""
    mask = np.zeros(size, bool)
    mask[size[0] // 4 : size[0] // 2, size[1] // 4 : size[1] // 2] = True
    Image.new("RGB", size[::-1]).save(folder / f"{name}.jpg")
    return Labelled("cat", folder / f"{name}.jpg", mask, None, void)


def test_void_is_neither_object_nor_background(tmp_path):
    void = np.zeros((300, 400), bool)
    void[150:, :] = True  # below the object
    write_pairs([pair(tmp_path, "a", void=void), pair(tmp_path, "b")], tmp_path / "out")
    (category,) = ClassFolders(tmp_path / "out").classes()
    assert category.void.shape == (2, 224, 224)
    assert category.void[0, 112:].all()
    assert not category.void[0, :112].any()
    assert not category.void[1].any()
    labels = category.arrays()[1]
    assert set(np.unique(labels[0])) == {0, 1, 255}
    assert set(np.unique(labels[1])) == {0, 1}
    assert not (category.masks & category.void).any()


@pytest.mark.parametrize(
    ("size", "kept"), [((300, 400), True), ((224, 448), True), ((223, 300), False), ((230, 461), False)]
)
def test_the_clean_up_of_fss1000_keeps_images_of_224_px_and_an_aspect_ratio_of_2(tmp_path, size, kept):
    written = write_pairs([pair(tmp_path, size=size)], tmp_path / "out", max_aspect=2.0, min_side=224)
    assert bool(written) == kept
    assert write_pairs([pair(tmp_path, size=size)], tmp_path / "all") == {"cat": 1}


def test_both_orders_of_cocos_folds_cover_all_classes_once():
    names = tuple(f"{i:02}" for i in range(80))
    for order, first in (("interleaved", ("00", "04", "08")), ("consecutive", ("00", "01", "02"))):
        tests = [coco_fold(names, fold, order) for fold in range(4)]
        assert tests[0][1][:3] == first
        assert all(
            len(train) == 60 and len(test) == 20 and not set(train) & set(test) for train, test in tests
        )
        assert sorted(name for _, test in tests for name in test) == list(names)
    with pytest.raises(ConfigError, match="is not one of interleaved, consecutive"):
        coco_fold(names, 0, "random")


def test_classes_are_drawn_by_a_seed():
    names = [str(i) for i in range(80)]
    train, test = draw_classes(names, 60, 0)
    assert (len(train), len(test)) == (60, 20)
    assert draw_classes(names, 60, 0) == (train, test) != draw_classes(names, 60, 1)
    with pytest.raises(ConfigError, match="give 1 to 79"):
        draw_classes(names, 80, 0)


@pytest.mark.parametrize("form", ["mat", "png"])
def test_sbds_labels_are_read_in_both_forms_without_those_that_voc_has(tmp_path, form):
    (tmp_path / "JPEGImages").mkdir()
    values = np.zeros((40, 60), np.uint8)
    values[10:20, 10:30] = CAT
    sbd = tmp_path / "sbd"
    (sbd / ("cls" if form == "mat" else ".")).mkdir(parents=True)
    for name in ("one", "of_voc"):
        if form == "mat":
            savemat(sbd / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": values}})
        else:
            Image.fromarray(values).save(sbd / f"{name}.png")
    (found,) = read_sbd(sbd, tmp_path, {"of_voc"})
    assert (found.category, found.picture) == ("cat", tmp_path / "JPEGImages" / "one.jpg")
    np.testing.assert_array_equal(found.mask, values == CAT)
    assert not list(read_sbd(sbd, tmp_path, {"of_voc"}, ["dog"]))


def test_a_folder_that_is_not_sbds_says_what_is_missing(tmp_path):
    with pytest.raises(DatasetError, match=r"has neither cls/\*.mat nor \*.png"):
        next(read_sbd(tmp_path, tmp_path, ()))
    (tmp_path / "cls").mkdir()
    savemat(tmp_path / "cls" / "x.mat", {"other": 1})
    with pytest.raises(DatasetError, match="is not one of SBD's label files"):
        next(read_sbd(tmp_path, tmp_path, ()))


def test_super_categories_may_be_in_a_file_of_ones_own(tmp_path):
    for name in ("abe's_flyingfish", "bus"):
        (tmp_path / name).mkdir()
    (tmp_path / "classes.csv").write_text("class,domain\nbus,natural\n")
    own = tmp_path / "own.csv"
    own.write_text("class,supercategory\nabes_flyingfish,animals\nbus,transport\n")
    from fewscope.connectors.datasets.class_folders import domains_of

    assert domains_of(tmp_path) == {"bus": "natural"}
    assert domains_of(tmp_path, own) == {"abe's_flyingfish": "animals", "bus": "transport"}
    assert class_names(tmp_path) == ["abe's_flyingfish", "bus"]
    with pytest.raises(DatasetError, match="give a table of class,supercategory"):
        domains_of(tmp_path, tmp_path / "none.csv")
