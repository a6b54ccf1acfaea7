"""Depth inside objects: of outlined instances, of synthetic blobs, and of a network that has learned it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.measure import label

from fewscope.model.depth import instance_depth
from fewscope.model.episodes.synthetic import Blobs
from fewscope.model.losses import depth_loss
from fewscope.model.networks.compact import CompactNet


def test_depth_counts_from_the_rim_of_each_object_even_where_two_touch() -> None:
    instances = np.zeros((7, 12), int)
    instances[1:6, 1:6], instances[1:6, 6:11] = 1, 2
    ring = [85, 85, 85, 85, 85]  # of three steps to the middle
    square = np.array([ring, [85, 170, 170, 170, 85], [85, 170, 255, 170, 85], [85, 170, 170, 170, 85], ring])
    depth = instance_depth(instances)
    assert np.array_equal(depth[1:6, 1:6], square)
    assert np.array_equal(depth[1:6, 6:11], square)
    assert not depth[instances == 0].any()


def test_the_edge_of_the_picture_is_no_rim() -> None:
    disc = np.hypot(*np.mgrid[-20:21, -20:21]) < 12
    whole = instance_depth(disc.astype(int))
    half = np.zeros((21, 82), int)  # beside it a whole one, which says how deep objects are
    half[:, :41] = disc[20:]
    half[4:17, 56:69] = 2 * (np.hypot(*np.mgrid[-6:7, -6:7]) < 6)
    assert np.abs(instance_depth(half)[:, :41].astype(int) - whole[20:]).max() <= 1


def test_synthetic_blobs_are_as_many_as_their_depth_has_summits() -> None:
    generator = torch.Generator().manual_seed(4)
    touching = 0
    for _ in range(12):
        blobs = Blobs(generator)
        blobs.radii[0], blobs.wobble, blobs.elongation[0] = 10.0, 0.0, 1.0
        drawing = blobs.draw(128, generator)
        assert drawing.depth is not None
        depth = drawing.depth.numpy()
        assert not depth[~drawing.mask.numpy()].any()
        cores, components = label(depth > 0.5), label(drawing.mask.numpy())
        peaks = ndimage.maximum(depth, cores, range(1, cores.max() + 1))
        assert np.all(np.asarray(peaks) > 0.5)
        touching += cores.max() > components.max()
    assert touching >= 6  # objects that touch are separated by their depth


@pytest.mark.slow
def test_a_network_learns_depth_and_can_do_without() -> None:
    torch.manual_seed(0)
    images, masks = torch.rand(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) > 0.5).float()
    plain = CompactNet("S", depth=False).eval()
    deep = CompactNet("S").eval()
    deep.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        without = plain(images, plain.compile_support(images, masks, 1 - masks))
        logits = deep(images, deep.compile_support(images, masks, 1 - masks))
    assert without.shape == (2, 1, 32, 32)
    assert logits.shape == (2, 2, 32, 32)
    assert torch.equal(logits[:, :1], without)
    true = torch.rand(2, 1, 32, 32)
    exact = torch.logit(true.clamp(1e-4, 1 - 1e-4))
    assert depth_loss(exact, true) < depth_loss(exact + 0.5, true)
