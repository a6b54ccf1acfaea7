"""Results that only rasters have: the map in their CRS, and its agreement with water indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewscope.connectors.open import open_source
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Pool
from fewscope.pipeline.maps.files import GroundAreas, MapSummary, write_map
from fewscope.pipeline.maps.water_indices import SOURCES, agreement, compare_unit
from fewscope.pipeline.outputs.segmentation import Segmentation
from fewscope.pipeline.plan import Plan
from fewscope.pipeline.sources import pixel_m2
from fewscope.pipeline.tiling.grid import Unit


@dataclass(frozen=True, slots=True, eq=False)
class MapResult:
    """The map of a raster, for the report.

    Attributes
    ----------
    summary : MapSummary
        Areas on the ground, and the rivers.
    pixel_m2 : float
        Mean area of a pixel; NaN without a CRS.
    indices : dict[str, Any]
        Agreement of the mask with each requested water index, by label.
    """

    summary: MapSummary
    pixel_m2: float
    indices: dict[str, Any]

    @property
    def ground_areas(self) -> GroundAreas | None:
        """Areas in m2; None where the raster states no CRS."""
        areas = self.summary.areas
        if self.summary.ground.method == "pixels":
            return None
        return GroundAreas(self.pixel_m2, areas.analysed, sum(areas.covered))

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Groups of facts for the report."""
        groups: dict[str, dict[str, Any]] = {"areas": {"measured": self.summary.ground.description}}
        if self.indices:
            groups["water index"] = self.indices
        return groups


def make_maps(segmentation: Segmentation) -> MapResult:
    """Write the map, and compare the mask with the requested water indices."""
    pool, job, plan = segmentation.pool, segmentation.job, segmentation.plan
    names = plan.support.class_names
    simplify_px = plan.config.raster.simplify_px if plan.config.raster else 0.0
    holes = segmentation.holes
    summary = write_map(
        pool, job, plan.units, plan.config.out, names, simplify_px, [unit.core for unit in holes]
    )
    done = [unit for unit in plan.units if unit not in holes]
    indices = compare_with_indices(pool, job, plan, done)
    return MapResult(summary, pixel_m2(plan.source.info) or math.nan, indices)


def compare_with_indices(pool: Pool, job: Job, plan: Plan, units: Sequence[Unit]) -> dict[str, Any]:
    """Agreement of the mask with the requested water indices in `units`; empty without any."""
    raster = plan.config.raster
    if raster is None or raster.index_bands is None:
        return {}
    bands = raster.index_bands
    source = open_source(plan.config.source, raster=bands.view(raster.view))
    totals = {name: np.zeros(3, np.int64) for name in bands.pairs}
    for _, counts in pool.map(compare_unit, job, ((unit, (source, bands)) for unit in units)):
        for name, of_unit in counts.items():
            totals[name] += of_unit
    source.close()
    return agreement(totals) | {f"{name} is": f"{SOURCES[name]}, water above 0" for name in bands.pairs}
