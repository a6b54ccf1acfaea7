"""Recipes: the settings that determine a training run, and two named presets.

``paper`` is that of Li et al., *FSS-1000*, CVPR 2020: Adam at 1e-3, halved every 50,000 episodes, 500,000 episodes,
five supports, 224 px, no augmentation; binary cross-entropy, or the squared error and clipping of their published code.
For a network of another paper it is that paper's: see `PUBLISHED`. ``modern`` is Fewscope's: AdamW with a one-cycle
schedule, averaged weights, augmented and synthetic episodes.

Does not import torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fewscope.errors import ConfigError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.networks.names import LOSSES, RECIPES
from fewscope.model.networks.registry import NETWORKS

PAPER_SHOTS = 5
"""Supports of an episode that is not augmented, unless the settings say otherwise: as FSS-1000 trains."""

OPTIMISERS = ("adamw", "sgd")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Settings that determine a training run, together with the data.

    Attributes
    ----------
    network : str
        A key of `model.networks.registry.NETWORKS`.
    loss : str
        One of `LOSSES`; compact networks add the losses of their read-outs and the depth.
    steps : int
        Optimiser steps.
    episodes_per_step : int
        Whose gradients are averaged.
    crop : int
        Side of the training images, px.
    images_per_episode : int
        K + Q.
    augmented : bool
        Draw K from 1..5 and augment views and tasks of all domains, with synthetic ones (`EpisodeSampler`);
        else five supports and whole images (`PaperEpisodes`)
    balance_domains : bool
        Whole images come from all domains (or super-categories) alike, however many classes each has; augmented ones
        have shares of their own (`EpisodeSampler.MIX`).
    shots : int | None
        K of every episode; None to draw it, or for `PAPER_SHOTS` if not `augmented`.
    optimiser : str
        One of `OPTIMISERS`.
    learning_rate, weight_decay : float
        Of the optimiser.
    momentum, bias_rate : float
        Momentum of SGD, and factor of the learning rate of biases and norms.
    tenth_every : int | None
        Steps after which the learning rate is divided by ten; None for another schedule.
    halve_every : int | None
        Episodes after which the learning rate is halved; None for a one-cycle schedule over all steps.
    warmup : int
        Steps until the one-cycle schedule reaches its maximum.
    clip : float | None
        Maximum norm of the gradient; None for no clipping.
    clip_parts : bool
        Clip the encoder and the rest separately, as the published code does.
    average : float | None
        Decay of the exponential moving average of the weights, which is kept, less in the first steps
        (`optimisation.moving_average`); None keeps the last weights.
    seed : int
        Seed of initial weights and episodes.
    imagenet : bool
        The encoder of a relation network starts from ImageNet weights (`model.networks.imagenet`)
    train_backbone : bool
        Train a backbone, too, that the network's paper keeps as ImageNet made it.
    bf16 : bool | None
        Compute in bfloat16; None if the device does so natively.

    Raises
    ------
    ConfigError
        A setting is out of range or contradicts another.
    """

    network: str = "compact-S"
    loss: str = "bce+dice"
    steps: int = 8000
    episodes_per_step: int = 4
    images_per_episode: int = 8
    crop: int = 112
    augmented: bool = True
    balance_domains: bool = False
    shots: int | None = None
    optimiser: str = "adamw"
    learning_rate: float = 2e-3
    weight_decay: float = 5e-3
    momentum: float = 0.0
    bias_rate: float = 1.0
    tenth_every: int | None = None
    halve_every: int | None = None
    warmup: int = 300
    clip: float | None = 1.0
    clip_parts: bool = False
    average: float | None = 0.998
    seed: int = 0
    imagenet: bool = False
    train_backbone: bool = False
    bf16: bool | None = None

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise ConfigError(f"network {self.network!r} is not one of {', '.join(NETWORKS)}")
        if not NETWORKS[self.network].trained:
            raise ConfigError(
                f"network {self.network} is not trained; evaluate it with --model and --weights"
            )
        if self.optimiser not in OPTIMISERS:
            raise ConfigError(f"optimiser {self.optimiser!r} is not one of {', '.join(OPTIMISERS)}")
        shots = self.shots if self.augmented else self.shots or PAPER_SHOTS
        if shots is not None and not 1 <= shots < self.images_per_episode:
            raise ConfigError(
                f"--shots {shots} of {self.images_per_episode} images in an episode: give 1 to "
                f"{self.images_per_episode - 1}"
            )
        if self.loss not in LOSSES:
            raise ConfigError(f"loss {self.loss!r} is not one of {', '.join(LOSSES)}")
        if self.imagenet and not NETWORKS[self.network].encoder:
            raise ConfigError(f"there are no ImageNet weights for {self.network}; leave --imagenet out")
        if self.train_backbone and not NETWORKS[self.network].frozen:
            frozen = ", ".join(name for name, spec in NETWORKS.items() if spec.frozen)
            raise ConfigError(
                f"all of {self.network} is trained anyway; leave --train-backbone out, it is for {frozen}"
            )
        if self.balance_domains and self.augmented:
            raise ConfigError(
                "--balance-domains is for whole pictures: augmented episodes have fixed shares of their domains; add "
                "--no-augmentation"
            )
        if self.steps < 1 or self.episodes_per_step < 1:
            raise ConfigError(
                f"--steps {self.steps} of --episodes-per-step {self.episodes_per_step}: both must be at least 1"
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"--learning-rate {self.learning_rate:g} is not above 0, or no number; use 1e-3"
            )
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed} is negative; give 0 or more")
        multiple = NETWORKS[self.network].side_multiple
        if self.crop < multiple or self.crop % multiple:
            raise ConfigError(
                f"--crop {self.crop} px is not a multiple of {multiple}, which {self.network} needs; use 128 or 224"
            )

    def share(self, world_size: int) -> int:
        """Episodes of a step for each of `world_size` ranks.

        Raises
        ------
        ConfigError
            The episodes cannot be shared evenly.
        """
        share, rest = divmod(self.episodes_per_step, world_size)
        if rest:
            raise ConfigError(
                f"{self.episodes_per_step} episodes a step cannot be shared evenly by {world_size} workers; give "
                f"--episodes-per-step {world_size * (share + 1)}"
            )
        return share


PUBLISHED: dict[str, dict[str, Any]] = {
    "oslsm": {  # a sum over 500x500 px at 1e-10 is a mean at 2.5e-5
        "steps": 1_000_000 // 10,
        "episodes_per_step": 10,
        "optimiser": "sgd",
        "learning_rate": 2.5e-5,
        "momentum": 0.99,
        "weight_decay": 5e-4,
        "bias_rate": 2.0,
        "tenth_every": 100_000,
    },
    "guided": {
        "steps": 100_000,
        "optimiser": "sgd",
        "learning_rate": 1e-6,
        "momentum": 0.99,
        "weight_decay": 5e-4,
        "tenth_every": 100_000,
    },
    "panet": {
        "steps": 30_000,
        "optimiser": "sgd",
        "learning_rate": 1e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "tenth_every": 10_000,
    },
    "canet": {  # 200 epochs of the authors' 5,953 training images or so; every trained layer at 10 times 2.5e-4
        "steps": 300_000,
        "episodes_per_step": 4,
        "optimiser": "sgd",
        "learning_rate": 2.5e-3,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "tenth_every": 300_000,
    },
    "hsnet": {  # at most 2,000 epochs of 5,200 images in batches of 20
        "steps": 520_000,
        "episodes_per_step": 20,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "tenth_every": 520_000,
    },
}
"""The training of other papers, by the first part of the network's name: what differs from ``paper`` with one shot and
one query. `docs/protocol.md` says what these settings leave out."""


def recipe(name: str, network: str, loss: str | None = None) -> TrainConfig:
    """Settings of a named recipe for a network.

    Parameters
    ----------
    name : str
        One of `RECIPES`.
    network : str
        A key of `model.networks.registry.NETWORKS`.
    loss : str | None
        One of `LOSSES`; None for the recipe's default.

    Raises
    ------
    ConfigError
        There is no such recipe, network or loss.
    """
    if name == "modern":
        if network in NETWORKS and NETWORKS[network].family == "compact":
            return TrainConfig(network, loss or "bce+dice")
        return TrainConfig(network, loss or "bce+dice", crop=128, learning_rate=1e-3)
    if name == "paper":
        loss = loss or "bce"
        if (theirs := PUBLISHED.get(network.partition("-")[0])) is not None:
            common: dict[str, Any] = {
                "shots": 1,
                "images_per_episode": 2,
                "episodes_per_step": 1,
                "crop": PATCH_SIZE,
                "augmented": False,
                "clip": None,
                "average": None,
            }
            return TrainConfig(network, loss, **(common | theirs))
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
    raise ConfigError(f"recipe {name!r} is not one of {', '.join(RECIPES)}")
