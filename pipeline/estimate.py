"""Estimates the cost of a run before it is started: tiles, time, memory, disk."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.instances.split_rules import DepthRule
from fewscope.pipeline.plan import make_plan
from fewscope.pipeline.predictor import Model, has_depth, squeeze_single_class

BYTES_PER_FOREGROUND_PX = 0.6
"""Size of all outputs per pixel of foreground; 0.2 to 0.6 measured on the demo and three real slides."""

MODEL_BYTES = 700e6  # resident memory of a worker that has loaded torch and read nothing
BYTES_PER_UNIT_PX = 24.0
"""Peak memory per pixel of a unit: image and valid 4, blending 8 and 5, labels and their temporaries the rest."""

BYTES_PER_MORE_MAPS_PX = 9.0
"""The same for each further map (more classes, depths): blending 4 and 4, stored 1."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Estimated cost of a run; ``str()`` of it is for people."""

    source: str
    width: int
    height: int
    mpp: float | None
    n_tiles: int
    n_tiles_with_tissue: int
    n_units: int
    seconds_per_tile: float
    worker_memory_gb: float
    disk_gb: float
    aoi: str | None = None

    def __str__(self) -> str:
        hours = self.n_tiles_with_tissue * self.seconds_per_tile / 3600
        took = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
        within = f" in the area of {self.aoi}" if self.aoi else ""
        at = f" at {self.mpp:.4g} um per px" if self.mpp else ""
        return (
            f"{self.source}: {self.width:,} x {self.height:,} px{at}\n"
            f"  {self.n_tiles_with_tissue:,} of {self.n_tiles:,} tiles have foreground{within}, "
            f"in {self.n_units} units\n"
            f"  {self.seconds_per_tile * 1000:.0f} ms per tile here: about {took} with one such worker, "
            "proportionally less with more\n"
            f"  memory: up to {self.worker_memory_gb:.1f} GB per worker, at any slide size\n"
            f"  disk: about {self.disk_gb:.2g} GB"
        )


def estimate(config: SegmentConfig, model: Model) -> Estimate:
    """Estimate the cost of a run: reads an overview of the source, and times the model on blank tiles."""
    plan = make_plan(config, has_depth(model))
    features = model.encode(plan.support.images, squeeze_single_class(plan.support.labels_by_class))
    tiles = np.full((16, plan.grid.tile, plan.grid.tile, plan.source.info.n_channels), 200, np.uint8)
    model.predict(tiles, features)
    began = time.perf_counter()
    model.predict(tiles, features)
    seconds = (time.perf_counter() - began) / len(tiles)
    unit_px = max(u.core.height * u.core.width for u in plan.planned)
    may_need_depth = any(isinstance(rule, DepthRule) for c in plan.classes for rule in c.rules)
    n_maps = len(plan.classes) * (2 if may_need_depth else 1)
    per_px = BYTES_PER_UNIT_PX + (n_maps - 1) * BYTES_PER_MORE_MAPS_PX
    foreground_px = float(plan.foreground.analysed().mean(dtype=float)) * plan.grid.height * plan.grid.width
    return Estimate(
        source=config.source,
        width=plan.grid.width,
        height=plan.grid.height,
        mpp=plan.source.info.mpp,
        n_tiles=plan.grid.n_tiles,
        n_tiles_with_tissue=plan.n_tiles,
        n_units=len(plan.planned),
        seconds_per_tile=seconds,
        worker_memory_gb=(MODEL_BYTES + 2 * unit_px * per_px) / 1e9,
        disk_gb=foreground_px * BYTES_PER_FOREGROUND_PX / 1e9,
        aoi=config.aoi,
    )
