"""The pixel classifier: what it sees, what it learns, how it informs the network and is mixed with it."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from fewscope.model.networks.pixel_classifier import (
    LIMIT,
    TexturePack,
    fit_texture,
    fit_textures,
    texture_logits,
)
from fewscope.model.networks.texture_statistics import N_STATISTICS, flatness, texture_statistics
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.model.views import SupportFeatures, View


def striped(seed: int, n: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Grey pictures (n, 224, 224, 3) with a band of fine stripes of the same mean, and the bands as labels."""
    generator = np.random.default_rng(seed)
    rows = np.arange(224)[:, None]
    labels = np.zeros((n, 224, 224), np.uint8)
    images = generator.normal(120, 6, (n, 224, 224, 3))
    for label, image in zip(labels, images, strict=True):
        left = int(generator.integers(20, 120))
        label[:, left : left + 80] = 1
        image[:, left : left + 80] += (24 * np.sign(np.sin(rows * np.pi / 4)))[..., None]
    return images.clip(0, 255).astype(np.uint8), labels


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pictures, foreground and background."""
    sides = (torch.from_numpy(labels == side)[:, None].float() for side in (1, 0))
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, *sides


def iou(found: np.ndarray, true: np.ndarray) -> float:
    return float((found & true).sum() / (found | true).sum())


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return load_segmenter(device="cpu", batch_size=2)


def test_statistics_are_at_stride_2_and_flat_of_a_flat_picture() -> None:
    found = texture_statistics(torch.full((2, 3, 64, 96), 0.4))
    assert found.shape == (2, N_STATISTICS, 32, 48)
    assert torch.allclose(found[:, :3], torch.tensor(0.4))
    edges = found[:, 4:].reshape(2, 5, 12, 32, 48)[:, :, 3:]  # all but the smoothed colours
    assert edges.abs().max() < 1e-3


def test_statistics_turn_with_the_picture() -> None:
    """Gradient magnitudes and Hessian eigenvalues have no direction."""
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    turned = torch.rot90(texture_statistics(picture), 1, (2, 3))
    assert torch.allclose(texture_statistics(torch.rot90(picture, 1, (2, 3))), turned, atol=1e-5)


@pytest.mark.slow
def test_a_texture_is_learned_that_no_colour_tells() -> None:
    images, labels = striped(0, 3)
    pack = fit_texture(*tensors(images, labels))
    asked, true = striped(9)
    logits = texture_logits(texture_statistics(tensors(asked, true)[0]), pack)
    assert logits.abs().max() <= LIMIT
    assert iou((logits[0, 0] > 0).numpy(), true[0, ::2, ::2] == 1) > 0.85


@pytest.mark.slow
def test_it_repeats_itself_and_travels() -> None:
    one, other = (fit_texture(*tensors(*striped(1, 2))) for _ in range(2))
    arrays = {name: tensor.numpy() for name, tensor in one.tensors().items()}
    for again in (other, pickle.loads(pickle.dumps(one)), TexturePack.of(arrays)):
        assert all(
            torch.equal(a, b) for a, b in zip(one.tensors().values(), again.tensors().values(), strict=True)
        )


def test_what_is_not_labelled_is_not_learned() -> None:
    """Bright is object in the labelled quarter; there is three times as much of it where nothing is said."""
    bright = np.zeros((2, 224, 224), bool)
    bright[:, 10:220:30, 20:200] = bright[:, 11:220:30, 20:200] = bright[:, 12:220:30, 20:200] = True
    images = np.where(bright[..., None], 200, 60).astype(np.uint8).repeat(3, axis=-1)
    labels = bright.astype(np.uint8)
    labels[:, 56:] = 255
    pack = fit_texture(*tensors(images, labels))
    found = texture_logits(texture_statistics(tensors(images, labels)[0]), pack)[0, 0].numpy() > 0
    assert found[bright[0, ::2, ::2] & bright[0, 1::2, ::2]].mean() > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("side", [1, 2])
def test_objects_of_a_pixel_or_two_are_learned_from(side: int) -> None:
    labels = np.zeros((2, 224, 224), np.uint8)
    labels[:, 101 : 101 + side, 51 : 51 + side] = 1
    images = np.where(labels[..., None] == 1, 200, 60).astype(np.uint8).repeat(3, axis=-1)
    pack = fit_texture(*tensors(images, labels))
    logits = texture_logits(texture_statistics(tensors(images, labels)[0]), pack)
    row, col = divmod(int(logits[0, 0].argmax()), 112)
    assert labels[0, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2].any()


def by_side(features: SupportFeatures) -> dict[int, View]:
    return {view.side: view for view in features.views}


@pytest.fixture
def nothing_is_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bands are; `test_models` asks what becomes of that."""
    monkeypatch.setattr("fewscope.model.networks.texture_statistics.FLAT", 1e-9)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture", "nothing_is_flat")
def test_the_two_are_mixed_in_logits(segmenter: Segmenter) -> None:
    images, labels = striped(3, 3)
    tiles, _ = striped(8, 3)
    known = by_side(segmenter.encode(images, labels))

    def logits(share: float, depth: bool = False) -> np.ndarray:
        features = segmenter.encode(images, labels, texture_share=share, known=known)
        found = segmenter.predict(tiles, features, depth=depth).astype(np.float64)
        return np.log(found / (1 - found))

    network, half, texture = logits(0.0).clip(-LIMIT, LIMIT), logits(0.5), logits(1.0)
    assert np.abs(half - (network + texture) / 2).max() < 0.02
    assert np.abs(network - texture).max() > 0.5
    with_depth = logits(0.5, depth=True)
    assert np.abs(with_depth[:, :1] - half).max() < 1e-3
    assert np.array_equal(with_depth[:, 1:], logits(0.0, depth=True)[:, 1:])  # depth is the network's alone


@pytest.mark.slow
def test_the_network_is_told_what_the_classifier_says_and_need_not_believe_it(
    segmenter: Segmenter, nothing_is_flat: None
) -> None:
    """With a classifier that says the opposite it answers otherwise, and yet finds the bands."""
    images, labels = striped(3, 3)
    tiles, true = striped(8, 1)
    opposite = by_side(segmenter.encode(images, 1 - labels))
    told, misled = (
        segmenter.predict(tiles, segmenter.encode(images, labels, known=known))[0, 0]
        for known in ({}, opposite)
    )
    assert np.abs(told - misled).max() > 0.01
    assert iou(misled > 0.5, true[0] == 1) > 0.9


def test_many_classifiers_are_fitted_as_each_by_itself_would_be() -> None:
    """What several support sets learn at once has nothing to do with each other."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 500, N_STATISTICS, generator=generator)
    share = (x[..., 3] > 0).float()
    share[1] = (x[1, :, 7] > 0).float()
    known = torch.ones(2, 500) > 0
    known[1, 400:] = False
    both = fit_textures(x, share, known, torch.Generator().manual_seed(1), steps=120, batch=256)
    for i, kept in enumerate((500, 400)):
        maps = x[i, :kept].T[None, :, :, None]
        found = texture_logits(maps, both.of_episode(i))[0, 0, :, 0] > 0
        assert (found == (share[i, :kept] > 0)).float().mean() > 0.9


def test_of_nothing_nothing_is_learned() -> None:
    images, labels = striped(3)
    nothing = np.full_like(labels, 255)
    pack = fit_texture(*tensors(images, nothing))
    logits = texture_logits(texture_statistics(tensors(images, labels)[0]), pack)
    assert torch.isfinite(logits).all()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_a_tile_is_answered_alike_in_any_batch(segmenter: Segmenter) -> None:
    images, labels = striped(4, 3)
    features = segmenter.encode(images, labels, texture_share=0.25)
    tiles, _ = striped(7, 3)
    together = segmenter.predict(tiles, features)
    assert np.array_equal(together[2:], segmenter.predict(tiles[2:], features))


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_every_class_has_a_classifier_and_they_are_a_part_of_what_is_encoded(segmenter: Segmenter) -> None:
    images, labels = striped(5, 3)
    labels[:, :, :20] = 2
    features = segmenter.encode(images, labels, texture_share=0.5)
    assert [len(view.textures) for view in features.views] == [2]
    assert features.n_classes == 2
    assert segmenter.predict(images[:1], features).shape == (1, 2, 224, 224)
    other = segmenter.encode(images, labels, texture_share=0.25, known=by_side(features))
    assert other.digest != features.digest
    again = segmenter.encode(images, labels, texture_share=0.5, known=by_side(features))
    assert again.digest == features.digest


def test_empty_glass_is_flat_up_to_the_tissue() -> None:
    """Right of column 112 is glass, left of it tissue with a smooth cell: the glass is flat, but for a few pixels."""
    rng = np.random.default_rng(0)
    picture = np.full((224, 224), 0.95)
    picture[:, :112] = 0.5 + 0.3 * np.sin(np.arange(224) / 6)[:, None] * np.sin(np.arange(112) / 6)
    rows, columns = np.mgrid[:224, :224]
    cell = np.hypot(rows - 112, columns - 56) < 12
    picture[cell] = 0.3
    picture += rng.normal(0, 0.008, picture.shape)  # 2 grey levels of noise
    images = torch.from_numpy(picture).float().expand(1, 3, -1, -1)
    flat = flatness(texture_statistics(images))[0, 0].numpy()
    assert flat.shape == (112, 112)
    assert flat[:, 56 + 26 :].min() == 1
    assert flat[:, 56 + 6 :].min() == 0.5
    assert flat[:, :55].max() < 0.25
