"""Whether objects are cut at the seams of tiles: evidence for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import pdtrc  # not scipy.stats, which takes a second to import

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
SEAM_BIN_PX = 32  # two nuclei at 0.5 um per px
SEAM_BINS = 32  # objects further than this many bins from a seam are not compared
EDGE_REACH_PX = 16  # lines on both sides of a seam that bounding-box edges are compared with


@dataclass(frozen=True, slots=True)
class SeamCheck:
    """Objects near the seams between work units, compared with objects further away.

    ``distance_px`` are the far edges of bins of distance to the nearest seam, ``density_per_mpx`` the objects
    per million pixels of tissue in each (None: no tissue there). ``edges_on_seam`` sides of bounding boxes
    lie exactly on a seam; ``edges_expected`` is the mean over the lines within 16 px beside the seams. An
    engine that cuts objects at seams shows both: a first bin that stands out, and many edges on the seam.
    """

    n_seams: int
    distance_px: list[int]
    density_per_mpx: list[float | None]
    density_ratio: float | None  # first bin / all others
    spread: tuple[float, float] | None  # 2.5 to 97.5 % of the other bins / their mean
    edges_on_seam: int
    edges_expected: float
    suspicious: bool


class _SeamAxis:
    """Along one axis: centroids by distance to the nearest seam, sides of boxes by offset from it."""

    def __init__(self, seams: Sequence[int], length: int) -> None:
        self.seams = np.array(sorted({int(s) for s in seams if 0 < s < length}), np.float64)
        self.length = length
        self.near = np.zeros(SEAM_BINS)
        self.edges = np.zeros(2 * EDGE_REACH_PX + 1)

    def offset(self, position: npt.NDArray[Any]) -> Floats:
        """Signed distance to the nearest seam."""
        right = np.clip(np.searchsorted(self.seams, position), 0, len(self.seams) - 1)
        left = np.maximum(right - 1, 0)
        a, b = position - self.seams[left], position - self.seams[right]
        nearest: Floats = np.where(np.abs(a) <= np.abs(b), a, b)
        return nearest

    def histogram(self, position: npt.NDArray[Any], weights: Floats | None = None) -> Floats:
        bins = (np.abs(self.offset(position)) // SEAM_BIN_PX).astype(np.int64)
        keep = bins < SEAM_BINS
        return np.bincount(bins[keep], None if weights is None else weights[keep], SEAM_BINS).astype(
            np.float64
        )

    def add(self, centroid: Floats, start: Ints, stop: Ints) -> None:
        if not len(self.seams) or not len(centroid):
            return
        self.near += self.histogram(centroid + 0.5)
        for edge in (start, stop):
            offset = self.offset(edge.astype(np.float64)).astype(np.int64)
            offset = offset[np.abs(offset) <= EDGE_REACH_PX]
            self.edges += np.bincount(offset + EDGE_REACH_PX, minlength=len(self.edges))

    def tissue(self, profile: Floats) -> Floats:
        """Pixels of tissue by distance; `profile` is tissue px per line of the foreground mask."""
        if not len(self.seams):
            return np.zeros(SEAM_BINS)
        lines = np.arange(self.length)
        return self.histogram(lines + 0.5, profile[lines * len(profile) // self.length])


def _seam_check(rows: _SeamAxis, cols: _SeamAxis, foreground: Mask) -> SeamCheck | None:
    n_seams = len(rows.seams) + len(cols.seams)
    if n_seams == 0:
        return None
    near = rows.near + cols.near
    tissue = rows.tissue(foreground.mean(axis=1, dtype=np.float64) * cols.length) + cols.tissue(
        foreground.mean(axis=0, dtype=np.float64) * rows.length
    )
    density = np.divide(near, tissue, out=np.full(SEAM_BINS, np.nan), where=tissue > 0) * 1e6
    others = density[1:][np.isfinite(density[1:])]
    rest = near[1:].sum() / tissue[1:].sum() * 1e6 if tissue[1:].sum() else 0.0
    ratio = float(density[0] / rest) if rest > 0 and np.isfinite(density[0]) else None
    low, high = np.quantile(others, [0.025, 0.975]) / rest if rest > 0 else (0.0, 0.0)

    edges = rows.edges + cols.edges
    on_seam = int(edges[EDGE_REACH_PX])
    expected = float(np.delete(edges, EDGE_REACH_PX).mean())
    # a cut leaves two edges on the line; one in a thousand clean runs would be called suspicious by chance
    cut = on_seam > 1.5 * expected and pdtrc(on_seam - 1, expected) < 1e-3
    return SeamCheck(
        n_seams=n_seams,
        distance_px=[SEAM_BIN_PX * (i + 1) for i in range(SEAM_BINS)],
        density_per_mpx=[float(d) if np.isfinite(d) else None for d in density],
        density_ratio=ratio,
        spread=(float(low), float(high)) if rest > 0 else None,
        edges_on_seam=on_seam,
        edges_expected=expected,
        suspicious=bool(cut),
    )
