"""Content of the report: every number of the page, also written as JSON.

    >>> statistics = instance_statistics(result.table, info.height, info.width, foreground, ...)
    >>> report = make_report(info, statistics, class_name="nucleus", quality=..., run=..., timings=...)
    >>> write_report(out, report, draw(source, result, statistics, foreground, support_set, leave_one_out))

``report.html`` is one self-contained file: it asks nothing of any network, and its content policy forbids it.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fewscope.connectors.colours import class_colour
from fewscope.pipeline.maps.files import GroundAreas
from fewscope.pipeline.report.area_section import AreaSection
from fewscope.pipeline.report.distributions import Sizes, sizes_of
from fewscope.pipeline.report.formatting import percent
from fewscope.pipeline.report.intensities import ChannelReport
from fewscope.pipeline.report.map_section import MapSection
from fewscope.pipeline.report.seam_check import SeamCheck
from fewscope.pipeline.report.source_facts import source_facts, title_of
from fewscope.pipeline.report.statistics import InstanceStatistics

JSON_KEYS = {"unreadable_px": "unread_px", "unreadable_fraction": "unread_fraction"}
"""Fields of `Report` whose key in ``report.json`` is older than their name."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Estimated quality of the masks: by leave-one-out on the support patches, moved to the source."""

    iou_mean: float | None = None  # on the source
    iou_interval: tuple[float, float] | None = None
    iou: tuple[float | None, ...] = ()  # one for each patch
    threshold: float | None = None  # probability at or above which a pixel is object
    threshold_source: str = ""
    method: str = ""  # e.g. "leave-one-out over 5 patches, 95 % bootstrap interval"
    lost_agreement: float | None = None  # of network and pixel classifier, patches minus a sample of tiles
    iou_held_out: float | None = None  # mean over the held-out patches

    def __post_init__(self) -> None:
        # NaN is no estimate, and JSON does not know it: a finished run must not fail to be reported
        object.__setattr__(self, "iou_mean", _finite(self.iou_mean))
        object.__setattr__(self, "iou_held_out", _finite(self.iou_held_out))
        object.__setattr__(self, "iou", tuple(_finite(value) for value in self.iou))
        if self.iou_interval is not None and not all(math.isfinite(end) for end in self.iou_interval):
            object.__setattr__(self, "iou_interval", None)


@dataclass(frozen=True, slots=True)
class Timings:
    """Wall-clock seconds, and shares of the workers' time (0..1; stages overlap)."""

    stages: Mapping[str, float] = field(default_factory=dict)  # in order
    total_s: float | None = None
    tiles: int | None = None
    tiles_per_s: float | None = None
    model_busy: float | None = None
    reading: float | None = None
    finishing: float | None = None  # labelling, measuring, writing
    started: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ClassResult:
    """One class of several: the statistics of its instances, and its estimated quality."""

    name: str
    statistics: InstanceStatistics
    quality: Quality | None
    count_interval: tuple[int, int] | None
    count_estimate: int | None = None
    covered_ratio: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """Objects that were left out as too small: their number, and their area in working pixels."""

    count: int = 0
    area_px: int = 0


@dataclass(frozen=True, slots=True)
class ClassReport:
    """The numbers of one class of several, as `Report` has them of all; shares and densities are of all tissue."""

    name: str
    value: int  # in the class map
    colour: str  # "#rrggbb"
    count: int
    count_estimate: int | None
    count_interval: tuple[int, int] | None
    density_per_mm2: float | None
    density_per_mpx: float | None
    covered_mm2: float | None
    covered_px: int
    covered_estimate_px: float | None
    covered_interval_px: tuple[float, float] | None
    covered_fraction: float | None
    sizes: Sizes | None
    quality: Quality | None


@dataclass(frozen=True, slots=True)
class Hole:
    """A unit that could not be done, px of the working grid, and why."""

    unit: str
    row: int
    col: int
    height: int
    width: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnlikeTile:
    """A tile with ground unlike the patches, px of the working grid, and the part of it that is."""

    row: int
    col: int
    height: int
    width: int
    fraction: float


@dataclass(frozen=True, slots=True)
class Unlike:
    """Ground unlike the patches: its fraction of the tissue of a sample of tiles, and the tiles with most of it."""

    fraction: float
    tiles: int
    largest: tuple[UnlikeTile, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Every number of the page, as plain JSON types.

    Areas are of tissue that was analysed, that is without the part that could not be read. ``count`` and ``covered_*``
    are what was found; each ``*_estimate`` is of the truth, and each ``*_interval`` is that of the estimate beside it.
    """

    title: str
    class_name: str
    count: int
    count_estimate: int | None
    count_interval: tuple[int, int] | None
    count_interval_source: str
    density_per_mm2: float | None
    density_per_mpx: float | None
    area_mm2: float | None
    area_px: float
    covered_mm2: float | None
    covered_px: int
    covered_estimate_px: float | None
    covered_interval_px: tuple[float, float] | None
    covered_interval_source: str
    covered_fraction: float | None
    dropped_count: int  # objects left out as too small: they are in no number, file or picture
    dropped_px: int
    unreadable_px: float
    unreadable_fraction: float
    mpp: float | None
    kind: str  # "slide" or "raster"
    noun: str  # the same, or "picture"
    metres_per_px: float | None  # of rasters, with the areas on the ground
    area_km2: float | None
    covered_km2: float | None
    covered_estimate_km2: float | None
    covered_interval_km2: tuple[float, float] | None
    density_per_km2: float | None
    sizes: Sizes | None  # None without instances
    quality: Quality | None
    unlike: Unlike | None  # ground that no patch shows; None where it cannot be told
    classes: tuple[ClassReport, ...]  # of each class, where there are several
    seams: SeamCheck | None  # None when there was one unit, hence no seam
    notes: tuple[str, ...]
    assumptions: tuple[str, ...]  # what the files do not say, and the option that overrides it
    run: Mapping[str, Any]  # groups of "name: value", shown in this order; "hash" is a single string
    timings: Timings
    map: MapSection | None = None  # of rasters
    channels: tuple[ChannelReport, ...] = ()  # what objects measure
    aoi: AreaSection | None = None  # of slides, where not all was asked for
    holes: tuple[Hole, ...] = ()  # empty in every result; of a run that has not finished
    plane: str | None = None  # of z-stacks: which one was read, in words
    time_point: int | None = None  # of time series, from 1
    time_s: float | None = None  # since the first time point, where the file states it

    def to_json(self) -> str:
        """``report.json``: the fields by their names, in order.

        ``classes`` is there only where there are several, ``map`` only for rasters, ``aoi``, ``holes`` and ``channels``
        only if there are any, ``plane`` only for z-stacks, ``time_point`` and ``time_s`` only for time series.
        """
        numbers = {JSON_KEYS.get(key, key): value for key, value in dataclasses.asdict(self).items()}
        numbers["channels"] = [channel.to_json() for channel in self.channels]
        for name in ("plane", "time_point", "time_s"):
            if numbers[name] is None:
                del numbers[name]
        for name in ("classes", "map", "aoi", "holes", "channels"):
            if not getattr(self, name):
                del numbers[name]
        return json.dumps(numbers, indent=2, allow_nan=False) + "\n"


def _between(ratio: tuple[float, float] | None, area: float, most: float) -> tuple[float, float] | None:
    """An area times both ends of a ratio, each at most `most`."""
    return None if ratio is None else (_at_most(ratio[0] * area, most), _at_most(ratio[1] * area, most))


def _middle(ratio: tuple[float, float] | None, area: float, most: float) -> float | None:
    """The estimate that `_between` is the interval of."""
    return None if ratio is None else _at_most((ratio[0] + ratio[1]) / 2 * area, most)


def _at_most(area: float, most: float) -> float:
    return min(most, max(0.0, area))


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def make_report(
    info: Any,
    statistics: InstanceStatistics,
    *,
    class_name: str,
    run: Mapping[str, Any],
    timings: Timings,
    quality: Quality | None = None,
    unlike: Unlike | None = None,
    count_estimate: int | None = None,
    count_interval: tuple[int, int] | None = None,
    count_interval_source: str = "",
    covered_ratio: tuple[float, float] | None = None,
    covered_interval_source: str = "",
    unreadable_px: float = 0.0,
    dropped: Dropped | None = None,
    ground_areas: GroundAreas | None = None,
    map_section: MapSection | None = None,
    aoi: AreaSection | None = None,
    notes: Sequence[str] = (),
    assumptions: Sequence[str] = (),
    classes: Sequence[ClassResult] = (),
    holes: Sequence[Hole] = (),
    channels: Sequence[ChannelReport] = (),
) -> Report:
    """Compute the numbers of the page from the statistics of the instances.

    Parameters
    ----------
    info : fewscope.connectors.source.SourceInfo
    statistics : InstanceStatistics
    class_name : str
        what one instance is, e.g. "nucleus"
    run : mapping
        what was run: groups such as ``{"model": {"name": ..., "sha256": ...}, "options": {...},
        "hash": "..."}``; the group "source" is filled in from `info`
    count_estimate, count_interval, count_interval_source
        estimated true number, its lowest and highest plausible value, and one sentence on where they come from
    covered_ratio, covered_interval_source
        the same of the area that objects cover, as a ratio to the segmented area, whose middle is the estimate
    dropped : Dropped, optional
        None: nothing was left out
    unreadable_px : float
        tissue that could not be read, in working pixels
    map_section : MapSection, optional
        of rasters
    aoi : AreaSection, optional
        the area asked for, where it is not all
    ground_areas : GroundAreas, optional
        of rasters whose place is known
    notes : sequence of str
        warnings, shown above everything else
    assumptions : sequence of str
        what the files do not say and was assumed, beside what the source assumes
    classes : Sequence[ClassResult]
        Results of the classes 1, 2..., where there are several.
    channels : Sequence[ChannelReport]
        What objects measure.
    holes : Sequence[Hole]
        Units that could not be done; their foreground is part of `unreadable_px`.
    """
    tissue_px = statistics.tissue_px
    area_px = max(0.0, tissue_px - unreadable_px)
    unread = min(1.0, unreadable_px / tissue_px) if tissue_px else 0.0
    messages = [*info.notes, *notes]
    if info.kind == "slide" and not info.mpp and not info.is_field:
        messages.append(
            "The source states no resolution: areas and lengths are in pixels, not in micrometres."
        )
    if unreadable_px:
        what = "tissue" if info.noun == "slide" else info.noun
        messages.append(
            f"{percent(unread)} of the {what} could not be read and is excluded from all numbers below."
        )
    if holes:
        messages.append(
            f"{len(holes)} of the work units could not be done and are empty in every result: holes, listed under "
            "Checks. The same command tries them again."
        )
    metres_per_px = math.sqrt(ground_areas.pixel_m2) if ground_areas else None
    if statistics.seams is not None and statistics.seams.suspicious:
        messages.append("More objects than expected end exactly on a seam between work units; see Checks.")
    return Report(
        title=title_of(info),
        class_name=class_name,
        count_estimate=count_estimate,
        count_interval=count_interval,
        count_interval_source=count_interval_source,
        area_mm2=area_px * info.mpp**2 / 1e6 if info.mpp else None,
        area_px=area_px,
        dropped_count=dropped.count if dropped else 0,
        dropped_px=dropped.area_px if dropped else 0,
        unreadable_px=float(unreadable_px),
        unreadable_fraction=unread,
        mpp=info.mpp,
        kind=info.kind,
        noun=info.noun,
        metres_per_px=metres_per_px,
        area_km2=ground_areas.analysed_m2 / 1e6 if ground_areas else None,
        covered_km2=ground_areas.covered_m2 / 1e6 if ground_areas else None,
        covered_estimate_px=_middle(covered_ratio, statistics.covered_px, area_px),
        covered_interval_px=_between(covered_ratio, statistics.covered_px, area_px),
        covered_interval_source=covered_interval_source,
        covered_estimate_km2=_middle(
            covered_ratio, ground_areas.covered_m2 / 1e6, ground_areas.analysed_m2 / 1e6
        )
        if ground_areas
        else None,
        covered_interval_km2=_between(
            covered_ratio, ground_areas.covered_m2 / 1e6, ground_areas.analysed_m2 / 1e6
        )
        if ground_areas
        else None,
        density_per_km2=statistics.count / ground_areas.analysed_m2 * 1e6
        if ground_areas and ground_areas.analysed_m2
        else None,
        **_measures(statistics, area_px, info.mpp, metres_per_px),
        quality=quality,
        unlike=unlike,
        classes=tuple(
            ClassReport(
                name=one.name,
                value=value,
                colour="#{:02x}{:02x}{:02x}".format(*class_colour(value)),
                count_estimate=one.count_estimate,
                count_interval=one.count_interval,
                covered_estimate_px=_middle(one.covered_ratio, one.statistics.covered_px, area_px),
                covered_interval_px=_between(one.covered_ratio, one.statistics.covered_px, area_px),
                **_measures(one.statistics, area_px, info.mpp, metres_per_px),
                quality=one.quality,
            )
            for value, one in enumerate(classes, start=1)
        ),
        seams=statistics.seams,
        notes=tuple(messages),
        assumptions=(*info.assumptions, *assumptions),
        run={"source": source_facts(info), **run},
        timings=timings,
        map=map_section,
        channels=tuple(channels),
        aoi=aoi,
        holes=tuple(holes),
        plane=info.plane or None,
        time_point=info.time.number if info.time else None,
        time_s=info.time.seconds if info.time else None,
    )


def _measures(
    statistics: InstanceStatistics, area_px: float, mpp: float | None, metres_per_px: float | None
) -> dict[str, Any]:
    """Count, density, covered area and sizes of instances on `area_px` of tissue."""
    mm2_per_px = mpp**2 / 1e6 if mpp else None
    per_mpx = statistics.count / area_px * 1e6 if area_px else None
    return {
        "count": statistics.count,
        "density_per_mm2": per_mpx / 1e6 / mm2_per_px if per_mpx is not None and mm2_per_px else None,
        "density_per_mpx": per_mpx,
        "covered_mm2": statistics.covered_px * mm2_per_px if mm2_per_px else None,
        "covered_px": statistics.covered_px,
        "covered_fraction": statistics.covered_px / area_px if area_px else None,
        "sizes": sizes_of(statistics, mpp, metres_per_px),
    }
