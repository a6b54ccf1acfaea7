"""What every unit of a run has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.source import Source
from fewscope.pipeline.instances.split_rules import DepthRule, Rule
from fewscope.pipeline.tiling.foreground import Foreground
from fewscope.pipeline.tiling.grid import TileGrid, Unit


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One source to segment: all that is the same for its units. Picklable; sent to each worker once.

    Attributes
    ----------
    key : name of the job among those of a pool
    thresholds : of each class, uint8: the stored probability from which on a pixel may be of it
    rules : of each class, how touching objects are told apart, or None for plain connected components
    units : all units of the source, which may have tiles in common; none: nothing is shared
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

    @property
    def needs_depth(self) -> bool:
        """Whether objects are told apart by what the model says of depth."""
        return any(isinstance(rule, DepthRule) for rule in self.rules)

    @property
    def n_maps(self) -> int:
        """Maps that the model makes of a tile: probabilities of the classes, then, where needed, their depths."""
        return len(self.rules) * (2 if self.needs_depth else 1)

    @property
    def halo(self) -> int:
        """Pixels around a unit that its objects depend on."""
        return max((rule.halo for rule in self.rules if rule), default=0)
