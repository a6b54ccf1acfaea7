"""Water by its spectral index, to set beside the model's mask: NDWI of green and NIR, MNDWI of green and SWIR.

Water is where the index is above 0. That holds for reflectances, and for other values as far as the bands share one
scale; so the bands are read with one factor for all and no offset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fewscope.connectors.source import Source
from fewscope.pipeline.config import IndexBands
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.tiling.grid import Unit

SOURCES = {
    "NDWI": "McFeeters 1996: (green - NIR) / (green + NIR)",
    "MNDWI": "Xu 2006: (green - SWIR) / (green + SWIR)",
}


def normalised_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(one - other) / (one + other), float32 in -1..1; 0 where both are 0.

    >>> normalised_difference(np.array([30, 10, 0], np.uint8), np.array([10, 30, 0], np.uint8)).tolist()
    [0.5, -0.5, 0.0]
    """
    first, second = one.astype(np.float32), other.astype(np.float32)
    total = first + second
    return np.divide(first - second, total, out=np.zeros_like(total), where=total > 0)


def compare_unit(job: Job, unit: Unit, source: Source, bands: IndexBands) -> dict[str, tuple[int, int, int]]:
    """Pixels of a unit that are water by mask and index, by the mask alone, by the index alone; for each index.

    A task of the workers. ``source`` shows the bands as `IndexBands.view` has them, on the grid of the job's own.
    """
    rows, cols = unit.core.toslices()
    mask = np.asarray(job.store.array("semantic", 0)[rows, cols]) > 0
    image, valid = source.read(unit.core)
    counts = {}
    for name, channel in bands.pairs.items():
        water = (normalised_difference(image[..., 0], image[..., channel]) > 0) & valid
        own = mask & valid
        counts[name] = (
            int(np.count_nonzero(own & water)),
            int(np.count_nonzero(own & ~water)),
            int(np.count_nonzero(water & ~own)),
        )
    return counts


def agreement(counts: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """For the report: of each index the IoU with the mask, and what either has alone."""
    comparison: dict[str, Any] = {}
    for name, (both, mask_only, index_only) in counts.items():
        union = int(both + mask_only + index_only)
        if not union:
            comparison[name] = "no water, by the mask as by the index"
            continue
        comparison[f"{name}: IoU with the mask"] = round(float(both / union), 4)
        comparison[f"{name}: water of the mask alone"] = f"{mask_only / union:.1%} of what either has"
        comparison[f"{name}: water of the index alone"] = f"{index_only / union:.1%} of what either has"
    return comparison
