"""Folders of patches and masks: read when their meaning is certain, refused by name when it is not."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest
from PIL import Image

from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.support.load import load_support
from tests.helpers.support_folders import disc, photo, refusal, save_pair


def test_both_layouts_and_urls_hold_the_same(tmp_path):
    folders, flat = tmp_path / "folders", tmp_path / "flat"
    flat.mkdir()
    for k in (1, 2, 10):
        save_pair(folders, str(k), photo(seed=k))
        Image.fromarray(photo(seed=k)).save(flat / f"{k}.jpg", quality=95)
        Image.fromarray(disc() * 255).save(flat / f"{k}.png")
    (flat / "notes.txt").write_text("left out")
    Image.fromarray(disc()).save(flat / "alone.png")
    first, second = load_support(str(folders)), load_support(str(flat))
    assert first.names == ("1.png", "2.png", "10.png")  # by number, not by letter
    assert second.names == ("1.jpg", "2.jpg", "10.jpg")
    assert np.array_equal(first.images[2], photo(seed=10))
    assert np.array_equal(first.labels, second.labels)
    assert np.array_equal(first.labels[0], disc())
    assert first.instances is None
    assert first.class_name == "folders"
    fsspec.filesystem("memory").put(str(folders), "/support", recursive=True)
    assert load_support("memory://support", class_names=["folders"]).digest() == first.digest()


def test_support_json_states_resolution_and_class(tmp_path):
    save_pair(tmp_path, "a")
    (tmp_path / "support.json").write_text('{"mpp": 0.5, "class": "nucleus"}')
    support = load_support(str(tmp_path))
    assert (support.mpp, support.class_name) == (0.5, "nucleus")
    assert load_support(str(tmp_path), class_names=["cell"]).class_name == "cell"
    for text in (
        '{"mpp": 500}',
        '{"mpp": "0.5"}',
        '{"mpp": true}',
        '{"MPP": 0.5}',
        "[1]",
        "{",
        '{"class": 3}',
    ):
        (tmp_path / "support.json").write_text(text)
        assert "support.json" in refusal(tmp_path), text


def palette(index, colours):
    picture = Image.fromarray(index, "L").convert("P")
    picture.putdata(index.ravel().tolist())
    picture.putpalette([level for colour in colours for level in colour])
    return picture


CERTAIN = {
    "0 and 1": lambda: disc(),
    "0 and 255": lambda: disc() * 255,
    "0 and another": lambda: disc() * 128,
    "16 bits, 0 and 1": lambda: disc().astype(np.uint16),
    "16 bits, 0 and 65535": lambda: disc().astype(np.uint16) * 65535,
    "one bit": lambda: Image.fromarray(disc().astype(bool)),
    "grey as RGB": lambda: np.repeat(disc()[..., None] * 255, 3, 2),
    "red on black": lambda: disc()[..., None] * np.array([255, 0, 0], np.uint8),
    "opaque alpha": lambda: np.dstack(
        [np.repeat(disc()[..., None] * 255, 3, 2), np.full((224, 224), 255, np.uint8)]
    ),
    "palette": lambda: palette(disc(), [(0, 0, 0), (255, 0, 0)]),
    "palette without black": lambda: palette(disc(), [(0, 0, 255), (255, 0, 0)]),
}


@pytest.mark.parametrize("make", CERTAIN.values(), ids=CERTAIN.keys())
@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_masks_whose_meaning_is_certain(tmp_path, make):
    save_pair(tmp_path, "mask", mask=make())
    assert np.array_equal(load_support(str(tmp_path)).labels[0], disc())


def test_0_1_and_0_255_in_one_folder(tmp_path):
    save_pair(tmp_path, "a", mask=disc())
    save_pair(tmp_path, "b", mask=disc() * 255)
    labels = load_support(str(tmp_path)).labels
    assert np.array_equal(labels[0], labels[1])


UNCERTAIN = {
    "0, 1 and 255": (lambda: np.where(np.eye(224, dtype=bool), 255, disc()).astype(np.uint8), "0, 1, 255"),
    "smeared edges": (
        lambda: (disc() * np.add.outer(range(224), range(224)) % 7).astype(np.uint8),
        "instances",
    ),
    "two values, no 0": (lambda: disc() + 1, "1, 2"),
    "grey levels": (lambda: photo()[..., 0], "2"),
    "three colours": (lambda: photo() // 128 * 255, "colours"),
    "transparent": (lambda: np.dstack([photo(), disc() * 255]), "transparent"),
    "palette turned round": (lambda: palette(disc(), [(255, 255, 255), (0, 0, 0)]), "palette"),
    "fractions": (lambda: None, "whole numbers"),
}


@pytest.mark.parametrize(("make", "word"), UNCERTAIN.values(), ids=UNCERTAIN.keys())
@pytest.mark.filterwarnings("ignore:'mode' parameter:DeprecationWarning")
def test_masks_whose_meaning_is_not_certain_are_refused(tmp_path, make, word):
    mask = make()
    save_pair(tmp_path, "mask", mask=mask)
    if mask is None:
        (tmp_path / "label" / "mask.png").unlink()
        Image.fromarray(disc() / np.float32(3)).save(tmp_path / "label" / "mask.tif")
    said = refusal(tmp_path)
    assert "label/mask." in said
    assert word in said


def test_a_jpeg_mask_is_taken_only_without_grey(tmp_path):
    save_pair(tmp_path, "a")
    (tmp_path / "label" / "a.png").unlink()
    noise = np.random.default_rng(0).integers(0, 9, (224, 224))
    blocks = np.kron(np.eye(28, dtype=np.uint8), np.ones((8, 8), np.uint8))
    Image.fromarray((blocks * 240 + noise).astype(np.uint8)).save(tmp_path / "label" / "a.jpg", quality=95)
    assert np.array_equal(load_support(str(tmp_path)).labels[0], blocks)
    Image.fromarray(photo()[..., 0]).save(tmp_path / "label" / "a.jpg")
    assert "JPEG" in refusal(tmp_path)


def test_a_negative_patch_is_accepted_when_another_has_the_object(tmp_path):
    save_pair(tmp_path, "empty", mask=np.zeros((224, 224), np.uint8))
    assert "labelled as object" in refusal(tmp_path)
    save_pair(tmp_path, "full", mask=np.full((224, 224), 255, np.uint8))
    assert load_support(str(tmp_path)).labels.mean() == 0.5


def test_masks_that_are_all_full_are_refused(tmp_path):
    save_pair(tmp_path, "full", mask=np.full((224, 224), 255, np.uint8))
    assert "labelled as background" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda f: save_pair(f, "a", mask=disc(224, 200)), ["label/a.png", "224 x 200", "224 x 224"]),
        (lambda f: (f / "label" / "a.png").unlink(), ["image/a.png", "no label"]),
        (lambda f: (f / "image" / "a.png").unlink(), ["label/a.png", "no image"]),
        (lambda f: (f / "label" / "a.png").write_bytes(b""), ["label/a.png", "empty"]),
        (lambda f: (f / "image" / "a.png").write_text("no"), ["image/a.png", "not a picture"]),
        (
            lambda f: (f / "image" / "a.png").write_bytes((f / "image" / "a.png").read_bytes()[:9000]),
            ["image/a.png", "cannot be decoded"],
        ),
        (lambda f: Image.new("RGB", (5000, 10)).save(f / "image" / "a.png"), ["image/a.png", "4096"]),
        (lambda f: Image.new("RGBA", (224, 224)).save(f / "image" / "a.png"), ["image/a.png", "transparent"]),
        (lambda f: Image.new("L", (9, 9)).save(f / "image" / "a.jpg"), ["image/a", "same name"]),
    ],
)
def test_a_broken_pair_is_refused_by_the_name_of_its_file(tmp_path, break_it, words):
    save_pair(tmp_path, "a")
    break_it(tmp_path)
    said = refusal(tmp_path)
    for word in words:
        assert word in said


def test_folders_without_pairs(tmp_path):
    assert "no labelled pair" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "none")
    (tmp_path / "image").mkdir()
    assert "label/" in refusal(tmp_path)
    (tmp_path / "file.svs").write_text("x")
    assert "is a file" in refusal(tmp_path / "file.svs")
    assert "nowhere" in refusal("nowhere://support")


def test_other_sizes_are_cut_or_padded_never_resized(tmp_path):
    save_pair(tmp_path, "large", photo(250, 244), disc(250, 244))
    save_pair(tmp_path, "small", photo(100, 224), disc(100, 224))
    support = load_support(str(tmp_path))
    assert np.array_equal(support.images[0], photo(250, 244)[13:237, 10:234])
    assert np.array_equal(support.labels[0], disc(250, 244)[13:237, 10:234])
    assert (support.labels[1][:62] == IGNORE_LABEL).all()
    assert np.array_equal(support.labels[1][62:162], disc(100, 224))
    assert (support.labels[1][162:] == IGNORE_LABEL).all()
    assert support.names == ("large.png (its centre; was 250 x 244)", "small.png (padded; was 100 x 224)")


def test_instances_come_along_and_must_agree_with_the_mask(tmp_path):
    numbers = disc().astype(np.uint16) * 7
    numbers[:112] *= 40
    save_pair(tmp_path, "a")
    Image.fromarray(numbers).save(tmp_path / "label" / "a.inst.png")
    support = load_support(str(tmp_path))
    assert support.instances is not None
    assert np.array_equal(support.instances[0], numbers)
    numbers[0, 0] = 1
    Image.fromarray(numbers).save(tmp_path / "label" / "a.inst.png")
    assert "1 px" in refusal(tmp_path)
