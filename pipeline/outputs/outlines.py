"""Outlines of all instances as GeoJSON, traced unit by unit and merged into one file in the order of the ids.

An instance is traced by the unit that contains the upper left corner of its bounding box, from the finished labels, so
its outline is complete however many units it lies in. Instances too large for that are traced on a coarser level of
the pyramid. Fragments pass through the working folder; one row of units is merged while the next is traced.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine
from rasterio.windows import Window

from fewscope.connectors.colours import class_colour
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.source import measured_title
from fewscope.connectors.vectors.geojson import (
    FeatureStyle,
    GeoJsonWriter,
    feature_texts,
    fragment_text,
    merge_sorted,
    read_fragment,
)
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Pool
from fewscope.pipeline.geometry.footprints import footprints
from fewscope.pipeline.outputs.segmentation import Segmentation
from fewscope.pipeline.tiling.grid import Unit, clip

POINTS_ABOVE = 1_000_000
"""Number of instances above which "auto" writes centroids: viewers take minutes to open a million polygons."""

MAX_TRACED_PX = 2**24
"""Pixels of a label window traced at once (64 MB as uint32)."""

MAX_OBJECT_PX = 2**22
"""Pixels of the bounding box above which an instance is traced separately, on a coarser level if necessary."""

COLUMNS = (
    "id",
    "x",
    "y",
    "area_px",
    "area_um2",
    "bbox_row0",
    "bbox_col0",
    "bbox_row1",
    "bbox_col1",
    "eccentricity",
    "equivalent_diameter_um",
    "mean_probability",
)


def write_geojson(segmentation: Segmentation) -> None:
    """Write ``instances.geojson.gz`` as ``config.outlines`` asks; above `POINTS_ABOVE`, "auto" writes points."""
    job, plan, choice = segmentation.job, segmentation.plan, segmentation.plan.config.outlines
    if choice == "none":
        return
    if choice == "auto":
        choice = "points" if segmentation.merge.n_instances > POINTS_ABOVE else "polygons"
    styles = [
        FeatureStyle(job.work.run_hash or "", name, class_colour(value), plane=plan.source.info.image_plane)
        for value, name in enumerate(plan.support.class_names, start=1)
    ]
    write_outlines(
        f"{plan.folder}/instances.geojson.gz",
        segmentation.pool,
        job,
        plan.units,
        segmentation.instance_tables(),
        styles,
        plan.config.simplify_px if choice == "polygons" else None,
        job.source.info.scan_origin if plan.config.geojson_origin == "scan" else (0, 0),
    )


def write_outlines(
    uri: str,
    pool: Pool,
    job: Job,
    units: Sequence[Unit],
    tables: Iterable[pa.Table],
    styles: Sequence[FeatureStyle],
    simplify_px: float | None,
    origin: tuple[int, int] = (0, 0),
) -> None:
    """Write ``instances.geojson.gz``; the workers trace.

    Parameters
    ----------
    uri : str
        Path or fsspec URL of the file.
    tables : Iterable[pa.Table]
        Rows of ``instances.parquet`` in the order of their ids, one table per row of units.
    styles : Sequence[FeatureStyle]
        For each class.
    simplify_px : float | None
        Tolerance, px; None: points instead of outlines.
    origin : tuple[int, int]
        World (x, y) of the file's coordinate origin.
    """
    lines: deque[tuple[list[Unit], set[Unit]]] = (
        deque()
    )  # the units of a line, and those that are not traced yet

    def ask() -> Iterator[tuple[Unit, tuple[Any, ...]]]:
        for table in tables:
            channels = [name for name in table.schema.names if measured_title(name)]
            wanted = [name for name in (*COLUMNS, *channels, "class") if name in table.schema.names]
            rows = dict(by_unit(units, table.select(wanted)))
            lines.append((list(rows), set(rows)))
            for unit, of_unit in rows.items():
                yield unit, (of_unit, styles, simplify_px, origin)

    with GeoJsonWriter(uri) as writer:
        for traced, _ in pool.map(outline_unit, job, ask()):
            next(waiting for _, waiting in lines if traced in waiting).remove(traced)
            while lines and not lines[0][1]:
                line, _ = lines.popleft()
                texts = [read_fragment(job.work.load_text(f"outline_{unit.name}")) for unit in line]
                for _, text in merge_sorted(texts):
                    writer.write(text)


def outline_unit(
    job: Job,
    unit: Unit,
    table: pa.Table,
    styles: Sequence[FeatureStyle],
    simplify_px: float | None,
    origin: tuple[int, int],
) -> int:
    """Save the features of the instances in `table` as a fragment in the working folder; returns their number.

    Parameters
    ----------
    table : pa.Table
        Rows of ``instances.parquet`` whose bounding box begins in the unit.
    styles : Sequence[FeatureStyle]
        For each class.
    simplify_px : float | None
        Tolerance, px; None: points instead of outlines.
    origin : tuple[int, int]
        World (x, y) of the file's coordinate origin.
    """
    columns = {name: table[name].to_numpy() for name in COLUMNS}
    ids = columns["id"].astype(np.int64)
    if simplify_px is None:
        geometries = shapely.points(columns["x"] - origin[0], columns["y"] - origin[1])
    else:
        transform = Affine.translation(-origin[0], -origin[1]) @ job.source.info.transform
        found = dict(trace(job.store, transform, columns, simplify_px, trace_coarsely))
        geometries = np.array([found[int(i)] for i in ids], dtype=object)
    measurements = {
        "Area µm^2": columns["area_um2"],
        "Area px": columns["area_px"],
        "Equivalent diameter µm": columns["equivalent_diameter_um"],
        "Eccentricity": columns["eccentricity"],
        "Mean probability": columns["mean_probability"],
        **{
            title: table[name].to_numpy()
            for name in table.schema.names
            if (title := measured_title(name)) is not None
        },
        "Id": columns["id"],
    }
    measurements = {name: np.asarray(v, np.float64) for name, v in measurements.items()}
    of_class = _class_of_rows(table)
    all_ids: list[int] = []
    texts: list[str] = []
    for value, style in enumerate(styles):
        here = of_class == value
        all_ids += ids[here].tolist()
        texts += feature_texts(
            ids[here], geometries[here], style, {name: v[here] for name, v in measurements.items()}
        )
    job.work.save_text(f"outline_{unit.name}", fragment_text(all_ids, texts))
    return len(texts)


def _class_of_rows(table: pa.Table) -> np.ndarray:
    """Index of each row's class, (n,) int; 0 for a single class."""
    if "class" not in table.schema.names:
        return np.zeros(table.num_rows, np.int64)
    column = table["class"].combine_chunks()
    indices: np.ndarray = column.indices.to_numpy()
    return indices


TraceLarge = Callable[[ResultStore, int, Window, Affine, float], Iterator[tuple[int, Any]]]
"""Traces an instance with a large bounding box: (store, id, box, transform, simplify_px)."""


def trace(
    store: ResultStore,
    transform: Affine,
    columns: Mapping[str, Any],
    simplify_px: float,
    trace_large: TraceLarge,
) -> Iterator[tuple[int, Any]]:
    """Yield (id, geometry) of each instance in `columns` (ids and bounding boxes), in any order."""
    top, left = columns["bbox_row0"], columns["bbox_col0"]
    bottom, right = columns["bbox_row1"], columns["bbox_col1"]
    ids = columns["id"].astype(np.int64)
    large = (bottom - top) * (right - left) > MAX_OBJECT_PX
    for i in np.flatnonzero(large):
        box = Window(int(left[i]), int(top[i]), int(right[i] - left[i]), int(bottom[i] - top[i]))
        yield from trace_large(store, int(ids[i]), box, transform, simplify_px)
    small = np.flatnonzero(~large)
    # in strips of the unit: an instance belongs to the strip in which its box begins
    while len(small):
        first = int(top[small].min())
        n_rows = max(64, int(MAX_TRACED_PX // max(1, int(right[small].max() - left[small].min()))) // 2)
        here = small[top[small] < first + n_rows]
        small = small[top[small] >= first + n_rows]
        window = Window(
            int(left[here].min()),
            first,
            int(right[here].max() - left[here].min()),
            int(bottom[here].max() - first),
        )
        labels = read_instances(store, 0, window)
        yield from footprints(labels, (first, window.col_off), transform, ids[here], simplify_px)


def trace_coarsely(
    store: ResultStore, instance: int, box: Window, transform: Affine, simplify_px: float
) -> Iterator[tuple[int, Any]]:
    """Trace one large instance, on the finest level where its box has at most `MAX_TRACED_PX` pixels."""
    level = 0
    while box.height * box.width > MAX_TRACED_PX * 4**level and level + 1 < store.spec.levels:
        level += 1
    step = 2**level
    height, width = store.spec.shape(level)
    window = clip(
        Window(
            box.col_off // step - 1,
            box.row_off // step - 1,
            box.width // step + 3,
            box.height // step + 3,
        ),
        height,
        width,
    )
    labels = read_instances(store, level, window)
    at_level = store.spec.labels_transform(transform, level) if level else transform
    found = list(footprints(labels, (window.row_off, window.col_off), at_level, [instance], simplify_px))
    if found:
        yield from found
    else:  # too thin for any pixel of the coarse level: its bounding box
        corners = [
            transform @ (box.col_off, box.row_off),
            transform @ (box.col_off + box.width, box.row_off + box.height),
        ]
        yield instance, shapely.box(*corners[0], *corners[1])


def read_instances(store: ResultStore, level: int, window: Window) -> np.ndarray:
    """Instance ids of a window of a level, (h, w) uint32."""
    rows = slice(window.row_off, window.row_off + window.height)
    cols = slice(window.col_off, window.col_off + window.width)
    return np.asarray(store.array("instances", level)[rows, cols])


def by_unit(units: Sequence[Unit], table: pa.Table) -> Iterator[tuple[Unit, pa.Table]]:
    """Rows of a table of instances, by the unit in which their box begins; units without rows are skipped."""
    row0, col0 = table["bbox_row0"].to_numpy(), table["bbox_col0"].to_numpy()
    top, bottom = int(row0.min()), int(row0.max())
    for unit in units:
        core = unit.core
        if core.row_off > bottom or core.row_off + core.height <= top:
            continue
        here = (row0 >= core.row_off) & (row0 < core.row_off + core.height)
        here &= (col0 >= core.col_off) & (col0 < core.col_off + core.width)
        if here.any():
            yield unit, table.filter(pa.array(here))
