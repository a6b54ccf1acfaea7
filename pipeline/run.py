"""One run, from a source and a support set to counted instances. Start reading here.

`segment` reads top to bottom: plan the work, choose the operating point on the support set, segment the units, merge
labels across seams and number the instances, write the outputs, write the report. The details are elsewhere:

=====================================  ========================================================
``plan.py``                            checks and layout before the first tile
``calibration/operating_point.py``     what leave-one-out on the support set decides
``execution/worker.py``                what is done for a unit
``execution/ray_pool.py``, ``pool.py``  who does it: Ray actors, or this process
``instances/labelling.py``             labels that are exact across seams
``outputs/``, ``maps/``                files of the result; `OUTPUTS` lists them
``report/builder.py``                  the report
=====================================  ========================================================
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import numpy as np
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.results.finished_run import foreground_record, place_record
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.run_lock import RunLock
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.results.store_layout import StoreSpec
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import HolesError, UnreadableError
from fewscope.pipeline import predictor
from fewscope.pipeline.calibration.encoding_cache import EncodingCache
from fewscope.pipeline.calibration.object_counts import threshold_level
from fewscope.pipeline.calibration.operating_point import OperatingPoint, choose_operating_point
from fewscope.pipeline.calibration.rough_labels import keep_outlines, kept_outlines
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.execution.attempts import MAX_DEATHS
from fewscope.pipeline.execution.job import Job
from fewscope.pipeline.execution.pool import Pool, SetAside
from fewscope.pipeline.execution.progress import Monitor, Progress
from fewscope.pipeline.execution.worker import relabel_unit
from fewscope.pipeline.instances.labelling import Borders, Merge, merge_labels, seam_pairs
from fewscope.pipeline.maps.build import make_maps
from fewscope.pipeline.outputs.instance_table import write_instance_table
from fewscope.pipeline.outputs.outlines import write_geojson
from fewscope.pipeline.outputs.pyramids import write_pyramids
from fewscope.pipeline.outputs.segmentation import Output, Segmentation
from fewscope.pipeline.plan import Plan, make_plan, manifest, model_loader
from fewscope.pipeline.report.builder import Clock, collect_report_data, write_run_report
from fewscope.pipeline.report.content import Hole
from fewscope.pipeline.tiling.grid import Unit

log = logging.getLogger(__name__)


OUTPUTS = (
    Output("pyramids", write_pyramids),
    Output("tables", write_instance_table),
    Output("map", make_maps, kinds=("raster",)),
)
"""Outputs in the order in which they are written, one line each. ``instances.geojson.gz`` is not among them: it is
written while the pictures of the report are drawn."""


def segment(
    config: SegmentConfig,
    pool: Pool | None = None,
    model: predictor.Model | None = None,
    encodings: EncodingCache | None = None,
    monitor: Monitor | None = None,
) -> dict[str, Any]:
    """Segment one source and count its instances.

    Parameters
    ----------
    config : SegmentConfig
        What to segment, and how.
    pool : Pool | None
        Workers, which may be shared by several sources; None: Ray actors, started and stopped here.
    model : predictor.Model | None
        Encodes the support set; the same that the pool's workers load. None: loaded from the configuration.
    encodings : EncodingCache | None
        Encoded support sets of the same model, shared by sources that have one support set.
    monitor : Monitor | None
        Is told of the progress, and may cancel the run.

    Returns
    -------
    The content of ``report.json``.

    Raises
    ------
    ConfigError, SourceError, SupportError, WeightsError
        Bad input; nothing was written.
    RunMismatch, RunInUse, OutputError
        The output folder belongs to another run, another process is at work in it, or it cannot be written.
    Cancelled
        `monitor` cancelled the run; finished units are kept.
    WorkerError
        Ray cannot be started, or a worker died repeatedly; finished units are kept.
    UnreadableError
        More of the source than ``config.max_unreadable`` could not be read; the report was written.
    HolesError
        Some units killed every worker that tried them; the report was written, and the next run tries them again.
    """
    if pool is None:
        from fewscope.pipeline.execution.ray_pool import RayPool  # Ray takes a second to import

        with RayPool(model_loader(config)) as started:
            return segment(config, started, model, encodings, monitor)
    monitor = monitor or Monitor()
    clock = Clock(monitor.report)

    with clock.stage("prepare"):
        model = model or model_loader(config)()
        work, cache = WorkDir(config.out), encodings or EncodingCache(model)

        def outline(support: SupportSet, radius: float | None) -> SupportSet:
            kept = None if config.overwrite else kept_outlines(work, support, radius)
            return kept or cache.outlined(support, radius)

        plan = make_plan(config, predictor.has_depth(model), outline)
    with work.hold() as lock:
        return segment_plan(plan, pool, model, work, lock, clock, monitor, cache)


def segment_plan(
    plan: Plan,
    pool: Pool,
    model: predictor.Model,
    work: WorkDir,
    lock: RunLock,
    clock: Clock,
    monitor: Monitor,
    encodings: EncodingCache | None = None,
) -> dict[str, Any]:
    """Segment what `segment` has planned, in an output folder that this process holds; returns the report."""
    config = plan.config
    settle_precision(config, pool, model, work)
    determined = manifest(plan, model)
    if work.claim(determined, overwrite=config.overwrite) == "finished":
        log.info("%s: already finished; --overwrite runs it again", config.out)
        return finished_report(config)
    keep_outlines(work, plan.support)
    pool.start()  # workers load the model while the support set is encoded

    with clock.stage("decide"):
        operating_point = choose_operating_point(plan, model, work, encodings)
        store = ResultStore(config.out)
        attributes = {
            "run": work.run_hash,
            "manifest": determined,
            "source": place_record(plan.source.info),
            **({} if plan.config.raster else {"foreground": foreground_record(*foreground_of(plan))}),
        }
        store.create(store_spec(plan), attributes=attributes)
    job = make_job(plan, operating_point, store, work)

    with clock.stage("segment"):
        rows, new_rows = run_units(pool, job, plan, lock, monitor)

    with clock.stage("number instances"):
        merge = number_instances(work, plan, rows)
        lookups = ((u, (merge.lookup(u.index),)) for u in plan.units if rows[u.name]["labels"])
        for _ in pool.map(relabel_unit, job, lookups):
            pass

    segmentation, written = Segmentation(pool, job, plan, merge, rows), dict[str, Any]()
    for output in OUTPUTS:
        if plan.source.info.kind in output.kinds:
            with clock.stage(output.stage):
                written[output.stage] = output.write(segmentation)
    with clock.stage("outlines and pictures"), ThreadPoolExecutor(1, thread_name_prefix="draw") as thread:
        drawing = thread.submit(collect_report_data, plan, operating_point, written.get("map"))
        write_geojson(segmentation)  # the workers trace outlines while this process draws
        report_data = drawing.result()
    lock.check()
    missing = holes(plan, rows)
    write_run_report(clock, segmentation, operating_point, new_rows, report_data, missing)
    if missing:  # not finished: the next run tries them again
        raise HolesError(holes_line(config, missing, len(plan.planned)))
    work.finish()
    return finished_report(config)


def foreground_of(plan: Plan) -> tuple[np.ndarray, BaseGeometry | None]:
    """The foreground of a slide on its coarse grid, and in px of the working grid the area that was asked for."""
    area = plan.foreground.area
    return plan.foreground.mask, None if area is None else area.geometry


def holes_line(config: SegmentConfig, missing: Sequence[Hole], n_units: int) -> str:
    """Which units are missing, and what to do, in one line."""
    names = ", ".join(hole.unit for hole in missing[:5]) + (", ..." if len(missing) > 5 else "")
    return (
        f"{config.source}: ended with holes: {len(missing)} of {n_units} units killed {MAX_DEATHS} workers each "
        f"({names}; {missing[0].reason}); the rest, and where the holes are, is in {config.out}/report.html. The same "
        "command tries them again"
    )


def finished_report(config: SegmentConfig) -> dict[str, Any]:
    """Content of ``report.json`` of a finished run.

    Raises
    ------
    UnreadableError
        More of the source than ``config.max_unreadable`` could not be read.
    """
    report = open_result(config.out).report
    if report["unread_fraction"] > config.max_unreadable:
        raise UnreadableError(
            f"{config.source}: {report['unread_fraction']:.1%} of it could not be read, more than --max-unreadable "
            f"{config.max_unreadable:.1%}; the rest is in {config.out}: copy the file again, or raise the limit"
        )
    return report


def settle_precision(config: SegmentConfig, pool: Pool, model: predictor.Model, work: WorkDir) -> None:
    """Decide once in which precision all workers predict: as asked; else as the run began; else as they can."""
    native = predictor.precisions_of(model)
    precision: str = config.precision
    if precision == "auto" and not config.overwrite:
        precision = work.kept("precision") or "auto"
    if precision == "auto" and native:
        precision = pool.native_precision() or native[-1]
    if precision != "auto":
        predictor.set_precision(model, precision)


def make_job(plan: Plan, operating_point: OperatingPoint, store: ResultStore, work: WorkDir) -> Job:
    """The description of the run that every worker gets."""
    return Job(
        key=f"{plan.config.out}:{work.run_hash}",
        source=plan.source,
        store=store,
        work=work,
        grid=plan.grid,
        foreground=plan.foreground,
        features=operating_point.features,
        thresholds=tuple(threshold_level(c.threshold) for c in operating_point.classes),
        connectivity=plan.config.connectivity,
        rules=tuple(c.rule for c in operating_point.classes),
        units=tuple(plan.planned),
        precision=getattr(operating_point.features, "precision", ""),
        stains=plan.stains,
    )


def store_spec(plan: Plan) -> StoreSpec:
    """Shape, scale and arrays of the result store."""
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


UNTOUCHED = {"tiles": 0, "tiles_found": 0, "labels": 0, "unread_px": 0}
"""Row of a unit outside the area to segment."""


def empty_unit(job: Job, unit: Unit, reason: str) -> dict[str, Any]:
    """Remove what a unit that is set aside has left, so that it is empty in all arrays; its row, without a marker."""
    for name in ("probability", *job.store.spec.class_arrays, "semantic", "scratch", "instances"):
        array = job.store.array(name)
        job.store.write(name, 0, unit.core, np.zeros((unit.core.height, unit.core.width), array.dtype))
    foreground_px = int(np.count_nonzero(job.foreground.on_window(unit.core)))
    return {"tiles": 0, "tiles_found": 0, "labels": 0, "unread_px": foreground_px, "hole": reason}


def holes(plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> list[Hole]:
    """The units that were set aside."""
    return [
        Hole(u.name, u.core.row_off, u.core.col_off, u.core.height, u.core.width, rows[u.name]["hole"])
        for u in plan.units
        if "hole" in rows[u.name]
    ]


def run_units(
    pool: Pool, job: Job, plan: Plan, lock: RunLock, monitor: Monitor
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Segment the units that have no done-marker yet.

    Returns
    -------
    The rows of all units by name, and those of the units that were done now.
    """
    planned = plan.planned
    rows = job.work.read_markers([unit.name for unit in planned])
    todo = [unit for unit in planned if unit.name not in rows]
    if rows:
        log.info("%d of %d units are already done", len(rows), len(planned))
    # large units first: the last ones are then short, and workers finish at about the same time
    n_tiles = {u.name: plan.foreground.count(job.grid.tiles_touching(u.core)) for u in todo}
    todo.sort(key=lambda u: -n_tiles[u.name])
    new_rows = []
    name = plan.config.source.rstrip("/").rsplit("/", 1)[-1]
    total = sum(n_tiles.values())
    monitor.report("segment", 0, total, "tile")
    # closed at once when the run is cancelled: nothing is written any more when this function has been left
    with Progress(name, total, pool.n_workers) as progress, closing(pool.run(job, todo)) as finished:
        for unit, row in finished:
            lock.check()
            if isinstance(row, SetAside):
                rows[unit.name] = empty_unit(job, unit, row.reason)
                continue
            rows[unit.name] = row
            new_rows.append(row)
            progress.advance(n_tiles[unit.name], row)
            monitor.report("segment", progress.done, total, "tile")
    outside = {unit.name: dict(UNTOUCHED) for unit in plan.units} if len(planned) < len(plan.units) else {}
    return outside | rows, new_rows


def number_instances(work: WorkDir, plan: Plan, rows: Mapping[str, Mapping[str, Any]]) -> Merge:
    """Merge the labels of all units into instances 1..N; reads the borders and three columns of each unit."""
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
    pairs = pairs[of_class[pairs[:, 0]] == of_class[pairs[:, 1]]]  # objects of different classes never merge
    min_area = np.array([0, *(c.min_area_px for c in plan.classes)])[of_class]
    merge = merge_labels(n_labels, pairs, columns["first"], columns["area"], min_area)
    log.info(
        "%d labels, %d contacts across seams, %d instances; %d smaller objects left out",
        sum(n_labels),
        len(pairs),
        merge.n_instances,
        merge.n_dropped,
    )
    return merge
