"""One training run as a value that travels to workers: settings, data, and output folder."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from fewscope.errors import ConfigError
from fewscope.model.atomic import atomic_file
from fewscope.model.episodes.category import ClassDataset, load_categories
from fewscope.model.training import distributed
from fewscope.model.training.loop import RunOptions, train
from fewscope.model.training.recipes import TrainConfig
from fewscope.model.weights import load_weights, save_weights

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.json"


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """A run of `model.training.loop.train`, with all that it reads from disk.

    Attributes
    ----------
    config : TrainConfig
        Settings that determine the result.
    out : Path
        Folder of the run; with several machines, one that all of them see.
    data : ClassDataset | None
        Opened data set, picklable, that every worker reads itself; None for synthetic episodes only.
    split : str | None
        Classes to train on; None for all.
    validation_split : str | None
        Classes to validate on; None for no validation.
    shippable : bool
        Leave out pairs whose licence forbids shipping the weights.
    initial : Path | None
        Weights to start from; None for random ones.
    options : RunOptions
        Options of the run; they do not change the weights.

    Raises
    ------
    ConfigError
        The validation split has no data, or is the training split.
    """

    config: TrainConfig
    out: Path
    data: ClassDataset | None = None
    split: str | None = None
    validation_split: str | None = None
    shippable: bool = False
    initial: Path | None = None
    options: RunOptions = field(default_factory=RunOptions)

    def __post_init__(self) -> None:
        if self.validation_split is not None and self.data is None:
            raise ConfigError(
                f"--validate {self.validation_split} needs --data with the classes of that split"
            )
        if self.validation_split is not None and self.validation_split == self.split:
            raise ConfigError(f"--validate {self.split} names the training classes; give another split")

    def provenance(self) -> dict[str, Any]:
        """Settings and where the data and initial weights are: what ``recipe.json`` holds."""
        return asdict(self.config) | {
            "data": None if self.data is None else str(self.data),
            "split": self.split,
            "shippable": self.shippable,
            "initial": None if self.initial is None else str(self.initial),
        }

    def run(self, device: torch.device | None = None) -> list[str]:
        """Train, and write ``recipe.json`` and ``weights.safetensors``.

        Returns
        -------
        SHA-256 of the weights on every rank, in hex.

        Raises
        ------
        DatasetError, WeightsError, ConfigError, FloatingPointError
            As the data set's reader, `load_weights` and `train` raise them.
        """
        if distributed.rank() == 0:
            self.out.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.out / RECIPE) as temporary:
                temporary.write_text(json.dumps(self.provenance(), indent=1))
        categories, validation = [], None
        if self.data is not None:
            categories = load_categories(self.data, self.split, shippable_only=self.shippable)
            if self.validation_split is not None and distributed.rank() == 0:
                validation = load_categories(self.data, self.validation_split)
        net = train(
            self.config,
            categories,
            self.out,
            initial=None if self.initial is None else load_weights(self.initial),
            validation=validation,
            options=self.options,
            device=device,
        )
        if distributed.rank() == 0:
            facts = {"network": self.config.network, "recipe": json.dumps(asdict(self.config))}
            save_weights(net, self.out / WEIGHTS, facts)
        return distributed.digests(net)
