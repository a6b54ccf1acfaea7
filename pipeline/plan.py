"""The plan of a run, before any tile is predicted: source and support set opened and checked, units laid out.

Nothing is written here, and no model is needed. `manifest` lists everything that determines the result, in a form that
can be hashed and compared.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window

from fewscope._version import __version__
from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.pixels.stains import Stains, looks_like_dab
from fewscope.connectors.source import MeasuredChannel, Source
from fewscope.connectors.support.area_files import DrawnArea
from fewscope.connectors.support.support_set import SupportSet, is_same_scale
from fewscope.errors import ConfigError, SourceError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.pipeline import predictor
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.instances.split_rules import DepthRule, Rule, SplitRule
from fewscope.pipeline.measured import check_measured, measured_channels, stains_of
from fewscope.pipeline.sources import (
    check_index_bands,
    foreground_in,
    pixel_m2,
    read_area_of,
    shown_like,
)
from fewscope.pipeline.tiling.foreground import Foreground, find_foreground
from fewscope.pipeline.tiling.grid import TileGrid, Unit, default_shard, plan_units
from fewscope.pipeline.working_resolution import open_at_working_resolution

log = logging.getLogger(__name__)

OVERVIEW_PX = 2048
"""Longer side of the overview for foreground detection: on a slide of 100,000 px, a pixel is a quarter of a tile."""

MIN_AREA_FRACTION = 0.1
"""Objects below this fraction of the typical area are dropped, unless the user gives an area."""

MIN_RASTER_OBJECT_PX = 4
"""Objects of rasters with fewer pixels are dropped, unless the user gives an area."""

CHUNK_PX = 512
"""Side of a storage chunk, which viewers read at once; smaller if the shard is not a multiple of it."""

DEPTH_TOLERANCES = (0.02, 0.01, 0.05)
"""Tolerances of a `DepthRule`; leave-one-out chooses, else the first. Networks smooth depth: where nuclei touch,
saddles are often less than 0.05 below the peaks."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassPlan:
    """Plan for one class.

    Attributes
    ----------
    support : SupportSet
        The support set, reduced to this class.
    rules : tuple[Rule | None, ...]
        Candidates for separating touching objects; None: connected components.
    min_area_px : int
        Smaller objects are dropped.
    min_area_given : bool
        Whether the user gave this area: then labelled objects that are smaller are not asked for, and estimates
        leave them out too.
    """

    support: SupportSet
    rules: tuple[Rule | None, ...]
    min_area_px: int
    min_area_given: bool = False

    @property
    def min_true_area_px(self) -> int:
        """Smallest labelled object that estimates of the truth count."""
        return self.min_area_px if self.min_area_given else 0


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Plan of a run.

    Attributes
    ----------
    shard, chunk : int
        Sides of a storage shard (a file) and of a chunk (read at once), px.
    classes : tuple[ClassPlan, ...]
        Plans of the classes 1..C.
    area : DrawnArea | None
        What is segmented of a slide, and in which polygons it was drawn; None: all of it.
    """

    config: SegmentConfig
    source: Source
    support: SupportSet
    grid: TileGrid
    units: list[Unit]
    shard: int
    chunk: int
    foreground: Foreground
    classes: tuple[ClassPlan, ...]
    area: DrawnArea | None = None

    @property
    def folder(self) -> str:
        """Path or URL of the output folder, without trailing slash."""
        return self.config.out.rstrip("/")

    @property
    def stains(self) -> Stains | None:
        """Stains that are measured in every object."""
        return stains_of(self.config)

    @property
    def measured(self) -> tuple[MeasuredChannel, ...]:
        """What is measured in every object, besides its shape."""
        return measured_channels(self.config, self.source.info)

    @property
    def planned(self) -> list[Unit]:
        """The units that are worked on: those outside the area to segment stay empty."""
        area = self.foreground.area
        return [unit for unit in self.units if area is None or area.touches(unit.core)]

    @property
    def n_tiles(self) -> int:
        """Number of tiles with foreground."""
        whole = Window(0, 0, self.grid.width, self.grid.height)
        return self.foreground.count(self.grid.tiles_touching(whole))


def model_loader(config: SegmentConfig) -> Callable[[], Segmenter]:
    """A picklable function with which workers load the model."""
    return functools.partial(
        load_segmenter,
        config.model,
        config.weights,
        config.encoder,
        precision=config.precision,
        looks=config.looks,
    )


def make_plan(
    config: SegmentConfig,
    has_depth: bool = False,
    outline: Callable[[SupportSet, float | None], SupportSet] = lambda support, radius: support,
) -> Plan:
    """Open the source, read the support set and an overview, lay out the units. Writes nothing.

    Parameters
    ----------
    has_depth : bool
        Whether the model predicts depth, so that objects can be separated by it.
    outline : Callable[[SupportSet, float | None], SupportSet]
        Gives objects outlines of which only a point or a box is known, with their radius, px, if it is given; without
        it they are discs and boxes.

    Raises
    ------
    ConfigError, SourceError, SupportError
        An option, the source or the support set cannot be used, or they contradict each other.
    """
    config, source, support = open_at_working_resolution(config)
    check_index_bands(config)
    source = shown_like(source, support.ranges)
    info, support_from = source.info, ", ".join(config.supports)
    if support.mpp and info.mpp and not is_same_scale(support.mpp, info.mpp):
        raise SourceError(
            f"{config.source}: would be segmented at {info.mpp:.4g} um per px, but the support set {support_from} is "
            f"at {support.mpp:.4g}; give --mpp {support.mpp:.4g}"
        )
    if (n_channels := support.images.shape[-1]) != info.n_channels:
        raise SourceError(
            f"{config.source}: has {info.n_channels} channels ({', '.join(info.channels) or 'red, green, blue'}), the "
            f"patches of {support_from} have {n_channels}; draw the support set on the source, or choose three with "
            f"{'--channels' if info.kind == 'slide' else '--bands'}"
        )
    check_measured(config, info)
    support = outline(support, given_radius(config.object_radius_um, info.mpp))
    views = [support.of_class(value) for value in range(1, len(support.class_names) + 1)]
    pixel = pixel_m2(info)
    given = config.min_area_um2 if config.raster is None else config.raster.min_area_m2
    classes = [
        ClassPlan(
            view,
            candidate_rules(config, view, info.mpp, has_depth),
            min_object_area_px(config, view, info.mpp, pixel),
            min_area_given=given is not None,
        )
        for view in views
    ]
    shard = config.shard or default_shard(info.height, info.width, info.n_channels)
    units = plan_units(info.height, info.width, config.unit or shard)
    overview, valid = source.overview(OVERVIEW_PX)
    if not valid.any():
        raise SourceError(f"{config.source}: {explain_no_pixels(source)}")
    if not config.stains and info.kind == "slide" and not info.channels and looks_like_dab(overview, valid):
        log.info(
            "%s: looks stained with hematoxylin and DAB; --stains h-dab measures the DAB of every object",
            config.source,
        )
    foreground = find_foreground(
        overview,
        valid,
        source.unreadable(OVERVIEW_PX),
        (info.height, info.width),
        "all" if info.is_field else config.foreground,
        info.kind,
    )
    drawn = read_area_of(config, info, support.class_names)
    foreground = foreground if drawn is None else foreground_in(drawn, foreground, config.source, info.noun)
    return Plan(
        config=config,
        source=source,
        support=support,
        grid=TileGrid(info.height, info.width, PATCH_SIZE, config.overlap),
        units=units,
        shard=shard,
        chunk=math.gcd(CHUNK_PX, shard),
        foreground=foreground,
        classes=tuple(classes),
        area=drawn,
    )


def explain_no_pixels(source: Source) -> str:
    """Why no pixel of a source is valid, and what to do."""
    if source.info.kind == "raster" and not source.unreadable(OVERVIEW_PX):
        return (
            "no pixel of it is valid: all are nodata, masked, or outside the area asked for; check its nodata value "
            "and mask, --aoi and --bbox"
        )
    return "no pixel of it could be read; copy the file again from where it came"


def min_object_area_px(
    config: SegmentConfig, support: SupportSet, mpp: float | None, pixel_m2: float | None = None
) -> int:
    """Smallest area of an object, px; ``pixel_m2`` is the area of a raster's pixel, if known."""
    if config.raster is not None:
        return min_raster_object_area_px(config.raster.min_area_m2, pixel_m2)
    if config.min_area_um2 is None:
        radius = typical_radius(support)
        return 0 if radius is None else math.ceil(MIN_AREA_FRACTION * math.pi * radius**2)
    if config.min_area_um2 > 0 and not mpp:
        raise ConfigError("--min-area-um2 needs a source with a resolution; give --slide-mpp")
    return math.ceil(config.min_area_um2 / mpp**2) if mpp else 0


def min_raster_object_area_px(min_area_m2: float | None, pixel_m2: float | None) -> int:
    """Smallest area of an object of a raster, px; lakes and rivers have no typical size to compare with."""
    if min_area_m2 is None:
        return MIN_RASTER_OBJECT_PX
    if min_area_m2 > 0 and pixel_m2 is None:
        raise ConfigError(
            "--min-area-m2 needs a raster with a CRS; state it, for example with gdal_edit.py -a_srs"
        )
    return math.ceil(min_area_m2 / pixel_m2) if pixel_m2 else 0


def candidate_rules(
    config: SegmentConfig, support: SupportSet, mpp: float | None, has_depth: bool = False
) -> tuple[Rule | None, ...]:
    """Separation rules that ``config.instances`` allows; None: connected components.

    Parameters
    ----------
    mpp : float | None
        um per px of the working grid.
    has_depth : bool
        Whether the model predicts depth.

    Raises
    ------
    ConfigError
        "learned" without predicted depth, or no typical size is known.
    """
    if config.instances == "learned" and not has_depth:
        raise ConfigError(
            f"--instances learned needs weights that know the depth of pixels in objects; those of {config.model!r} do "
            "not: give other --weights, or --instances split"
        )
    radius = given_radius(config.object_radius_um, mpp) or typical_radius(support)
    if config.instances == "components" or (config.instances == "auto" and radius is None):
        return (None,)
    if radius is None:
        raise ConfigError(
            f"--instances {config.instances} needs the typical size of an object: outline single objects in the "
            "support set, or give --object-radius-um"
        )
    radius = float(np.clip(radius, 1, 80))
    by_shape = SplitRule(radius, config.connectivity)
    if config.instances == "split":
        return (by_shape,)
    by_depth = tuple(DepthRule(radius, t, config.connectivity) for t in DEPTH_TOLERANCES)
    if config.instances == "learned":
        return by_depth
    return (None, by_shape, *by_depth) if has_depth else (None, by_shape)


def given_radius(radius_um: float | None, mpp: float | None) -> float | None:
    """A stated radius in px; without um per px it is stated in px."""
    return radius_um / (mpp or 1.0) if radius_um else None


def cut_objects(objects: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Ids of the objects that are cut by the edge of a labelled area.

    Parameters
    ----------
    objects : (H, W) int
        0 = background, 1..n = one object each.
    known : (H, W) bool
        The labelled area.
    """
    area = np.pad(known, 1)
    inner = area[:-2, 1:-1] & area[2:, 1:-1] & area[1:-1, :-2] & area[1:-1, 2:]
    return np.unique(objects[~inner])


def typical_radius(support: SupportSet) -> float | None:
    """Median radius of the outlined objects that are not cut by a patch's edge, px; None without any.

    Around inferred outlines lies what is not labelled because it is not sure: of these, all objects count.
    """
    if support.instances is None:
        return None
    areas: list[int] = []
    dense = slice(support.n_dense)  # a stroke has the size of a brush
    for objects, labels in zip(support.instances[dense], support.labels[dense], strict=True):
        is_inferred = bool(support.labelled)
        cut = set() if is_inferred else set(cut_objects(objects, labels != IGNORE_LABEL).tolist())
        ids, counts = np.unique(objects[labels == 1], return_counts=True)
        areas += [int(n) for i, n in zip(ids, counts, strict=True) if i > 0 and i not in cut]
    return float(np.sqrt(np.median(areas) / np.pi)) if areas else None


def manifest(plan: Plan, model: predictor.Model) -> dict[str, Any]:
    """Everything that determines the result, as JSON values: a resumed run must have the same.

    Workers, unit size and batch size do not determine the result and are not in it; the operating point follows from
    the support set.
    """
    config, info = plan.config, plan.source.info
    of_pixels = {}
    if config.raster is not None:
        bands = config.raster.index_bands
        of_pixels = {
            "appearance": info.appearance,
            "transform": list(info.transform)[:6],
            "index_bands": dataclasses.astuple(bands) if bands else None,
            "map_simplify_px": config.raster.simplify_px,
        }
    elif info.appearance:
        of_pixels = {"appearance": info.appearance}
    radii = [max((rule.radius for rule in c.rules if rule), default=None) for c in plan.classes]
    several: dict[str, Any] = {"class_probabilities": True} if config.class_probabilities else {}
    if any(
        c.min_area_given for c in plan.classes
    ):  # estimates then count the labelled objects of this size alone
        several["min_true_area_px"] = _one_or_list([c.min_true_area_px for c in plan.classes])
    if info.plane:
        several["plane"] = info.plane
    if info.time is not None:
        several["time_point"] = info.time.number
    if plan.measured:
        several["measured"] = [one.name for one in plan.measured]
    if config.looks is not None:
        several["looks"] = config.looks
    if grades := config.measured.grades:
        several["positive"] = [str(one) for one in grades]
    if info.scan_origin != (0, 0):
        several["geojson_origin"] = config.geojson_origin
    if plan.foreground.area is not None:
        several["aoi"] = plan.foreground.area.digest
    return (
        of_pixels
        | several
        | {
            "version": __version__,
            "source": info.fingerprint,
            "size": [info.height, info.width],
            "mpp": info.mpp,
            "support": plan.support.digest(),
            "class": _one_or_list(plan.support.class_names),
            "model": model.name,
            "weights": getattr(model, "weights_digest", ""),
            "precision": predictor.precision_of(model),
            "tile": plan.grid.tile,
            "overlap": plan.grid.overlap,
            "adapt_s": config.adapt_s,
            "threshold": "chosen" if config.threshold is None else config.threshold,
            "connectivity": config.connectivity,
            "instances": config.instances,
            "object_radius_px": _one_or_list(radii),
            "min_area_px": _one_or_list([c.min_area_px for c in plan.classes]),
            "foreground": config.foreground,
            "shard": plan.shard,
            "outlines": config.outlines,
            "simplify_px": config.simplify_px,
        }
    )


def _one_or_list(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)
