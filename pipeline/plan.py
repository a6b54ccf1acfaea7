"""What is to be done, before any tile is predicted: options checked, source and support set read, units laid out.

Nothing is written here. Everything that determines the result is in a `Plan`, and `manifest` puts it in a form that
can be hashed and compared.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from rasterio.windows import Window

from connectors.source import Source, SourceError, open_source
from connectors.support import SupportSet, load_support
from model.segmenter import MODELS, Segmenter, load_segmenter
from pipeline import calibrate
from pipeline.blend import to_uint8
from pipeline.coverage import Foreground, find_foreground
from pipeline.grid import TILE, TileGrid, Unit, default_shard, plan_units
from pipeline.instances import label_core
from pipeline.split import SplitRule, split_core

__all__ = ["MODELS", "Plan", "SegmentConfig", "manifest", "model_loader", "prepare"]

log = logging.getLogger(__name__)

OVERVIEW_PX = 2048
"""Longer side of the overview that tissue is looked for in: 50 px of a 100,000 px slide to a pixel, a quarter tile."""

Instances = Literal["auto", "components", "split"]


@dataclass(frozen=True, slots=True)
class SegmentConfig:
    """Everything a user may ask for. The defaults are what the command line does.

    Attributes
    ----------
    source, support, out : paths or fsspec URLs
    support_slide : the slide that annotations were drawn on; None: the source itself
    mpp, slide_mpp : working resolution, and resolution of level 0 where the file does not say (um per px)
    overlap : px between neighbouring tiles
    threshold : probability from which on a pixel is object; None: chosen by leave-one-out, 0.5 where that cannot be
    instances : "components", "split" (touching objects told apart by their shape), or "auto": whichever counts the
        support's outlined objects better, left out one patch at a time
    object_radius_um : typical radius, for "split"; None: from the support's objects
    unit, shard : px; None: by the size of the source
    max_unread : largest part of the foreground that may be unreadable
    outlines : what instances.geojson.gz holds; "auto": polygons up to a million instances, points above
    simplify_px : outlines may differ from the mask by so much; 0 follows every pixel
    """

    source: str
    support: str
    out: str
    support_slide: str | None = None
    class_name: str | None = None
    mpp: float | None = None
    slide_mpp: float | None = None
    overlap: int = 32
    model: str = "compact"
    weights: str | None = None
    threshold: float | None = None
    connectivity: int = 2
    instances: Instances = "auto"
    object_radius_um: float | None = None
    min_area_um2: float = 0.0
    foreground: Literal["auto", "all"] = "auto"
    unit: int | None = None
    shard: int | None = None
    max_unread: float = 0.1
    overwrite: bool = False
    outlines: Literal["auto", "polygons", "points", "none"] = "auto"
    simplify_px: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """What is known before any tile is predicted."""

    config: SegmentConfig
    source: Source
    support: SupportSet
    grid: TileGrid
    units: list[Unit]
    shard: int
    foreground: Foreground
    features: Any
    loo: calibrate.LeaveOneOut | None
    threshold: float
    rule: SplitRule | None
    count_errors: np.ndarray | None
    min_area_px: int

    @property
    def n_tiles(self) -> int:
        """Tiles with foreground, each counted once."""
        whole = Window(0, 0, self.grid.width, self.grid.height)
        return sum(self.foreground.touches(t) for t in self.grid.tiles_touching(whole))


def model_loader(config: SegmentConfig) -> Callable[[], Segmenter]:
    """What a worker calls to get its model."""
    return functools.partial(load_segmenter, config.model, config.weights)


def prepare(config: SegmentConfig, model: calibrate.Model) -> Plan:
    """Open, check, encode, plan. Reads the support set and an overview; writes nothing."""
    check(config)
    source = open_source(config.source, mpp=config.mpp, slide_mpp=config.slide_mpp)
    drawn_on = source
    if config.support_slide not in (None, config.source):
        drawn_on = open_source(config.support_slide, mpp=source.info.mpp, slide_mpp=None)
    support = load_support(config.support, source=drawn_on, class_name=config.class_name)
    info = source.info
    if support.mpp and info.mpp and not 0.9 < support.mpp / info.mpp < 1.1:
        raise SourceError(
            f"{config.source}: would be segmented at {info.mpp:.4g} um per px, but the support set {config.support} is "
            f"at {support.mpp:.4g}; give --mpp {support.mpp:.4g}"
        )
    overview, valid = source.overview(OVERVIEW_PX)
    if not valid.any():
        raise SourceError(
            f"{config.source}: no pixel of it could be read; copy the file again from where it came"
        )
    foreground = find_foreground(overview, valid, (info.height, info.width), config.foreground)

    features = model.encode(support.images, support.labels)
    loo = calibrate.leave_one_out(model, support.images, support.labels, config.threshold)
    threshold = config.threshold if config.threshold is not None else loo.threshold if loo else 0.5
    rule, errors = choose_instances(config, support, info.mpp, loo, threshold)
    grid = TileGrid(info.height, info.width, TILE, config.overlap)
    shard = config.shard or default_shard(info.height, info.width)
    unit = config.unit or shard
    if unit % shard:
        raise ValueError(
            f"unit {unit} is not a multiple of the shard {shard}; use {max(1, unit // shard) * shard}"
        )
    min_area_px = 0
    if config.min_area_um2 > 0:
        if not info.mpp:
            raise ValueError("--min-area-um2 needs a source with a resolution; give --slide-mpp")
        min_area_px = int(np.ceil(config.min_area_um2 / info.mpp**2))
    return Plan(
        config, source, support, grid, plan_units(info.height, info.width, unit), shard, foreground,
        features, loo, threshold, rule, errors, min_area_px,
    )  # fmt: skip


def check(config: SegmentConfig) -> None:
    """Refuse options that make no sense, before anything is read."""
    if config.threshold is not None and not 0 < config.threshold < 1:
        raise ValueError(
            f"threshold {config.threshold} is not between 0 and 1; leave it out to have it chosen"
        )
    if config.min_area_um2 < 0:
        raise ValueError(
            f"--min-area-um2 {config.min_area_um2} is negative; give an area, or 0 to keep everything"
        )
    if not 0 <= config.max_unread <= 1:
        raise ValueError(f"--max-unread {config.max_unread} is not between 0 and 1")
    if not 0 <= config.overlap <= TILE // 2:
        raise ValueError(f"overlap {config.overlap} is not in 0..{TILE // 2} (half a tile); use 32")


def choose_instances(
    config: SegmentConfig,
    support: SupportSet,
    mpp: float | None,
    loo: calibrate.LeaveOneOut | None,
    threshold: float,
) -> tuple[SplitRule | None, np.ndarray | None]:
    """How objects are told apart: None for plain components, and the count's errors on the left-out patches.

    Of the ways that ``config.instances`` allows, the one whose counts are nearest to the outlined objects.
    """
    radius = config.object_radius_um / (mpp or 1.0) if config.object_radius_um else typical_radius(support)
    rule = SplitRule(float(np.clip(radius, 1, 80)), config.connectivity) if radius else None
    if config.instances == "split" and rule is None:
        raise ValueError(
            "--instances split needs to know how large an object is: outline the objects one by one in the support "
            "set, or give --object-radius-um"
        )
    ways: list[SplitRule | None] = [] if config.instances == "split" else [None]
    if config.instances != "components" and rule is not None:
        ways.append(rule)
    if loo is None or support.instances is None:
        return ways[0], None
    errors = [
        calibrate.count_errors(
            loo.probabilities,
            support.labels,
            support.instances,
            functools.partial(count_objects, threshold=threshold, rule=way, connectivity=config.connectivity),
        )
        for way in ways
    ]
    best = int(np.argmin([np.abs(e).mean() for e in errors]))
    return ways[best], errors[best]


def typical_radius(support: SupportSet) -> float | None:
    """Median radius of the support's outlined objects that are not cut by their patch's edge, px; None without any."""
    if support.instances is None:
        return None
    areas: list[int] = []
    for objects, labels in zip(support.instances, support.labels, strict=True):
        known = np.pad(labels != calibrate.IGNORE, 1)
        inner = known[:-2, 1:-1] & known[2:, 1:-1] & known[1:-1, :-2] & known[1:-1, 2:]
        cut = set(np.unique(objects[~inner]).tolist())
        ids, counts = np.unique(objects[labels == 1], return_counts=True)
        areas += [int(n) for i, n in zip(ids, counts, strict=True) if i > 0 and i not in cut]
    return float(np.sqrt(np.median(areas) / np.pi)) if areas else None


def count_objects(
    probability: np.ndarray, threshold: float, rule: SplitRule | None, connectivity: int
) -> int:
    """Number of objects in a probability map (H, W), told apart as a unit's are."""
    mask = to_uint8(probability) >= threshold_level(threshold)
    if rule is None:
        return label_core(mask, connectivity)[1]
    whole = Window(0, 0, mask.shape[1], mask.shape[0])
    return split_core(mask, whole, whole, mask.shape, rule)[1]


def threshold_level(threshold: float) -> int:
    """The least stored probability (uint8) that is object: the mask follows from what is stored."""
    return max(1, int(np.ceil(threshold * 255 - 1e-9)))


def manifest(plan: Plan) -> dict[str, Any]:
    """Everything that determines the result, as JSON values: what a resumed run must agree on.

    Not in it: workers, unit size, batch size, which do not.
    """
    config, info = plan.config, plan.source.info
    return {
        "version": importlib.metadata.version("fewscope"),
        "source": info.fingerprint,
        "size": [info.height, info.width],
        "mpp": info.mpp,
        "support": plan.support.digest(),
        "model": config.model,
        "features": plan.features.digest,
        "tile": plan.grid.tile,
        "overlap": plan.grid.overlap,
        "threshold": plan.threshold,
        "connectivity": config.connectivity,
        "instances": "components" if plan.rule is None else f"split, radius {plan.rule.radius:.3f} px",
        "min_area_px": plan.min_area_px,
        "foreground": config.foreground,
        "shard": plan.shard,
        "outlines": config.outlines,
        "simplify_px": config.simplify_px,
    }
