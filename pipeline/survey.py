"""What the report needs to know about all instances, gathered by streaming their table twice.

Memory does not grow with the number of instances. Sizes are kept exactly, as a count for each distinct area:
``d`` different whole numbers sum to at least ``d(d+1)/2``, and disjoint instances sum to at most the source's
pixels, so there are at most ``sqrt(2 * height * width)`` of them (141,000 on a 100,000 px square).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import sparse
from scipy.stats import poisson

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

BATCH_ROWS = 65_536  # the row groups of instances.parquet
GRID_CELLS = 200  # density cells along the longer side
FIELD_PX = 512  # side of a field of view
SEAM_BIN_PX = 32  # two nuclei at 0.5 um per px
SEAM_BINS = 32  # objects further than this many bins from a seam are not compared
EDGE_REACH_PX = 16  # lines on both sides of a seam that bounding-box edges are compared with
BBOX = ("bbox_row0", "bbox_col0", "bbox_row1", "bbox_col1")  # half-open
COLUMNS = ("id", "centroid_row", "centroid_col", "area_px", "mean_probability", *BBOX)


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


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """Summary of an instance table on one pixel grid.

    Attributes
    ----------
    areas, n_of_area : (D,) int64
        distinct areas in px, ascending, and how many instances have each
    grid : (R, C) int64
        instances by centroid in square cells of ``cell_px`` working pixels
    tissue : (R, C) float64
        share of each cell that is tissue
    field_counts, field_probability, field_tissue : (FR, FC) float64
        instances, sum of their mean probabilities, and share of tissue, in whole blocks of 512 px
    samples : rows of the table, ascending in area, at even ranks from the smallest to the largest
    """

    height: int
    width: int
    count: int
    areas: Ints
    n_of_area: Ints
    cell_px: int
    grid: Ints
    tissue: Floats
    field_counts: Floats
    field_probability: Floats
    field_tissue: Floats
    samples: list[dict[str, Any]]
    seams: SeamCheck | None

    @property
    def covered_px(self) -> int:
        """Pixels covered by instances."""
        return int((self.areas * self.n_of_area).sum())

    @property
    def tissue_px(self) -> float:
        """Pixels of tissue, from the foreground mask."""
        rows = np.diff(_edges(self.grid.shape[0], self.cell_px, self.height))
        cols = np.diff(_edges(self.grid.shape[1], self.cell_px, self.width))
        return float(rows @ self.tissue @ cols)

    def quantile(self, q: float) -> float | None:
        """Area in px at the quantile `q`, linear between ranks as ``numpy.quantile``; None if empty."""
        if not self.count:
            return None
        below = np.cumsum(self.n_of_area)
        position = q * (self.count - 1)
        low, high = (
            self.areas[np.searchsorted(below, rank, side="right")]
            for rank in (np.floor(position), np.ceil(position))
        )
        return float(low + (high - low) * (position - np.floor(position)))


def survey(
    table: Any,
    height: int,
    width: int,
    foreground: Mask,
    *,
    seam_rows: Sequence[int] = (),
    seam_cols: Sequence[int] = (),
    n_samples: int = 24,
) -> Survey:
    """Read the instance table twice, in batches, and keep what the report needs.

    Parameters
    ----------
    table : pyarrow.dataset.Dataset or pyarrow.Table
        rows in a fixed order, with the columns `COLUMNS` (``mean_probability`` may be missing)
    height, width : int
        the working grid, px
    foreground : (h, w) bool
        tissue, on any grid that spans the source
    seam_rows, seam_cols : first row / column of every unit but the first
    n_samples : how many instances to keep for the gallery
    """
    cell_px = max(1, -(-max(height, width) // GRID_CELLS))
    grid = np.zeros((-(-height // cell_px), -(-width // cell_px)), np.int64)
    n_fields = max(1, height // FIELD_PX), max(1, width // FIELD_PX)
    fields = np.zeros((2, *n_fields))
    sizes: dict[int, int] = {}
    rows, cols = _SeamAxis(seam_rows, height), _SeamAxis(seam_cols, width)

    for batch in _batches(table, COLUMNS):
        row, col = batch["centroid_row"], batch["centroid_col"]
        _add_at(grid, row // cell_px, col // cell_px, np.ones(len(row), np.int64))
        probability = batch.get("mean_probability", np.zeros(len(row)))
        whole = (row < max(FIELD_PX, n_fields[0] * FIELD_PX)) & (col < max(FIELD_PX, n_fields[1] * FIELD_PX))
        field = row[whole] // FIELD_PX, col[whole] // FIELD_PX
        _add_at(fields[0], *field, np.ones(len(field[0])))
        _add_at(fields[1], *field, probability[whole])
        for area, n in zip(*np.unique(batch["area_px"].astype(np.int64), return_counts=True), strict=True):
            sizes[int(area)] = sizes.get(int(area), 0) + int(n)
        rows.add(row, batch[BBOX[0]], batch[BBOX[2]])
        cols.add(col, batch[BBOX[1]], batch[BBOX[3]])

    areas = np.array(sorted(sizes), np.int64)
    n_of_area = np.array([sizes[int(a)] for a in areas], np.int64)
    return Survey(
        height=height,
        width=width,
        count=int(n_of_area.sum()),
        areas=areas,
        n_of_area=n_of_area,
        cell_px=cell_px,
        grid=grid,
        tissue=area_mean(
            foreground,
            _edges(grid.shape[0], cell_px, height) * foreground.shape[0] / height,
            _edges(grid.shape[1], cell_px, width) * foreground.shape[1] / width,
        ),
        field_counts=fields[0],
        field_probability=fields[1],
        field_tissue=area_mean(
            foreground,
            _edges(n_fields[0], FIELD_PX, height) * foreground.shape[0] / height,
            _edges(n_fields[1], FIELD_PX, width) * foreground.shape[1] / width,
        ),
        samples=_spread(table, areas, n_of_area, n_samples),
        seams=_seam_check(rows, cols, foreground),
    )


def _batches(table: Any, columns: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Columns as NumPy arrays, at most 65,536 rows at a time, in the table's order."""
    present = [name for name in columns if name in table.schema.names]
    if isinstance(table, pa.Table):
        batches = table.select(present).to_batches(max_chunksize=BATCH_ROWS)
    else:  # a dataset; no threads and little read-ahead: memory stays flat
        batches = table.to_batches(
            columns=present, batch_size=BATCH_ROWS, batch_readahead=1, fragment_readahead=1, use_threads=False
        )
    for batch in batches:
        yield {name: batch.column(name).to_numpy(zero_copy_only=False) for name in present}


def _add_at(grid: npt.NDArray[Any], row: Floats, col: Floats, value: npt.NDArray[Any]) -> None:
    """``grid[row, col] += value``, indices clipped to the grid."""
    flat = np.clip(row.astype(np.int64), 0, grid.shape[0] - 1) * grid.shape[1]
    flat += np.clip(col.astype(np.int64), 0, grid.shape[1] - 1)
    grid += np.bincount(flat, weights=value, minlength=grid.size).reshape(grid.shape).astype(grid.dtype)


def _edges(n: int, step: int, end: int) -> Floats:
    """Edges of `n` cells of `step` px, the last one cut at `end`."""
    return np.minimum(np.arange(n + 1) * step, end).astype(np.float64)


def area_mean(array: npt.NDArray[Any], row_edges: Floats, col_edges: Floats) -> Floats:
    """Mean of `array` (H, W) over the boxes between edges in its own pixels, fractions of pixels included."""
    return _mean_rows(_mean_rows(array, row_edges).T, col_edges).T


def _mean_rows(array: npt.NDArray[Any], edges: Floats) -> Floats:
    """Mean over rows between successive edges: (H, W) -> (len(edges) - 1, W)."""
    means: Floats = _shares(np.clip(edges, 0, len(array)), len(array)) @ array.astype(np.float64)
    return means


def _shares(edges: Floats, n: int) -> sparse.csr_array:
    """What part of each box between successive edges each of `n` pixels is: (len(edges) - 1, n), a few per box."""
    cuts = np.unique(np.concatenate([edges, np.arange(np.ceil(edges[0]), edges[-1])]))
    start, length = cuts[:-1], np.diff(cuts)
    box = np.searchsorted(edges, start, side="right") - 1
    return sparse.csr_array(
        (length / np.diff(edges)[box], (box, start.astype(np.int64))), shape=(len(edges) - 1, n)
    )


def _spread(table: Any, areas: Ints, n_of_area: Ints, n_samples: int) -> list[dict[str, Any]]:
    """Rows of evenly spaced ranks in the order (area, place in the table); a second pass over the table."""
    count = int(n_of_area.sum())
    n = min(n_samples, count)
    if n == 0:
        return []
    ranks = np.linspace(0, count - 1, n).round().astype(np.int64) if n > 1 else np.array([count // 2])
    below = np.cumsum(n_of_area)
    which = np.searchsorted(below, ranks, side="right")
    wanted: dict[int, dict[int, int]] = {}  # area -> place among the instances of this area -> sample
    for sample, (i, rank) in enumerate(zip(which, ranks, strict=True)):
        wanted.setdefault(int(areas[i]), {})[int(rank - (below[i] - n_of_area[i]))] = sample
    seen = dict.fromkeys(wanted, 0)
    found: list[dict[str, Any]] = [{} for _ in range(n)]
    for batch in _batches(table, (*COLUMNS, "class")):
        for area, places in wanted.items():
            positions = np.flatnonzero(batch["area_px"] == area)
            for place in places:
                if seen[area] <= place < seen[area] + len(positions):
                    position = positions[place - seen[area]]
                    values = {name: column[position] for name, column in batch.items()}
                    found[places[place]] = {
                        name: v if isinstance(v, str) else v.item() for name, v in values.items()
                    }
            seen[area] += len(positions)
    return found


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
    cut = on_seam > 1.5 * expected and poisson.sf(on_seam - 1, expected) < 1e-3
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
