"""A finished result as the page browses it: its table filtered and sorted, histograms, instance tiles, exports.

The table is read once, as columns in memory: a million objects take about 100 MB, and a filter a few milliseconds.
"""

from __future__ import annotations

import csv
import io
import math
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import shapely
from affine import Affine
from numpy.typing import NDArray

from fewscope.annotate.layer_tiles import places
from fewscope.annotate.tiles import TILE, TileAddress, TileGrid
from fewscope.connectors.colours import Colour, class_colour
from fewscope.connectors.results.manifest import hash_manifest
from fewscope.connectors.results.reader import Result, open_result
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.source import SourceInfo
from fewscope.connectors.vectors.geojson import FeatureStyle, feature_texts
from fewscope.errors import PageRunError
from fewscope.pipeline.outputs.outlines import trace, trace_coarsely

HIDDEN = ("centroid_row", "centroid_col", "touches_edge")
"""Columns that the page's table leaves out; exports have them."""

MAX_ROWS = 1000
MAX_BINS = 200
N_VIEWS = 8
"""Filtered and sorted views that are kept, 4 bytes a row."""

N_TABLES = 3
"""Results whose tables are kept in memory."""

EXPORTED_AT_ONCE = 2000
OUTLINE_SIMPLIFY_PX = 0.5
ALPHA, EDGE = 150, 0.45
UNITS = {"_um2": "µm²", "_m2": "m²", "_px": "px", "_um": "µm", "_m": "m"}

Ids = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Filters:
    """What rows must be to be shown; None: anything.

    Areas are in the unit of `ResultTable.area`, probabilities in 0..1.
    """

    class_name: str | None = None
    min_area: float | None = None
    max_area: float | None = None
    min_probability: float | None = None
    max_probability: float | None = None

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """From a query; empty values are none.

        Raises
        ------
        PageRunError
            A value is no number.
        """
        numbers: dict[str, float | None] = {}
        for name in ("min_area", "max_area", "min_probability", "max_probability"):
            text = query.get(name, "")
            try:
                numbers[name] = float(text) if text else None
            except ValueError:
                raise PageRunError(f"{name} is {text[:40]!r}, expected a number") from None
        return cls(query.get("class") or None, **numbers)


class ResultTable:
    """The instances of one source; threads may share it.

    Parameters
    ----------
    out : Path
        Folder of a finished result.
    scale : float
        Image px per working px.
    info : SourceInfo or None
        The source of the page, on whose grid image px are: the result may be of a part of it, or at another
        resolution; None: it is neither.

    Raises
    ------
    ResultNotFound
        There is no result.
    """

    def __init__(self, out: Path, scale: float, info: SourceInfo | None = None) -> None:
        self.out = out
        self.result: Result = open_result(str(out))
        self.store = ResultStore(str(out))
        self.table: pa.Table = self.result.table.to_table().combine_chunks()
        self.scale, self.origin = _place(self.store, scale, info)
        self.class_names = self.result.spec.class_names
        known = self.table["area_um2"].null_count < self.table.num_rows
        self.area = "area_um2" if known else "area_px"
        self._views: OrderedDict[tuple[Any, ...], Ids] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def columns(self) -> list[str]:
        """Columns of the page's table: those with values, and the centroid in image px."""
        table = self.table
        with_values = [
            name
            for name in table.schema.names
            if name not in HIDDEN and not name.startswith("bbox_") and table[name].null_count < table.num_rows
        ]
        return [*(with_values or ["id"]), "image_x", "image_y"]

    def view(self, filters: Filters, sort: str | None = None, descending: bool = False) -> Ids:
        """Rows that pass the filters, (n,) int32, sorted by a column; by id without one.

        Raises
        ------
        PageRunError
            There is no such column.
        """
        key = filters, sort, descending
        with self._lock:
            rows = self._views.get(key)
            if rows is None:
                rows = self._filtered(filters)
                if sort is not None:
                    rows = self._sorted(rows, sort, descending)
                self._views[key] = rows
                while len(self._views) > N_VIEWS:
                    self._views.popitem(last=False)
            self._views.move_to_end(key)
            return rows

    def _filtered(self, filters: Filters) -> Ids:
        table = self.table
        keep = np.ones(table.num_rows, bool)
        for name, low, high in (
            (self.area, filters.min_area, filters.max_area),
            ("mean_probability", filters.min_probability, filters.max_probability),
        ):
            if low is None and high is None:
                continue
            values = table[name].to_numpy()
            with np.errstate(invalid="ignore"):
                keep &= (values >= (-math.inf if low is None else low)) & (
                    values <= (math.inf if high is None else high)
                )
        if filters.class_name is not None:
            if "class" in table.schema.names:
                keep &= pc.equal(table["class"].cast(pa.string()), filters.class_name).to_numpy()
            elif filters.class_name not in self.class_names:
                keep[:] = False
        return np.flatnonzero(keep).astype(np.int32)

    def _sorted(self, rows: Ids, sort: str, descending: bool) -> Ids:
        column = {"image_x": "centroid_col", "image_y": "centroid_row"}.get(sort, sort)
        if column not in self.table.schema.names:
            raise PageRunError(f"there is no column {sort[:40]!r}")
        values = self.table[column].take(pa.array(rows))
        if column == "class":
            values = values.cast(pa.string())
        order = pc.array_sort_indices(
            values.combine_chunks(), order="descending" if descending else "ascending"
        )
        found: Ids = rows[order.to_numpy()]
        return found

    def rows(self, rows: Ids) -> list[list[Any]]:
        """Values of rows, in the order of `columns`."""
        taken = self.table.take(pa.array(rows))
        values = [taken[name].to_pylist() for name in self.columns[:-2]]
        row, col = self.origin
        x = ((taken["centroid_col"].to_numpy() + col + 0.5) * self.scale).round(2).tolist()
        y = ((taken["centroid_row"].to_numpy() + row + 0.5) * self.scale).round(2).tolist()
        return [list(row) for row in zip(*values, x, y, strict=True)]

    def histogram(self, column: str, bins: int, filters: Filters) -> dict[str, Any]:
        """Counts of a numeric column in equal bins from its 0th to its 99.5th percentile; the last holds the rest.

        Raises
        ------
        PageRunError
            There is no such column, or it holds no numbers.
        """
        name = {"image_x": "centroid_col", "image_y": "centroid_row"}.get(column, column)
        if name not in self.table.schema.names or not _is_numeric(self.table.schema.field(name).type):
            raise PageRunError(f"there is no column of numbers {column[:40]!r}")
        bins = min(max(1, bins), MAX_BINS)
        values = self.table[name].take(pa.array(self.view(filters))).to_numpy().astype(np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return {"edges": [], "counts": [], "unit": _unit_of(name)}
        low, high = float(values.min()), float(np.quantile(values, 0.995))
        if high <= low:
            high = low + 1.0
        counts, edges = np.histogram(np.minimum(values, high), bins, (low, high))
        edges[-1] = max(float(edges[-1]), float(values.max()))
        return {"edges": edges.tolist(), "counts": counts.tolist(), "unit": _unit_of(name)}

    def at(self, x: float, y: float) -> dict[str, Any] | None:
        """The row of the instance at a place, image px; None where there is none."""
        row, col = math.floor(y / self.scale) - self.origin[0], math.floor(x / self.scale) - self.origin[1]
        spec = self.result.spec
        if not (0 <= row < spec.height and 0 <= col < spec.width):
            return None
        found = int(np.asarray(self.store.array("instances", 0)[row : row + 1, col : col + 1])[0, 0])
        if not found:
            return None
        number = int(
            np.searchsorted(self.table["id"].to_numpy(), found)
        )  # rows are in the order of their ids
        (values,) = self.rows(np.array([number], np.int32))
        return dict(zip(self.columns, values, strict=True))

    def tile(
        self,
        grid: TileGrid,
        address: TileAddress,
        paint: bool,
        filters: Filters,
        colours: Mapping[str, Colour] | None = None,
    ) -> NDArray[np.uint8]:
        """RGBA (256, 256, 4): ids in red, green and blue (24 low bits), or coloured by class with dark outlines.

        ``colours`` has the colour of each class that was given one; the others have that of the result's own files.
        """
        step = grid.step(address.zoom) / self.scale  # working px per tile px
        level = min(max(0, math.floor(math.log2(step) + 1e-9)), self.result.spec.levels - 1)
        rows, cols = places(grid, address, self.scale)
        rows, cols = rows - self.origin[0] >> level, cols - self.origin[1] >> level
        height, width = self.result.spec.shape(level)
        ids = self._read("instances", level, rows, cols, (height, width)).astype(np.uint32)
        shown = ids > 0
        if filters != Filters():
            passes = np.zeros(self.table.num_rows + 1, bool)
            passes[self.view(filters) + 1] = True
            shown &= passes[np.minimum(ids, self.table.num_rows)]
        out = np.zeros((TILE, TILE, 4), np.uint8)
        if not paint:
            for channel, shift in enumerate((16, 8, 0)):
                out[..., channel] = np.where(shown, ids >> shift & 255, 0)
            out[..., 3] = np.where(shown, 255, 0)
            return out
        classes = self._read("semantic", level, rows, cols, (height, width))
        given = colours or {}
        names = enumerate(self.class_names, start=1)
        palette = np.array(
            [(0, 0, 0), *(given.get(name, class_colour(value)) for value, name in names)], np.uint8
        )
        out[..., :3] = palette[np.minimum(classes, len(palette) - 1)]
        edge = np.zeros(ids.shape, bool)
        edge[1:] |= ids[1:] != ids[:-1]
        edge[:-1] |= ids[1:] != ids[:-1]
        edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
        out[edge, :3] = (out[edge, :3] * EDGE).astype(np.uint8)
        out[..., 3] = np.where(shown, np.where(edge, 255, ALPHA), 0)
        return out

    def _read(
        self, name: str, level: int, rows: NDArray[np.int64], cols: NDArray[np.int64], size: tuple[int, int]
    ) -> NDArray[Any]:
        """Values of a level at rows x cols, 0 beyond it."""
        out = np.zeros((len(rows), len(cols)), np.uint32 if name == "instances" else np.uint8)
        inside_rows, inside_cols = (rows >= 0) & (rows < size[0]), (cols >= 0) & (cols < size[1])
        if inside_rows.any() and inside_cols.any():
            r, c = rows[inside_rows], cols[inside_cols]
            block = np.asarray(self.store.array(name, level)[r[0] : r[-1] + 1, c[0] : c[-1] + 1])
            out[np.ix_(inside_rows, inside_cols)] = block[np.ix_(r - r[0], c - c[0])]
        return out

    def csv(self, filters: Filters) -> Iterator[bytes]:
        """The rows that pass the filters as CSV, piece by piece, with all columns."""
        rows, names = self.view(filters), self.table.schema.names
        yield _csv_line(names)
        for start in range(0, len(rows), EXPORTED_AT_ONCE):
            taken = self.table.take(pa.array(rows[start : start + EXPORTED_AT_ONCE]))
            columns = [taken[name].to_pylist() for name in names]
            yield b"".join(_csv_line(row) for row in zip(*columns, strict=True))

    def geojson(self, filters: Filters, to_file: Affine) -> Iterator[bytes]:
        """The outlines of what passes the filters as GeoJSON, piece by piece.

        ``to_file`` maps image px to the file's coordinates, as those of labels.
        """
        transform = to_file @ Affine.scale(self.scale) @ Affine.translation(*self.origin[::-1])
        run = hash_manifest(self.store.attributes.get("manifest", {}))
        colours = [class_colour(value) for value in range(1, len(self.class_names) + 1)]
        styles = [
            FeatureStyle(run, name, colour) for name, colour in zip(self.class_names, colours, strict=True)
        ]
        rows = self.view(filters)
        yield b'{"type":"FeatureCollection","features":[\n'
        separator = b""
        for start in range(0, len(rows), EXPORTED_AT_ONCE):
            taken = self.table.take(pa.array(rows[start : start + EXPORTED_AT_ONCE]))
            boxes = ("bbox_row0", "bbox_col0", "bbox_row1", "bbox_col1")
            columns = {name: taken[name].to_numpy() for name in ("id", *boxes)}
            found = dict(trace(self.store, transform, columns, OUTLINE_SIMPLIFY_PX, trace_coarsely))
            ids = columns["id"].astype(np.int64)
            shapes = np.array([found.get(int(own), shapely.Point()) for own in ids], object)
            names = (
                taken["class"].to_pylist()
                if "class" in taken.schema.names
                else [self.class_names[0]] * len(ids)
            )
            for value, style in zip(self.class_names, styles, strict=True):
                here = np.array([name == value for name in names]) & ~shapely.is_empty(shapes)
                measures = {
                    "Id": ids[here],
                    "Area px": taken["area_px"].to_numpy()[here],
                    "Mean probability": taken["mean_probability"].to_numpy()[here],
                }
                for text in feature_texts(ids[here], shapes[here], style, measures):
                    yield separator + text.encode()
                    separator = b",\n"
        yield b"\n]}\n"


class Tables:
    """Tables of finished results, the last ones that were asked for."""

    def __init__(self) -> None:
        self._tables: OrderedDict[Path, ResultTable] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, out: Path, scale: float, info: SourceInfo | None = None) -> ResultTable:
        """The table of a result, read on the first call; parameters as in `ResultTable`."""
        with self._lock:
            table = self._tables.get(out)
            if table is None:
                table = self._tables[out] = ResultTable(out, scale, info)
                while len(self._tables) > N_TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(out)
            return table


def _place(store: ResultStore, scale: float, info: SourceInfo | None) -> tuple[float, tuple[int, int]]:
    """Image px per px of a result, and its row and column of the image's corner: its grid may be another one."""
    stated = store.attributes.get("source", {}).get("transform")
    if info is None or stated is None:
        return scale, (0, 0)
    if info.kind == "slide":
        return float(stated[0]), (0, 0)
    place = ~info.transform @ Affine(*stated)
    of_result = round(place.a, 9)
    return of_result, (round(place.f / of_result), round(place.c / of_result))


def _is_numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _unit_of(name: str) -> str | None:
    return next((unit for ending, unit in UNITS.items() if name.endswith(ending)), None)


def _csv_line(values: Any) -> bytes:
    """One line; names that a spreadsheet would take for a formula are written as text."""
    safe = [f"'{v}" if isinstance(v, str) and v[:1] in "=+-@" else "" if v is None else v for v in values]
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(safe)
    return buffer.getvalue().encode()
