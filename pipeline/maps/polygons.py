"""Polygons of a raster's instances in its CRS, with areas in m2: along the pixel edges, exact, however large.

An instance is traced by the unit that its bounding box begins in. One too large for one window is traced window by
window and put together: what is in memory is its outline, never its pixels. Tables travel through the working folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from affine import Affine
from rasterio.windows import Window

from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.connectors.vectors.layers import Geometries, encode, geometry_field, to_multi
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Pool
from fewscope.pipeline.geometry.footprints import footprints, simplify, to_world
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.outputs.outlines import MAX_TRACED_PX, by_unit, read_instances, trace
from fewscope.pipeline.tiling.grid import Unit, clip

AT_ONCE = 16_384
"""Instances whose polygons are in memory at once: about 30 MB of outlines of lakes."""

BOXES = ("bbox_row0", "bbox_col0", "bbox_row1", "bbox_col1")

POLYGON_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("class", pa.string()),
        ("area_m2", pa.float64()),
        ("perimeter_m", pa.float64()),
        ("area_px", pa.int64()),
        ("mean_probability", pa.float64()),
        ("touches_edge", pa.bool_()),
        geometry_field(),
    ]
)
"""One row per instance, in the order of the ids. area_m2 is that of the mask; perimeter_m that of the outline as
drawn, of holes too: along pixel edges it is longer than a smooth line would be. Both are null without a CRS."""


@dataclass(frozen=True, slots=True)
class PolygonStyle:
    """What all polygons have in common: how they are measured, how far they may be simplified (px), and the class where
    ``instances.parquet`` names none."""

    class_name: str
    ground: GroundMeasure
    simplify_px: float = 0.0


def polygon_tables(
    pool: Pool, job: Job, units: Sequence[Unit], out: str, style: PolygonStyle
) -> Iterator[pa.Table]:
    """All instances as tables of `POLYGON_SCHEMA`, ids ascending; reads ``instances.parquet`` and the store."""
    fs, root = open_filesystem(out)
    columns = ["id", "area_px", "mean_probability", "touches_edge", *BOXES]
    with fs.open(f"{root}/instances.parquet", "rb") as file:
        instances = pq.ParquetFile(file)
        columns += [name for name in ("class",) if name in instances.schema_arrow.names]
        for batch in instances.iter_batches(AT_ONCE, columns=columns):
            items = [(unit, (table, style)) for unit, table in by_unit(units, pa.Table.from_batches([batch]))]
            if not items:
                continue
            for _ in pool.map(trace_unit, job, items):
                pass
            parts = [job.work.load_table(_name(unit)) for unit, _ in items]
            yield pa.concat_tables(parts).sort_by("id").cast(POLYGON_SCHEMA)


def trace_unit(job: Job, unit: Unit, table: pa.Table, style: PolygonStyle) -> int:
    """Keep the polygons of the instances in `table` in the working folder; how many. A task of the workers."""
    columns = {name: table[name].to_numpy() for name in ("id", *BOXES)}
    pixels = dict(trace(job.store, Affine.identity(), columns, 0.0, trace_exactly))
    outlines = np.array([pixels[int(i)] for i in columns["id"]], dtype=object)
    transform = job.source.info.transform
    drawn = to_world(simplify(outlines, style.simplify_px), transform)
    measures = {
        "area_m2": style.ground.area_m2(to_world(outlines, transform)),
        "perimeter_m": style.ground.length_m(drawn),
    }
    found: dict[str, Any] = {
        "id": table["id"].cast(pa.int64()),
        "class": table["class"].cast(pa.string())
        if "class" in table.schema.names
        else pa.array([style.class_name] * table.num_rows, pa.string()),
        **{name: pa.array(values, from_pandas=True) for name, values in measures.items()},  # NaN becomes null
        **{name: table[name].combine_chunks() for name in ("area_px", "mean_probability", "touches_edge")},
        "geometry": encode(to_multi(drawn)),
    }
    job.work.save_table(
        _name(unit), pa.table([found[name] for name in POLYGON_SCHEMA.names], schema=POLYGON_SCHEMA)
    )
    return table.num_rows


def trace_exactly(
    store: ResultStore, instance: int, box: Window, transform: Affine, simplify_px: float
) -> Iterator[tuple[int, Any]]:
    """One large instance from windows of `MAX_TRACED_PX` pixels: the outline that the whole would have.

    Pieces are joined on whole pixels, where the union is exact, and the corners that a seam left on a straight edge are
    taken out again.
    """
    pieces = []
    side = int(MAX_TRACED_PX**0.5)
    for row in range(box.row_off, box.row_off + box.height, side):
        for col in range(box.col_off, box.col_off + box.width, side):
            window = clip(Window(col, row, side, side), box.row_off + box.height, box.col_off + box.width)
            labels = read_instances(store, 0, window)
            found = footprints(labels, (row, col), Affine.identity(), [instance])
            pieces += [outline for _, outline in found]
    yield instance, to_world(simplify(joined(pieces), simplify_px), transform)[0]


def joined(pieces: Sequence[Any]) -> Geometries:
    """Pieces of one outline, cut along pixel edges and in whole pixels, as one outline, (1,)."""
    whole = shapely.normalize(shapely.union_all(pieces))
    return np.array([shapely.normalize(shapely.simplify(whole, 0, preserve_topology=False))], dtype=object)


def _name(unit: Unit) -> str:
    return f"polygons_{unit.name}"
