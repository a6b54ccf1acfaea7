"""The journey, from a source and a support set to counted instances. Start reading here.

`segment` reads top to bottom: plan, decide, run the units, merge what meets at seams, number the instances, write
tables and pictures. What is laid out before the first tile is in ``plan.py``, what the support set decides in
``decision.py``; what is done per unit, in ``worker.py``; who does it, Ray or this process, in ``pool.py``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from connectors.colours import class_colour
from connectors.store import ResultStore, StoreSpec, open_result
from connectors.vectors import FeatureStyle, InstanceTableWriter
from connectors.workdir import WorkDir
from model.segmenter import load_segmenter
from pipeline import calibrate
from pipeline.adaptation import Fits
from pipeline.decision import ClassDecision, Decision, decide, threshold_level
from pipeline.grid import Unit
from pipeline.instances import Borders, Merge, merge_labels, seam_pairs
from pipeline.map_page import draw_map, map_section
from pipeline.maps import MapFindings, make_maps
from pipeline.measure import final_tables, instance_schema
from pipeline.outline import POINTS_ABOVE, by_unit, outline_unit, write_fragments
from pipeline.pictures import draw
from pipeline.plan import Plan, SegmentConfig, manifest, model_loader, prepare
from pipeline.pool import Pool, RayPool
from pipeline.progress import Progress
from pipeline.pyramid import build_pyramids
from pipeline.report import ClassFindings, Quality, Report, Timings, make_report, write_report
from pipeline.survey import survey
from pipeline.worker import Job, relabel_unit

log = logging.getLogger(__name__)

COUNT_INTERVAL_SOURCE = (
    "95 % interval of the true number: the count, corrected by how far counts of the support patches were off, each "
    "predicted without itself. Where these were all off in one direction, the count may lie outside."
)

COUNT_INTERVALS_SOURCE = "Each class has an interval of its own, below; there is none of their sum."

VERSIONS_OF = ("fewscope", "torch", "ray", "zarr", "openslide-python", "openslide-bin", "numpy", "scipy")


class UnreadError(RuntimeError):
    """More of the source could not be read than ``max_unread`` allows. The report was written all the same."""


@dataclass(slots=True)
class Clock:
    """Seconds spent in each stage, in order."""

    stages: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %z"))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and say so in the log."""
        then = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - then
        log.info("%s: %.1f s", name, self.stages[name])

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.began


def segment(
    config: SegmentConfig,
    pool: Pool | None = None,
    model: calibrate.Model | None = None,
    fits: Fits | None = None,
) -> dict[str, Any]:
    """Segment one source and count what is in it.

    Parameters
    ----------
    config : what to do
    pool : workers to use, perhaps for other sources too; None: Ray actors, started and stopped here
    model : to encode the support set with, the same that the pool's workers load
    fits : of the same model, for sources that have their support set in common

    Returns
    -------
    The report, as ``report.json`` has it.

    Raises
    ------
    SourceError, SupportError, WeightsError, ValueError
        Bad input; nothing was written.
    RunMismatch, OutputError
        The output folder belongs to another run, or cannot be written.
    UnreadError
        More than ``config.max_unread`` could not be read; the report is there.
    """
    if pool is None:
        with RayPool(model_loader(config)) as started:
            return segment(config, started, model, fits)
    clock = Clock()
    with clock.stage("prepare"):
        model = model or load_segmenter(config.model, config.weights)
        plan = prepare(config, calibrate.has_depth(model))
        work = WorkDir(config.out)
        determined = manifest(plan, model)
        state = work.claim(determined, overwrite=config.overwrite)
    if state == "finished":
        log.info("%s: finished already; --overwrite runs it again", config.out)
        return finished_report(config)
    pool.start()
    with clock.stage("decide"):
        decision = decide(plan, model, work, fits)
        store = ResultStore(config.out)
        store.create(store_spec(plan), attributes={"run": work.run_hash, "manifest": determined})
    job = Job(
        key=f"{config.out}:{work.run_hash}",
        source=plan.source,
        store=store,
        work=work,
        grid=plan.grid,
        foreground=plan.foreground,
        features=decision.features,
        thresholds=tuple(threshold_level(c.threshold) for c in decision.classes),
        connectivity=config.connectivity,
        rules=tuple(c.rule for c in decision.classes),
    )
    with clock.stage("segment"):
        rows, fresh = run_units(pool, job, plan)
    with clock.stage("number instances"):
        merge = number_instances(work, plan, rows)
        lookups = {u: (merge.lookup(u.index),) for u in plan.units if rows[u.name]["labels"]}
        for _ in pool.map(relabel_unit, job, lookups):
            pass
    with clock.stage("pyramids"):
        build_pyramids(config.out, scheduler=pool.dask_scheduler)
    with clock.stage("tables"):
        write_tables(pool, job, plan, merge, rows)
    on_map = None
    if plan.source.info.kind == "raster":
        with clock.stage("map"):
            on_map = make_maps(pool, job, plan)
    write_page(clock, pool, plan, decision, work, rows, fresh, on_map)
    work.finish()
    return finished_report(config)


def finished_report(config: SegmentConfig) -> dict[str, Any]:
    """``report.json`` of a finished run. UnreadError if too much could not be read."""
    report = open_result(config.out).report
    if report["unread_fraction"] > config.max_unread:
        raise UnreadError(
            f"{config.source}: {report['unread_fraction']:.1%} of it could not be read, more than --max-unread "
            f"{config.max_unread:.1%}; the rest is in {config.out}: copy the file again, or raise the limit"
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


def write_tables(
    pool: Pool, job: Job, plan: Plan, merge: Merge, rows: Mapping[str, Mapping[str, Any]]
) -> None:
    """``instances.parquet`` and ``instances.geojson.gz``, streamed in the order of the ids."""
    info, out = plan.source.info, plan.config.out.rstrip("/")

    def load(unit: Unit) -> Any:
        return job.work.load_table(unit.name) if rows[unit.name]["labels"] else None

    choice = plan.config.outlines
    if choice == "auto":
        choice = "points" if merge.n_instances > POINTS_ABOVE else "polygons"
    names = plan.support.class_names
    styles = [
        FeatureStyle(job.work.run_hash or "", name, class_colour(value))
        for value, name in enumerate(names, start=1)
    ]
    simplify_px = plan.config.simplify_px if choice == "polygons" else None
    lines: list[list[Unit]] = []
    with InstanceTableWriter(f"{out}/instances.parquet", instance_schema(names)) as writer:
        for table in final_tables(plan.units, load, merge, info.transform, info.mpp, names):
            writer.write(table)
            if choice != "none":
                items = {u: (t, styles, simplify_px) for u, (t,) in by_unit(plan.units, table).items()}
                lines.append(sorted(items, key=lambda u: u.index))
                for _ in pool.map(outline_unit, job, items):
                    pass
    if choice != "none":
        write_fragments(f"{out}/instances.geojson.gz", job, lines)


# -- what the report says of the run ---------------------------------------------------------------------------------


def write_page(
    clock: Clock,
    pool: Pool,
    plan: Plan,
    decision: Decision,
    work: WorkDir,
    rows: Mapping[str, Mapping[str, Any]],
    fresh: list[dict[str, Any]],
    on_map: MapFindings | None,
) -> Report:
    """``report.html`` and ``report.json``; `on_map`: of rasters."""
    names = plan.support.class_names
    with clock.stage("pictures"):
        table = open_result(plan.config.out).table
        look = functools.partial(
            survey,
            height=plan.grid.height,
            width=plan.grid.width,
            foreground=plan.foreground.mask,
            seam_rows=sorted({u.core.row_off for u in plan.units} - {0}),
            seam_cols=sorted({u.core.col_off for u in plan.units} - {0}),
        )
        found = look(table)
        several = names if len(names) > 1 else ()
        of_classes = [look(table.filter(pc.field("class") == name), n_samples=0) for name in several]
        store = ResultStore(plan.config.out)
        pictures = draw(
            plan.source,
            # the arrays as they are: of them a crop decodes its chunks, of dask's whole shards
            SimpleNamespace(semantic=_levels(store, "semantic"), instances=_levels(store, "instances")),
            found,
            plan.foreground.mask,
            plan.support,
            decision.left_out,
        )
        if on_map is not None:
            map_picture = draw_map(plan.source, store, on_map.summary)
            pictures = dataclasses.replace(pictures, map=map_picture)
    intervals = [
        calibrate.count_interval(one.count, decided.count_errors)
        for one, decided in zip(of_classes or [found], decision.classes, strict=True)
    ]
    qualities = [quality(plan, decided) for decided in decision.classes]
    report = make_report(
        plan.source.info,
        found,
        class_name=plan.support.class_name,
        run=facts(plan, decision, work, pool) | (on_map.facts if on_map else {}),
        on_ground=on_map.on_ground if on_map else None,
        on_map=map_section(on_map.summary) if on_map else None,
        timings=timings(clock, fresh, pool),
        quality=mean_quality(qualities),
        count_interval=None if of_classes else intervals[0],
        count_interval_source=count_interval_source(decision),
        unread_px=sum(row["unread_px"] for row in rows.values()),
        notes=notes(plan, decision),
        classes=[
            ClassFindings(*of_class)
            for of_class in zip(several, of_classes, qualities, intervals, strict=False)
        ],
    )
    write_report(plan.config.out, report, pictures)
    return report


def count_interval_source(decision: Decision) -> str:
    """One sentence on where the interval of the count comes from."""
    if all(c.count_errors is None for c in decision.classes):
        return ""
    return COUNT_INTERVAL_SOURCE if len(decision.classes) == 1 else COUNT_INTERVALS_SOURCE


def _levels(store: ResultStore, name: Literal["semantic", "instances"]) -> list[Any]:
    return [store.array(name, level) for level in range(store.spec.levels)]


def facts(plan: Plan, decision: Decision, work: WorkDir, pool: Pool) -> dict[str, Any]:
    """What was run on what, in groups, as the report shows it."""
    config, names = plan.config, plan.support.class_names
    determined = ResultStore(config.out).attributes["manifest"]
    decided = [
        {"threshold": c.threshold, "instances": c.instances, "smallest object (px)": of_class.min_area_px}
        for c, of_class in zip(decision.classes, plan.classes, strict=True)
    ]
    how = decided[0] if len(names) == 1 else {}
    return {
        "support set": {
            "from": config.support,
            "patches": len(plan.support.images),
            "class" if len(names) == 1 else "classes": plan.support.class_name,
            "digest": determined["support"],
        },
        "model": {
            "name": determined["model"],
            "weights": config.weights or "shipped",
            "SHA-256 of the weights": determined["weights"],
        },
        "options": {
            "tile": plan.grid.tile,
            "overlap": plan.grid.overlap,
            "adaptation": str(decision.fit),
            **how,
            "connectivity": config.connectivity,
            "foreground": config.foreground,
        },
        **({f"class {n}": of for n, of in zip(names, decided, strict=True)} if len(names) > 1 else {}),
        "work": {
            "units": len(plan.units),
            "workers": pool.n_workers,
            "tiles of the grid": plan.grid.n_tiles,
            "tiles with tissue" if plan.source.info.kind == "slide" else "tiles with pixels": plan.n_tiles,
        },
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
        "hash": work.run_hash,
    }


def timings(clock: Clock, fresh: list[dict[str, Any]], pool: Pool) -> Timings:
    """Stages, speed, and what the workers' time went into while units ran."""
    wall = clock.stages["segment"] * pool.n_workers
    n_tiles = sum(row["tiles"] for row in fresh)

    def share(name: str) -> float | None:
        return min(1.0, sum(row[name] for row in fresh) / wall) if fresh and wall else None

    return Timings(
        stages=dict(clock.stages),
        total_s=clock.total,
        tiles=n_tiles,
        tiles_per_s=n_tiles / clock.stages["segment"] if n_tiles else None,
        model_busy=share("model_s"),
        reading=share("read_s"),
        finishing=share("post_s"),
        started=clock.started,
    )


def quality(plan: Plan, decision: ClassDecision) -> Quality | None:
    """The leave-one-out estimate of one class, for the report."""
    loo = decision.loo
    if loo is None or not np.isfinite(loo.iou).any():
        return None
    n_patches = int(np.isfinite(loo.iou).sum()) if len(plan.classes) > 1 else len(loo.iou)
    return Quality(
        iou_mean=loo.mean_iou,
        iou_interval=loo.interval,
        iou=tuple(float(v) if np.isfinite(v) else None for v in loo.iou),
        threshold=decision.threshold,
        threshold_source="given" if plan.config.threshold is not None else "the best on left-out patches",
        method=f"leave-one-out over {n_patches} patches, 95 % interval of the mean (Student's t)",
    )


def mean_quality(qualities: list[Quality | None]) -> Quality | None:
    """Of one class its own; of several their mean IoU, where each has one."""
    if len(qualities) == 1:
        return qualities[0]
    means = [q.iou_mean for q in qualities if q is not None and q.iou_mean is not None]
    if len(means) < len(qualities):
        return None
    return Quality(
        iou_mean=float(np.mean(means)), method=f"mean of {len(means)} classes, each by leave-one-out"
    )


def notes(plan: Plan, decision: Decision) -> list[str]:
    """What the reader has to know before any number."""
    said = []
    for name, decided in zip(plan.support.class_names, decision.classes, strict=True):
        loo, of = decided.loo, f"Class {name}: " if len(decision.classes) > 1 else ""
        if loo is None:
            said.append(
                f"{of}The support set is too small to estimate the quality of this result (two patches with objects "
                "are needed)."
            )
        elif np.isfinite(loo.iou).any() and loo.mean_iou < 0.4:
            said.append(
                f"{of}Left out one at a time, the support patches are segmented with an IoU of only "
                f"{loo.mean_iou:.2f}: do not trust the numbers below. More patches, or another --mpp, may help."
            )
    is_slide = plan.source.info.kind == "slide"  # of a raster everything is analysed, always
    if is_slide and plan.foreground.is_everything and plan.config.foreground == "auto":
        said.append("Tissue and background could not be told apart: everything was analysed.")
    return said
