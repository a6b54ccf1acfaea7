"""Objects of the preview: what the network sees in a window, separated as in a run, with outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window
from shapely.geometry import MultiPolygon, Polygon

from fewscope.annotate.cells import overlap
from fewscope.annotate.preview import Preview
from fewscope.connectors.support.support_set import SupportSet
from fewscope.pipeline.calibration.object_counts import threshold_level
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.geometry.footprints import footprints
from fewscope.pipeline.instances.class_map import assign_classes
from fewscope.pipeline.instances.labelling import label_core
from fewscope.pipeline.instances.split_rules import Rule
from fewscope.pipeline.instances.splitting import split_core
from fewscope.pipeline.plan import MIN_RASTER_OBJECT_PX, candidate_rules, min_object_area_px
from fewscope.pipeline.tiling.area import Area
from fewscope.pipeline.tiling.grid import clip, grow

MARGIN = 96
"""Working px around a window that are looked at, too, so that its objects are whole."""

SIMPLIFY_PX = 0.7
"""Outlines may be off by this, to have fewer points."""

REACHES = (128, 512, 1536)
"""Half sides of the windows in which `object_at` looks for the whole of an object, working px."""


@dataclass(frozen=True, slots=True, eq=False)
class PreviewObject:
    """An object of the preview.

    Attributes
    ----------
    polygon : Polygon or MultiPolygon
        Outline in working px of the source.
    area_px : int
        Its pixels.
    probability : float
        Mean over them, 0..1.
    """

    polygon: Polygon | MultiPolygon
    area_px: int
    probability: float


@dataclass(frozen=True, slots=True)
class ObjectRule:
    """How objects of a class are told apart, and the smallest that count, px."""

    rule: Rule | None
    min_area_px: int


def object_rules(
    support: SupportSet, kind: str = "slide", object_radius_um: float | None = None
) -> tuple[ObjectRule, ...]:
    """For each class, how a run by default separates its objects: by shape where single objects are outlined.

    Parameters
    ----------
    support : SupportSet
    kind : str
        ``SourceInfo.kind``: of rasters, objects of all sizes from `MIN_RASTER_OBJECT_PX` px on count.
    object_radius_um : float or None
        Typical radius; None to measure it.
    """
    config, found = SegmentConfig("", "", "", object_radius_um=object_radius_um), []
    for value in range(1, len(support.class_names) + 1):
        of_class = support.of_class(value)
        least = (
            MIN_RASTER_OBJECT_PX if kind == "raster" else min_object_area_px(config, of_class, support.mpp)
        )
        found.append(ObjectRule(candidate_rules(config, of_class, support.mpp)[-1], least))
    return tuple(found)


def objects_in(
    preview: Preview,
    source: int,
    window: Window,
    class_index: int,
    threshold: float,
    rule: Rule | None = None,
    min_area_px: int = 0,
) -> list[PreviewObject]:
    """Objects of a class that a window touches, from the newest answers; those that reach out of it are whole.

    Parameters
    ----------
    window : Window
        Working px; at most a few thousand on a side.
    class_index : int
        0..C-1. A pixel is of the class with the largest probability.
    threshold : float
        Smallest probability of an object's pixel, 0..1.
    rule : Rule or None
        A `SplitRule` separates touching objects; None: connected components.
    min_area_px : int
        Smaller ones are left out.

    Returns
    -------
    In raster order of their first pixels.
    """
    labels, probability, where = _labelled(preview, source, window, class_index, threshold, rule, MARGIN)
    if labels is None:
        return []
    inside = overlap(where, window)[0]
    areas = np.bincount(labels.ravel())
    wanted = np.unique(labels[inside])
    return _outlined(labels, probability, where, [i for i in wanted if i and areas[i] >= min_area_px])


def object_at(
    preview: Preview,
    source: int,
    x: float,
    y: float,
    class_index: int,
    threshold: float,
    rule: Rule | None = None,
) -> PreviewObject | None:
    """The whole object of a class at a place (x, y), working px; None if there is none."""
    row, col = int(np.floor(y)), int(np.floor(x))
    for reach in REACHES:
        window = Window(col - reach, row - reach, 2 * reach, 2 * reach)
        labels, probability, where = _labelled(preview, source, window, class_index, threshold, rule, 0)
        if labels is None or not (0 <= row - where.row_off < len(labels)):
            return None
        if not 0 <= col - where.col_off < labels.shape[1]:
            return None
        own = labels[row - where.row_off, col - where.col_off]
        if own == 0:
            return None
        rows, cols = np.nonzero(labels == own)
        cut = (rows.min() == 0 and where.row_off > 0) or (cols.min() == 0 and where.col_off > 0)
        height, width = labels.shape
        info = preview.sources[source].info
        cut |= rows.max() == height - 1 and where.row_off + height < info.height
        cut |= cols.max() == width - 1 and where.col_off + width < info.width
        if not cut or reach == REACHES[-1]:
            return _outlined(labels, probability, where, [int(own)])[0]
    return None


def area_fraction(
    preview: Preview,
    source: int,
    window: Window,
    class_index: int,
    threshold: float,
    area: Area | None = None,
) -> float:
    """Part of the known pixels of a window, and of an area, that are of a class; 0 where nothing is known."""
    classes, _, known = _classes(preview, source, window, threshold)
    if area is not None:
        known = known & area.on_window(window)
    n = int(known.sum())
    return float((known & (classes == class_index + 1)).sum()) / n if n else 0.0


def _classes(
    preview: Preview, source: int, window: Window, threshold: float
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.bool_]]:
    """Class of each pixel (0 for none), the probabilities (C, h, w), and where they are known."""
    learned = preview.learned()
    n_classes = 1 if learned is None else learned.pack.n_classes
    read = [preview.probability(source, window, c) for c in range(n_classes)]
    maps = np.stack([probability for probability, _ in read])
    return assign_classes(maps, [threshold_level(threshold)] * n_classes), maps, read[0][1]


def _labelled(
    preview: Preview,
    source: int,
    window: Window,
    class_index: int,
    threshold: float,
    rule: Rule | None,
    margin: int,
) -> tuple[NDArray[np.uint32] | None, NDArray[np.uint8], Window]:
    """Label image of a window with a margin, clipped to the source; None if there is no such class, or no pixel."""
    info = preview.sources[source].info
    whole = Window(int(window.col_off), int(window.row_off), int(window.width), int(window.height))
    where = grow(whole, margin, info.height, info.width)
    if not where.height or not where.width:
        return None, np.zeros((0, 0), np.uint8), where
    classes, maps, _ = _classes(preview, source, where, threshold)
    if class_index >= len(maps):
        return None, np.zeros((0, 0), np.uint8), where
    mask = classes == class_index + 1
    if rule is None:
        labels, _ = label_core(mask, SegmentConfig("", "", "").connectivity)
    else:
        here = Window(0, 0, where.width, where.height)
        labels, _, _ = split_core(mask, here, clip(here, *mask.shape), mask.shape, rule)
    return labels, maps[class_index], where


def _outlined(
    labels: NDArray[np.uint32], probability: NDArray[np.uint8], where: Window, ids: Sequence[int]
) -> list[PreviewObject]:
    if not len(ids):
        return []
    areas = np.bincount(labels.ravel())
    sums = np.bincount(labels.ravel(), probability.ravel())
    kept = np.where(np.isin(labels, ids), labels, 0)
    origin = int(where.row_off), int(where.col_off)
    return [
        PreviewObject(polygon, int(areas[i]), float(sums[i] / areas[i] / 255))
        for i, polygon in footprints(kept, origin, Affine.identity(), simplify_px=SIMPLIFY_PX)
    ]
