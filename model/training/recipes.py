"""Recipes: everything that determines a training run, and the two that have a name.

``paper`` is that of Li et al., *FSS-1000*, CVPR 2020: Adam at 1e-3, halved every 50,000 episodes, 500,000 episodes,
five supports, 224 px, no augmentation; binary cross-entropy, or the squared error and clipping of their published code.
``modern`` is ours: one cycle of AdamW, a running average of the weights, augmented and synthetic episodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.episodes.category import Category
from fewscope.model.episodes.fss1000 import PaperEpisodes
from fewscope.model.episodes.sampler import EpisodeSampler, EpisodeSource
from fewscope.model.networks.names import COMPACT, NETWORKS, RECIPES
from fewscope.model.networks.registry import side_multiple
from fewscope.model.training.objectives import LOSSES


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What determines a training run, together with the corpus.

    Attributes
    ----------
    loss : one of `LOSSES`; compact networks add the losses of their read-outs and of the depth
    crop : side of the training pictures, px
    images_per_episode : K + Q
    augmented : K of 1..5, views and changed tasks of every domain, synthetic ones among them (`EpisodeSampler`); else
        five supports and whole pictures (`PaperEpisodes`)
    halve_every : episodes after which the learning rate is halved; None for one cycle over all steps
    warmup : steps until the one cycle is at its highest
    clip : largest norm of the gradient; None for any
    clip_parts : clip encoder and the rest each by themselves, as the published code does
    average : decay of the running average of the weights, which is what is kept; None keeps the last weights
    imagenet : the encoder of a relation network starts from ImageNet weights (`model.networks.imagenet`)
    bf16 : compute in bfloat16; None where the device does so natively
    """

    network: str = "compact-S"
    loss: str = "bce+dice"
    steps: int = 8000
    episodes_per_step: int = 4
    images_per_episode: int = 8
    crop: int = 112
    augmented: bool = True
    learning_rate: float = 2e-3
    weight_decay: float = 5e-3
    halve_every: int | None = None
    warmup: int = 300
    clip: float | None = 1.0
    clip_parts: bool = False
    average: float | None = 0.998
    seed: int = 0
    imagenet: bool = False
    bf16: bool | None = None

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ValueError(f"network {self.network!r} is not one of {', '.join(NETWORKS)}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss {self.loss!r} is not one of {', '.join(LOSSES)}")
        if self.imagenet and self.network in COMPACT:
            raise ValueError(f"there are no ImageNet weights for {self.network}; leave --imagenet out")
        if self.steps < 1 or self.episodes_per_step < 1:
            raise ValueError(
                f"{self.steps} steps of {self.episodes_per_step} episodes train nothing; give 1 or more"
            )
        multiple = side_multiple(self.network)
        if self.crop < multiple or self.crop % multiple:
            raise ValueError(
                f"crop {self.crop} px is not a multiple of {multiple}, which {self.network} needs; use 128 or 224"
            )

    def share(self, n_ranks: int) -> int:
        """Episodes of a step that each of so many ranks takes.

        Raises
        ------
        ValueError
            They cannot be shared evenly.
        """
        share, rest = divmod(self.episodes_per_step, n_ranks)
        if rest:
            raise ValueError(
                f"{self.episodes_per_step} episodes a step cannot be shared evenly by {n_ranks} workers; give "
                f"--episodes-per-step {n_ranks * (share + 1)}"
            )
        return share


def recipe(name: str, network: str, loss: str | None = None) -> TrainConfig:
    """The settings of a named recipe for a network.

    Parameters
    ----------
    name : one of `RECIPES`
    loss : one of `LOSSES`; None for the recipe's own
    """
    if name == "modern":
        if network in COMPACT:
            return TrainConfig(network, loss or "bce+dice")
        return TrainConfig(network, loss or "bce+dice", crop=128, learning_rate=1e-3)
    if name == "paper":
        loss = loss or "bce"
        squared = loss == "mse"
        return TrainConfig(
            network,
            loss,
            steps=500_000,
            episodes_per_step=1,
            images_per_episode=10,
            crop=PATCH_SIZE,
            augmented=False,
            learning_rate=1e-3,
            weight_decay=0.0,
            halve_every=50_000,
            warmup=0,
            clip=0.5 if squared else None,
            clip_parts=squared,
            average=None,
        )
    raise ValueError(f"recipe {name!r} is not one of {', '.join(RECIPES)}")


def episode_source(config: TrainConfig, corpus: list[Category], seed: int) -> EpisodeSource:
    """Where the episodes of a run come from."""
    if config.augmented:
        return EpisodeSampler(
            micro_colour_weighted(corpus),
            size=config.crop,
            images_per_episode=config.images_per_episode,
            seed=seed,
            alike=config.episodes_per_step,
        )
    return PaperEpisodes(corpus, size=config.crop, queries=config.images_per_episode - 5, seed=seed)


def micro_colour_weighted(corpus: list[Category]) -> list[Category]:
    """The corpus with every coloured microscopy class three times: grey fluorescence is most of what there is."""
    weighted = []
    for category in corpus:
        sample = category.images[:10].float() / 255
        colourful = float((sample.amax(1) - sample.amin(1)).mean()) > 0.05
        weighted += [category] * (3 if category.domain == "micro" and colourful else 1)
    return weighted


def optimiser_of(config: TrainConfig, net: nn.Module) -> torch.optim.Optimizer:
    """AdamW, which without weight decay is Adam. Norms and biases are not decayed."""
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
    )


def schedule_of(
    config: TrainConfig, optimiser: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Learning rate of every step."""
    if config.halve_every is not None:
        steps = math.ceil(config.halve_every / config.episodes_per_step)
        return torch.optim.lr_scheduler.StepLR(optimiser, steps, gamma=0.5)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimiser,
        config.learning_rate,
        total_steps=config.steps,
        pct_start=min(0.3, config.warmup / config.steps),
    )


def clip_gradients(config: TrainConfig, net: nn.Module) -> Tensor:
    """Clip as the recipe says; returns the norm of the whole gradient before (scalar)."""
    parts: list[list[nn.Parameter]] = [[], []]
    for name, parameter in net.named_parameters():
        parts[config.clip_parts and not name.startswith("encoder.")].append(parameter)
    largest = math.inf if config.clip is None else config.clip
    return torch.stack([nn.utils.clip_grad_norm_(part, largest) for part in parts if part]).norm()
