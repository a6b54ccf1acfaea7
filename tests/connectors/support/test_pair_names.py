"""Pairs as other programs name them, and names that leave a doubt."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.support.load import load_support
from tests.helpers.support_folders import disc, photo, refusal


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize(
    "mask",
    [
        *("a_mask.png", "a_masks.tif", "a_cp_masks.png", "a-labels.png", "a-labelled.tif", "a_labeled.png"),
        *("a_label.png", "a_seg.png", "a_gt.png", "a_MASK.PNG", "a-mask.bmp", "a_segmentation.tiff"),
    ],
)
@pytest.mark.parametrize("image", ["a.png", "a.tif", "a.jpg"])
def test_masks_that_are_named_after_their_image(tmp_path, image, mask):
    save(tmp_path / "flat" / image, photo())
    save(tmp_path / "flat" / mask, disc() * 255)
    save(tmp_path / "two" / "images" / image, photo())
    save(tmp_path / "two" / "masks" / mask, disc() * 255)
    for folder in ("flat", "two"):
        support = load_support(str(tmp_path / folder))
        assert support.names == (image,)
        assert np.array_equal(support.labels[0], disc())
        assert image.endswith("jpg") or np.array_equal(support.images[0], photo())


@pytest.mark.parametrize("images", ["image", "images", "img", "Imgs", "IMAGES"])
@pytest.mark.parametrize(
    "labels", ["label", "labels", "mask", "Masks", "GT", "annotations", "segmentation", "Segmentations"]
)
def test_folders_as_they_are_called(tmp_path, images, labels):
    save(tmp_path / images / "a.tif", photo())
    save(tmp_path / labels / "a.png", disc() * 255)
    assert np.array_equal(load_support(str(tmp_path)).labels[0], disc())


def test_names_of_qupath_and_numbers(tmp_path):
    for name in ("s.svs [x=0,y=224,w=224,h=224]", "10", "2", "b_mask_of"):
        save(tmp_path / f"{name}.png", photo())
        save(tmp_path / f"{name}-labelled.png", disc() * 255)
    names = load_support(str(tmp_path)).names
    assert names == ("2.png", "10.png", "b_mask_of.png", "s.svs [x=0,y=224,w=224,h=224].png")


def test_fss_pairs_stay_what_they_are_whatever_they_are_called(tmp_path):
    for name in ("1", "1_mask"):
        save(tmp_path / f"{name}.jpg", photo())
        save(tmp_path / f"{name}.png", disc() * 255)
    assert load_support(str(tmp_path)).names == ("1.jpg", "1_mask.jpg")


def test_objects_beside_a_mask_of_another_name(tmp_path):
    save(tmp_path / "a.png", photo())
    save(tmp_path / "a_mask.png", disc() * 255)
    save(tmp_path / "a_mask.inst.png", disc().astype(np.uint16) * 3)
    assert load_support(str(tmp_path)).instances.max() == 3


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            ["a.png", "a_mask.png", "a_cp_masks.png"],
            ["a.png: its mask may be", "a_mask.png", "a_cp_masks.png"],
        ),
        (["a.png", "a_mask.png", "a_mask.tif"], ["a.png: its mask may be", "a_mask.tif"]),
        (["a.jpg", "a.png", "a_mask.png"], ["a.jpg: its mask may be", "a.png", "a_mask.png"]),
        (["a.jpg", "a.tif", "a_mask.png"], ["a_mask.png: may be the mask of", "a.jpg", "a.tif"]),
        (
            ["a.png", "a_label.png", "a_label_mask.png"],
            ["a_label.png: is a mask by its name", "a_label_mask"],
        ),
        (["images/a.png", "gt/a.png", "masks/a.png"], ["gt: may be meant, or", "masks"]),
        (["images/a.png", "gt/a.png", "gt/a_mask.png"], ["same name", "a_mask.png"]),
        (["images/a.png", "gt/b_mask.png"], ["images/a.png", "no label"]),
        (["images/a.png"], ["has image/ but no label/"]),
        (["imgs/a.png"], ["no labelled pair", "NAME_mask.png"]),
        (["a_mask.png", "b.png"], ["no labelled pair", "NAME_mask.png"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_names_that_leave_a_doubt_are_refused(tmp_path, files, words):
    for file in files:
        save(tmp_path / file, photo() if "mask" not in file else disc() * 255)
    said = refusal(tmp_path)
    for word in words:
        assert word in said


def test_folders_of_the_first_names_are_taken_beside_others(tmp_path):
    for folder in ("image", "imgs"):
        save(tmp_path / folder / "a.png", photo())
    save(tmp_path / "label" / "a.png", disc() * 255)
    save(tmp_path / "masks" / "a.png", 255 - disc() * 255)
    (tmp_path / "segmentation").mkdir()
    assert np.array_equal(load_support(str(tmp_path)).labels[0], disc())


def test_a_class_may_be_called_mask(tmp_path):
    for seed, name in enumerate(("mask", "cat")):
        save(tmp_path / name / "1.jpg", photo(seed=seed))
        save(tmp_path / name / "1.png", disc() * 255)
    assert load_support(str(tmp_path)).class_names == ("cat", "mask")
