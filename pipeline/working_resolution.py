"""The working resolution of a slide where none is asked for: one at which the labelled objects fit the network."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.source import PLAUSIBLE_MPP, Source
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.blobs import blobs_of_classes
from fewscope.connectors.support.object_sizes import (
    ReadAhead,
    classes_at_points,
    largest_region,
    region_patches,
    typical_diameters,
)
from fewscope.connectors.support.support_set import MAX_PATCHES, POINT, SupportSet, is_same_scale
from fewscope.connectors.support.without_regions import with_regions
from fewscope.connectors.support_options import SupportOptions
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.sources import (
    annotated_slides,
    labelled_pictures,
    open_sources,
    read_pictures,
    read_support,
    support_options,
)

log = logging.getLogger(__name__)

LARGEST_PX = 100
"""Diameter of objects up to which a tile of 224 px shows enough of what is around them."""

SMALLEST_PX = 8
"""Diameter that objects have at least at a resolution that is chosen: smaller ones have no shape."""

TOO_SMALL_PX = 6
"""Diameter from which on objects are left as small as they are: pixels half as wide take four times as long, and those
of 7 px gain 0.04 IoU by them (docs/benchmarks.md)."""


SMALLEST_REGION_PX = 70
"""Side that the largest region keeps at a coarser resolution, a tenth of the area of a patch: objects may be larger
than their region."""


def open_at_working_resolution(config: SegmentConfig) -> tuple[SegmentConfig, Source, SupportSet]:
    """Open what a run reads, at the resolution asked for, else at one that suits the support set.

    Without `SegmentConfig.mpp`, a slide is read as its support set says: at the resolution of the patches, the coarsest
    that folders of them state; at a coarser one than usual, where objects drawn are more than `LARGEST_PX` across; at a
    finer one that the slides have, where they are less than `TOO_SMALL_PX`. As usual, where a folder of patches, or a
    slide that was drawn on, states none: what these show cannot be read at another one.

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
    read = ReadAhead()
    choose = _of_pictures if labelled_pictures(config) else _of_drawn_objects
    mpp, told, support = choose(config, source, drawn_on, read)
    if mpp is None:
        support = support or read_support(config, source, drawn_on, read)
        return config, source, replace(support, assumptions=(*support.assumptions, *told))
    log.info("%s: %s", config.source, *told)
    source.close()
    if drawn_on is not source:
        drawn_on.close()
    config = replace(config, mpp=mpp)
    source, drawn_on = open_sources(config)
    support = read_support(config, source, drawn_on, read)
    return config, source, replace(support, assumptions=(*support.assumptions, *told))


_Chosen = tuple[float | None, tuple[str, ...], SupportSet | None]
"""um per px, None for the usual; what to tell of it; and the support set at the usual resolution, if it was read."""


def _of_pictures(config: SegmentConfig, source: Source, drawn_on: Source, read: ReadAhead) -> _Chosen:
    """That which labelled pictures state, the coarsest of them; the slide's own where that is coarser."""
    usual, native = source.info.mpp, source.info.native_mpp or source.info.mpp
    assert usual is not None
    assert native is not None
    sets = read_pictures(config, source, drawn_on)
    stated = max((one.mpp for one in sets if one.mpp), default=None)
    mpp = usual if stated is None else max(native, stated)
    if not is_same_scale(mpp, usual):
        whose = "the patches" if mpp == stated else "the slide, which is coarser than that of the patches"
        return mpp, (f"Segmented at {mpp:.3g} um per px, the resolution of {whose}.",), None
    is_all = not config.more_support and (stated is None or is_same_scale(stated, usual))
    return None, (), sets[0] if is_all else None


def _of_drawn_objects(config: SegmentConfig, source: Source, drawn_on: Source, read: ReadAhead) -> _Chosen:
    """One that suits the objects that are drawn on slides."""
    usual, native = source.info.mpp, source.info.native_mpp or source.info.mpp
    assert usual is not None
    assert native is not None
    options = support_options(config)
    with annotated_slides(config, source, drawn_on) as files:
        # a slide that states no resolution is read at that of the source, whichever this is
        if any(slide.info.mpp_source == "--mpp" for _, slide in files):
            return None, (), None
        drawn = [
            (with_regions(read.ahead(uri, slide, options)), slide.info.native_mpp) for uri, slide in files
        ]
    sizes, support = drawn_diameters(
        drawn,
        options,
        usual,
        config.object_radius_um,
        lambda: read_support(config, source, drawn_on, read),
    )
    n_patches = region_patches(drawn, usual)
    # no patch is read finer than the slide that it was drawn on
    finest = max([native, *(of_slide for _, of_slide in drawn if of_slide)])
    side = largest_region(drawn)
    coarsest = min(PLAUSIBLE_MPP[1], side / SMALLEST_REGION_PX if side else math.inf)
    wished = mpp = fitting_mpp(sizes.values(), usual, finest, coarsest)
    most = max(MAX_PATCHES, sum(n_patches))
    while mpp is not None and mpp < usual and sum(region_patches(drawn, mpp)) > most:
        mpp = 2 * mpp if 2 * mpp < usual else None
    if mpp is not None:
        return mpp, (_of_objects(sizes, mpp),), None
    return None, () if wished is None else (_too_large(sizes, wished, most),), support


def drawn_diameters(
    drawn: Sequence[tuple[AnnotationFile, float | None]],
    options: SupportOptions,
    mpp: float,
    radius_um: float | None,
    read: Callable[[], SupportSet],
    least_points: int = 1,
) -> tuple[dict[str, float], SupportSet | None]:
    """Typical diameter of the objects of each class, um: of outlines, and of what points mark in classes without any.

    Parameters
    ----------
    drawn
        Annotations, and um per px of the slide that they were drawn on.
    mpp
        The usual working resolution.
    radius_um
        Of what points mark, if it is given.
    read
        Reads the support set at the usual resolution: only there it is seen how large what points mark is.
    least_points
        Points of a class from which on that is looked at.

    Returns
    -------
    The diameters by class, and the support set, if it was read
    """
    sizes, support = typical_diameters(drawn, options), None
    outlined = {name.casefold() for name in sizes}
    files = [of_file for of_file, _ in drawn]
    n_points = Counter(one.name for of_file in files for one in of_file.objects if one.rough == POINT)
    at_points = [name for name in classes_at_points(files, options) if name.casefold() not in outlined]
    if at_points and radius_um:
        return sizes | dict.fromkeys(at_points, 2 * radius_um), None
    enough = {name.casefold() for name in at_points if n_points[name] >= least_points}
    if enough and (not sizes or max(region_patches(drawn, mpp)) <= MAX_PATCHES):
        support = read()
        at_points_of = _diameters_at_points(support, mpp)
        sizes |= {name: size for name, size in at_points_of.items() if name.casefold() in enough}
    return sizes, support


def _diameters_at_points(support: SupportSet, mpp: float) -> dict[str, float]:
    """Typical diameter, um by class, at which what points mark stands out."""
    blobs = blobs_of_classes(support, None)
    return {support.class_names[value - 1]: 2 * mpp * one.radius for value, one in blobs.items()}


def fitting_mpp(
    diameters: Iterable[float], mpp: float, finest: float | None = None, coarsest: float = math.inf
) -> float | None:
    """Another working resolution, um per px, that suits objects of these typical diameters, um; None if `mpp` does.

    It is `mpp`, doubled as often as the largest objects need, but for what the smallest ones allow, up to ``coarsest``;
    or, where these are less than `TOO_SMALL_PX`, halved as often as they need, but for what the largest ones allow,
    down to the slide's own, ``finest``; None: never.

    >>> [fitting_mpp(of_classes, 0.5, 0.1) for of_classes in ([8], [90], [180], [180, 9], [180, 3])]
    [None, 1.0, 2.0, 1.0, None]
    >>> [fitting_mpp(of_classes, 0.5, 0.1) for of_classes in ([2.5], [1.5], [0.4], [40, 2], [3.5])]
    [0.25, 0.125, 0.1, None, None]
    >>> [fitting_mpp([5000], 0.5, coarsest=limit) for limit in (math.inf, 50, 1.9, 0.9)]
    [64.0, 32.0, 1.0, None]
    """
    sizes = sorted(diameters)
    if not sizes:
        return None
    needed = math.ceil(math.log2(sizes[-1] / (LARGEST_PX * mpp)))
    allowed = math.floor(math.log2(sizes[0] / (SMALLEST_PX * mpp)))
    if needed <= 0 and sizes[0] >= TOO_SMALL_PX * mpp:
        return None
    allowed_coarser = min(allowed, math.floor(math.log2(coarsest / mpp))) if coarsest < math.inf else allowed
    doublings = max(0, min(needed, allowed_coarser)) if needed > 0 else min(0, max(needed, allowed))
    found = max(mpp * 2.0**doublings, min(finest or mpp, mpp))
    return None if found == mpp else found


def _too_large(sizes: Mapping[str, float], wished: float, most: int) -> str:
    return (
        f"Labelled objects are only so far across: {_listed(sizes)}. They would be segmented at {wished:.3g} um per "
        f"px, but for regions that take more than {most} patches there: draw smaller ones, of "
        f"{PATCH_SIZE * wished:.3g} um."
    )


def _of_objects(sizes: Mapping[str, float], mpp: float) -> str:
    return (
        f"Segmented at {mpp:.3g} um per px, as labelled objects are typically so far across: {_listed(sizes)}. --mpp: "
        "another resolution."
    )


def _listed(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {size:.3g} um" for name, size in sizes.items())
