"""A finished segmentation: everything that the writers of outputs need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Pool
from fewscope.pipeline.instances.labelling import Merge
from fewscope.pipeline.instances.measurements import final_tables, mark_cut
from fewscope.pipeline.plan import Plan
from fewscope.pipeline.tiling.grid import Unit


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """A source whose instances are numbered; ``result.zarr`` is complete at full resolution.

    Attributes
    ----------
    pool : Pool
        Workers for tasks on units.
    merge : Merge
        Final ids of the labels of all units.
    rows : Mapping[str, Mapping[str, Any]]
        Row of each unit by its name, as in the done-markers.
    """

    pool: Pool
    job: Job
    plan: Plan
    merge: Merge
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def holes(self) -> list[Unit]:
        """The units that were set aside: nothing is known of what lies in them."""
        return [unit for unit in self.plan.units if "hole" in self.rows[unit.name]]

    def instance_tables(self) -> Iterator[pa.Table]:
        """Rows of ``instances.parquet`` in the order of their ids: one table for each row of units that has any."""
        cores = [unit.core for unit in self.holes]
        for table in self._tables():
            yield mark_cut(table, cores) if cores else table

    def _tables(self) -> Iterator[pa.Table]:
        info = self.plan.source.info

        def load(unit: Unit) -> pa.Table | None:
            return self.job.work.load_table(unit.name) if self.rows[unit.name]["labels"] else None

        return final_tables(
            self.plan.units,
            load,
            self.merge,
            info.transform,
            info.mpp,
            self.plan.support.class_names,
            self.plan.measured,
        )


@dataclass(frozen=True, slots=True)
class Output:
    """One stage that writes files of a result.

    Attributes
    ----------
    stage : str
        Name in the log and in the timings of the report.
    write : Callable[[Segmentation], Any]
        Writes the files; what it returns is for the report.
    kinds : tuple[Literal['slide', 'raster'], ...]
        Kinds of source that have this output.
    """

    stage: str
    write: Callable[[Segmentation], Any]
    kinds: tuple[Literal["slide", "raster"], ...] = ("slide", "raster")
