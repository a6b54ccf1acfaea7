"""Convolutions over enlarged maps: what takes fewer products gives the same."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fewscope.model.networks.compact import CompactNet
from fewscope.model.networks.folding import fold_batch_norm
from fewscope.model.networks.upsampling import SplitConv


@pytest.mark.parametrize("size", [(1, 1), (2, 5)])
def test_a_split_convolution_gives_what_the_whole_one_does(size: tuple[int, int]) -> None:
    """Up to the rim, where the enlarged map ends on zeros."""
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 4, 3, padding=1)
    below, beside = torch.rand(2, 3, *size), torch.rand(2, 2, 2 * size[0], 2 * size[1])
    whole = conv(torch.cat([F.interpolate(below, scale_factor=2, mode="nearest"), beside], 1))
    assert torch.allclose(SplitConv(conv, 3)(below, beside), whole, atol=1e-6)


def test_the_network_answers_alike_with_split_convolutions() -> None:
    torch.manual_seed(0)
    network = fold_batch_norm(CompactNet("S").eval())
    split = copy.deepcopy(network)
    split.split_convolutions()
    assert [isinstance(block[0], SplitConv) for block in (split.decode8, split.decode4, split.decode2)] == [
        True
    ] * 3
    images = torch.rand(2, 3, 64, 96)
    labels = torch.zeros(2, 1, 64, 96)
    labels[:, :, 20:40, 30:60] = 1
    with torch.inference_mode():
        pack = network.compile_support(images, labels, 1 - labels)
        one, other = (of(images, pack) for of in (network, split))
    assert one.std() > 1e-3
    assert torch.allclose(one, other, atol=1e-5)
