"""A pixel classifier on colour, edges and texture, fitted to the support set in seconds.

The pixel classifiers of ilastik, QuPath and scikit-image's trainable segmentation are random forests on intensities,
gradients and Hessian eigenvalues at several scales. This one uses the same statistics with a small perceptron, so that
it runs beside the network in the same batch. `model.networks.compact` receives its logits at every level, beside the
read-outs of the support set: the two err in different places, and the decoder has learned which to trust where.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fewscope.model.networks.texture_statistics import N_STATISTICS, STRIDE, n_statistics, texture_statistics

WIDTH = 32
LIMIT = 6.0
"""Logits and standardised statistics are clipped to +-LIMIT: five patches justify no more certainty."""

ZOOMS = (1.0, 0.7, 1.4)
"""Scales of the patches in fitting: on unseen classes they gained up to 0.03 IoU, and lost 0.005 at most."""

JITTER = 0.1
"""Relative jitter of brightness and contrast in a second copy of each patch."""

STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY, BETAS = 300, 2048, 5e-3, 1e-2, (0.9, 0.999)
QUICK_STEPS, QUICK_BATCH = 150, 1024
"""A quarter of the work, for training and fine-tuning, which fit thousands of classifiers: 0.015 IoU less over ten
unseen classes."""

MOST_PIXELS = 200_000
DROPOUT = 0.1
"""Of the first hidden layer: gained 0.008 IoU over ten unseen classes."""

SMOOTHING = 0.1
"""Label smoothing (Szegedy et al., CVPR 2016): gained 0.01 IoU over ten unseen classes."""

BALANCE = 0.3
"""How far the share of object pixels in a batch is moved from their share in the patches towards one half."""


@dataclass(frozen=True, slots=True, eq=False)
class TexturePack:
    """A fitted classifier: standardisation and the three layers of the perceptron, float32."""

    mean: Tensor  # (S,), S statistics: N_STATISTICS, or more with more channels
    std: Tensor
    weight1: Tensor  # (WIDTH, S)
    bias1: Tensor
    weight2: Tensor  # (WIDTH, WIDTH)
    bias2: Tensor
    weight3: Tensor  # (1, WIDTH)
    bias3: Tensor

    def to(self, device: torch.device | str) -> TexturePack:
        """The same on another device."""
        return TexturePack(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def of_episode(self, index: int) -> TexturePack:
        """One of the classifiers of `fit_textures`, by its place."""
        return TexturePack(**{name: tensor[index].clone() for name, tensor in self.tensors().items()})

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> TexturePack:
        """The inverse of `tensors`, from arrays."""
        return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()})


def texture_logits(statistics: Tensor, pack: TexturePack) -> Tensor:
    """Logits of the object from `texture_statistics`: (N, 1, H / 2, W / 2) float32, clipped to +-`LIMIT`.

    Standardisation is folded into the first layer; the statistics are clipped where standardised ones would be.
    """
    reach = LIMIT * pack.std
    x = torch.maximum(statistics.flatten(2), (pack.mean - reach)[:, None])
    torch.minimum(x, (pack.mean + reach)[:, None], out=x)
    weight1 = pack.weight1 / pack.std
    bias1 = pack.bias1 - weight1 @ pack.mean
    for weight, bias in ((weight1, bias1), (pack.weight2, pack.bias2)):
        x = torch.baddbmm(bias[:, None], weight.expand(len(x), -1, -1), x).relu_()
    x = torch.baddbmm(pack.bias3[:, None], pack.weight3.expand(len(x), -1, -1), x)
    return x.clamp_(-LIMIT, LIMIT).unflatten(2, statistics.shape[2:])


def fit_texture(
    images: Tensor,
    foreground: Tensor,
    background: Tensor,
    *,
    zooms: Sequence[float] = ZOOMS,
    steps: int = STEPS,
    batch: int = BATCH,
) -> TexturePack:
    """Fit a classifier to labelled patches.

    Parameters
    ----------
    images : Tensor
        (K, 3 or 3 + C, H, W) float in [0, 1], as `texture_statistics` takes them.
    foreground, background : Tensor
        (K, 1, H, W) float, 1 where a pixel is labelled as object (background)
    zooms : Sequence[float]
        Scales of the patches that it learns from.
    steps, batch : int
        Optimiser steps, and pixels per step.

    Returns
    -------
    The classifier. It depends on the arguments and the processor's arithmetic alone, under `model.finetune.one_thread`.
    """
    generator = torch.Generator().manual_seed(0)
    x, share = _pixels(images, torch.cat([foreground, background], dim=1), zooms, generator)
    known = torch.ones_like(share[None]) > 0
    return fit_textures(x[None], share[None], known, generator, steps=steps, batch=batch).of_episode(0)


def fit_textures(
    x: Tensor,
    share: Tensor,
    known: Tensor,
    generator: torch.Generator,
    *,
    steps: int = STEPS,
    batch: int = BATCH,
) -> TexturePack:
    """Fit classifiers to many support sets at once: AdamW (Loshchilov and Hutter, ICLR 2019) on the cross-entropy.

    The gradient is written out: for perceptrons this small, autograd's bookkeeping would take longer than the gradient.

    Parameters
    ----------
    x : Tensor
        (E, P, S), P pixels of each of E support sets.
    share : Tensor
        (E, P), fraction of the pixel that is object, 0 to 1.
    known : Tensor
        (E, P) bool, whether the pixel is labelled.
    generator : torch.Generator
        On the CPU, or on the device of `x`.
    steps, batch : int
        As for `fit_texture`.

    Returns
    -------
    A pack whose tensors have a leading dimension E.
    """
    weight = known.to(x.dtype)[..., None]
    n = weight.sum(1, keepdim=True).clamp_min(1)
    mean = (x * weight).sum(1, keepdim=True) / n
    std = ((x - mean).square() * weight).sum(1, keepdim=True).div(n).sqrt() + 1e-4
    pixels = _Pixels.of(((x - mean) / std).clamp(-LIMIT, LIMIT), share, known)
    sizes = _sizes(x.shape[2])
    flat = _perceptrons(len(x), sizes, generator).to(x.device)
    layers = w1, b1, w2, b2, w3, b3 = _views(flat, sizes)  # views: a step on `flat` changes them all
    decay = torch.ones_like(flat[:1])
    for bias in _views(decay, sizes)[1::2]:
        bias.zero_()
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    schedule = _schedule(steps).to(x.device)
    at = torch.zeros(1, dtype=torch.long, device=x.device)

    def step() -> None:
        rate, correction1, correction2 = schedule.index_select(0, at)[0]
        at.add_(1)
        rows, target = pixels.draw(batch, generator)
        dropped = torch.rand(len(x), batch, WIDTH, generator=generator, device=generator.device) < DROPOUT
        kept = (~dropped).to(x.device) / (1 - DROPOUT)
        hidden1 = torch.baddbmm(b1, rows, w1.mT).relu_() * kept
        hidden2 = torch.baddbmm(b2, hidden1, w2.mT).relu_()
        error = (torch.sigmoid(torch.baddbmm(b3, hidden2, w3.mT)) - target[..., None]) / batch
        slope2 = torch.bmm(error, w3).mul_(hidden2 > 0)
        slope1 = torch.bmm(slope2, w2).mul_(hidden1 > 0).mul_(kept)
        by_layer = ((slope1, rows), (slope2, hidden1), (error, hidden2))
        parts = [part for slope, inputs in by_layer for part in (torch.bmm(slope.mT, inputs), slope.sum(1))]
        gradient = torch.cat([part.flatten(1) for part in parts], dim=1)
        first.lerp_(gradient, 1 - BETAS[0])
        second.lerp_(gradient.square(), 1 - BETAS[1])
        flat.mul_(1 - rate * WEIGHT_DECAY * decay)
        flat.sub_(rate * correction1 * first / (second * correction2).sqrt_().add_(1e-8))

    _repeat(step, steps, generator)
    return TexturePack(
        mean[:, 0], std[:, 0], *(v.squeeze(1) if v is b1 or v is b2 or v is b3 else v for v in layers)
    )


def _schedule(steps: int) -> Tensor:
    """Learning rate and Adam's two bias corrections of every step: (steps, 3)."""
    rows = []
    for step in range(steps):
        rate = LEARNING_RATE * min(1.0, (step + 1) / 20) * (0.51 + 0.5 * math.cos(math.pi * step / steps))
        rows.append([rate, *(1 / (1 - beta ** (step + 1)) for beta in BETAS)])
    return torch.tensor(rows)


def _repeat(step: Callable[[], None], n: int, generator: torch.Generator) -> None:
    """Take a step n times; on a GPU, record it once as a CUDA graph and replay it: launching costs more than
    computing."""
    if generator.device.type != "cuda" or n < 3:
        for _ in range(n):
            step()
        return
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()  # lazy initialisation must not be recorded
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        step()
    for _ in range(n - 1):
        graph.replay()


@dataclass(frozen=True, slots=True, eq=False)
class _Pixels:
    """Pixels to draw from; those of each support set in the order unknown, background, object."""

    x: Tensor  # (E * P, S)
    target: Tensor  # (E * P,)
    order: Tensor  # (E, P), rows of `x`
    n_unknown: Tensor  # (E, 1), first in `order`
    n_others: Tensor
    n_objects: Tensor

    @staticmethod
    def of(x: Tensor, share: Tensor, known: Tensor) -> _Pixels:
        n, n_pixels, _ = x.shape
        side = known.long() * (1 + (share > 0).long())
        starts = torch.arange(n, device=x.device)[:, None] * n_pixels
        counts = [(side == value).sum(1, keepdim=True) for value in range(3)]
        target = share * (1 - 2 * SMOOTHING) + SMOOTHING
        order = side.argsort(dim=1, stable=True) + starts
        return _Pixels(x.flatten(0, 1), target.flatten(), order, *counts)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A batch for each support set: rows (E, batch, S) and targets (E, batch)."""
        n, n_pixels = self.order.shape
        share = self.n_objects / (self.n_others + self.n_objects).clamp_min(1)
        share = BALANCE * 0.5 + (1 - BALANCE) * share
        which, where = torch.rand(2, n, batch, generator=generator, device=generator.device).to(self.x.device)
        of_object = which < share
        start = self.n_unknown + of_object * self.n_others
        among = torch.where(of_object, self.n_objects, self.n_others)
        place = (start + (where * among).long()).clamp(max=n_pixels - 1)
        rows = self.order.gather(1, place)
        return self.x[rows], self.target[rows]


Sizes = tuple[tuple[int, int], ...]


def _sizes(n_inputs: int) -> Sizes:
    """Inputs and outputs of the perceptron's layers."""
    return (n_inputs, WIDTH), (WIDTH, WIDTH), (WIDTH, 1)


def _perceptrons(n: int, sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Initial parameters of n perceptrons, (n, all of one), from the distribution of `torch.nn.Linear`."""
    n_parameters = sum((n_in + 1) * n_out for n_in, n_out in sizes)
    drawn = torch.rand(n, n_parameters, generator=generator, device=generator.device) * 2 - 1
    for layer, (n_in, _) in zip(
        _views(drawn, sizes), [size for size in sizes for _ in range(2)], strict=True
    ):
        layer.div_(math.sqrt(n_in))
    return drawn


def _views(flat: Tensor, sizes: Sizes) -> tuple[Tensor, ...]:
    """Weights (E, out, in) and biases (E, 1, out) of the layers, as views of the parameters (E, all of one)."""
    shapes = [shape for n_in, n_out in sizes for shape in ((n_out, n_in), (1, n_out))]
    parts = flat.split([a * b for a, b in shapes], dim=1)
    return tuple(part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True))


def _pixels(
    images: Tensor, sides: Tensor, zooms: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Statistics (P, S) of labelled pixels and the object's share of each (P,), at all zooms, plain and
    jittered."""
    n_values = MOST_PIXELS * N_STATISTICS
    most = n_values // n_statistics(images.shape[1]) // (2 * len(zooms) * len(images))
    found = [
        _pixels_of_view(image, of_patch, zoom, jitter, most, generator)
        for zoom in zooms
        for jitter in (0.0, JITTER)
        for image, of_patch in zip(images.split(1), sides.split(1), strict=True)
    ]
    return _join(found)


def patch_pixels(
    image: Tensor, foreground: Tensor, background: Tensor, *, most: int
) -> tuple[Tensor, Tensor]:
    """Labelled pixels of one patch, to be kept: a classifier is fitted to those of all patches by `fit_pixels`.

    Parameters
    ----------
    image : Tensor
        (1, 3 or 3 + C, H, W) float in [0, 1].
    foreground, background : Tensor
        (1, 1, H, W) float, 1 where a pixel is labelled as object (background).
    most : int
        Most pixels from each zoom of the patch, plain and jittered.

    Returns
    -------
    Statistics (P, S), and the object's share of each pixel (P,); P is 0 where nothing is labelled.
    """
    generator = torch.Generator().manual_seed(0)
    sides = torch.cat([foreground, background], dim=1)
    found = [
        _pixels_of_view(image, sides, zoom, jitter, most, generator)
        for zoom in ZOOMS
        for jitter in (0.0, JITTER)
    ]
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def fit_pixels(patches: Sequence[tuple[Tensor, Tensor]], *, steps: int, batch: int) -> TexturePack:
    """`fit_texture` on what `patch_pixels` returned for each patch."""
    x, share = _join(patches)
    known, generator = torch.ones_like(share[None]) > 0, torch.Generator().manual_seed(0)
    return fit_textures(x[None], share[None], known, generator, steps=steps, batch=batch).of_episode(0)


def _join(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    rows, share = torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])
    if not len(rows):  # nothing is labelled: one pixel that is neither
        return rows.new_zeros(1, rows.shape[1]), rows.new_full((1,), 0.5)
    return rows, share


def _pixels_of_view(
    image: Tensor, of_patch: Tensor, zoom: float, jitter: float, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """At most `most` labelled pixels of a patch (1, 3 or more, H, W) at one zoom, as `_pixels` returns those of all."""
    size = [max(1, round(n * zoom / 32)) * 32 for n in image.shape[-2:]]
    view = F.interpolate(image.float(), size=size, mode="bilinear", antialias=True)
    gain, shift = (1 + jitter * torch.randn(1, generator=generator).item() for _ in range(2))
    view = ((view - 0.5) * gain + 0.5 + (shift - 1) / 2).clamp(0, 1)
    share = F.interpolate(of_patch.float(), size=[n // STRIDE for n in size], mode="area")[0]
    known = torch.nonzero((share.sum(0) > 0.5).flatten()).flatten()
    if len(known) > most:
        known = known[torch.randperm(len(known), generator=generator)[:most].to(known.device)]
    rows = texture_statistics(view)[0].flatten(1).T[known]
    return rows, (share[0] / share.sum(0).clamp_min(1e-6)).flatten()[known]
