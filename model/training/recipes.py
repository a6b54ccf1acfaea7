"""Recipes: everything that determines a training run, and the two that have a name.

``paper`` is that of Li et al., *FSS-1000*, CVPR 2020: Adam at 1e-3, halved every 50,000 episodes, 500,000 episodes,
five supports, 224 px, no augmentation; binary cross-entropy, or the squared error and clipping of their published code.
``modern`` is ours: one cycle of AdamW, a running average of the weights, augmented and synthetic episodes.

Does not import torch: a command line lists the names at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from fewscope.errors import ConfigError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.networks.names import LOSSES, RECIPES
from fewscope.model.networks.registry import NETWORKS


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
            raise ConfigError(f"network {self.network!r} is not one of {', '.join(NETWORKS)}")
        if self.loss not in LOSSES:
            raise ConfigError(f"loss {self.loss!r} is not one of {', '.join(LOSSES)}")
        if self.imagenet and NETWORKS[self.network].family == "compact":
            raise ConfigError(f"there are no ImageNet weights for {self.network}; leave --imagenet out")
        if self.steps < 1 or self.episodes_per_step < 1:
            raise ConfigError(
                f"{self.steps} steps of {self.episodes_per_step} episodes train nothing; give 1 or more"
            )
        multiple = NETWORKS[self.network].side_multiple
        if self.crop < multiple or self.crop % multiple:
            raise ConfigError(
                f"crop {self.crop} px is not a multiple of {multiple}, which {self.network} needs; use 128 or 224"
            )

    def share(self, world_size: int) -> int:
        """Episodes of a step that each of so many ranks takes.

        Raises
        ------
        ConfigError
            They cannot be shared evenly.
        """
        share, rest = divmod(self.episodes_per_step, world_size)
        if rest:
            raise ConfigError(
                f"{self.episodes_per_step} episodes a step cannot be shared evenly by {world_size} workers; give "
                f"--episodes-per-step {world_size * (share + 1)}"
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
        if network in NETWORKS and NETWORKS[network].family == "compact":
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
    raise ConfigError(f"recipe {name!r} is not one of {', '.join(RECIPES)}")
