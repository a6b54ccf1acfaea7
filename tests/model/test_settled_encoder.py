"""A frozen encoder in the loop of corrections: how windows are cut into tiles, and what is computed once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewscope.errors import ConfigError
from fewscope.model.networks.frozen_encoder import FrozenEncoder, Readout, fit_readout
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.settled_encoder import SettledEncoder, joining, starts
from fewscope.model.views import View
from tests.helpers.discs import patches

SIDE = 128


class Colours(nn.Module):
    """Mean colours at a stride of 4: the same of a place, whatever it is seen with. Counts the tiles."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes += [tuple(one.shape) for one in x]
        return F.avg_pool2d(x, 4)


def counted() -> tuple[FrozenEncoder, list[tuple[int, ...]]]:
    body = Colours()
    return FrozenEncoder(body, "colours", "digest", mean=(0, 0, 0), std=(1, 1, 1)), body.sizes


IMAGES, LABELS = patches(3, seed=1)
TILES, _ = patches(2, seed=3)


@pytest.fixture(scope="module")
def plain() -> Segmenter:
    torch.set_num_threads(1)
    return load_segmenter(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load_segmenter(encoder="efficientnet-lite0", device="cpu", dtype=torch.float32)


def test_answers_are_those_of_predict_with_the_same_encoder(plain: Segmenter, segmenter: Segmenter) -> None:
    settled = segmenter.settled(TILES, SIDE, 0.25)
    two_classes = np.stack([LABELS, 1 - LABELS])
    pack = settled.pack(IMAGES, two_classes)
    textures = tuple(of_class.texture for of_class in pack.packs)
    view = View(SIDE, (), settled.weights, textures, readouts=pack.readouts)
    features = segmenter.encode(IMAGES, two_classes, sides=(SIDE,), encoder_share=0.25, known={SIDE: view})
    expected = segmenter.predict(TILES, features)
    found = settled.answer(settled.maps(TILES), pack)
    assert np.abs(found - expected).max() < 1e-4
    without = plain.settled(TILES, SIDE)
    assert np.abs(without.answer(without.maps(TILES), without.pack(IMAGES, two_classes)) - found).max() > 0.1


def test_the_preview_agrees_with_a_run_as_well_as_without_an_encoder(
    plain: Segmenter, segmenter: Segmenter
) -> None:
    """Each with its own norms, pixel classifiers and read-outs."""
    apart = []
    for model, share in ((plain, 0.0), (segmenter, 0.25)):
        settled = model.settled(TILES, SIDE, share)
        preview = settled.answer(settled.maps(TILES), settled.pack(IMAGES, LABELS))
        run = model.predict(TILES, model.encode(IMAGES, LABELS, sides=(SIDE,), encoder_share=share))
        apart.append(float(np.abs(preview - run).mean()))
    assert apart[1] < apart[0] * 1.1 + 1e-3


def test_a_readout_is_that_of_a_run_where_all_labelled_places_fit() -> None:
    encoder, _ = counted()
    settled = SettledEncoder(encoder, torch.float32, 4, 0.25)
    images = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 255
    sides = [torch.from_numpy(of_side[:, None]).float() for of_side in (LABELS, 1 - LABELS)]
    keys = [(bytes([k]), b"labels") for k in range(len(images))]
    found = settled.readout(lambda k: images[k : k + 1], sides[0], sides[1], keys)
    expected = fit_readout(encoder(images), sides[0], sides[1])
    assert torch.allclose(found.weight, expected.weight, rtol=1e-3)


def test_a_stroke_encodes_its_own_patch_alone() -> None:
    encoder, sizes = counted()
    segmenter = load_segmenter(device="cpu", dtype=torch.float32)
    segmenter = Segmenter(segmenter._exact, "compact", device="cpu", dtype=torch.float32, encoder=encoder)
    settled = segmenter.settled(TILES, SIDE, 0.5)
    maps = settled.maps(TILES)
    first = settled.pack(IMAGES[:2], LABELS[:2])
    assert sizes == [(3, 224, 224)] * 4
    before = settled.answer(maps, first)
    second = settled.pack(IMAGES, LABELS)
    assert len(sizes) == 5
    after = settled.answer(maps, second)
    other = LABELS.copy()
    other[0, :100] = 255
    settled.pack(IMAGES, other)
    assert len(sizes) == 5, "other labels of known patches"
    assert not np.array_equal(first.readouts[0].weight, second.readouts[0].weight)
    assert not np.array_equal(before, after)
    assert settled.pack(IMAGES[:2], LABELS[:2]).readouts[0] is first.readouts[0], "an undone stroke"


def test_what_only_looks_is_not_encoded_and_cannot_be_answered() -> None:
    encoder, sizes = counted()
    network = load_segmenter(device="cpu", dtype=torch.float32)._exact
    settled = Segmenter(network, "compact", device="cpu", dtype=torch.float32, encoder=encoder).settled(TILES)
    maps = settled.maps(TILES, to_answer=False)
    assert sizes == []
    assert np.array_equal(settled.features(maps), settled.features(settled.maps(TILES)))
    with pytest.raises(ConfigError, match="to_answer"):
        settled.answer(maps, settled.pack(IMAGES, LABELS))


@pytest.mark.parametrize("size", [(224, 224), (512, 512), (416, 288), (96, 544), (960, 256)])
def test_a_window_is_what_its_tiles_are(size: tuple[int, int]) -> None:
    """Of an encoder that sees each place alone: as if it had seen the window whole, but for a rim of 32 px."""
    encoder, sizes = counted()
    generator = torch.Generator().manual_seed(0)
    windows = torch.rand(2, 3, *size, generator=generator)
    readout = Readout(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([0.3]))
    maps = SettledEncoder(encoder, torch.float32, 4, 0.0).maps(windows)
    assert set(sizes) == {(3, 224, 224)}
    assert maps.nbytes == 4 * 3 * 56 * 56 * len(sizes)
    found, expected = maps.logits(readout), readout.logits([F.avg_pool2d(windows, 4)])
    assert found.shape == expected.shape
    middle = np.s_[..., 8 : found.shape[-2] - 8, 8 : found.shape[-1] - 8]
    assert torch.allclose(found[middle], expected[middle], atol=1e-5)
    if size == (512, 512):
        assert len(sizes) == 2 * 4
        assert torch.equal(found[..., :8, 20], found[..., 8:9, 20].expand(-1, -1, 8))  # the rim


@pytest.mark.parametrize("length", range(32, 1500, 32))
def test_tiles_cover_a_window_but_for_its_rim(length: int) -> None:
    begin = starts(length)
    assert min(begin) <= 32
    assert length - max(begin) - 224 <= 32
    assert all(0 < b - a <= 224 for a, b in itertools.pairwise(begin))
    assert all(one >= 0 and (one + 224 <= length or length < 224) for one in begin)
    assert torch.allclose(joining(length).sum((1, 2)), torch.ones(length // 4))
