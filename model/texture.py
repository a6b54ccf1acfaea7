"""What colour, edges and texture alone say of a pixel: a classifier learned from the support set in seconds.

The pixel classifiers of ilastik, QuPath and scikit-image's trainable segmentation are random forests on intensities,
gradients and Hessian eigenvalues at several scales. This is one on the same statistics, as a small perceptron, so that
it runs beside the network in the same batch. Where patches left out show that it helps, its logits are mixed with the
network's (`model.segmenter`): the two err in different places.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 2
"""Of the statistics, px: a quarter of the pixels, and outlines come from the network."""

SIGMAS = (1, 2, 4, 8, 16)
"""Scales in pixels of that stride."""

N_STATISTICS = 4 + 12 * len(SIGMAS)
WIDTH = 32
LIMIT = 6.0
"""Logits, and standardised statistics, are cut at this size: a classifier of five patches is not surer than that."""

ZOOMS = (1.0, 0.7, 1.4)
"""The patches are shown at these sizes: on unseen classes that gained up to 0.03 IoU, and lost 0.005 at most."""

JITTER = 0.1
"""Of brightness and contrast, as a part, in a second showing of each."""

STEPS, BATCH, LEARNING_RATE = 300, 4096, 5e-3
MOST_PIXELS = 400_000
SMOOTHING = 0.1
"""How sure a pixel's label is taken to be of the other side (Szegedy et al. 2016). 0.01 IoU over ten unseen classes."""

BALANCE = 0.3
"""How far the share of objects in a batch is moved from theirs in the patches to a half."""


@dataclass(frozen=True, slots=True, eq=False)
class TexturePack:
    """A fitted classifier: standardisation and the three layers of the perceptron, float32."""

    mean: Tensor  # (N_STATISTICS,)
    std: Tensor
    weight1: Tensor  # (WIDTH, N_STATISTICS)
    bias1: Tensor
    weight2: Tensor  # (WIDTH, WIDTH)
    bias2: Tensor
    weight3: Tensor  # (1, WIDTH)
    bias3: Tensor

    def to(self, device: torch.device | str) -> TexturePack:
        """The same on another device."""
        return TexturePack(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> TexturePack:
        """What `tensors` gave, as arrays."""
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def texture_statistics(images: Tensor) -> Tensor:
    """Colour, local contrast, and at each scale smoothed colour, gradient magnitude and Hessian eigenvalues.

    Parameters
    ----------
    images : (N, 3, H, W) float in [0, 1], H and W multiples of 32

    Returns
    -------
    (N, N_STATISTICS, H / 2, W / 2) float32. Scale-normalised (Lindeberg 1998), so that one size fits all of them.
    """
    images = images.float()
    grey = images.mean(1, keepdim=True)
    x = F.avg_pool2d(images, STRIDE)
    contrast = (
        (F.avg_pool2d(grey * grey, STRIDE) - F.avg_pool2d(grey, STRIDE).square()).clamp_min(1e-6).sqrt()
    )
    size = x.shape[-2:]
    parts = [x, contrast]
    smooth, before, stride = x, 0.0, 1
    for sigma in SIGMAS:
        smooth = _gaussian(smooth, math.sqrt(sigma**2 - before**2) / stride)
        before, unit = sigma, sigma / stride
        dx, dy = _slope(smooth, 3) * unit, _slope(smooth, 2) * unit
        dxx, dyy, dxy = _slope(dx, 3) * unit, _slope(dy, 2) * unit, _slope(dx, 2) * unit
        magnitude = (dx * dx + dy * dy + 1e-10).sqrt()
        middle, spread = (dxx + dyy) / 2, (((dxx - dyy) / 2).square() + dxy.square() + 1e-10).sqrt()
        found = torch.cat([smooth, magnitude, middle + spread, middle - spread], dim=1)
        if stride > 1:
            found = F.interpolate(found, size=size, mode="bilinear", align_corners=False)
        parts.append(found)
        if sigma > 1 and sigma < SIGMAS[-1]:  # smooth enough for half the pixels
            smooth, stride = F.avg_pool2d(smooth, 2), 2 * stride
    return torch.cat(parts, dim=1)


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    reach = max(1, round(3 * sigma))
    at = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-at.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).repeat(x.shape[1], 1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel[:, None, None], groups=x.shape[1])
    return F.conv2d(
        F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel[:, None, :, None], groups=x.shape[1]
    )


def _slope(x: Tensor, dim: int) -> Tensor:
    """Central differences along rows (2) or columns (3)."""
    n = x.shape[dim]
    padded = F.pad(x, (1, 1, 0, 0) if dim == 3 else (0, 0, 1, 1), mode="replicate")
    return (padded.narrow(dim, 2, n) - padded.narrow(dim, 0, n)) / 2


def texture_logits(statistics: Tensor, pack: TexturePack, dtype: torch.dtype) -> Tensor:
    """Logits of the object from `texture_statistics`: (N, 1, H / 2, W / 2), cut at `LIMIT`, computed in `dtype`."""
    x = (statistics - pack.mean[:, None, None]) / pack.std[:, None, None]
    x = x.clamp(-LIMIT, LIMIT).to(dtype, memory_format=torch.channels_last)
    for weight, bias in ((pack.weight1, pack.bias1), (pack.weight2, pack.bias2)):
        x = F.relu(F.conv2d(x, weight.to(dtype)[:, :, None, None], bias.to(dtype)))
    x = F.conv2d(x, pack.weight3.to(dtype)[:, :, None, None], pack.bias3.to(dtype))
    return x.float().clamp(-LIMIT, LIMIT)


def fit_texture(images: Tensor, labels: Tensor, seed: int = 0) -> TexturePack:
    """Learn a class from labelled patches.

    Parameters
    ----------
    images : (K, 3, H, W) float in [0, 1]
    labels : (K, H, W) uint8: 0 not of the class, 1 of it, 255 not known; both must be there

    Returns
    -------
    A function of the arguments and of the processor's arithmetic, under `model.adapt.one_thread`.
    """
    generator = torch.Generator().manual_seed(seed)
    x, y = _pixels(images, labels, generator)
    mean, std = x.mean(0), x.std(0) + 1e-4
    x = ((x - mean) / std).clamp(-LIMIT, LIMIT)
    target = y * (1 - 2 * SMOOTHING) + SMOOTHING
    net = [layer.to(x.device) for layer in _perceptron(generator)]
    optimiser = torch.optim.AdamW(
        [p for layer in net for p in layer.parameters()], lr=LEARNING_RATE, weight_decay=1e-2
    )
    places = [torch.nonzero(side).flatten() for side in (y == 0, y > 0)]
    share = len(places[1]) / len(y)
    n_objects = min(BATCH - 1, max(1, round(BATCH * (BALANCE * 0.5 + (1 - BALANCE) * share))))
    for step in range(STEPS):
        rate = LEARNING_RATE * min(1.0, (step + 1) / 20) * (0.51 + 0.5 * math.cos(math.pi * step / STEPS))
        optimiser.param_groups[0]["lr"] = rate
        drawn = [
            of_value[torch.randint(len(of_value), (n,), generator=generator).to(x.device)]
            for of_value, n in zip(places, (BATCH - n_objects, n_objects), strict=True)
        ]
        chosen = torch.cat(drawn)
        dropped = torch.rand(BATCH, WIDTH, generator=generator).to(x.device) < 0.1
        hidden = F.relu(net[0](x[chosen])).masked_fill(dropped, 0.0) / 0.9
        loss = F.binary_cross_entropy_with_logits(net[2](F.relu(net[1](hidden)))[:, 0], target[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    layers = [p.detach() for layer in net for p in (layer.weight, layer.bias)]
    return TexturePack(mean, std, *layers)


def _perceptron(generator: torch.Generator) -> list[nn.Linear]:
    """Three linear layers, drawn as `torch.nn.Linear` draws them, from a generator of their own."""
    sizes = ((N_STATISTICS, WIDTH), (WIDTH, WIDTH), (WIDTH, 1))
    layers = [nn.Linear(n_in, n_out) for n_in, n_out in sizes]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                bound = 1 / math.sqrt(layer.in_features)
                parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
    return layers


def _pixels(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Statistics (P, N_STATISTICS) of known pixels and the object's share of them (P,), at all `ZOOMS`, plain and
    jittered."""
    found: list[tuple[Tensor, Tensor]] = []
    most = MOST_PIXELS // (2 * len(ZOOMS) * len(images))
    for zoom in ZOOMS:
        for jitter in (0.0, JITTER):
            for image, of_patch in zip(images[:, None], labels[:, None, None], strict=True):
                size = [max(1, round(n * zoom / 32)) * 32 for n in image.shape[-2:]]
                shown = F.interpolate(image.float(), size=size, mode="bilinear", antialias=True)
                gain, shift = (1 + jitter * torch.randn(1, generator=generator).item() for _ in range(2))
                shown = ((shown - 0.5) * gain + 0.5 + (shift - 1) / 2).clamp(0, 1)
                sides = torch.cat([of_patch == 0, of_patch == 1], dim=1).float()
                share = F.interpolate(sides, size=[n // STRIDE for n in size], mode="area")[0]
                known = torch.nonzero((share.sum(0) > 0.5).flatten()).flatten()
                if len(known) > most:
                    known = known[torch.randperm(len(known), generator=generator)[:most].to(known.device)]
                rows = texture_statistics(shown)[0].flatten(1).T[known]
                found.append((rows, (share[1] / share.sum(0).clamp_min(1e-6)).flatten()[known]))
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])
