"""The description of a run that all its units share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fewscope.connectors.pixels.stains import Stains
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.source import Source
from fewscope.pipeline.instances.split_rules import DepthRule, Rule
from fewscope.pipeline.tiling.foreground import Foreground
from fewscope.pipeline.tiling.grid import TileGrid, Unit


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One source to segment, and how. Picklable; sent to each worker once.

    Attributes
    ----------
    key : str
        Unique among the jobs of a pool.
    features : Any
        The encoded support set, for `Model.predict`.
    thresholds : tuple[int, ...]
        For each class, the smallest stored probability (1..255) of its pixels.
    rules : tuple[Rule | None, ...]
        For each class, how touching objects are separated; None: connected components.
    precision : str
        Precision of the predictions, "float32" or "bfloat16"; "": the model's own.
    units : tuple[Unit, ...]
        All units of the source, for sharing the tiles on their borders; empty: tiles are not shared.
    stains : Stains | None
        Stains that are measured in every object, after what the source measures.
    """

    key: str
    source: Source
    store: ResultStore
    work: WorkDir
    grid: TileGrid
    foreground: Foreground
    features: Any
    thresholds: tuple[int, ...]
    connectivity: int
    rules: tuple[Rule | None, ...]
    units: tuple[Unit, ...] = ()
    precision: str = ""
    stains: Stains | None = None

    @property
    def needs_depth(self) -> bool:
        """Whether a rule needs the depth that the model predicts."""
        return any(isinstance(rule, DepthRule) for rule in self.rules)

    @property
    def n_maps(self) -> int:
        """Maps that are predicted for a tile: the probabilities of the classes, then their depths where needed."""
        return len(self.rules) * (2 if self.needs_depth else 1)

    @property
    def halo(self) -> int:
        """Width of the border around a unit that its objects depend on, px."""
        return max((rule.halo for rule in self.rules if rule), default=0)
