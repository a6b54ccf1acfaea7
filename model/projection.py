"""What a network of three channels sees of images of more: three projections, fitted to the support set.

The first separates object and background as well as any linear combination of the channels does (Fisher's linear
discriminant); the others are the leading principal components of what it leaves. The pixel classifier reads the
channels themselves, beside them. RGB is left as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.model.conventions import IGNORE_LABEL

N_SEEN = 3
"""Channels of the networks."""

N_DISCRIMINANTS = 2
"""Most directions that separate classes; the rest are principal components, which show what no class asks for."""

RIDGE = 0.05
"""Added to the scatter within classes, relative to its mean: five patches do not settle the correlations of 60
channels."""

RANGE = (0.005, 0.995)
"""Quantiles of a projection that become 0 and 1."""

MOST_PIXELS = 50_000
"""From which the projection is fitted, spread evenly over the patches."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A linear map of C channels to the three that a network sees.

    Attributes
    ----------
    weight : Tensor
        (3, C) float32.
    bias : Tensor
        (3,) float32.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, channels: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] -> (N, 3 + C, H, W): what the network sees, then the channels themselves."""
        seen = F.conv2d(channels, self.weight[:, :, None, None], self.bias).clamp_(0, 1)
        return torch.cat([seen, channels], dim=1)

    @property
    def n_channels(self) -> int:
        """C."""
        return self.weight.shape[1]

    def to(self, device: torch.device | str) -> Projection:
        """The same on another device."""
        return Projection(self.weight.to(device), self.bias.to(device))

    def tensors(self) -> dict[str, Tensor]:
        """Both tensors by name."""
        return {"weight": self.weight, "bias": self.bias}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> Projection:
        """The inverse of `tensors`, from arrays."""
        return cls(torch.from_numpy(arrays["weight"]), torch.from_numpy(arrays["bias"]))


def fit_projection(images: Tensor, labels: Tensor | None = None) -> Projection:
    """Fit a projection to patches.

    Parameters
    ----------
    images : Tensor
        (K, C, H, W) float in [0, 1], C above 3.
    labels : Tensor or None
        (classes, K, H, W) uint8: per class 0 for background, 1 for object, 255 for not known. None: unlabelled
        images, of which the three leading principal components are seen.

    Returns
    -------
    The projection, on the CPU. It depends on the arguments and the processor's arithmetic alone.
    """
    # a mean of four pixels: noise separates nothing, and counts less
    pixels = F.avg_pool2d(images.cpu(), 2).permute(0, 2, 3, 1).flatten(0, 2).double()
    of_class = None if labels is None else labels[:, :, ::2, ::2].flatten(1).cpu()
    if of_class is not None and bool((known := (of_class != IGNORE_LABEL).any(0)).any()):
        pixels, of_class = pixels[known], of_class[:, known]
    if len(pixels) > MOST_PIXELS:
        kept = torch.linspace(0, len(pixels) - 1, MOST_PIXELS).round().long()
        pixels = pixels[kept]
        of_class = None if of_class is None else of_class[:, kept]
    rows = [] if of_class is None else _discriminants(pixels, of_class)
    centred = pixels - pixels.mean(0)
    for row in rows:
        centred = centred - (centred @ row)[:, None] * row
    _, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    for vector in vectors.flip(1).T[: N_SEEN - len(rows)]:
        largest = vector[vector.abs().argmax()]
        rows.append(vector * largest.sign())  # bright where its strongest channel is
    weight = torch.stack(rows)
    ends = torch.quantile(pixels @ weight.T, torch.tensor(RANGE, dtype=torch.double), dim=0)
    span = (ends[1] - ends[0]).clamp_min(1e-3)
    return Projection((weight / span[:, None]).float(), (-ends[0] / span).float())


def _discriminants(pixels: Tensor, of_class: Tensor) -> list[Tensor]:
    """Orthonormal directions (C,) that separate the classes of pixels (P, C) from the rest, the best ones first."""
    n_channels = pixels.shape[1]
    found = []
    for values in of_class:
        sides = [pixels[values == value] for value in (1, 0)]
        if not all(len(side) > 1 for side in sides):
            continue
        within = (torch.cov(sides[0].T) + torch.cov(sides[1].T)) / 2
        within = within + (RIDGE * within.trace() / n_channels + 1e-6) * torch.eye(
            n_channels, dtype=torch.double
        )
        direction = torch.linalg.solve(within, sides[0].mean(0) - sides[1].mean(0))
        if direction.norm() > 0:
            found.append(direction / direction.norm())
    if len(found) < 2:
        return found
    _, values, vectors = torch.linalg.svd(torch.stack(found), full_matrices=False)
    kept = vectors[:N_DISCRIMINANTS][values[:N_DISCRIMINANTS] > 1e-3]
    return [row * row[row.abs().argmax()].sign() for row in kept]
