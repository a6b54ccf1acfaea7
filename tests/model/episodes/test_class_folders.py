"""A folder of FSS-1000 with all its defects is read, and says what it is; episodes are fixed and never leak."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fewscope.model.episodes.class_folders import (
    allowed_for_shipping,
    class_names,
    corpus_root,
    fingerprint,
    iter_corpus,
    load_corpus,
    read_pair,
)
from fewscope.model.episodes.protocol import Draw, every_picture, some_episodes


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
        category = next(iter_corpus(root))
    assert category.keys == ("1", "2", "10")  # by number, not by letter
    assert category.images.shape == (3, 3, 224, 224)
    for mask, true in zip(category.masks.numpy(), clean.values(), strict=True):
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
    fish, bus = load_corpus(root)
    assert fish.instances is None
    assert bus.keys == ("1", "2", "10")  # an instance map is not a pair
    assert sorted(np.unique(bus.instances)) == [0, 1, 40_000]
    np.testing.assert_array_equal(bus.instances.numpy() > 0, bus.masks.numpy())
    Image.new("I;16", (224, 224), 1).save(folder / "2.inst.png")  # not of this mask
    assert load_corpus(root)[1].instances is None


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
    assert corpus_root(root / "x") == inner


def test_a_missing_split_says_where_lists_come_from(root):
    with pytest.raises(FileNotFoundError, match=r"splits/val.txt, val.txt.*fss_test_set.txt.*HSNet"):
        class_names(root, "val")


def test_a_class_of_the_split_without_folder_is_named(root):
    (root / "test.txt").write_text("bus\ntram\n")
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 classes.*'tram'"):
        class_names(root, "test")


def test_domains_and_super_categories_are_read_and_asked_for(root):
    (root / "classes.csv").write_text("class,domain\nbus,natural\nabe's_flyingfish,natural\n")
    (root / "supercategories.csv").write_text("class,supercategory\nbus,vehicle\n")
    assert {c.name: c.domain for c in iter_corpus(root)} == {"bus": "vehicle", "abe's_flyingfish": "natural"}
    assert [c.name for c in iter_corpus(root, domains=["vehicle"])] == ["bus"]
    with pytest.raises(ValueError, match="no class of the domain 'vehicles'"):
        list(iter_corpus(root, domains=["vehicles"]))


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


@given(
    n=st.integers(2, 40), shots=st.integers(1, 8), queries=st.integers(1, 12), seed=st.integers(0, 2**32 - 1)
)
def test_support_and_query_are_disjoint_and_supports_distinct(n, shots, queries, seed):
    if shots >= n:
        with pytest.raises(ValueError, match="too few"):
            list(every_picture("bus", n, shots, seed))
        return
    every = list(every_picture("bus", n, shots, seed))
    assert [draw.query for draw in every] == [(i,) for i in range(n)]
    for draw in every + list(some_episodes("bus", n, shots, 3, queries, seed)):
        assert len(set(draw.support)) == len(draw.support) == shots
        assert not set(draw.support) & set(draw.query)
        assert set(draw.support + draw.query) <= set(range(n))
        assert 1 <= len(draw.query) <= max(queries, 1)


def test_fss1000_has_2400_test_queries():
    draws = [draw for i in range(240) for draw in every_picture(f"class {i}", 10, 5)]
    assert len(draws) == 2400
    assert len({(draw.category, draw.query) for draw in draws}) == 2400


def test_fewer_shots_are_asked_the_same_questions_with_the_first_of_the_same_supports():
    for draw in (every_picture, lambda n, k, s: some_episodes(n, k, s, 4, 6)):
        seven, one = list(draw("bus", 20, 7)), list(draw("bus", 20, 1))
        assert [d.query for d in seven] == [d.query for d in one]
        assert [d.support[:1] for d in seven] == [d.support for d in one]


def test_the_list_of_episodes_is_that_of_every_other_machine():
    """Published numbers rest on these draws: they may change in no version."""
    first, second, *_ = some_episodes("bus", 10, 5, 2, 3)
    assert (first.support, first.query) == ((9, 0, 7, 2, 6), (4, 3, 1))
    assert (second.support, second.query) == ((8, 7, 6, 2, 9), (0, 4, 3))


def test_a_draw_never_holds_a_picture_twice():
    with pytest.raises(ValueError, match="distinct"):
        Draw("bus", (1, 2), (2,))
