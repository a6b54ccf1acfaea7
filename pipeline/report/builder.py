"""Build the report of a run, in three steps.

`collect_report_data` reads the instance table and draws the figures (`statistics`, `figures`, `map_section`),
`write_run_report` adds inputs, estimated quality and timings, `content.make_report` computes every number, and
`render.write_report` fills in the templates. A new figure is a function in `figures`, a field of `figures.Pictures`,
and a line in the template.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow.compute as pc

from fewscope._version import __version__
from fewscope.connectors.results.reader import open_result
from fewscope.connectors.results.run_folder import WorkDir
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.calibration import intervals, leave_one_out
from fewscope.pipeline.calibration.expected_iou import ExpectedIou
from fewscope.pipeline.calibration.operating_point import ClassOperatingPoint, OperatingPoint
from fewscope.pipeline.calibration.unlike import UnlikeGround
from fewscope.pipeline.execution.pool import Pool
from fewscope.pipeline.maps.build import MapResult
from fewscope.pipeline.outputs.segmentation import Segmentation
from fewscope.pipeline.plan import Plan
from fewscope.pipeline.report.area_section import area_section
from fewscope.pipeline.report.content import (
    ClassResult,
    Dropped,
    Hole,
    Quality,
    Report,
    Timings,
    Unlike,
    UnlikeTile,
    make_report,
)
from fewscope.pipeline.report.figures import Pictures, draw
from fewscope.pipeline.report.graded_fields import graded_fields
from fewscope.pipeline.report.intensities import ChannelReport, channel_reports
from fewscope.pipeline.report.map_section import draw_map, map_section
from fewscope.pipeline.report.messages import assumptions, hardly_found, mixed_kinds, notes
from fewscope.pipeline.report.render import write_report
from fewscope.pipeline.report.statistics import InstanceStatistics, instance_statistics

log = logging.getLogger(__name__)

COUNT_INTERVAL_SOURCE = (
    "The estimate is the number found, corrected by the counting errors on the held-out support patches as far as "
    "these are conclusive. If they have the same sign, the number found may lie outside the interval of the estimate."
)

COVERED_INTERVAL_SOURCE = (
    "The estimate is the area found, corrected by the errors of area on the held-out support patches. If these errors "
    "have the same sign, the area found may lie outside the interval of the estimate."
)

COUNT_INTERVALS_SOURCE = "Each class has its own estimate, below; there is none for the total."

VERSIONS_OF = ("torch", "ray", "zarr", "openslide-python", "openslide-bin", "numpy", "scipy")


@dataclass(slots=True)
class Clock:
    """Seconds spent in each stage, in order; `announce` is called with the name of each when it begins."""

    announce: Callable[[str], None] = lambda name: None

    stages: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.perf_counter)
    started: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %z"))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and log its duration."""
        self.announce(name)
        then = time.perf_counter()
        yield
        self.stages[name] = time.perf_counter() - then
        log.info("%s: %.1f s", name, self.stages[name])

    @property
    def total(self) -> float:
        """Seconds since the clock was made."""
        return time.perf_counter() - self.began


@dataclass(frozen=True, slots=True, eq=False)
class ReportData:
    """Statistics and figures of a finished run.

    Attributes
    ----------
    whole : InstanceStatistics
        Statistics of all instances.
    of_classes : list[InstanceStatistics]
        Statistics of each class, if there are several.
    map_result : MapResult | None
        The map, for rasters; else None.
    channels : tuple[ChannelReport, ...]
        What objects measure.
    """

    whole: InstanceStatistics
    of_classes: list[InstanceStatistics]
    map_result: MapResult | None
    pictures: Pictures
    channels: tuple[ChannelReport, ...] = ()


def collect_report_data(
    plan: Plan, operating_point: OperatingPoint, map_result: MapResult | None
) -> ReportData:
    """Compute the statistics of ``instances.parquet`` and draw the figures of the report from the finished store."""
    names = plan.support.class_names
    table = open_result(plan.config.out).table
    analysed = plan.foreground.analysed()
    statistics_of = functools.partial(
        instance_statistics,
        height=plan.grid.height,
        width=plan.grid.width,
        foreground=analysed,
        seam_rows=sorted({u.core.row_off for u in plan.units} - {0}),
        seam_cols=sorted({u.core.col_off for u in plan.units} - {0}),
    )
    found = statistics_of(table)
    several = names if len(names) > 1 else ()
    of_classes = [statistics_of(table.filter(pc.field("class") == name), n_samples=0) for name in several]
    store = ResultStore(plan.config.out)
    # zarr arrays: a crop decodes single chunks of them, but whole shards of dask arrays
    levels = SimpleNamespace(semantic=_levels(store, "semantic"), instances=_levels(store, "instances"))
    pictures = draw(
        plan.source,
        levels,
        found,
        analysed,
        plan.support,
        operating_point.held_out,
        operating_point.unlike.windows if operating_point.unlike else (),
        plan.foreground.area,
    )
    if map_result is not None:
        pictures = dataclasses.replace(pictures, map=draw_map(plan.source, store, map_result.summary))
    channels = channel_reports(table, plan.measured, plan.config.measured.grades, several)
    if graded := next((channel for channel in channels if channel.grades), None):
        fields = graded_fields(plan.source, levels, found, table, graded, plan.foreground.area)
        pictures = dataclasses.replace(pictures, graded=fields)
    return ReportData(found, of_classes, map_result, pictures, channels)


def write_run_report(
    clock: Clock,
    segmentation: Segmentation,
    operating_point: OperatingPoint,
    fresh: list[dict[str, Any]],
    data: ReportData,
    holes: Sequence[Hole] = (),
) -> Report:
    """Write ``report.html`` and ``report.json``; returns their content.

    Parameters
    ----------
    fresh : list[dict[str, Any]]
        Rows of the units that were segmented in this process.
    """
    plan, pool, work = segmentation.plan, segmentation.pool, segmentation.job.work
    kinds = processors(segmentation.rows)
    found, of_classes, map_result = data.whole, data.of_classes, data.map_result
    names = plan.support.class_names
    counts = [one.count for one in of_classes or [found]]
    counted = [point.counted_ratio for point in operating_point.classes]
    count_estimates = list(map(intervals.count_estimate, counts, counted))
    ratios = [
        leave_one_out.covered_ratio(
            point.loo, labels, of_class.min_area_px, plan.config.connectivity, of_class.min_true_area_px
        )
        for point, labels, of_class in zip(
            operating_point.classes,
            plan.support.labels_by_class[:, : plan.support.n_dense],
            plan.classes,
            strict=True,
        )
    ]
    qualities = [
        quality(plan, point, expected, lost)
        for point, expected, lost in itertools.zip_longest(
            operating_point.classes,
            operating_point.expected,
            operating_point.source.lost(operating_point.encoding.agreement),
        )
    ]
    shares = [intervals.share_left(q.iou_held_out, q.iou_mean) if q else 1.0 for q in qualities]
    count_intervals = list(map(intervals.count_interval, counts, counted, shares))
    ratios = list(map(intervals.widened, ratios, shares))
    unreadable_px = sum(row["unread_px"] for row in segmentation.rows.values())
    analysed_px = found.tissue_px - unreadable_px
    covered = [one.covered_px / analysed_px if analysed_px > 0 else None for one in of_classes or [found]]
    n_dropped = 0 if of_classes else segmentation.merge.n_dropped
    missed = hardly_found(plan.support, covered, n_dropped, plan.source.info.noun)
    report = make_report(
        plan.source.info,
        found,
        class_name=plan.support.class_name,
        run=facts(plan, operating_point, work, pool, kinds) | (map_result.facts if map_result else {}),
        ground_areas=map_result.ground_areas if map_result else None,
        map_section=map_section(map_result.summary) if map_result else None,
        aoi=area_section(plan.area, plan.source.info.mpp) if plan.area else None,
        timings=timings(clock, fresh, pool),
        quality=mean_quality(qualities),
        unlike=unlike_ground(operating_point.unlike),
        count_estimate=None if of_classes else count_estimates[0],
        count_interval=None if of_classes else count_intervals[0],
        count_interval_source=count_interval_source(operating_point),
        covered_ratio=None if of_classes else ratios[0],
        covered_interval_source="" if of_classes or ratios[0] is None else COVERED_INTERVAL_SOURCE,
        unreadable_px=unreadable_px,
        dropped=Dropped(segmentation.merge.n_dropped, segmentation.merge.dropped_px),
        notes=[*missed, *plan.support.notes, *notes(plan, operating_point), *mixed_kinds(kinds)],
        assumptions=assumptions(plan, operating_point.source.remedy),
        holes=holes,
        channels=data.channels,
        classes=[
            ClassResult(*of_class)
            for of_class in zip(
                names, of_classes, qualities, count_intervals, count_estimates, ratios, strict=False
            )
        ],
    )
    write_report(plan.config.out, report, data.pictures)
    return report


def count_interval_source(operating_point: OperatingPoint) -> str:
    """One sentence on how the interval of the count was computed; empty without an interval."""
    if all(c.counted_ratio is None for c in operating_point.classes):
        return ""
    return COUNT_INTERVAL_SOURCE if len(operating_point.classes) == 1 else COUNT_INTERVALS_SOURCE


def _levels(store: ResultStore, name: Literal["semantic", "instances"]) -> list[Any]:
    return [store.array(name, level) for level in range(store.spec.levels)]


def processors(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The kinds of processor that units were done on, those of earlier starts of the run too."""
    return sorted({row["processor"] for row in rows.values() if "processor" in row})


def outside_regions(support: SupportSet) -> dict[str, Any]:
    """Facts of labels outside regions, and of corrections; nothing where there are none."""
    found: dict[str, Any] = {}
    if support.n_sparse:
        found["patches with labels outside regions"] = support.n_sparse
    if any(support.corrected):
        accepted, rejected = support.corrected
        found["corrected by hand"] = (
            f"{accepted + rejected} object{'s' if accepted + rejected != 1 else ''} of the preview: "
            f"{accepted} accepted, {rejected} rejected"
        )
    return found


def facts(
    plan: Plan, operating_point: OperatingPoint, work: WorkDir, pool: Pool, kinds: Sequence[str] = ()
) -> dict[str, Any]:
    """What was run on what, in groups, as the report shows it."""
    config, names = plan.config, plan.support.class_names
    determined = ResultStore(config.out).attributes["manifest"]
    points = [
        {"threshold": c.threshold, "instances": c.instances, "smallest object (px)": of_class.min_area_px}
        for c, of_class in zip(operating_point.classes, plan.classes, strict=True)
    ]
    how = points[0] if len(names) == 1 else {}
    return {
        "support set": {
            "from": ", ".join(config.supports),
            "patches": plan.support.n_dense,
            **outside_regions(plan.support),
            "class" if len(names) == 1 else "classes": plan.support.class_name,
            "digest": determined["support"],
        },
        "model": {
            "name": determined["model"],
            "weights": config.weights or "shipped",
            **({"encoder": config.encoder} if config.encoder else {}),
            "SHA-256 of the weights": determined["weights"],
            **({"precision": determined["precision"]} if determined["precision"] else {}),
        },
        "options": {
            "tile": plan.grid.tile,
            "overlap": plan.grid.overlap,
            **({"looks at a tile": config.looks} if config.looks is not None else {}),
            "adaptation": str(operating_point.encoding),
            **how,
            "connectivity": config.connectivity,
            "foreground": config.foreground,
        },
        **({f"class {n}": of for n, of in zip(names, points, strict=True)} if len(names) > 1 else {}),
        "work": {
            "units": len(plan.planned),
            "workers": pool.n_workers,
            **({"processors": ", ".join(kinds)} if kinds else {}),
            "tiles of the grid": plan.grid.n_tiles,
            "tiles with tissue" if plan.source.info.noun == "slide" else "tiles with pixels": plan.n_tiles,
        },
        "versions": {"fewscope": __version__}
        | {name: importlib.metadata.version(name) for name in VERSIONS_OF},
        "hash": work.run_hash,
    }


def timings(clock: Clock, fresh: list[dict[str, Any]], pool: Pool) -> Timings:
    """Seconds per stage, tiles per second, and how the workers spent their time on this run's units (`fresh`)."""
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


def quality(
    plan: Plan,
    operating_point: ClassOperatingPoint,
    expected: ExpectedIou | None = None,
    lost: float | None = None,
) -> Quality | None:
    """The estimate of one class for the report: leave-one-out, moved by what is expected of the source.

    Parameters
    ----------
    expected : ExpectedIou | None
        From `OperatingPoint.expected`; None: the estimate is that of the held-out patches.
    lost : float | None
        From `SourceMatch.lost`.
    """
    loo = operating_point.loo
    if loo is None or not np.isfinite(loo.iou).any():
        return None
    n_patches = int(np.isfinite(loo.iou).sum()) if len(plan.classes) > 1 else len(loo.iou)
    change = 0.0 if expected is None else expected.change
    iou, interval, method = None, None, f"leave-one-out over {n_patches} patches"
    if change is not None:
        iou = intervals.moved_estimate(loo.mean_iou, change)
        interval = intervals.moved_interval(loo.interval, change, lost)
        method += ", 95 % interval of the mean (Student's t)"
    if expected is not None and expected.source is not None:
        method += (
            f". The network's probabilities promise an IoU of {expected.held_out:.2f} on held-out patches and "
            f"{expected.source:.2f} on a sample of tiles: the estimate is moved by {change:+z.2f}, and the interval "
            "covers both"
        )
    if interval is not None and lost is not None and lost > 0:
        method += (
            f". It is widened by {lost:.2f} on both sides, as the network and the pixel classifier agree so much less "
            "on the tiles than on the patches"
        )
    return Quality(
        iou_mean=iou,
        iou_interval=interval,
        iou=tuple(float(v) if np.isfinite(v) else None for v in loo.iou),
        threshold=operating_point.threshold,
        threshold_source=_threshold_source(plan, operating_point),
        method=method,
        lost_agreement=lost,
        iou_held_out=loo.mean_iou,
    )


def _threshold_source(plan: Plan, operating_point: ClassOperatingPoint) -> str:
    if plan.config.threshold is not None:
        return "given"
    if operating_point.threshold == 0.5:
        return "the default, as no other is significantly better on held-out patches"
    return "midpoint between 0.5 and the best threshold on held-out patches"


def mean_quality(qualities: list[Quality | None]) -> Quality | None:
    """The quality of a single class, or the mean IoU of several; None if one of them has no estimate."""
    if len(qualities) == 1:
        return qualities[0]
    held_out = [q.iou_held_out for q in qualities if q is not None and q.iou_held_out is not None]
    if len(held_out) < len(qualities):
        return None
    means = [q.iou_mean for q in qualities if q is not None and q.iou_mean is not None]
    return Quality(
        iou_mean=float(np.mean(means)) if len(means) == len(qualities) else None,
        method=f"mean of {len(held_out)} classes, each by leave-one-out",
        iou_held_out=float(np.mean(held_out)),
    )


def unlike_ground(found: UnlikeGround | None) -> Unlike | None:
    """Ground unlike the patches, as the report has it."""
    if found is None:
        return None
    tiles = zip(found.windows, found.fractions, strict=True)
    return Unlike(
        found.fraction,
        found.n_tiles,
        tuple(UnlikeTile(w.row_off, w.col_off, w.height, w.width, part) for w, part in tiles),
    )
