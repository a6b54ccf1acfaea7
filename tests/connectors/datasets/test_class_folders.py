"""A folder of FSS-1000 with all its defects is read, and says what it is."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.datasets.class_folders import (
    ClassFolders,
    allowed_for_shipping,
    class_names,
    dataset_root,
    fingerprint,
    read_pair,
)
from fewscope.errors import DatasetError


def write_pair(folder: Path, k: int, side: int = 224) -> None:
    """A grey square on noise; its mask is 0 and 255."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(k)
    mask = np.zeros((side, side), np.uint8)
    mask[50 : 120 + 5 * k, 60:150] = 255
    image = rng.integers(0, 90, (side, side, 3), dtype=np.uint8) + (mask // 2)[..., None]
    Image.fromarray(image).save(folder / f"{k}.jpg")
    Image.fromarray(mask).save(folder / f"{k}.png")


@pytest.fixture
def root(tmp_path):
    for name in ("abe's_flyingfish", "bus"):
        for k in (1, 2, 10):
            write_pair(tmp_path / name, k)
    return tmp_path


def test_the_known_defects_of_fss1000_are_survived(root, caplog):
    folder = root / "abe's_flyingfish"
    clean = {pair: read_pair(folder / f"{pair}.jpg").mask for pair in (1, 2, 10)}
    Image.new("RGB", (224, 224)).save(folder / "10.jpeg")  # beside 10.jpg, without a mask of its own
    Image.new("RGB", (224, 224)).save(folder / "9.jpg")  # no mask at all
    Image.new("L", (224, 224)).save(folder / "8.jpg")
    Image.new("L", (224, 224)).save(folder / "8.png")  # an empty mask
    Image.open(folder / "1.png").convert("RGB").save(folder / "1.png")
    for suffix in ("jpg", "png"):
        picture = Image.open(folder / f"2.{suffix}")
        picture.resize((448, 448), Image.Resampling.NEAREST).save(folder / f"2.{suffix}")
    ramp = np.where(clean[10], np.linspace(140, 250, 224)[None], np.linspace(5, 100, 224)[None])
    Image.fromarray(ramp.astype(np.uint8)).save(folder / "10.png")  # many values instead of two
    with caplog.at_level(logging.WARNING):
        category = next(ClassFolders(root).classes())
    assert category.keys == ("1", "2", "10")  # by number, not by letter
    assert category.images.shape == (3, 224, 224, 3)
    for mask, true in zip(category.masks, clean.values(), strict=True):
        np.testing.assert_array_equal(mask, true)
    assert [record.getMessage() for record in caplog.records if "10.png" in record.getMessage()]
    assert len(caplog.records) == 1


def test_masks_of_0_and_1_and_of_0_and_255_mean_the_same(root):
    image = root / "bus" / "1.jpg"
    first = read_pair(image)
    Image.fromarray(np.asarray(Image.open(image.with_suffix(".png"))) // 255).save(image.with_suffix(".png"))
    np.testing.assert_array_equal(read_pair(image).mask, first.mask)


def test_objects_are_read_where_every_pair_has_them_and_they_fit_the_mask(root):
    folder = root / "bus"
    for k in (1, 2, 10):
        mask = np.asarray(Image.open(folder / f"{k}.png")) > 0
        objects = np.where(mask, 1, 0).astype(np.uint16)
        objects[80:] *= 40_000  # two objects; ids need 16 bits
        Image.fromarray(objects).save(folder / f"{k}.inst.png")
    fish, bus = ClassFolders(root).classes()
    assert fish.instances is None
    assert bus.keys == ("1", "2", "10")  # an instance map is not a pair
    assert sorted(np.unique(bus.instances)) == [0, 1, 40_000]
    np.testing.assert_array_equal(bus.instances > 0, bus.masks)
    Image.new("I;16", (224, 224), 1).save(folder / "2.inst.png")  # not of this mask
    assert list(ClassFolders(root).classes())[1].instances is None


@pytest.mark.parametrize(
    "place", ["splits/test.txt", "test.txt", "splits/fss/test.txt", "fss_test_set.txt", "../fss_test_set.txt"]
)
def test_a_split_is_found_under_its_usual_names_with_or_without_apostrophes(root, place):
    (root / "data").mkdir()
    for folder in ("bus", "abe's_flyingfish"):
        (root / folder).rename(root / "data" / folder)
    path = root / "data" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("bus\nabes_flyingfish\n\n")
    assert class_names(root / "data", "test") == ["bus", "abe's_flyingfish"]


def test_hsnet_calls_the_training_classes_trn(root):
    (root / "trn.txt").write_text("bus\n")
    assert class_names(root, "train") == ["bus"]


def test_the_archives_own_folder_in_a_folder_is_looked_into(root):
    inner = root / "x" / "fewshot_data" / "fewshot_data"
    write_pair(inner / "bus", 1)
    assert dataset_root(root / "x") == inner


def test_a_missing_split_says_where_lists_come_from(root):
    with pytest.raises(DatasetError, match=r"splits/val.txt, val.txt.*fss_test_set.txt.*HSNet"):
        class_names(root, "val")


def test_a_class_of_the_split_without_folder_is_named(root):
    (root / "test.txt").write_text("bus\ntram\n")
    with pytest.raises(DatasetError, match=r"1 of the 2 classes.*'tram'"):
        class_names(root, "test")


def test_domains_and_super_categories_are_read_and_asked_for(root):
    (root / "classes.csv").write_text("class,domain\nbus,natural\nabe's_flyingfish,natural\n")
    (root / "supercategories.csv").write_text("class,supercategory\nbus,vehicle\n")
    assert {c.name: c.domain for c in ClassFolders(root).classes()} == {
        "bus": "vehicle",
        "abe's_flyingfish": "natural",
    }
    assert [c.name for c in ClassFolders(root).classes(domains=["vehicle"])] == ["bus"]
    with pytest.raises(DatasetError, match="no class of the domain 'vehicles'"):
        list(ClassFolders(root).classes(domains=["vehicles"]))


def test_a_set_of_names_is_known_by_its_fingerprint():
    assert fingerprint(["b", "a's"]) == fingerprint(["as", "b"]) != fingerprint(["a", "b"])


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("CC0", True),
        ("CC BY 4.0", True),
        ("CC BY-SA", True),
        ('not stated (Kaggle "Satellite Images of Water Bodies")', True),
        ("CC BY-NC-SA 4.0", False),
        ("CC BY-ND", False),
        ("CC BY-NC-ND", False),
        ("DRIVE, research use", False),
        ("unknown", False),
    ],
)
def test_which_licences_weights_may_ship_with(licence, allowed):
    assert allowed_for_shipping(licence) is allowed
