"""Fine-tuning: a network adapted to the support set itself, once per job.

A user's cells and rivers are in none of the training classes. A hundred small steps on views of the labelled patches
adapt the network to them; the weights become a part of the encoded support set and travel with it. Whether they are
kept is decided on held-out patches (`pipeline.calibration.leave_one_out`).

The number of steps follows from the time budget that the user gives, never from a clock: the same support set gives the
same weights.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fewscope.errors import ConfigError
from fewscope.model.conventions import IGNORE_LABEL
from fewscope.model.episodes.sampler import random_grid, sample_grid
from fewscope.model.episodes.synthetic import integer, uniform
from fewscope.model.losses import depth_loss, segmentation_loss
from fewscope.model.networks.compact import CompactNet, CompactPack
from fewscope.model.networks.pixel_classifier import QUICK_BATCH, QUICK_STEPS, TexturePack, fit_texture

SECONDS_PER_STEP = 0.25
"""Of one step on one core of a server CPU in bfloat16; converts the budget to steps. Without bfloat16, a step takes two
to three times as long, and so does the budget: the number of steps is the same on any machine."""

MOST_GROUPS = 6
"""Of patches that are held out together."""

JITTER = 0.16
"""Relative jitter of brightness and contrast. With half of it, 100 steps on CMU-1 lost 0.06 IoU on held-out patches;
with all of it they gained there, and 0.05 on regions that were never used."""

FEWEST_STEPS = 40
"""Fewer steps would be spent on the warm-up."""

MOST_STEPS = 400
"""Twice the default; more has not been measured."""


@dataclass(frozen=True, slots=True)
class AdaptConfig:
    """Settings of the fine-tuning.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    side : int
        px to which 224 px of a patch are resized.
    views : int
        Random views of one patch in a step.
    size : int
        Side of a view in px, a multiple of 16.
    learning_rate : float
        Learning rate of AdamW, after a warm-up and before a linear decay.
    refresh : int
        Steps after which the support set is compiled again, with the current weights.
    towards : float
        Weight of the fine-tuned weights in the final interpolation with the original ones (WiSE-FT, Wortsman et
        al., CVPR 2022), which keeps what the network knew.
    seed : int
        Seed of views and jitter.

    Raises
    ------
    ConfigError
        A number is out of range.
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
            raise ConfigError(f"{self} does nothing: steps, views and refresh must be at least 1")
        if self.size % 16:
            raise ConfigError(f"size {self.size} is not a multiple of 16; use 112 or 160")

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up over ten steps, linear decay over the last 40 %."""
        remaining = (self.steps - step) / (0.4 * self.steps)
        return self.learning_rate * min(1.0, (step + 1) / 10, max(0.05, remaining))


@contextmanager
def one_thread() -> Iterator[None]:
    """Have torch compute with one thread in here, and in threads started in here: sums then have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def steps_within(seconds: float, n_runs: int) -> int:
    """Steps per run if one core does `n_runs` fine-tunings in about `seconds`; 0 below `FEWEST_STEPS`."""
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
    network : CompactNet
        With the statistics of the patches (`CompactNet.adapt_statistics`), which stay as they are.
    images : Tensor
        (K, 3, H, W) float in [0, 1].
    labels : Tensor
        (C, K, H, W) uint8: per class 0 for background, 1 for object, 255 for not known.
    depths : Tensor | None
        (K, H, W) float in [0, 1] (`model.depth`); None if objects are not separated.
    bf16 : bool
        Compute in bfloat16 where that is safe.

    Returns
    -------
    The copy, in eval mode. It depends on the arguments and the processor's arithmetic alone, under `one_thread`.
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
    """Number of groups of patches that are held out together; patch k is in group k modulo this number."""
    return min(n_patches, MOST_GROUPS)


def _without(group: int, foreground: Tensor, background: Tensor) -> Tensor:
    """Places of the patches outside a group; of all, if the others have no object or no background pixel.

    Parameters
    ----------
    foreground, background : Tensor
        (K, H, W)
    """
    place = torch.arange(len(foreground))
    kept = place[place % n_groups(len(place)) != group]
    return kept if foreground[kept].any() and background[kept].any() else place


def _textures_without(
    images: Tensor, foreground: Tensor, background: Tensor, classes: list[int]
) -> dict[tuple[int, int], TexturePack]:
    """Pixel classifier of each class and group, fitted to the other patches with the settings of training."""
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
    """Pack of each class and group, compiled from the other patches: a slide's tiles are not in the support set
    either."""
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
    """A rotated, scaled, mirrored view of a patch, (6, size, size): image, foreground, background, depth."""
    grid = random_grid(foreground, config.size, 2.0 ** uniform(g, -0.35, 0.6), g)
    maps = torch.stack([foreground, background, torch.zeros_like(foreground) if depth is None else depth])
    return sample_grid(torch.cat([image, maps])[None], grid)[0]


def _jitter(images: Tensor, g: torch.Generator, strength: float = JITTER) -> Tensor:
    """Jitter brightness, contrast and white balance of each image (N, 3, H, W) in [0, 1]."""
    n, device = len(images), images.device
    gain = 1 + strength * (torch.randn(n, 1, 1, 1, generator=g) + 0.4 * torch.randn(n, 3, 1, 1, generator=g))
    shift = 0.5 * strength * torch.randn(n, 1, 1, 1, generator=g)
    return ((images - 0.5) * gain.to(device) + 0.5 + shift.to(device)).clamp(0, 1)
