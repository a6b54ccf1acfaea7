"""Episodes, optimiser, learning-rate schedule and gradient clipping of a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fewscope.model.episodes.category import Category
from fewscope.model.episodes.fss1000 import PaperEpisodes
from fewscope.model.episodes.sampler import EpisodeSampler, EpisodeSource
from fewscope.model.networks.episodic import EpisodicNet
from fewscope.model.training.recipes import PAPER_SHOTS, TrainConfig


def episode_source(config: TrainConfig, classes: list[Category], seed: int) -> EpisodeSource:
    """The source of a run's episodes."""
    if config.augmented:
        return EpisodeSampler(
            micro_colour_weighted(classes),
            size=config.crop,
            images_per_episode=config.images_per_episode,
            seed=seed,
            alike=config.episodes_per_step,
            shots=config.shots,
        )
    shots = config.shots or PAPER_SHOTS
    return PaperEpisodes(
        classes,
        size=config.crop,
        shots=shots,
        queries=config.images_per_episode - shots,
        seed=seed,
        balance_domains=config.balance_domains,
    )


def micro_colour_weighted(classes: list[Category]) -> list[Category]:
    """The classes, with every coloured microscopy class three times: most microscopy data is grey fluorescence."""
    weighted = []
    for category in classes:
        sample = category.images[:10].float() / 255
        colourful = float((sample.amax(1) - sample.amin(1)).mean()) > 0.05
        weighted += [category] * (3 if category.domain == "micro" and colourful else 1)
    return weighted


def optimiser_of(config: TrainConfig, net: nn.Module) -> torch.optim.Optimizer:
    """AdamW (with a weight decay of 0 it is Adam) or SGD, without weight decay for norms and biases.

    Parts of the network whose rate differs (`EpisodicNet.rates`) have groups of their own; frozen ones have none.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    rates = tuple(net.rates()) if isinstance(net, EpisodicNet) else ()
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        decayed = parameter.ndim > 1
        factor = next((rate for prefix, rate in rates if name.startswith(prefix)), 1.0)
        factor *= 1.0 if decayed else config.bias_rate
        groups.setdefault((decayed, factor), []).append(parameter)
    listed = [
        {
            "params": groups[decayed, factor],
            "weight_decay": config.weight_decay if decayed else 0.0,
            "lr": config.learning_rate * factor,
        }
        for decayed, factor in sorted(groups, reverse=True)
    ]
    if config.optimiser == "sgd":
        return torch.optim.SGD(listed, lr=config.learning_rate, momentum=config.momentum)
    return torch.optim.AdamW(listed, lr=config.learning_rate, fused=True)


def schedule_of(
    config: TrainConfig, optimiser: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning-rate schedule over the steps."""
    if config.halve_every is not None:
        steps = math.ceil(config.halve_every / config.episodes_per_step)
        return torch.optim.lr_scheduler.StepLR(optimiser, steps, gamma=0.5)
    if config.tenth_every is not None:
        return torch.optim.lr_scheduler.StepLR(optimiser, config.tenth_every, gamma=0.1)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        [group["lr"] for group in optimiser.param_groups],
        total_steps=config.steps,
        pct_start=min(0.3, config.warmup / config.steps),
    )


def moving_average(decay: float) -> Callable[..., None]:
    """Exponential moving average of weights, for ``torch.optim.swa_utils.AveragedModel``.

    Its decay after n averages is at most (1 + n) / (10 + n): with a constant one of 0.998, a run of 200 steps would
    keep two thirds of its random initial weights.
    """

    def update(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor | int) -> None:
        n = int(n_averaged)
        now = min(decay, (1 + n) / (10 + n))
        torch.optim.swa_utils.get_ema_multi_avg_fn(now)(averaged, current, n_averaged)

    return update


def clip_gradients(config: TrainConfig, net: nn.Module) -> Tensor:
    """Clip the gradients as the recipe says, in place. Returns the norm of the whole gradient before (scalar)."""
    parts: list[list[nn.Parameter]] = [[], []]
    for name, parameter in net.named_parameters():
        parts[config.clip_parts and not name.startswith("encoder.")].append(parameter)
    largest = math.inf if config.clip is None else config.clip
    return torch.stack([nn.utils.clip_grad_norm_(part, largest) for part in parts if part]).norm()
