"""The journey, from a source and a support set to counted instances. Start reading here.

`segment` reads top to bottom: plan, decide, run the units, merge what meets at seams, number the instances, write
tables and pictures. What is laid out before the first tile is in ``plan.py``, what the support set decides in
``decision.py``; what is done per unit, in ``worker.py``; who does it, Ray or this process, in ``pool.py``; what the
report says of it all, in ``findings.py``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from fewscope.connectors.colours import class_colour
from fewscope.connectors.results.instance_table import InstanceTableWriter
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore, StoreSpec
from fewscope.connectors.vectors.geojson import FeatureStyle
from fewscope.errors import UnreadableError
from fewscope.model.segmenter import load_segmenter
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration.model_selection import EncodingCache
from fewscope.pipeline.calibration.operating_point import choose_operating_point, threshold_level
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Pool
from fewscope.pipeline.execution.progress import Progress
from fewscope.pipeline.execution.ray_pool import RayPool
from fewscope.pipeline.execution.worker import relabel_unit
from fewscope.pipeline.instances.labelling import Borders, Merge, merge_labels, seam_pairs
from fewscope.pipeline.instances.measurements import final_tables, instance_schema
from fewscope.pipeline.maps.build import make_maps
from fewscope.pipeline.outputs.outlines import POINTS_ABOVE, write_outlines
from fewscope.pipeline.outputs.pyramids import build_pyramids
from fewscope.pipeline.plan import Plan, manifest, model_loader, prepare
from fewscope.pipeline.report.builder import Clock, collect_report_data, write_run_report
from fewscope.pipeline.tiling.grid import Unit

log = logging.getLogger(__name__)


def segment(
    config: SegmentConfig,
    pool: Pool | None = None,
    model: predictor.Model | None = None,
    encodings: EncodingCache | None = None,
) -> dict[str, Any]:
    """Segment one source and count what is in it.

    Parameters
    ----------
    config : what to do
    pool : workers to use, perhaps for other sources too; None: Ray actors, started and stopped here
    model : to encode the support set with, the same that the pool's workers load
    encodings : of the same model, for sources that have their support set in common

    Returns
    -------
    The report, as ``report.json`` has it.

    Raises
    ------
    SourceError, SupportError, WeightsError, ValueError
        Bad input; nothing was written.
    RunMismatch, OutputError
        The output folder belongs to another run, or cannot be written.
    UnreadableError
        More than ``config.max_unreadable`` could not be read; the report is there.
    """
    if pool is None:
        with RayPool(model_loader(config)) as started:
            return segment(config, started, model, encodings)
    clock = Clock()
    with clock.stage("prepare"):
        model = model or load_segmenter(config.model, config.weights)
        plan = prepare(config, predictor.has_depth(model))
        work = WorkDir(config.out)
        determined = manifest(plan, model)
        state = work.claim(determined, overwrite=config.overwrite)
    if state == "finished":
        log.info("%s: finished already; --overwrite runs it again", config.out)
        return finished_report(config)
    pool.start()
    with clock.stage("decide"):
        operating_point = choose_operating_point(plan, model, work, encodings)
        store = ResultStore(config.out)
        store.create(store_spec(plan), attributes={"run": work.run_hash, "manifest": determined})
    job = Job(
        key=f"{config.out}:{work.run_hash}",
        source=plan.source,
        store=store,
        work=work,
        grid=plan.grid,
        foreground=plan.foreground,
        features=operating_point.features,
        thresholds=tuple(threshold_level(c.threshold) for c in operating_point.classes),
        connectivity=config.connectivity,
        rules=tuple(c.rule for c in operating_point.classes),
        units=tuple(plan.units),
    )
    with clock.stage("segment"):
        rows, fresh = run_units(pool, job, plan)
    with clock.stage("number instances"):
        merge = number_instances(work, plan, rows)
        lookups = ((u, (merge.lookup(u.index),)) for u in plan.units if rows[u.name]["labels"])
        for _ in pool.map(relabel_unit, job, lookups):
            pass
    with clock.stage("pyramids"):
        build_pyramids(config.out, scheduler=pool.dask_scheduler)
    with (
        clock.stage("tables"),
        InstanceTableWriter(
            f"{plan.folder}/instances.parquet", instance_schema(plan.support.class_names)
        ) as writer,
    ):
        for table in tables(job, plan, merge, rows):
            writer.write(table)
    map_result = None
    if plan.source.info.kind == "raster":
        with clock.stage("map"):
            map_result = make_maps(pool, job, plan)
    with clock.stage("outlines and pictures"), ThreadPoolExecutor(1, thread_name_prefix="draw") as beside:
        drawing = beside.submit(
            collect_report_data, plan, operating_point, map_result
        )  # while the workers trace outlines
        write_geojson(pool, job, plan, merge, rows)
        found = drawing.result()
    write_run_report(clock, pool, plan, operating_point, work, rows, fresh, found)
    work.finish()
    return finished_report(config)


def finished_report(config: SegmentConfig) -> dict[str, Any]:
    """``report.json`` of a finished run. UnreadableError if too much could not be read."""
    report = open_result(config.out).report
    if report["unread_fraction"] > config.max_unreadable:
        raise UnreadableError(
            f"{config.source}: {report['unread_fraction']:.1%} of it could not be read, more than --max-unread "
            f"{config.max_unreadable:.1%}; the rest is in {config.out}: copy the file again, or raise the limit"
        )
    return report


def store_spec(plan: Plan) -> StoreSpec:
    """Geometry of the result store."""
    info = plan.source.info
    sides, unit = ((info.mpp, info.mpp), "micrometer") if info.mpp else ((1.0, 1.0), None)
    if info.kind == "raster":  # in units of the CRS
        t = info.transform
        sides = math.hypot(t.b, t.e), math.hypot(t.a, t.d)
    return StoreSpec(
        height=plan.grid.height,
        width=plan.grid.width,
        shard=plan.shard,
        chunk=plan.chunk,
        scale=sides,
        scale_unit=unit,
        name="probability",
        class_names=plan.support.class_names,
        class_probabilities=plan.config.class_probabilities,
    )


def run_units(pool: Pool, job: Job, plan: Plan) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Do the units that are not done: all rows by unit name, and those of this run."""
    names = {unit.name for unit in plan.units}
    rows = {name: row for name, row in job.work.read_markers().items() if name in names}
    todo = [unit for unit in plan.units if unit.name not in rows]
    if rows:
        log.info("%d of %d units are done already", len(rows), len(plan.units))
    # units with much to do first: the last ones to finish are then short, and no worker waits long for them
    n_tiles = {u.name: plan.foreground.count(job.grid.tiles_touching(u.core)) for u in todo}
    todo.sort(key=lambda u: -n_tiles[u.name])
    fresh = []
    with Progress(
        plan.config.source.rstrip("/").rsplit("/", 1)[-1], sum(n_tiles.values()), pool.n_workers
    ) as progress:
        for unit, row in pool.run(job, todo):
            rows[unit.name] = row
            fresh.append(row)
            progress.advance(n_tiles[unit.name], row)
    return rows, fresh


def number_instances(work: WorkDir, plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> Merge:
    """Which labels of which units are one instance, and its number. Reads border strips and two columns a unit."""
    units = plan.units
    n_labels = [int(rows[u.name]["labels"]) for u in units]
    borders = [
        Borders(**work.load_arrays(u.name)) if n else None for u, n in zip(units, n_labels, strict=True)
    ]
    pairs = seam_pairs(units, borders, n_labels, plan.config.connectivity)
    del borders
    columns: dict[str, list[np.ndarray]] = {"first": [], "area": [], "class": []}
    for unit, n in zip(units, n_labels, strict=True):
        table = work.load_table(unit.name, list(columns)) if n else None
        for name, of_units in columns.items():
            of_units.append(np.zeros(0, np.int64) if table is None else table[name].to_numpy())
    of_class = np.concatenate(columns["class"]).astype(np.int64)
    pairs = pairs[of_class[pairs[:, 0]] == of_class[pairs[:, 1]]]  # touching objects of two classes stay two
    min_area = np.array([0, *(c.min_area_px for c in plan.classes)])[of_class]
    merge = merge_labels(n_labels, pairs, columns["first"], columns["area"], min_area)
    log.info(
        "%d labels, %d contacts across seams, %d instances", sum(n_labels), len(pairs), merge.n_instances
    )
    return merge


def tables(job: Job, plan: Plan, merge: Merge, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[pa.Table]:
    """The rows of ``instances.parquet``, a table for each line of units that has any."""
    info = plan.source.info

    def load(unit: Unit) -> Any:
        return job.work.load_table(unit.name) if rows[unit.name]["labels"] else None

    return final_tables(plan.units, load, merge, info.transform, info.mpp, plan.support.class_names)


def write_geojson(
    pool: Pool, job: Job, plan: Plan, merge: Merge, rows: Mapping[str, Mapping[str, Any]]
) -> None:
    """``instances.geojson.gz``, unless it is not wanted: outlines, or points where there are very many."""
    choice = plan.config.outlines
    if choice == "none":
        return
    if choice == "auto":
        choice = "points" if merge.n_instances > POINTS_ABOVE else "polygons"
    styles = [
        FeatureStyle(job.work.run_hash or "", name, class_colour(value))
        for value, name in enumerate(plan.support.class_names, start=1)
    ]
    write_outlines(
        f"{plan.folder}/instances.geojson.gz",
        pool,
        job,
        plan.units,
        tables(job, plan, merge, rows),
        styles,
        plan.config.simplify_px if choice == "polygons" else None,
    )
