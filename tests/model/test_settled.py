"""The segmenter cut in the middle: equal to `predict`, a function of the labels alone, whatever was asked before."""

import numpy as np
import pytest
import torch

from fewscope.errors import ConfigError
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.settled import SettledSegmenter
from fewscope.model.views import View
from tests.helpers.discs import patches

SIDE = 128


IMAGES, LABELS = patches(3, seed=1)
UNLABELLED, _ = patches(2, seed=2)
TILES, TRUTH = patches(2, seed=3)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.set_num_threads(1)
    return load_segmenter(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def settled(segmenter: Segmenter) -> SettledSegmenter:
    return segmenter.settled(UNLABELLED)


def answer(settled: SettledSegmenter, images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return settled.answer(settled.maps(TILES), settled.pack(images, labels))


@pytest.mark.parametrize("side", [SIDE, pytest.param(192, marks=pytest.mark.slow)])
def test_answers_are_those_of_predict_with_the_same_norms(segmenter: Segmenter, side: int) -> None:
    settled = segmenter.settled(UNLABELLED, side)
    two_classes = np.stack([LABELS, np.where(LABELS == 1, 0, 1)]).astype(np.uint8)
    pack = settled.pack(IMAGES, two_classes)
    view = View(side, (), settled.weights, tuple(of_class.texture for of_class in pack.packs))
    features = segmenter.encode(IMAGES, two_classes, sides=(side,), known={side: view})
    expected = segmenter.predict(TILES, features)
    found = settled.answer(settled.maps(TILES), pack)
    assert found.shape == expected.shape == (2, 2, 224, 224)
    assert np.abs(found - expected).max() < 1e-4
    assert np.ptp(expected) > 0.5  # not all the same


def test_it_finds_what_was_labelled(settled: SettledSegmenter) -> None:
    found = answer(settled, IMAGES, LABELS)[:, 0] > 0.5
    assert (found & (TRUTH == 1)).sum() / (found | (TRUTH == 1)).sum() > 0.7


def test_a_removed_label_is_unlearned(segmenter: Segmenter, settled: SettledSegmenter) -> None:
    """What was kept from larger support sets does not show, nor does what another object has kept."""
    before = answer(settled, IMAGES[:2], LABELS[:2])
    answer(settled, IMAGES, 1 - LABELS)
    assert np.array_equal(answer(settled, IMAGES[:2], LABELS[:2]), before)
    assert np.array_equal(answer(segmenter.settled(UNLABELLED), IMAGES[:2], LABELS[:2]), before)


def test_a_patch_without_labels_changes_nothing(settled: SettledSegmenter) -> None:
    empty = np.concatenate([LABELS[:2], np.full_like(LABELS[:1], 255)])
    assert np.array_equal(answer(settled, IMAGES, empty), answer(settled, IMAGES[:2], LABELS[:2]))


def test_a_few_labelled_pixels_more_change_the_answer(settled: SettledSegmenter) -> None:
    sparse = np.concatenate([LABELS[:2], np.full_like(LABELS[:1], 255)])
    sparse[2, 40:60, 40:60] = 0
    assert not np.array_equal(answer(settled, IMAGES, sparse), answer(settled, IMAGES[:2], LABELS[:2]))


def test_ground_that_no_patch_has_is_unlike_the_labelled_ground(settled: SettledSegmenter) -> None:
    examples = settled.examples(IMAGES, LABELS)
    assert examples is not None
    rng = np.random.default_rng(0)
    stripes = np.where(np.arange(224)[:, None, None] % 16 < 8, 30, 120) + rng.integers(0, 9, (1, 224, 224, 3))
    near, far = (settled.unlike(settled.maps(t), examples) for t in (TILES, stripes.astype(np.uint8)))
    assert near.shape == (2, 16, 16)
    assert 0 <= near.min() <= far.max() <= 1
    assert np.median(near) < 0.1
    assert np.median(far) > 0.5
    assert settled.examples(IMAGES, np.full_like(LABELS, 255)) is None


def test_what_cannot_be_settled_is_refused(segmenter: Segmenter, settled: SettledSegmenter) -> None:
    with pytest.raises(ConfigError, match="use compact"):
        Segmenter(torch.nn.Identity(), "another", device="cpu").settled(UNLABELLED)
    with pytest.raises(ConfigError, match="N >= 1"):
        segmenter.settled(UNLABELLED[:0])
    with pytest.raises(ConfigError, match="multiple of 32"):
        segmenter.settled(UNLABELLED, 100)
    with pytest.raises(ConfigError, match="multiple of 32"):
        settled.maps(TILES[:, :200])
    with pytest.raises(ConfigError, match="do not fit"):
        settled.pack(IMAGES, LABELS[:2])
