"""Trained networks that a benchmark compares: folders of training runs, weights files, and shipped models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewscope.errors import ConfigError, WeightsError
from fewscope.model.networks.registry import NETWORKS

WEIGHTS = "weights.safetensors"
RECIPE = "recipe.json"

ARROW = " → "
"""Between the stages of a training."""


@dataclass(frozen=True, slots=True)
class Run:
    """One set of weights, and how they came about as far as that is known.

    Attributes
    ----------
    name : str
        Shown in tables.
    network : str
        A key of `model.networks.registry.NETWORKS`.
    weights : Path | None
        Weights file; None for the shipped one.
    loss, data, split, initial : str
        Loss of the training, its data and split, and the weights that it started from; "" if not known, or none.
    imagenet : bool
        Whether it started from ImageNet weights.
    seed, steps : int | None
        Seed and number of steps; None if not known.
    """

    name: str
    network: str
    weights: Path | None = None
    loss: str = ""
    data: str = ""
    split: str = ""
    initial: str = ""
    imagenet: bool = False
    seed: int | None = None
    steps: int | None = None

    @property
    def model(self) -> str:
        """Its name for ``--model``."""
        return "compact" if NETWORKS[self.network].family == "compact" else self.network

    @property
    def kind(self) -> str:
        """The network without the size of its paper: "panet" of "panet-417"."""
        head, _, size = self.network.rpartition("-")
        return head if size.isdigit() else self.network

    @property
    def provenance(self) -> str:
        """What it was trained on, in order."""
        chain = ["ImageNet"] if self.imagenet else []
        if self.initial:
            chain.append(self.initial)
        return ARROW.join([*chain, Path(self.data).name if self.data else "unknown data"])


def find_runs(paths: Sequence[Path], shipped: Sequence[str] = ()) -> list[Run]:
    """Runs in folders, in order.

    Parameters
    ----------
    paths : Sequence[Path]
        Folders of a run, folders of such folders, or weights files that name their network.
    shipped : Sequence[str]
        Models whose weights are shipped.

    Raises
    ------
    ConfigError
        A path does not exist or has no run, or two runs have the same name.
    WeightsError
        A file does not name its network.
    """
    runs = [Run(name, "compact-S" if name == "compact" else name) for name in shipped]
    for path in paths:
        if path.is_file():
            runs.append(_of_file(path))
        elif (path / WEIGHTS).is_file():
            runs.append(_of_folder(path))
        elif path.is_dir():
            found = sorted(child for child in path.iterdir() if (child / WEIGHTS).is_file())
            if not found:
                raise ConfigError(f"{path}: no folder in it has {WEIGHTS}; give the folders that train wrote")
            runs += [_of_folder(child) for child in found]
        else:
            raise ConfigError(f"{path}: no such file or folder; give a run, a folder of runs, or weights")
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two runs are called {twice[0]}; rename one of the folders")
    return runs


def _of_folder(folder: Path) -> Run:
    run = _of_file(folder / WEIGHTS, folder.name)
    path = folder / RECIPE
    if not path.is_file():
        return run
    try:
        stated = json.loads(path.read_text())
        return Run(
            run.name,
            run.network,
            run.weights,
            loss=str(stated["loss"]),
            data=stated["data"] or "synthetic episodes",
            split=stated["split"] or "",
            initial=_origin(stated["initial"]),
            imagenet=bool(stated["imagenet"]),
            seed=int(stated["seed"]),
            steps=int(stated["steps"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path}: is not what train writes ({error!r}); delete it, or train again"
        ) from error


def _origin(initial: str | None) -> str:
    """What the weights that a run started from were trained on: their own recipe says so, or their folder's name."""
    if not initial:
        return ""
    folder = Path(initial).parent
    try:
        stated = json.loads((folder / RECIPE).read_text())
        return Path(stated["data"]).name if stated["data"] else "synthetic episodes"
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name


def _of_file(path: Path, name: str = "") -> Run:
    from fewscope.model.weights import metadata

    facts = metadata(path)
    network = facts.get("network", "")
    if network not in NETWORKS:
        raise WeightsError(
            f"{path}: does not state its network; give weights that train or convert wrote, or their folder"
        )
    try:
        recipe = json.loads(facts.get("recipe", "{}"))
    except ValueError:
        recipe = {}
    return Run(
        name or path.stem,
        network,
        path,
        loss=str(recipe.get("loss", "")),
        imagenet=bool(recipe.get("imagenet")),
        seed=recipe.get("seed"),
        steps=recipe.get("steps"),
    )
