"""Convolutions over maps that were enlarged twofold, with fewer products: for prediction in float32 on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SplitConv(nn.Module):
    """A 3x3 convolution over a map `below`, enlarged twofold to the nearest pixel, and maps `beside` of that size.

    Of nine pixels of the enlarged map only four differ, which ones depends on whether row and column are even: four
    kernels of 2x2 px over `below` take the place of one of 3x3 (as in Shi et al., "Is the deconvolution layer the same
    as a convolutional layer?", 2016). What comes out is the same but for rounding.

    Parameters
    ----------
    conv : nn.Conv2d
        With a bias, padded by 1 px; takes the channels of `below`, then those of `beside`.
    n_below : int
        Channels of `below`.
    """

    def __init__(self, conv: nn.Conv2d, n_below: int) -> None:
        super().__init__()
        weight = conv.weight.detach()
        # rows 0, 1, 2 of the enlarged map are rows 0, 1, 1 of the map below, or 0, 0, 1
        rows = _added(weight[:, :n_below], dim=2)
        kernels = [kernel for row in rows for kernel in _added(row, dim=3)]
        self.below = nn.Parameter(torch.cat(kernels), requires_grad=False)  # (4 * C, n_below, 2, 2)
        self.beside = nn.Parameter(weight[:, n_below:].clone(), requires_grad=False)
        assert conv.bias is not None
        self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)

    def forward(self, below: Tensor, beside: Tensor) -> Tensor:
        """(N, n_below, H, W) and (N, others, 2 H, 2 W) -> (N, C, 2 H, 2 W)."""
        found = F.conv2d(beside, self.beside, self.bias, padding=1)
        h, w = below.shape[-2:]
        parts = F.conv2d(below, self.below, padding=1).chunk(4, dim=1)  # (N, C, H + 1, W + 1) each
        for i, part in enumerate(parts):
            row, column = divmod(i, 2)
            found[:, :, row::2, column::2] += part[:, :, row : row + h, column : column + w]
        return found


def _added(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Kernels with three pixels along `dim` -> those with two, for even and for odd places."""
    first, middle, last = weight.split(1, dim)
    return torch.cat([first, middle + last], dim), torch.cat([first + middle, last], dim)
