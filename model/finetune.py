"""Adaptation: a network fine-tuned on the support set itself, once per job.

Cells and rivers of a user are in none of the classes that a network was trained on. A hundred small steps on views of
the five labelled patches tell it how these objects look here; the weights that come out are a part of the encoded
support set and travel with it. Whether they are kept is decided by leaving patches out
(`pipeline.calibration.leave_one_out`).

The number of steps follows from what the user allows, never from a clock: the same support set gives the same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fewscope.model.conventions import IGNORE_LABEL
from fewscope.model.episodes.sampler import random_grid, sample_grid
from fewscope.model.episodes.synthetic import integer, uniform
from fewscope.model.losses import depth_loss, segmentation_loss
from fewscope.model.networks.compact import CompactNet, CompactPack
from fewscope.model.networks.pixel_classifier import QUICK_BATCH, QUICK_STEPS, TexturePack, fit_texture

SECONDS_PER_STEP = 0.25
"""Of one step on one core of a server CPU in bfloat16: what a user's seconds are turned into steps by. Without bfloat16
a step takes two to three times as long, and so does what was asked for: the number of steps is that of any machine."""

MOST_GROUPS = 6

JITTER = 0.16
"""Of brightness and contrast, as a part. With half of it, 100 steps on CMU-1 lost 0.06 IoU on held-out patches; with it
they gained there, and 0.05 on regions that were never used."""

FEWEST_STEPS = 40
"""Fewer are spent on the warm-up."""

MOST_STEPS = 400
"""Twice what the default allows; beyond that nothing has been measured."""


@dataclass(frozen=True, slots=True)
class AdaptConfig:
    """How to fine-tune.

    Attributes
    ----------
    steps : optimiser steps
    side : what the network is shown 224 px as
    views : views of one patch in a step
    size : side of a view in px, a multiple of 16
    learning_rate : of AdamW, after a warm-up and before a linear decay
    refresh : steps after which the support set is compiled again with the weights of that moment
    towards : how far of the way from the weights as they were to the fine-tuned ones is gone in the end (WiSE-FT,
        Wortsman et al. 2022): what the network knew is worth keeping
    """

    steps: int = 100
    side: int = 160
    views: int = 3
    size: int = 128
    learning_rate: float = 1e-3
    refresh: int = 20
    towards: float = 0.6
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.views < 1 or self.refresh < 1:
            raise ValueError(f"{self} asks for nothing; leave the adaptation out instead")
        if self.size % 16:
            raise ValueError(f"size {self.size} is not a multiple of 16; use 112 or 160")

    def rate(self, step: int) -> float:
        """Learning rate of a step: up over ten steps, down over the last 40 %."""
        remaining = (self.steps - step) / (0.4 * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / 10, max(0.05, remaining))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes with one thread in here, and in threads started in here: sums are then always in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def steps_within(seconds: float, n_runs: int) -> int:
    """Steps of each of `n_runs` fine-tunings that one core does in about so many seconds; 0 if hardly any."""
    steps = int(seconds / (n_runs * SECONDS_PER_STEP))
    return 0 if steps < FEWEST_STEPS else min(steps, MOST_STEPS)


def adapt(
    network: CompactNet,
    images: Tensor,
    labels: Tensor,
    depths: Tensor | None,
    config: AdaptConfig,
    *,
    bf16: bool,
) -> CompactNet:
    """Fine-tune a copy of a network on labelled patches.

    Parameters
    ----------
    network : settled on the patches (`CompactNet.adapt_statistics`); its statistics stay as they are
    images : (K, 3, H, W) float in [0, 1]
    labels : (C, K, H, W) uint8: for each class 0 not of it, 1 of it, 255 not known
    depths : (K, H, W) float in [0, 1] (`model.depth`), or None where objects are not told apart
    bf16 : compute in bfloat16 where that is safe

    Returns
    -------
    The copy, in eval mode. A function of the arguments and of the processor's arithmetic, under `one_thread`.
    """
    net = copy.deepcopy(network).eval()
    generator = torch.Generator().manual_seed(config.seed)
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    foreground, background = (labels == 1).float(), (labels == 0).float()
    patches_of = [
        torch.nonzero((of_class != IGNORE_LABEL).any(-1).any(-1)).flatten().tolist() for of_class in labels
    ]
    classes = [c for c, patches in enumerate(patches_of) if patches]
    device = images.device.type
    textures = _textures_without(images, foreground, background, classes)
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.rate(step)
        if step % config.refresh == 0:
            packs = _packs_without(net, images, foreground, background, textures)
        c = classes[step % len(classes)]
        k = patches_of[c][integer(generator, 0, len(patches_of[c]) - 1)]
        depth = None if depths is None else depths[k]
        views = [
            _view(images[k], foreground[c, k], background[c, k], depth, config, generator)
            for _ in range(config.views)
        ]
        batch = torch.stack(views)
        pictures = _jitter(batch[:, :3], generator).contiguous(memory_format=torch.channels_last)
        truth, other = (batch[:, 3:5] > 0.5).float().split(1, dim=1)
        known = truth + other
        with torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
            logits = net(pictures, packs[c, k % n_groups(len(images))])
        loss = segmentation_loss(logits[:, :1], truth, known)
        if net.has_depth and depths is not None:
            loss = loss + depth_loss(logits[:, 1:], batch[:, 5:6], known)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
    net.requires_grad_(False)
    for tuned, before in zip(net.parameters(), network.parameters(), strict=True):
        tuned.copy_(torch.lerp(before, tuned, config.towards))
    return net


def n_groups(n_patches: int) -> int:
    """Groups of patches, every so-manieth in one, that are left out of the support set together."""
    return min(n_patches, MOST_GROUPS)


def _without(group: int, foreground: Tensor, background: Tensor) -> Tensor:
    """The patches that are not of a group; all, where the others would leave nothing to learn from.

    Parameters
    ----------
    foreground, background : (K, H, W)
    """
    place = torch.arange(len(foreground))
    kept = place[place % n_groups(len(place)) != group]
    return kept if foreground[kept].any() and background[kept].any() else place


def _textures_without(
    images: Tensor, foreground: Tensor, background: Tensor, classes: list[int]
) -> dict[tuple[int, int], TexturePack]:
    """For each class and group the pixel classifier of the others, as quickly fitted as those of the training."""
    textures = {}
    for c in classes:
        for group in range(n_groups(len(images))):
            kept = _without(group, foreground[c], background[c])
            sides = foreground[c, kept][:, None], background[c, kept][:, None]
            textures[c, group] = fit_texture(images[kept], *sides, steps=QUICK_STEPS, batch=QUICK_BATCH)
    return textures


def _packs_without(
    net: CompactNet,
    images: Tensor,
    foreground: Tensor,
    background: Tensor,
    textures: dict[tuple[int, int], TexturePack],
) -> dict[tuple[int, int], CompactPack]:
    """For each class and group the support set without the group, as a slide's tiles are not in it either."""
    packs = {}
    for (c, group), texture in textures.items():
        kept = _without(group, foreground[c], background[c])
        with torch.no_grad():
            packs[c, group] = net.compile_support(
                images[kept], foreground[c, kept][:, None], background[c, kept][:, None], texture
            )
    return packs


def _view(
    image: Tensor,
    foreground: Tensor,
    background: Tensor,
    depth: Tensor | None,
    config: AdaptConfig,
    g: torch.Generator,
) -> Tensor:
    """A turned, scaled, mirrored part of a patch: (6, size, size), picture, foreground, background, depth."""
    grid = random_grid(foreground, config.size, 2.0 ** uniform(g, -0.35, 0.6), g)
    maps = torch.stack([foreground, background, torch.zeros_like(foreground) if depth is None else depth])
    return sample_grid(torch.cat([image, maps])[None], grid)[0]


def _jitter(images: Tensor, g: torch.Generator, strength: float = JITTER) -> Tensor:
    """Brightness, contrast and white balance of each picture changed a little."""
    n, device = len(images), images.device
    gain = 1 + strength * (torch.randn(n, 1, 1, 1, generator=g) + 0.4 * torch.randn(n, 3, 1, 1, generator=g))
    shift = 0.5 * strength * torch.randn(n, 1, 1, 1, generator=g)
    return ((images - 0.5) * gain.to(device) + 0.5 + shift.to(device)).clamp(0, 1)
