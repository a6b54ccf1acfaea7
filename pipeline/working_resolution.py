"""The working resolution of a slide where none is asked for: one at which the labelled objects fit the network."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.source import Source
from fewscope.connectors.support.blobs import blobs_of_classes
from fewscope.connectors.support.object_sizes import ReadAhead, n_region_patches, typical_diameters
from fewscope.connectors.support.support_set import MAX_PATCHES, SupportSet, is_same_scale
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.sources import annotated_slides, open_sources, read_support, support_options

log = logging.getLogger(__name__)

LARGEST_PX = 100
"""Diameter of objects up to which a tile of 224 px shows enough of what is around them."""

SMALLEST_PX = 8
"""Diameter that objects have at least at a resolution that is chosen: smaller ones have no shape."""

TOO_SMALL_PX = 6
"""Diameter from which on objects are left as small as they are: pixels half as wide take four times as long, and those
of 7 px gain 0.04 IoU by them (docs/benchmarks.md)."""


def open_at_working_resolution(config: SegmentConfig) -> tuple[SegmentConfig, Source, SupportSet]:
    """Open what a run reads, at the resolution asked for, else at one that suits the support set.

    Without `SegmentConfig.mpp`, a slide is read as its support set says: at the resolution of the patches, where a
    folder of them states one; at a coarser one than usual, where objects drawn are more than `LARGEST_PX` across; at a
    finer one that the slides have, where they are less than `TOO_SMALL_PX`.

    Returns
    -------
    The configuration with this resolution, the source, and the support set, which tells what was chosen

    Raises
    ------
    ConfigError, SourceError, SupportError
        The source or the support set cannot be used.
    """
    source, drawn_on = open_sources(config)
    if config.mpp is not None or source.info.mpp is None:
        return config, source, read_support(config, source, drawn_on)
    options, read = support_options(config), ReadAhead()
    with annotated_slides(config, source, drawn_on) as files:
        drawn = [(read.ahead(uri, slide, options), slide.info.native_mpp) for uri, slide in files]
    sizes, support = typical_diameters(drawn, options), None
    usual, native = source.info.mpp, source.info.native_mpp or source.info.mpp
    # no patch is read finer than the slide that it was drawn on
    finest = max([native, *(of_slide for _, of_slide in drawn if of_slide)])
    if not sizes:
        support = read_support(config, source, drawn_on, read)
        sizes = _diameters_at_points(support, usual, config.object_radius_um)
    wished = mpp = fitting_mpp(sizes.values(), usual, finest)
    while mpp is not None and mpp < usual and n_region_patches(drawn, mpp) > MAX_PATCHES:
        mpp = 2 * mpp if 2 * mpp < usual else None
    if mpp is not None:
        told = _of_objects(sizes, mpp)
    else:
        support = support or read_support(config, source, drawn_on, read)
        if wished is not None:
            support = replace(support, assumptions=(*support.assumptions, _too_large(sizes, wished)))
        if support.mpp is None or is_same_scale(support.mpp, source.info.mpp) or native > support.mpp:
            return config, source, support
        mpp = support.mpp
        told = f"Segmented at {mpp:.3g} um per px, the resolution of the patches."
    log.info("%s: %s", config.source, told)
    source.close()
    if drawn_on is not source:
        drawn_on.close()
    config = replace(config, mpp=mpp)
    source, drawn_on = open_sources(config)
    support = read_support(config, source, drawn_on, read)
    return config, source, replace(support, assumptions=(*support.assumptions, told))


def _diameters_at_points(support: SupportSet, mpp: float, radius_um: float | None) -> dict[str, float]:
    """Typical diameter, um by class, of objects that are marked by points: as it is given, else what stands out."""
    blobs = blobs_of_classes(support, radius_um / mpp if radius_um else None)
    return {support.class_names[value - 1]: 2 * mpp * one.radius for value, one in blobs.items()}


def fitting_mpp(diameters: Iterable[float], mpp: float, finest: float | None = None) -> float | None:
    """Another working resolution, um per px, that suits objects of these typical diameters, um; None if `mpp` does.

    It is `mpp`, doubled as often as the largest objects need, but for what the smallest ones allow; or, where these are
    less than `TOO_SMALL_PX`, halved as often as they need, but for what the largest ones allow, down to the slide's
    own, ``finest``; None: never.

    >>> [fitting_mpp(of_classes, 0.5, 0.1) for of_classes in ([8], [90], [180], [180, 9], [180, 3])]
    [None, 1.0, 2.0, 1.0, None]
    >>> [fitting_mpp(of_classes, 0.5, 0.1) for of_classes in ([2.5], [1.5], [0.4], [40, 2], [3.5])]
    [0.25, 0.125, 0.1, None, None]
    """
    sizes = sorted(diameters)
    if not sizes:
        return None
    needed = math.ceil(math.log2(sizes[-1] / (LARGEST_PX * mpp)))
    allowed = math.floor(math.log2(sizes[0] / (SMALLEST_PX * mpp)))
    if needed <= 0 and sizes[0] >= TOO_SMALL_PX * mpp:
        return None
    doublings = max(0, min(needed, allowed)) if needed > 0 else min(0, max(needed, allowed))
    found = max(mpp * 2.0**doublings, min(finest or mpp, mpp))
    return None if found == mpp else found


def _too_large(sizes: Mapping[str, float], wished: float) -> str:
    return (
        f"Labelled objects are only so far across: {_listed(sizes)}. They would be segmented at {wished:.3g} um per "
        f"px, but for regions that take more than {MAX_PATCHES} patches there: draw smaller ones, of "
        f"{PATCH_SIZE * wished:.3g} um."
    )


def _of_objects(sizes: Mapping[str, float], mpp: float) -> str:
    return (
        f"Segmented at {mpp:.3g} um per px, as labelled objects are typically so far across: {_listed(sizes)}. --mpp: "
        "another resolution."
    )


def _listed(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:.3g} um" for name, size in sizes.items())
