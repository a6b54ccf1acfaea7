"""Boosted trees correct a mask along its outline, where the pixel itself knows better, and nowhere else."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from fewscope.model.networks.boundary_trees import (
    DEPTH,
    REACH,
    BoundaryTrees,
    as_tensors,
    boundary,
    fit_boundary,
    refine,
)
from fewscope.model.networks.pixel_classifier import LIMIT


@pytest.mark.parametrize("most_leaves", [None, 3])
@pytest.mark.parametrize("n_pixels", [60, 20_000])
def test_trees_decide_as_scikit_learn_does(most_leaves: int | None, n_pixels: int) -> None:
    """Also where they end early, for want of pixels or leaves."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(n_pixels, 7)).astype(np.float32)
    y = x[:, 2] * x[:, 5] + 0.3 * generator.normal(size=n_pixels) > 0
    model = HistGradientBoostingClassifier(
        max_iter=25, max_depth=DEPTH, max_leaf_nodes=most_leaves, early_stopping=False, random_state=0
    )
    expected = model.fit(x, y).decision_function(x).clip(-LIMIT, LIMIT)
    found = as_tensors(model).logits(torch.from_numpy(x.T.copy())).numpy()
    assert np.abs(found - expected).max() < 1e-4
    assert np.ptp(expected) > 1


def ragged(seed: int, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures of an object whose outline is ragged, labels, and what a network that sees them blurred says of them."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(n, 1, 8, 8, generator=generator), size=(96, 96), mode="bicubic")
    noise = F.interpolate(torch.rand(n, 1, 48, 48, generator=generator), size=(96, 96), mode="nearest")
    labels = (smooth + 0.5 * noise > 0.75).float()
    images = (0.3 + 0.4 * labels).expand(-1, 3, -1, -1) + 0.02 * torch.randn(
        n, 3, 96, 96, generator=generator
    )
    logits = 8 * (F.avg_pool2d(labels, 9, stride=1, padding=4) - 0.5)
    return images.clamp(0, 1), labels[:, 0].to(torch.uint8), logits


def iou(logits: Tensor, labels: Tensor) -> float:
    found, true = logits[:, 0] >= 0, labels == 1
    return float((found & true).sum() / (found | true).sum())


def test_a_ragged_outline_is_found_in_other_pictures() -> None:
    images, labels, logits = ragged(0)
    trees = fit_boundary(images, logits, labels)
    assert trees is not None
    others, true, blurred = ragged(1)
    refined = refine(others, blurred, trees)
    assert iou(blurred, true) < 0.85
    assert iou(refined, true) > 0.97
    again = fit_boundary(images, logits, labels)
    assert again is not None
    assert torch.equal(refine(others, blurred, again), refined)


def test_nothing_changes_away_from_outlines() -> None:
    images, labels, logits = ragged(0)
    trees = fit_boundary(images, logits, labels)
    assert trees is not None
    others, _, blurred = ragged(1)
    refined, near = refine(others, blurred, trees), boundary(blurred)
    assert torch.equal(refined[~near], blurred[~near])
    assert (refined[near] != blurred[near]).any()
    everywhere = torch.full_like(blurred, LIMIT)
    assert torch.equal(refine(others, everywhere, trees), everywhere)
    assert refine(others, blurred, trees).data_ptr() != blurred.data_ptr()


def test_a_boundary_is_near_both_sides_or_unsure() -> None:
    logits = torch.full((1, 1, 40, 40), -LIMIT)
    logits[..., 20:] = LIMIT
    logits[0, 0, 5, 2], logits[0, 0, 6, 3] = -1.0, -3.0  # 0.27 and 0.05
    found = boundary(logits)[0, 0]
    assert found[:, 20 - REACH : 20 + REACH].all()
    assert found.sum() == 40 * 2 * REACH + 1
    assert found[5, 2]


def test_one_side_of_an_outline_teaches_nothing() -> None:
    images, labels, logits = ragged(0)
    unknown = torch.where(labels == 1, labels, torch.full_like(labels, 255))
    assert fit_boundary(images, logits, unknown) is None
    assert fit_boundary(images, torch.full_like(logits, -LIMIT), labels) is None


def test_what_is_not_labelled_teaches_nothing() -> None:
    images, labels, logits = ragged(0)
    half = labels.clone()
    half[:, :, 48:] = 255
    changed = images.clone()
    changed[..., 70:] = 0.5  # beyond the reach of the widest statistic
    one, other = fit_boundary(images, logits, half), fit_boundary(changed, logits, half)
    assert one is not None
    assert other is not None
    assert all(torch.equal(tensor, other.tensors()[name]) for name, tensor in one.tensors().items())
    whole = fit_boundary(images, logits, labels)
    assert whole is not None
    assert not torch.equal(whole.threshold, one.threshold)


@pytest.mark.parametrize("n_channels", [3, 7])
def test_every_channel_counts(n_channels: int) -> None:
    images, labels, logits = ragged(0)
    flat = torch.full_like(images[:, :1], 0.5).expand(-1, n_channels - 1, -1, -1)
    trees = fit_boundary(torch.cat([flat, images[:, :1]], 1), logits, labels)
    assert trees is not None
    others, true, blurred = ragged(1)
    assert iou(refine(torch.cat([flat, others[:, :1]], 1), blurred, trees), true) > 0.95


def test_they_travel_and_are_kept() -> None:
    images, labels, logits = ragged(0)
    trees = fit_boundary(images, logits, labels)
    assert trees is not None
    kept = BoundaryTrees.of({name: tensor.numpy() for name, tensor in trees.tensors().items()})
    sent = pickle.loads(pickle.dumps(trees))
    expected = refine(images, logits, trees)
    assert torch.equal(refine(images, logits, kept), expected)
    assert torch.equal(refine(images, logits, sent), expected)
