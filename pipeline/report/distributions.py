"""How large the instances are, for the report: quantiles and histograms of a survey."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fewscope.pipeline.report.formatting import round_up
from fewscope.pipeline.report.statistics import InstanceStatistics

HISTOGRAM_BINS = 40
HISTOGRAM_END = 0.98  # quantile of area at which the histograms end; larger objects are counted beside them


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts between ``edges``; ``beyond`` objects are larger than the last edge."""

    unit: str
    edges: list[float]
    counts: list[int]
    beyond: int
    median: float


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the instances. ``area_px`` holds quantiles; um when the source has a resolution."""

    area_px: dict[str, float]  # "min", "q05", "q25", "median", "q75", "q95", "max"
    median_area_um2: float | None
    median_diameter_um: float | None
    diameter: Histogram
    area: Histogram


def sizes_of(
    found: InstanceStatistics, mpp: float | None, metres_per_px: float | None = None
) -> Sizes | None:
    """Sizes of the instances of a survey, in um of slides and m of rasters; None where it has none."""
    if not found.count:
        return None
    quantiles = {"min": 0.0, "q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95, "max": 1.0}
    area_px = {name: found.quantile(q) or 0.0 for name, q in quantiles.items()}
    scale = mpp or metres_per_px or 1.0
    areas = found.areas * scale**2
    diameters = 2 * np.sqrt(areas / np.pi)
    median = area_px["median"] * scale**2
    end = float(found.quantile(HISTOGRAM_END) or 0.0) * scale**2
    unit = "µm" if mpp else "m" if metres_per_px else "px"
    return Sizes(
        area_px=area_px,
        median_area_um2=median if mpp else None,
        median_diameter_um=2 * math.sqrt(median / math.pi) if mpp else None,
        diameter=histogram_of(
            diameters, found.n_of_area, 2 * math.sqrt(median / math.pi), 2 * math.sqrt(end / math.pi), unit
        ),
        area=histogram_of(areas, found.n_of_area, median, end, unit + "²"),
    )


def histogram_of(
    values: Any, weights: Any, median: float, end: float, unit: str, bins: int = HISTOGRAM_BINS
) -> Histogram:
    """Weights in bins of a round width, from 0 to just beyond `end`.

    Parameters
    ----------
    values : np.ndarray
        (n,) values, at least 0, in `unit`.
    weights : np.ndarray
        (n,) what each value counts.
    median : float
        Shown in the chart.
    end : float
        Values beyond the bin of `end` are counted as `Histogram.beyond`.
    unit : str
        Unit of the values.
    bins : int
        About how many bins; the round width decides.
    """
    width = round_up(end / bins)
    n_bins = int(end / width) + 1
    place = np.floor(values / width).astype(np.int64)
    inside = place < n_bins
    return Histogram(
        unit=unit,
        edges=[round(i * width, 9) for i in range(n_bins + 1)],
        counts=np.rint(np.bincount(place[inside], weights[inside], n_bins)).astype(int).tolist(),
        beyond=round(float(weights[~inside].sum())),
        median=median,
    )
