"""Adaptation: a network fine-tuned on the support set learns what it was shown, repeatably, and travels with it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fewscope.model.episodes.synthetic import Blobs
from fewscope.model.finetune import MOST_STEPS, AdaptConfig, adapt, steps_within
from fewscope.model.losses import segmentation_loss
from fewscope.model.metrics import mean_image_iou
from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.pixel_classifier import QUICK_BATCH, QUICK_STEPS, fit_texture
from fewscope.model.segmenter import load_segmenter

QUICK = AdaptConfig(steps=12, views=2, size=64)


def patches(n: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, 3, size, size) pictures of one synthetic task, and (n, size, size) uint8 labels."""
    generator = torch.Generator().manual_seed(seed)
    task = Blobs(generator)
    drawings = [task.draw(size, generator) for _ in range(n)]
    return (
        torch.stack([d.image for d in drawings]).clamp(0, 1),
        torch.stack([d.mask for d in drawings]).to(torch.uint8),
    )


def shipped() -> CompactNet:
    network = load_segmenter(device="cpu")._exact
    assert isinstance(network, CompactNet)
    return network


def iou_of_others(network: CompactNet, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean IoU of all patches but the first three, with these as support."""
    truth = labels[:3, None].float()
    texture = fit_texture(images[:3], truth, 1 - truth, steps=QUICK_STEPS, batch=QUICK_BATCH)
    with torch.inference_mode():
        pack = network.compile_support(images[:3], truth, 1 - truth, texture)
        found = network(images[3:], pack)[:, :1] > 0
    return float(mean_image_iou(found, labels[3:, None] > 0))


@pytest.mark.slow
def test_an_adapted_network_segments_other_patches_of_a_hard_task_better() -> None:
    hard = [patches(6, 64, seed) for seed in (17, 18)]  # of the first twenty, those that go worst
    before = [
        iou_of_others(shipped().adapt_statistics(images[:3]), images, labels) for images, labels in hard
    ]
    assert np.mean(before) < 0.8, "no hard tasks: find others"
    config = AdaptConfig(steps=40, views=2, size=64)
    after = []
    for images, labels in hard:
        network = shipped().adapt_statistics(images[:3])
        tuned = adapt(network, images[:3], labels[None, :3], None, config, bf16=False)
        after.append(iou_of_others(tuned, images, labels))
    assert np.mean(after) > np.mean(before) + 0.02, (before, after)


@pytest.mark.slow
def test_adaptation_repeats_itself_and_leaves_the_network_alone() -> None:
    images, labels = patches(3, 64, 1)
    network = shipped()
    original = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    one, two = (adapt(network, images, labels[None], None, QUICK, bf16=False) for _ in range(2))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
    assert any(not torch.equal(tensor, original[name]) for name, tensor in one.state_dict().items())
    assert all(torch.equal(tensor, original[name]) for name, tensor in network.state_dict().items())


def test_what_is_not_labelled_costs_nothing() -> None:
    logits = torch.randn(2, 1, 8, 8)
    target = (torch.rand(2, 1, 8, 8) > 0.5).float()
    known = torch.zeros_like(target)
    known[:, :, :4] = 1
    other = torch.where(known > 0, logits, -logits)
    loss = segmentation_loss(logits, target * known, known)
    assert torch.equal(loss, segmentation_loss(other, target * known, known))
    everywhere = torch.ones_like(known)
    assert torch.allclose(segmentation_loss(logits, target), segmentation_loss(logits, target, everywhere))


@pytest.mark.slow
def test_the_weights_go_a_part_of_the_way() -> None:
    torch.manual_seed(0)
    network = CompactNet("S").eval()
    images, labels = patches(2, 64, 3)
    ways = [
        adapt(network, images, labels[None], None, replace(QUICK, steps=3, towards=towards), bf16=False)
        for towards in (0.0, 0.5, 1.0)
    ]
    for before, none, half, whole in zip(
        network.parameters(), *(net.parameters() for net in ways), strict=True
    ):
        assert torch.equal(before, none)
        assert torch.allclose(half, (before + whole) / 2, atol=1e-6)
    assert not torch.equal(network.head.weight, ways[2].head.weight)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_adapted_weights_travel_with_the_support_set() -> None:
    images, labels = patches(3, 224, 5)
    pictures = (images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    here, there = load_segmenter(device="cpu"), load_segmenter(device="cpu")
    features = here.encode(pictures, labels.numpy(), adaptation=QUICK)
    plain = here.encode(pictures, labels.numpy())
    assert features.digest != plain.digest
    tiles = pictures[:, :64, :64]
    expected = here.predict(tiles, features)
    assert np.array_equal(there.predict(tiles, pickle.loads(pickle.dumps(features))), expected)
    assert not np.array_equal(here.predict(tiles, plain), expected)
    assert np.array_equal(here.predict(tiles, features), expected)  # and back again


def test_seconds_become_steps_by_arithmetic_alone() -> None:
    assert steps_within(120, 6) == 80
    assert steps_within(10_000, 6) == MOST_STEPS
    assert steps_within(3, 6) == steps_within(50, 6) == 0  # a few steps are a warm-up and no more
    with pytest.raises(ValueError, match="does nothing"):
        AdaptConfig(steps=0)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_texture")
def test_a_tile_may_be_shown_to_the_network_larger_or_smaller() -> None:
    images, labels = patches(3, 224, 5)
    pictures = (images.permute(0, 2, 3, 1).numpy() * 255).astype(np.uint8)
    segmenter = load_segmenter(device="cpu", dtype=torch.float32)
    by_hand = F.interpolate(images[:1], size=(320, 320), mode="bilinear", antialias=True)
    shown = []
    features = segmenter.encode(pictures, labels.numpy(), sides=(320,))
    ((network, _),) = segmenter._prepared(features).members
    network.encoder.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0]))  # type: ignore[union-attr]
    found = segmenter.predict(pictures[:1], features)
    assert found.shape == (1, 1, 224, 224)
    assert shown[-1].shape[-2:] == (320, 320)
    assert torch.allclose(shown[-1][:1], by_hand, atol=1 / 255)
    truth = labels[0].numpy() > 0
    assert ((found[0, 0] > 0.5) & truth).sum() / ((found[0, 0] > 0.5) | truth).sum() > 0.5
    with pytest.raises(ValueError, match="multiple of 32"):
        segmenter.encode(pictures, labels.numpy(), sides=(128, 300))
