"""The map of a raster's result: COGs, polygons and centrelines in its CRS, areas on the ground.

All of it is written from the store, window by window; only the river network is found on the whole mask at once, at a
resolution at which that fits into memory.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import shapely
from affine import Affine
from rasterio.windows import Window

from fewscope.connectors.colours import class_colour
from fewscope.connectors.results.cog import CogSpec, cog_writer
from fewscope.connectors.results.georeference import write_georeference
from fewscope.connectors.results.instance_table import InstanceTableWriter
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.source import Source
from fewscope.connectors.vectors.layers import (
    Layer,
    encode,
    geometry_field,
    geoparquet_schema,
    write_geopackage,
)
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Pool
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.maps.polygons import POLYGON_SCHEMA, PolygonStyle, polygon_tables
from fewscope.pipeline.tiling.grid import Unit, clip

if TYPE_CHECKING:
    from fewscope.pipeline.rivers.centreline import Mask
    from fewscope.pipeline.rivers.network import Network

log = logging.getLogger(__name__)

WINDOW = 2048
"""Side of what is read at once, px: whole chunks of the store, whole tiles of the COGs."""

MAX_RIVER_PX = 32 * 2**20
"""Pixels of the mask that rivers are looked for in: 0.7 GB with the 20 bytes per pixel that it takes."""

NOT_VALID = 255
"""Value of ``mask.tif`` where the source has no pixels, or a unit could not be done; 0 background, 1..C the classes."""

CENTRELINE_SCHEMA = pa.schema(
    [
        ("reach", pa.int64()),
        ("river", pa.int64()),
        ("class", pa.string()),
        ("role", pa.string()),
        ("length_km", pa.float64()),
        ("width_mean_m", pa.float64()),
        ("width_min_m", pa.float64()),
        ("width_max_m", pa.float64()),
        geometry_field(),
    ]
)
"""One row per reach: the river between two junctions or ends. Lengths and widths are null without a CRS."""


@dataclass(frozen=True, slots=True)
class Areas:
    """Areas on the ground.

    Attributes
    ----------
    analysed : float
        Area of the valid pixels outside of holes, m2; px where the raster has no CRS.
    covered : tuple[float, ...]
        (C,) of each class, likewise.
    """

    analysed: float
    covered: tuple[float, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MapSummary:
    """What the map says in numbers.

    Attributes
    ----------
    networks : dict[str, Network]
        The rivers of each class, by its name.
    river_factor : int
        The mask was looked at in blocks of so many pixels a side.
    """

    ground: GroundMeasure
    areas: Areas
    networks: dict[str, Network]
    river_factor: int


def write_map(
    pool: Pool,
    job: Job,
    units: Sequence[Unit],
    out: str,
    class_names: Sequence[str],
    simplify_px: float = 0.0,
    holes: Sequence[Window] = (),
) -> MapSummary:
    """Write ``mask.tif``, ``probability.tif``, ``features.gpkg``, ``features.parquet`` and ``centreline.parquet``.

    Parameters
    ----------
    job : Job
        Job of a raster, its units done and its instances numbered.
    out : str
        Output folder.
    class_names : Sequence[str]
        C str.
    simplify_px : float
        Polygons may be off by so much.
    holes : Sequence[Window]
        Parts of the raster that could not be done: nodata in the COGs, and in no area.

    Raises
    ------
    OutputError
        Something cannot be written.
    """
    from fewscope.pipeline.rivers.network import trace_network  # its libraries take a second to import

    out, info = out.rstrip("/"), job.source.info
    ground = GroundMeasure.of(info.crs, info.transform, info.height, info.width)
    write_georeference(job.store, info.transform, info.crs)
    areas = write_rasters(job.source, job.store, out, ground, class_names, holes)
    factor = max(1, math.ceil(math.sqrt(info.height * info.width / MAX_RIVER_PX)))
    networks = {}
    for value, name in enumerate(class_names, start=1):
        water, transform = coarse_mask(job.store, value, factor, info.transform)
        networks[name] = trace_network(water, transform, ground)
        log.info("%s: %s", name, networks[name].in_words)
    style = PolygonStyle(class_names[0], ground, simplify_px)
    write_features(out, info.crs, polygon_tables(pool, job, units, out, style), networks, ground)
    return MapSummary(ground, areas, networks, factor)


def write_rasters(
    source: Source,
    store: ResultStore,
    out: str,
    ground: GroundMeasure,
    class_names: Sequence[str],
    holes: Sequence[Window] = (),
) -> Areas:
    """Write the two COGs, and measure while at it; `holes` are as if the source had no pixels there."""
    info = source.info
    mask = CogSpec(
        height=info.height,
        width=info.width,
        transform=info.transform,
        crs=info.crs,
        dtype="uint8",
        nodata=NOT_VALID,
        description="class",
        is_categories=True,
        colours=(
            (0, (0, 0, 0, 0)),
            *((value, (*class_colour(value), 255)) for value in range(1, len(class_names) + 1)),
        ),
    )
    probability = dataclasses.replace(
        mask, dtype="float32", nodata=math.nan, description="probability", is_categories=False, colours=()
    )
    totals = np.zeros(256)
    with ExitStack() as stack:
        put_mask = stack.enter_context(cog_writer(f"{out}/mask.tif", mask))
        put_probability = stack.enter_context(cog_writer(f"{out}/probability.tif", probability))
        for window in windows(info.height, info.width):
            rows = slice(window.row_off, window.row_off + window.height)
            cols = slice(window.col_off, window.col_off + window.width)
            _, valid = source.read(window)
            for hole in holes:
                top, left = hole.row_off - window.row_off, hole.col_off - window.col_off
                bottom, right = top + hole.height, left + hole.width
                valid[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = False
            classes = np.where(valid, np.asarray(store.array("semantic")[rows, cols]), np.uint8(NOT_VALID))
            put_mask(window, classes)
            known = np.asarray(store.array("probability")[rows, cols], np.float32) / 255
            put_probability(window, np.where(valid, known, np.float32(np.nan)))
            areas = np.broadcast_to(ground.pixel_areas_m2(info.transform, window), classes.shape)
            totals += np.bincount(classes.ravel(), areas.ravel(), 256)
    covered = totals[1 : len(class_names) + 1].tolist()
    return Areas(float(totals[:NOT_VALID].sum()), tuple(covered))


def windows(height: int, width: int) -> Iterator[Window]:
    """Windows of `WINDOW` px that tile a grid."""
    for row in range(0, height, WINDOW):
        for col in range(0, width, WINDOW):
            yield clip(Window(col, row, WINDOW, WINDOW), height, width)


def coarse_mask(store: ResultStore, value: int, factor: int, transform: Affine) -> tuple[Mask, Affine]:
    """Where a class has most of each block of ``factor`` x ``factor`` pixels, (h, w) bool; and its transform.

    Of two blocks side by side that it has half of, it gets one, or it would grow. Blocks over the edge are left out.
    """
    array = store.array("semantic")
    height, width = array.shape[0] // factor, array.shape[1] // factor
    found = np.zeros((height, width), bool)
    step = max(1, WINDOW // factor)
    for top in range(0, height, step):
        rows = slice(top * factor, min(top + step, height) * factor)
        strip = np.asarray(array[rows, : width * factor]) == value
        blocks = strip.reshape(-1, factor, width, factor)
        counts = np.count_nonzero(blocks, axis=(1, 3))
        odd = (np.arange(top, top + len(counts))[:, None] + np.arange(width)) % 2
        found[top : top + step] = 2 * counts + odd > factor**2
    return found, transform @ Affine.scale(factor)


def write_features(
    out: str,
    crs: str | None,
    polygons: Iterator[pa.Table],
    networks: dict[str, Network],
    ground: GroundMeasure,
) -> None:
    """Write polygons and centrelines, as layers of one GeoPackage and as GeoParquet."""
    lines = reach_table(networks, ground)
    line_schema = geoparquet_schema(CENTRELINE_SCHEMA, "LineString", crs)
    with InstanceTableWriter(f"{out}/centreline.parquet", line_schema) as writer:
        writer.write(lines.cast(line_schema))
    schema = geoparquet_schema(POLYGON_SCHEMA, "MultiPolygon", crs)
    with InstanceTableWriter(f"{out}/features.parquet", schema) as writer:

        def passing() -> Iterator[pa.Table]:
            for table in polygons:
                writer.write(table.cast(schema))
                yield table

        layers = [
            Layer("features", POLYGON_SCHEMA, "MultiPolygon", passing()),
            Layer("centreline", CENTRELINE_SCHEMA, "LineString", [lines]),
        ]
        write_geopackage(f"{out}/features.gpkg", layers, crs)


def reach_table(networks: dict[str, Network], ground: GroundMeasure) -> pa.Table:
    """The reaches of all classes as a table of `CENTRELINE_SCHEMA`."""
    known = [(name, reach) for name, network in networks.items() for reach in network.reaches]
    in_metres = ground.method != "pixels"

    def measured(values: list[float]) -> pa.Array:
        return pa.array(values if in_metres else [None] * len(values), pa.float64())

    columns = {
        "reach": pa.array(range(1, len(known) + 1), pa.int64()),
        "river": pa.array([reach.river for _, reach in known], pa.int64()),
        "class": pa.array([name for name, _ in known], pa.string()),
        "role": pa.array([reach.role for _, reach in known], pa.string()),
        "length_km": measured([reach.length_m / 1000 for _, reach in known]),
        "width_mean_m": measured([reach.width_m for _, reach in known]),
        "width_min_m": measured([float(reach.widths_m.min()) for _, reach in known]),
        "width_max_m": measured([float(reach.widths_m.max()) for _, reach in known]),
        "geometry": encode(np.array([shapely.LineString(reach.line) for _, reach in known], dtype=object)),
    }
    return pa.table([columns[name] for name in CENTRELINE_SCHEMA.names], schema=CENTRELINE_SCHEMA)


@dataclass(frozen=True, slots=True)
class GroundAreas:
    """Areas of a raster on the ground, m2: the mean of a pixel, of what was analysed, and of what objects cover."""

    pixel_m2: float
    analysed_m2: float
    covered_m2: float
