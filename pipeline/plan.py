"""What is to be done, before any tile is predicted: options checked, source and support set read, units laid out.

Nothing is written here, and no model is needed. `manifest` puts everything that determines the result in a form that
can be hashed and compared.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.windows import Window

from fewscope import __version__
from fewscope.connectors.conventions import IGNORE_LABEL
from fewscope.connectors.source import Source
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.support_set import SupportSet
from fewscope.errors import ConfigError, SourceError
from fewscope.model.conventions import PATCH_SIZE
from fewscope.model.segmenter import Segmenter, load_segmenter
from fewscope.pipeline import predictor
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.instances.split_rules import DepthRule, Rule, SplitRule
from fewscope.pipeline.sources import open_sources, pixel_m2
from fewscope.pipeline.tiling.foreground import Foreground, find_foreground
from fewscope.pipeline.tiling.grid import TileGrid, Unit, default_shard, plan_units

OVERVIEW_PX = 2048
"""Longer side of the overview that tissue is looked for in: 50 px of a 100,000 px slide to a pixel, a quarter tile."""

MIN_AREA_FRACTION = 0.1
"""Part of the typical object's area below which an object is not counted, unless the user says which area."""

MIN_RASTER_OBJECT_PX = 4
"""The same in a raster, px."""

CHUNK_PX = 512
"""Side of a storage chunk, where the shard is a multiple of it: what a viewer reads at once."""

DEPTH_TOLERANCES = (0.02, 0.01, 0.05)
"""Depths that a pass may lie below its summits within one object: leave-one-out chooses, the first where it cannot. A
network draws depth softer than it is: where nuclei touch, passes are often less than 0.05 deep."""


@dataclass(frozen=True, slots=True, eq=False)
class ClassPlan:
    """What is known of one class before any tile is predicted.

    Attributes
    ----------
    support : what the support set says of this class
    rules : the ways to tell objects apart that may be chosen from; None is plain connected components
    min_area_px : smaller objects are dropped
    """

    support: SupportSet
    rules: tuple[Rule | None, ...]
    min_area_px: int


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is known before any tile is predicted.

    Attributes
    ----------
    shard, chunk : sides of the result's files and of what is read of them at once, px
    classes : of each class
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

    @property
    def folder(self) -> str:
        """Path or URL of the output folder, without a slash at its end."""
        return self.config.out.rstrip("/")

    @property
    def n_tiles(self) -> int:
        """Tiles with foreground, each counted once."""
        whole = Window(0, 0, self.grid.width, self.grid.height)
        return self.foreground.count(self.grid.tiles_touching(whole))


def model_loader(config: SegmentConfig) -> Callable[[], Segmenter]:
    """What a worker calls to get its model."""
    return functools.partial(load_segmenter, config.model, config.weights)


def make_plan(config: SegmentConfig, has_depth: bool = False) -> Plan:
    """Open, check, lay out. Reads the support set and an overview; writes nothing.

    `has_depth`: the model tells how deep in its object a pixel is, so that touching objects may be told apart by it.
    """
    source, drawn_on = open_sources(config)
    info = source.info
    support = load_support(
        config.support,
        source=drawn_on,
        class_names=config.class_names,
        cell_part=config.cell_part,
        geojson_origin=config.geojson_origin,
    )
    if support.mpp and info.mpp and not 0.9 < support.mpp / info.mpp < 1.1:
        raise SourceError(
            f"{config.source}: would be segmented at {info.mpp:.4g} um per px, but the support set {config.support} is "
            f"at {support.mpp:.4g}; give --mpp {support.mpp:.4g}"
        )
    views = [support.of_class(value) for value in range(1, len(support.class_names) + 1)]
    pixel = pixel_m2(info)
    classes = [
        ClassPlan(
            view,
            candidate_rules(config, view, info.mpp, has_depth),
            min_object_area_px(config, view, info.mpp, pixel),
        )
        for view in views
    ]
    shard = config.shard or default_shard(info.height, info.width)
    units = plan_units(info.height, info.width, config.unit or shard)
    overview, valid = source.overview(OVERVIEW_PX)
    if not valid.any():
        raise SourceError(f"{config.source}: {explain_no_pixels(source)}")
    foreground = find_foreground(
        overview,
        valid,
        source.unreadable(OVERVIEW_PX),
        (info.height, info.width),
        config.foreground,
        info.kind,
    )
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
    )


def explain_no_pixels(source: Source) -> str:
    """Why no pixel of a source is valid, and the cure."""
    if source.info.kind == "raster" and not source.unreadable(OVERVIEW_PX):
        return (
            "no pixel of it is valid: all are nodata, masked, or outside the area asked for; check its nodata value "
            "and mask, --aoi and --bbox"
        )
    return "no pixel of it could be read; copy the file again from where it came"


def min_object_area_px(
    config: SegmentConfig, support: SupportSet, mpp: float | None, pixel_m2: float | None = None
) -> int:
    """Area in px below which an object is a speck and is dropped; ``pixel_m2``: of a raster's pixel, if known."""
    if config.raster is not None:
        return min_raster_object_area_px(config.raster.min_area_m2, pixel_m2)
    if config.min_area_um2 is None:
        radius = typical_radius(support)
        return 0 if radius is None else math.ceil(MIN_AREA_FRACTION * math.pi * radius**2)
    if config.min_area_um2 > 0 and not mpp:
        raise ConfigError("--min-area-um2 needs a source with a resolution; give --slide-mpp")
    return math.ceil(config.min_area_um2 / mpp**2) if mpp else 0


def min_raster_object_area_px(min_area_m2: float | None, pixel_m2: float | None) -> int:
    """The same of a raster: few pixels have no shape; lakes and rivers have no typical size to compare with."""
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
    """The ways to tell objects apart that ``config.instances`` allows; None is plain connected components.

    `has_depth`: there is a model that tells how deep in its object a pixel is.
    """
    if config.instances == "learned" and not has_depth:
        raise ConfigError(
            f"--instances learned needs weights that know how deep in its object a pixel is; those of {config.model!r} "
            "do not: give --weights, or --instances split"
        )
    radius = config.object_radius_um / (mpp or 1.0) if config.object_radius_um else typical_radius(support)
    if config.instances == "components" or (config.instances == "auto" and radius is None):
        return (None,)
    if radius is None:
        raise ConfigError(
            f"--instances {config.instances} needs to know how large an object is: outline the objects one by one in "
            "the support set, or give --object-radius-um"
        )
    radius = float(np.clip(radius, 1, 80))
    by_shape = SplitRule(radius, config.connectivity)
    if config.instances == "split":
        return (by_shape,)
    by_depth = tuple(DepthRule(radius, t, config.connectivity) for t in DEPTH_TOLERANCES)
    if config.instances == "learned":
        return by_depth
    return (None, by_shape, *by_depth) if has_depth else (None, by_shape)


def typical_radius(support: SupportSet) -> float | None:
    """Median radius of the support's outlined objects that are not cut by their patch's edge, px; None without any."""
    if support.instances is None:
        return None
    areas: list[int] = []
    for objects, labels in zip(support.instances, support.labels, strict=True):
        known = np.pad(labels != IGNORE_LABEL, 1)
        inner = known[:-2, 1:-1] & known[2:, 1:-1] & known[1:-1, :-2] & known[1:-1, 2:]
        cut = set(np.unique(objects[~inner]).tolist())
        ids, counts = np.unique(objects[labels == 1], return_counts=True)
        areas += [int(n) for i, n in zip(ids, counts, strict=True) if i > 0 and i not in cut]
    return float(np.sqrt(np.median(areas) / np.pi)) if areas else None


def manifest(plan: Plan, model: predictor.Model) -> dict[str, Any]:
    """Everything that determines the result, as JSON values: what a resumed run must agree on.

    Not in it: workers, unit size, batch size, which do not. What the support set decides follows from it.
    """
    config, info = plan.config, plan.source.info
    of_raster = {}
    if config.raster is not None:
        bands = config.raster.index_bands
        of_raster = {
            "appearance": info.appearance,
            "transform": list(info.transform)[:6],
            "index_bands": dataclasses.astuple(bands) if bands else None,
            "map_simplify_px": config.raster.simplify_px,
        }
    radii = [max((rule.radius for rule in c.rules if rule), default=None) for c in plan.classes]
    several: dict[str, Any] = {"class_probabilities": True} if config.class_probabilities else {}
    if info.scan_origin != (0, 0):
        several["geojson_origin"] = config.geojson_origin
    return (
        of_raster
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
