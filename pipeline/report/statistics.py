"""Statistics of all instances for the report, computed by streaming their table twice.

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

from fewscope.pipeline.report.seam_check import Floats, Ints, Mask, SeamCheck, _seam_check, _SeamAxis

BATCH_ROWS = 65_536  # the row groups of instances.parquet
GRID_CELLS = 200  # density cells along the longer side
FIELD_PX = 512  # side of a field of view
BBOX = ("bbox_row0", "bbox_col0", "bbox_row1", "bbox_col1")  # half-open
COLUMNS = ("id", "centroid_row", "centroid_col", "area_px", "mean_probability", *BBOX)


@dataclass(frozen=True, slots=True, eq=False)
class InstanceStatistics:
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
    samples : list[dict[str, Any]]
        Rows of the table, ascending in area, at even ranks from the smallest to the largest.
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


def instance_statistics(
    table: Any,
    height: int,
    width: int,
    foreground: Mask,
    *,
    seam_rows: Sequence[int] = (),
    seam_cols: Sequence[int] = (),
    n_samples: int = 24,
) -> InstanceStatistics:
    """Read the instance table twice, in batches, and keep what the report needs.

    Parameters
    ----------
    table : Any
        pyarrow.dataset.Dataset or pyarrow.Table rows in a fixed order, with the columns `COLUMNS`
        (``mean_probability`` may be missing)
    height, width : int
        the working grid, px
    foreground : (h, w) bool
        tissue, on any grid that spans the source
    seam_rows, seam_cols : Sequence[int]
        First row / column of every unit but the first.
    n_samples : int
        How many instances to keep for the gallery.
    """
    cell_px = max(1, -(-max(height, width) // GRID_CELLS))
    grid = np.zeros((-(-height // cell_px), -(-width // cell_px)), np.int64)
    n_fields = max(1, height // FIELD_PX), max(1, width // FIELD_PX)
    fields = np.zeros((2, *n_fields))
    sizes: dict[int, int] = {}
    rows, cols = _SeamAxis(seam_rows, height), _SeamAxis(seam_cols, width)

    for batch in batches(table, COLUMNS):
        row, col = batch["centroid_row"], batch["centroid_col"]
        _add_at(grid, row // cell_px, col // cell_px, np.ones(len(row), np.int64))
        probability = batch.get("mean_probability", np.zeros(len(row)))
        whole = in_whole_fields(row, col, n_fields)
        field = row[whole] // FIELD_PX, col[whole] // FIELD_PX
        _add_at(fields[0], *field, np.ones(len(field[0])))
        _add_at(fields[1], *field, probability[whole])
        for area, n in zip(*np.unique(batch["area_px"].astype(np.int64), return_counts=True), strict=True):
            sizes[int(area)] = sizes.get(int(area), 0) + int(n)
        rows.add(row, batch[BBOX[0]], batch[BBOX[2]])
        cols.add(col, batch[BBOX[1]], batch[BBOX[3]])

    areas = np.array(sorted(sizes), np.int64)
    n_of_area = np.array([sizes[int(a)] for a in areas], np.int64)
    return InstanceStatistics(
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


def in_whole_fields(row: Floats, col: Floats, n_fields: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Which centroids (n,) lie in a whole field of view, not in what is left over at the lower and right edges."""
    return (row < n_fields[0] * FIELD_PX) & (col < n_fields[1] * FIELD_PX)


def batches(table: Any, columns: Sequence[str]) -> Iterator[dict[str, npt.NDArray[Any]]]:
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
    for batch in batches(table, (*COLUMNS, "class")):
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
