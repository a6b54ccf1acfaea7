"""What the network sees of more than three channels, and what the pixel classifier reads beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewscope.errors import ConfigError
from fewscope.model.networks.pixel_classifier import fit_texture, texture_logits
from fewscope.model.networks.texture_statistics import N_STATISTICS, n_statistics, texture_statistics
from fewscope.model.projection import Projection, fit_projection
from fewscope.model.segmenter import load_segmenter
from fewscope.model.views import View


def five_channels(n: int, seed: int, side: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, side, side, 5) in which the object is bright in 0 and 1 and dark in 2; in each channel alone, half."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 2, (n, side // 16, side // 16, 5))
    bright = np.kron(blocks, np.ones((1, 16, 16, 1), int))
    images = (60 + 120 * bright + rng.normal(0, 25, bright.shape)).clip(0, 255).astype(np.uint8)
    object_ = bright[..., 0] & bright[..., 1] & (1 - bright[..., 2])
    return images, object_.astype(np.uint8)


def tensors(images: np.ndarray, labels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255, torch.from_numpy(labels)[None]


def test_the_first_direction_separates_the_object_as_no_channel_does():
    x, y = tensors(*five_channels(3, 0))
    projection = fit_projection(x, y)
    seen = projection(x)
    assert seen.shape == (3, 8, 224, 224)
    assert torch.equal(seen[:, 3:], x)
    assert 0 <= seen.min() <= seen.max() <= 1
    is_object = y[0] == 1
    contrast = [float((v[is_object].mean() - v[~is_object].mean()) / v.std()) for v in seen.unbind(1)]
    assert contrast[0] > 1.15 * max(map(abs, contrast[3:]))
    first = projection.weight[0]
    assert first[0] > 0 and first[1] > 0 > first[2]  # noqa: PT018
    assert first[3:].abs().max() < 0.15 * first[:3].abs().min()


def test_it_depends_on_the_patches_alone_and_survives_being_kept():
    x, y = tensors(*five_channels(2, 0))
    one, other = fit_projection(x, y), fit_projection(x.clone(), y.clone())
    assert torch.equal(one.weight, other.weight)
    view = View(128, (), projection=one)
    kept = View.of(128, view.arrays())
    assert kept.digest() == view.digest()
    assert kept.digest() != View(128, ()).digest()
    assert torch.equal(kept.projection(x), one(x))


@pytest.mark.parametrize("n_channels", [4, 60])
@pytest.mark.parametrize("labelled", ["nothing", "one class", "two classes", "one side"])
def test_any_number_of_channels_and_any_labels_give_three_finite_projections(n_channels, labelled):
    images = np.random.default_rng(0).integers(0, 255, (2, 32, 32, n_channels), np.uint8)
    images[..., 1] = 7  # an empty channel
    images[..., 3] = images[..., 0]  # and one twice
    labels = np.random.default_rng(1).integers(
        0, 2, (2 if labelled == "two classes" else 1, 2, 32, 32), np.uint8
    )
    if labelled == "one side":
        labels[:] = 1
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    projection = fit_projection(x, None if labelled == "nothing" else torch.from_numpy(labels))
    assert projection.weight.shape == (3, n_channels)
    seen = projection(x)[:, :3]
    assert torch.isfinite(seen).all()
    rank = n_channels - 2
    assert (seen.std((0, 2, 3))[:rank] > 0.05).all()


def test_statistics_of_rgb_are_as_they_were_and_those_of_channels_follow():
    x = torch.rand(2, 8, 64, 64)
    found = texture_statistics(x)
    assert found.shape == (2, n_statistics(8), 32, 32)
    assert torch.equal(found[:, :N_STATISTICS], texture_statistics(x[:, :3]))
    assert torch.allclose(
        found[:, N_STATISTICS : N_STATISTICS + 5], torch.nn.functional.avg_pool2d(x[:, 3:], 2)
    )


def test_the_pixel_classifier_learns_from_channels_that_the_network_does_not_see():
    images, labels = five_channels(4, 0)
    x, y = tensors(images, labels)
    blind = Projection(torch.zeros(3, 5), torch.full((3,), 0.5))(x)
    sides = (y[0, :, None] == 1).float(), (y[0, :, None] == 0).float()
    pack = fit_texture(blind[:3], sides[0][:3], sides[1][:3], zooms=(1.0,), steps=60, batch=512)
    found = texture_logits(texture_statistics(blind[3:]), pack)[0, 0] > 0
    truth = y[0, 3, ::2, ::2] == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.8


def test_a_segmenter_takes_the_channels_it_was_shown():
    images, labels = five_channels(3, 0)
    segmenter = load_segmenter(precision="float32")
    features = segmenter.encode(images[:2], labels[:2])
    again = segmenter.encode(images[:2], labels[:2], known={view.side: view for view in features.views})
    assert again.digest == features.digest
    found = segmenter.predict(images[2:], features)[0, 0] >= 0.5
    truth = labels[2] == 1
    assert (found & truth).sum() / (found | truth).sum() > 0.7
    with pytest.raises(ConfigError, match="tiles have 3 channels, the support set 5"):
        segmenter.predict(images[2:, ..., :3], features)
    settled = segmenter.settled(images[:2])
    answer = settled.answer(settled.maps(images[2:]), settled.pack(images[:2], labels[:2]))[0, 0] >= 0.5
    assert (answer & truth).sum() / (answer | truth).sum() > 0.6
