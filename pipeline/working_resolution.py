"""The working resolution of a slide where none is asked for: one at which the labelled objects fit the network."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from fewscope.connectors.source import Source
from fewscope.connectors.support.object_sizes import ReadAhead, typical_diameters
from fewscope.connectors.support.support_set import SupportSet, is_same_scale
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.sources import annotated_slides, open_sources, read_support, support_options

log = logging.getLogger(__name__)

LARGEST_PX = 100
"""Diameter of objects up to which a tile of 224 px shows enough of what is around them."""

SMALLEST_PX = 8
"""Diameter below which objects have no shape."""


def open_at_working_resolution(config: SegmentConfig) -> tuple[SegmentConfig, Source, SupportSet]:
    """Open what a run reads, at the resolution asked for, else at one that suits the support set.

    Without `SegmentConfig.mpp`, a slide is read as its support set says: at the resolution of the patches, where a
    folder of them states one; at a coarser one than usual, where objects drawn are more than `LARGEST_PX` across.

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
    sizes = typical_diameters(drawn, options)
    mpp = fitting_mpp(sizes.values(), source.info.mpp)
    if mpp is not None:
        told = _of_objects(sizes, mpp)
    else:
        support = read_support(config, source, drawn_on, read)
        native = source.info.native_mpp or source.info.mpp
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


def fitting_mpp(diameters: Iterable[float], mpp: float) -> float | None:
    """Coarser working resolution, um per px, that suits objects of these typical diameters, um; None if `mpp` does.

    It is `mpp`, doubled as often as the largest objects need, but for what the smallest ones allow.

    >>> [fitting_mpp(of_classes, 0.5) for of_classes in ([8], [90], [180], [180, 9], [180, 3], [3])]
    [None, 1.0, 2.0, 1.0, None, None]
    """
    sizes = sorted(diameters)
    if not sizes:
        return None
    needed = math.ceil(math.log2(sizes[-1] / (LARGEST_PX * mpp)))
    allowed = math.floor(math.log2(sizes[0] / (SMALLEST_PX * mpp)))
    doublings = min(needed, allowed)
    return mpp * 2.0**doublings if doublings > 0 else None


def _of_objects(sizes: Mapping[str, float], mpp: float) -> str:
    across = ", ".join(f"{name} {size:.3g} um" for name, size in sizes.items())
    return (
        f"Segmented at {mpp:.3g} um per px, as labelled objects are typically so far across: {across}. --mpp: another "
        "resolution."
    )
