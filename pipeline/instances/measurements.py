"""Measurements of objects: position, size, shape, mean probability. Exact, however the source is cut into units.

The table of a unit holds integers only: counts, bounds, and moments about the corner of each label's bounding box.
Integers add up without rounding, so the parts of an object in several units sum to the values of the whole object;
division comes last.

Time is linear in the number of runs (stretches of one label in a row) and of objects; there is no loop over objects.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
from affine import Affine
from rasterio.windows import Window

from fewscope.connectors.source import MeasuredChannel
from fewscope.pipeline.instances.labelling import Merge
from fewscope.pipeline.tiling.grid import Unit

_MOMENTS = ("sum_row", "sum_col", "sum_row_row", "sum_row_col", "sum_col_col")
_BOUNDS = ("row0", "col0", "row1", "col1")

UNIT_SCHEMA = pa.schema(
    [
        ("label", pa.uint32()),
        ("first", pa.int64()),
        ("class", pa.uint8()),
        ("area", pa.int64()),
        *((name, pa.int64()) for name in _BOUNDS),
        *((name, pa.int64()) for name in _MOMENTS),
        ("sum_probability", pa.int64()),
        ("touches_edge", pa.bool_()),
    ]
)
"""One row per label of a unit. ``class``: 1..C; ``first``: row * width + col of the first pixel in the source; bounds
are in the source and half open; sums are over the pixels' offsets from (row0, col0)."""

_SUM_OF = "sum_channel_"
"""With the number of a measured channel: the sum of its pixels, whole numbers of 8 or 16 bits."""


def unit_schema(n_measured: int = 0) -> pa.Schema:
    """`UNIT_SCHEMA`, with a sum for each measured channel."""
    return pa.schema([*UNIT_SCHEMA, *((f"{_SUM_OF}{i}", pa.int64()) for i in range(n_measured))])


INSTANCE_SCHEMA = pa.schema(
    [
        ("id", pa.uint32()),
        ("centroid_row", pa.float64()),
        ("centroid_col", pa.float64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("area_px", pa.int64()),
        ("area_um2", pa.float64()),
        ("bbox_row0", pa.int64()),
        ("bbox_col0", pa.int64()),
        ("bbox_row1", pa.int64()),
        ("bbox_col1", pa.int64()),
        ("eccentricity", pa.float64()),
        ("equivalent_diameter_um", pa.float64()),
        ("mean_probability", pa.float64()),
        ("touches_edge", pa.bool_()),
    ]
)
"""One row per object. Rows and columns are in px of the working grid, with the centre of its first pixel at (0, 0);
bounds are half open; x, y is the centroid in world coordinates; mean_probability is 0..1; touches_edge: the object may
continue beyond the source. area_um2 and equivalent_diameter_um are null without a pixel size."""

Columns = dict[str, np.ndarray]


def instance_schema(
    class_names: Sequence[str] = ("object",), measured: Sequence[MeasuredChannel] = ()
) -> pa.Schema:
    """`INSTANCE_SCHEMA`, and ``intensity_NAME`` or ``od_NAME`` for each measured channel: its mean over the object.

    With several classes also ``class``, a dictionary column of their names.
    """
    schema = pa.schema([*INSTANCE_SCHEMA, *((one.column, pa.float64()) for one in measured)])
    if len(class_names) == 1:
        return schema
    return schema.append(pa.field("class", pa.dictionary(pa.int8(), pa.string())))


def measure_unit(
    labels: np.ndarray,
    probability: np.ndarray,
    core: Window,
    shape: tuple[int, int],
    n_labels: Sequence[int] | None = None,
    channels: Sequence[np.ndarray] = (),
) -> pa.Table:
    """Measure each label of a unit.

    Parameters
    ----------
    labels : (h, w) uint32
        0 background, 1..n, consecutive.
    probability : (h, w) uint8
        0..255.
    core : Window
        Position of the unit in the source.
    shape : tuple[int, int]
        (height, width) The source's working grid.
    n_labels : C int, optional
        Number of labels of each class, in the order of `pipeline.instances.class_map.label_classes`; None: one
        class.
    channels : Sequence[np.ndarray]
        Pixels of each measured channel, (h, w) uint8 or uint16.

    Returns
    -------
    pa.Table of `unit_schema`, row l - 1 for label l.

    Raises
    ------
    ValueError
        Arrays and core differ in size.
    """
    if not labels.shape == probability.shape == (core.height, core.width):
        raise ValueError(
            f"labels {labels.shape} and probability {probability.shape} are not the core's "
            f"{(core.height, core.width)}; cut all three alike"
        )
    height, width = shape
    row, start, stop, index = _runs(labels)
    n = int(index.max(initial=-1)) + 1
    length = stop - start
    table: Columns = {"label": np.arange(1, n + 1, dtype=np.uint32)}
    n_labels = [n] if n_labels is None else n_labels
    table["class"] = np.repeat(np.arange(1, len(n_labels) + 1, dtype=np.uint8), n_labels)
    table["area"] = _sum_by_group(n, index, length)
    table["row0"], table["row1"] = _min_by_group(n, index, row), -_min_by_group(n, index, -row - 1)
    table["col0"], table["col1"] = _min_by_group(n, index, start), -_min_by_group(n, index, -stop)
    table["first"] = _min_by_group(n, index, (row + core.row_off) * width + start + core.col_off)

    # Sums of the columns c and c^2 over a run, as differences of sums over 0 .. c - 1.
    down, left, right = (
        row - table["row0"][index],
        start - table["col0"][index],
        stop - table["col0"][index],
    )
    columns = (right * (right - 1) - left * (left - 1)) // 2
    squares = ((right - 1) * right * (2 * right - 1) - (left - 1) * left * (2 * left - 1)) // 6
    table["sum_row"] = _sum_by_group(n, index, down * length)
    table["sum_col"] = _sum_by_group(n, index, columns)
    table["sum_row_row"] = _sum_by_group(n, index, down * down * length)
    table["sum_row_col"] = _sum_by_group(n, index, down * columns)
    table["sum_col_col"] = _sum_by_group(n, index, squares)
    table["sum_probability"] = _sum_by_group(n, index, _sums_over_runs(probability, row, start, stop))
    for i, channel in enumerate(channels):
        table[f"{_SUM_OF}{i}"] = _sum_by_group(n, index, _sums_over_runs(channel, row, start, stop))

    for bound, offset in zip(_BOUNDS, (core.row_off, core.col_off) * 2, strict=True):
        table[bound] += offset
    table["touches_edge"] = (
        (table["row0"] == 0) | (table["col0"] == 0) | (table["row1"] == height) | (table["col1"] == width)
    )
    schema = unit_schema(len(channels))
    return pa.table([table[name] for name in schema.names], schema=schema)


def final_tables(
    units: Sequence[Unit],
    load_table: Callable[[Unit], pa.Table | None],
    merge: Merge,
    transform: Affine,
    um_per_px: float | None,
    class_names: Sequence[str] = ("object",),
    measured: Sequence[MeasuredChannel] = (),
) -> Iterator[pa.Table]:
    """The table of all objects in the order of their ids, one part per row of units.

    Each table is loaded twice: first for the parts of objects in several units, then row by row. Memory holds one row
    of units and the objects in several units.

    Parameters
    ----------
    units : sequence of Unit
        The plan, in raster order.
    load_table : Callable[[Unit], pa.Table | None]
        Unit -> pa.Table of `unit_schema`, or None for a unit without labels.
    merge : Merge
    transform : Affine
        Working pixel corner (col, row) -> world (x, y), as in ``SourceInfo.transform``.
    um_per_px : float or None
        Side of a working pixel.
    class_names : Sequence[str]
        C str Names of the classes 1..C.
    measured : Sequence[MeasuredChannel]
        The channels whose sums the tables have.

    Yields
    ------
    pa.Table of `instance_schema`, never empty; ids ascend within and across tables.
    """
    empty = unit_schema(len(measured)).empty_table()
    shared_parts = [_select(unit, load_table, merge, empty, shared=True) for unit in units]
    shared_ids, shared = _merge_parts(*_concatenate(shared_parts))
    n_finished = 0
    for line in _unit_rows(units):
        ids, columns = _concatenate([_select(unit, load_table, merge, empty, shared=False) for unit in line])
        bottom = line[0].core.row_off + line[0].core.height
        n_here = np.searchsorted(shared["row0"][n_finished:], bottom)  # ids ascend by first row
        here = slice(n_finished, n_finished + n_here)
        n_finished += n_here
        ids = np.concatenate([ids, shared_ids[here]])
        columns = {name: np.concatenate([columns[name], shared[name][here]]) for name in columns}
        if len(ids):
            order = np.argsort(ids)
            columns = {name: column[order] for name, column in columns.items()}
            yield _to_instances(ids[order], columns, transform, um_per_px, class_names, measured)


def _runs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of one label in raster order: row, first column, column after the last, label - 1; (n,) int64 each."""
    height, width = labels.shape
    changes = np.ones((height, width + 1), bool)
    changes[:, 0] = labels[:, 0] > 0
    changes[:, -1] = labels[:, -1] > 0
    np.not_equal(labels[:, 1:], labels[:, :-1], out=changes[:, 1:-1])
    row, col = np.divmod(np.flatnonzero(changes), width + 1)
    # Each change but the last of a row begins a run; runs of background are dropped.
    begins = np.flatnonzero(row[:-1] == row[1:])
    label = labels[row[begins], col[begins]]
    begins, label = begins[label > 0], label[label > 0]
    return row[begins], col[begins], col[begins + 1], label.astype(np.int64) - 1


def _sums_over_runs(values: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Sum of ``values`` (h, w) uint8 or uint16 over each run, (n,) int64; 64 rows at a time to bound memory."""
    sums = np.zeros(len(row), np.int64)
    width = values.shape[1]
    for top in range(0, values.shape[0], 64):
        here = slice(*np.searchsorted(row, [top, top + 64]))
        so_far = np.concatenate([[0], np.cumsum(values[top : top + 64], dtype=np.int64)])
        line = (row[here] - top) * width
        sums[here] = so_far[line + stop[here]] - so_far[line + start[here]]
    return sums


def _sum_by_group(n: int, index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Sums of ``values`` by group, exact: (n,) of the values' dtype (int64, or Python integers)."""
    sums = np.zeros(n, values.dtype)
    np.add.at(sums, index, values)
    return sums


def _min_by_group(n: int, index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Minimum of ``values`` by group, (n,) int64."""
    lowest = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(lowest, index, values)
    return lowest


def _unit_rows(units: Sequence[Unit]) -> Iterable[list[Unit]]:
    """The units of each row of units."""
    lines: dict[int, list[Unit]] = {}
    for unit in units:
        lines.setdefault(unit.grid_row, []).append(unit)
    return lines.values()


def mark_cut(table: pa.Table, holes: Sequence[Window]) -> pa.Table:
    """Rows of `instance_schema`, ``touches_edge`` also set where the bounding box meets a window of `holes`.

    An object beside a part of the source that could not be done may go on in it, as one at the edge may beyond it.
    """
    row0, col0, row1, col1 = (
        table[f"bbox_{name}"].to_numpy().astype(np.int64) for name in ("row0", "col0", "row1", "col1")
    )
    cut = table["touches_edge"].to_numpy().copy()
    for hole in holes:
        across = (row0 <= hole.row_off + hole.height) & (row1 >= hole.row_off)
        cut |= across & (col0 <= hole.col_off + hole.width) & (col1 >= hole.col_off)
    place = table.schema.get_field_index("touches_edge")
    return table.set_column(place, table.schema.field(place), pa.array(cut))


def _select(
    unit: Unit, load_table: Callable[[Unit], pa.Table | None], merge: Merge, empty: pa.Table, shared: bool
) -> tuple[np.ndarray, Columns]:
    """Rows of a unit's table that were not dropped and whose object is (or is not) shared with other units."""
    table = load_table(unit)
    if table is None:
        table = empty
    ids = merge.lookup(unit.index)[table["label"].to_numpy()]
    chosen = (ids > 0) & (merge.shared[ids] == shared)
    names = [name for name in empty.schema.names if name not in ("label", "first")]
    return ids[chosen], {name: table[name].to_numpy()[chosen] for name in names}


def _concatenate(parts: list[tuple[np.ndarray, Columns]]) -> tuple[np.ndarray, Columns]:
    ids = np.concatenate([ids for ids, _ in parts])
    return ids, {name: np.concatenate([columns[name] for _, columns in parts]) for name in parts[0][1]}


def _merge_parts(ids: np.ndarray, parts: Columns) -> tuple[np.ndarray, Columns]:
    """Sum the parts of each object, ids ascending. Moments that may overflow int64 are Python integers."""
    ids, index = np.unique(ids, return_inverse=True)
    n = len(ids)
    sums = ["area", "sum_probability", *(name for name in parts if name.startswith(_SUM_OF))]
    whole: Columns = {name: _sum_by_group(n, index, parts[name]) for name in sums}
    whole["class"] = _min_by_group(n, index, parts["class"])  # the same in all parts
    whole["touches_edge"] = _sum_by_group(n, index, parts["touches_edge"].astype(np.int64)) > 0
    for name in _BOUNDS[:2]:
        whole[name] = _min_by_group(n, index, parts[name])
    for name in _BOUNDS[2:]:
        whole[name] = -_min_by_group(n, index, -parts[name])

    # Move the moments of each part to the corner of the object's bounding box, then add.
    fits = _fits_int64(whole)
    for name in _MOMENTS:
        whole[name] = np.zeros(n, np.int64 if fits.all() else object)
    for rows, dtype in ((fits[index], np.int64), (~fits[index], object)):
        if rows.any():
            of_whole = index[rows]
            area, s_r, s_c, s_rr, s_rc, s_cc = (
                parts[name][rows].astype(dtype) for name in ("area", *_MOMENTS)
            )
            down = (parts["row0"][rows] - whole["row0"][of_whole]).astype(dtype)
            right = (parts["col0"][rows] - whole["col0"][of_whole]).astype(dtype)
            moved = (
                s_r + area * down,
                s_c + area * right,
                s_rr + 2 * down * s_r + area * down * down,
                s_rc + down * s_c + right * s_r + area * down * right,
                s_cc + 2 * right * s_c + area * right * right,
            )
            for name, values in zip(_MOMENTS, moved, strict=True):
                np.add.at(whole[name], of_whole, values)
    return ids, whole


def _fits_int64(columns: Columns) -> np.ndarray:
    """True where area x second moments fits int64: it is below (area x longer side)^2."""
    longer = np.maximum(columns["row1"] - columns["row0"], columns["col1"] - columns["col0"])
    return columns["area"].astype(float) * longer < 2.0**31


def _to_instances(
    ids: np.ndarray,
    columns: Columns,
    transform: Affine,
    um_per_px: float | None,
    class_names: Sequence[str],
    measured: Sequence[MeasuredChannel],
) -> pa.Table:
    """Convert sums to the columns of `instance_schema`, each from the integers of the whole object alone."""
    row, col = np.empty(len(ids)), np.empty(len(ids))
    eccentricity = np.empty(len(ids))
    fits = _fits_int64(columns)
    for rows, dtype in ((fits, np.int64), (~fits, object)):
        if rows.any():
            area, s_r, s_c, s_rr, s_rc, s_cc = (
                columns[name][rows].astype(dtype) for name in ("area", *_MOMENTS)
            )
            row[rows] = columns["row0"][rows] + (s_r / area).astype(float)
            col[rows] = columns["col0"][rows] + (s_c / area).astype(float)
            # Central second moments times area^2: integers, so there is no cancellation.
            eccentricity[rows] = _eccentricity(
                (area * s_rr - s_r * s_r).astype(float),
                (area * s_rc - s_r * s_c).astype(float),
                (area * s_cc - s_c * s_c).astype(float),
            )
    area = columns["area"]
    diameter = np.sqrt(4 * area / np.pi)
    unknown = pa.nulls(len(ids), pa.float64())
    described = {
        "id": ids.astype(np.uint32),
        "centroid_row": row,
        "centroid_col": col,
        "x": transform.a * (col + 0.5) + transform.b * (row + 0.5) + transform.c,
        "y": transform.d * (col + 0.5) + transform.e * (row + 0.5) + transform.f,
        "area_px": area,
        "area_um2": unknown if um_per_px is None else area * um_per_px**2,
        "bbox_row0": columns["row0"],
        "bbox_col0": columns["col0"],
        "bbox_row1": columns["row1"],
        "bbox_col1": columns["col1"],
        "eccentricity": eccentricity,
        "equivalent_diameter_um": unknown if um_per_px is None else diameter * um_per_px,
        "mean_probability": columns["sum_probability"] / (255 * area),
        "touches_edge": columns["touches_edge"],
        **{
            one.column: one.low + one.step * columns[f"{_SUM_OF}{i}"] / area for i, one in enumerate(measured)
        },
        "class": pa.DictionaryArray.from_arrays(
            pa.array(columns["class"].astype(np.int8) - 1, pa.int8()), list(class_names)
        ),
    }
    schema = instance_schema(class_names, measured)
    return pa.table([described[name] for name in schema.names], schema=schema)


def _eccentricity(rr: np.ndarray, rc: np.ndarray, cc: np.ndarray) -> np.ndarray:
    """Eccentricity of the ellipse with these second moments: 0 for a circle (or one pixel), 1 for a line."""
    spread = np.sqrt((rr - cc) ** 2 + 4 * rc**2)  # difference of the two eigenvalues
    major = (rr + cc + spread) / 2
    return np.sqrt(np.divide(spread, major, out=np.zeros_like(spread), where=major > 0))
