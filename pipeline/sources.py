"""Opens what a run reads: the source, and the image that the support set was drawn on."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
import shapely

from fewscope.connectors.conventions import Ranges
from fewscope.connectors.open import open_source, stack_size
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slide_folders import drawn_in
from fewscope.connectors.slide_options import NO_STACK
from fewscope.connectors.source import Source, SourceInfo
from fewscope.connectors.storage.library_errors import library_errors
from fewscope.connectors.support.annotations import AnnotationReader, load_annotations, read_annotations
from fewscope.connectors.support.area_files import AreaOptions, DrawnArea, read_area
from fewscope.connectors.support.joined_sets import check_alike
from fewscope.connectors.support.load import is_annotations, load_support
from fewscope.connectors.support.several import load_several
from fewscope.connectors.support.support_set import SupportSet
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import ConfigError, SourceError, SupportError
from fewscope.pipeline.config import SegmentConfig
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.tiling.area import Area
from fewscope.pipeline.tiling.foreground import Foreground

log = logging.getLogger(__name__)

SAME_GROUND = 0.1
"""Relative difference of the sides of two rasters' pixels up to which they are read as they are."""


def open_sources(config: SegmentConfig) -> tuple[Source, Source]:
    """Open the source, and the image that the support set was drawn on, which may be the same."""
    source = _open(config, config.source)
    if not any(map(is_annotations, config.supports)):
        return source, source
    elsewhere = config.support_slide not in (None, config.source)
    if config.raster is None:
        at_another_time = config.support_time not in (None, config.time)
        if elsewhere or at_another_time:
            drawn_on = open_drawn_on(config, config.support_slide or config.source, source.info)
            _check_channels(config, source.info, drawn_on.info, str(config.support_slide))
            return source, drawn_on
        return source, source
    view = config.raster.view
    if elsewhere:
        return source, _open_raster_drawn_on(config.support_slide or config.source, view, source.info)
    # patches may lie outside the area to segment
    return source, _open(
        config, config.source, replace(view, aoi=None, bbox=None)
    ) if view.aoi or view.bbox else source


def _open_raster_drawn_on(uri: str, asked: RasterOptions, info: SourceInfo) -> Source:
    """Open the raster that annotations were drawn on, in its own CRS, with pixels as large on the ground as those of
    the source, whose metadata are ``info``: objects have as many of them.

    Raises
    ------
    SourceError
        It cannot be opened, or its own pixels are many times larger.
    """
    from fewscope.connectors.rasters.layout import FINEST_ENLARGEMENT

    view = replace(asked, aoi=None, bbox=None, scenes=(), crs=None)
    opened = open_source(uri, raster=replace(view, res=None))
    own, other = pixel_m2(opened.info), pixel_m2(info)
    is_like_asked = view.res is None or opened.info.crs != info.crs  # --res is in units of the source's CRS
    if own is None or other is None or not is_like_asked:
        if view.res is None:
            return opened
        opened.close()
        return open_source(uri, raster=view)
    ratio = math.sqrt(other / own)
    if abs(ratio - 1) <= SAME_GROUND:
        return opened
    opened.close()
    sides = f"pixels of {math.sqrt(own):.3g} m, and {info.uri} is read in such of {math.sqrt(other):.3g} m"
    if ratio < 1 / FINEST_ENLARGEMENT:
        raise SourceError(
            f"{uri}: has {sides}: draw on a raster whose pixels are at most {FINEST_ENLARGEMENT:g} times as large, or "
            "give a coarser --res"
        )
    log.info("%s: has %s; so it is, too", uri, sides)
    return open_source(
        uri, raster=replace(view, res=math.sqrt(abs(opened.info.transform.determinant)) * ratio)
    )


def open_drawn_on(config: SegmentConfig, uri: str, info: SourceInfo) -> Source:
    """Open the slide that annotations were drawn on, at the resolution of the source, whose metadata are ``info``.

    One of a single time point, or plane, is read whichever is asked for of the source. One that does not state its
    resolution has the one that was given for the source, if any was.
    """
    options = config.support_slide_options
    if options.stack != NO_STACK:
        size = stack_size(uri, options)
        stack = replace(
            options.stack,
            time=options.stack.time if size.n_times > 1 else None,
            plane=options.stack.plane if size.n_planes > 1 else None,
        )
        options = replace(options, stack=stack)
    given = {config.support_slide: config.support_slide_mpp, config.source: config.slide_mpp}.get(uri)
    opened = open_source(uri, mpp=info.mpp, slide_mpp=given, slide=options)
    if opened.info.mpp_source != "--mpp" or config.slide_mpp is None:
        return opened
    opened.close()
    return open_source(uri, mpp=info.mpp, slide_mpp=config.slide_mpp, slide=options)


def read_support(
    config: SegmentConfig, source: Source, drawn_on: Source, read: AnnotationReader = read_annotations
) -> SupportSet:
    """The support set of a run: a file, a folder of labelled pictures, or one of slides with annotations beside them.

    Several of these are read as one, see `load_several`.

    Parameters
    ----------
    source, drawn_on
        From `open_sources`.
    read
        Reads files of annotations.
    """
    options = replace(support_options(config), mpp=source.info.mpp)
    if not config.more_support:
        return _read_one(config, config.support, source, drawn_on, options, read)
    drawn = [uri for uri in config.supports if is_annotations(uri)]
    every = replace(options, class_names=())
    sets = [
        (uri, _read_one(config, uri, source, drawn_on, every, read))
        for uri in config.supports
        if uri not in drawn
    ]
    if ranges := next((one.ranges for _, one in sets if one.ranges), ()):
        drawn_on = shown_like(drawn_on, ranges)
    check_alike(sets, source.info.mpp, None, config.source)
    return load_several([(uri, drawn_on) for uri in drawn], options, sets, read)


def support_options(config: SegmentConfig) -> SupportOptions:
    """How the support set of a run is read."""
    return SupportOptions(
        config.class_names,
        config.cell_part,
        config.geojson_origin,
        config.support_slide_options.stack,
    )


def labelled_pictures(config: SegmentConfig) -> list[str]:
    """Those of a run's support sets that are folders of labelled pictures, and no annotations."""
    is_slide = config.raster is None
    return [uri for uri in config.supports if not is_annotations(uri) and not (is_slide and drawn_in(uri))]


def read_pictures(config: SegmentConfig, source: Source, drawn_on: Source) -> list[SupportSet]:
    """A run's folders of labelled pictures, each at the resolution that it states.

    Parameters
    ----------
    source, drawn_on
        From `open_sources`.
    """
    options = support_options(config)
    if config.more_support:
        options = replace(options, class_names=())
    return [
        _read_one(config, uri, source, drawn_on, options, read_annotations)
        for uri in labelled_pictures(config)
    ]


@contextmanager
def annotated_slides(
    config: SegmentConfig, source: Source, drawn_on: Source
) -> Iterator[list[tuple[str, Source]]]:
    """Each file of annotations among a run's support sets, and the slide or raster that it was drawn on.

    Parameters
    ----------
    source, drawn_on
        From `open_sources`.
    """
    with ExitStack() as stack:
        files: list[tuple[str, Source]] = []
        for uri in config.supports:
            if is_annotations(uri):
                files.append((uri, drawn_on))
            elif config.raster is None:
                files += stack.enter_context(_drawn_in_folder(config, uri, source))
        yield files


@contextmanager
def _drawn_in_folder(config: SegmentConfig, uri: str, source: Source) -> Iterator[list[tuple[str, Source]]]:
    """Annotations that lie beside slides in a folder, with these slides."""
    with ExitStack() as stack:
        files: list[tuple[str, Source]] = []
        for path, slide in drawn_in(uri):
            one = open_drawn_on(config, slide, source.info)
            stack.callback(one.close)
            _check_channels(config, source.info, one.info, slide)
            files.append((path, shown_like(one, files[0][1].info.ranges) if files else one))
        yield files


def _read_one(
    config: SegmentConfig,
    uri: str,
    source: Source,
    drawn_on: Source,
    options: SupportOptions,
    read: AnnotationReader,
) -> SupportSet:
    """One of the support sets of a run."""
    if is_annotations(uri):
        with library_errors(SupportError, uri):
            return load_annotations(uri, drawn_on, options, read)
    if config.raster is None:
        with _drawn_in_folder(config, uri, source) as files:
            if files:
                return load_several(files, options, read=read)
    return load_support(
        uri,
        source=drawn_on,
        class_names=options.class_names,
        cell_part=options.cell_part,
        geojson_origin=options.geojson_origin,
        stack=options.stack,
        mpp=options.mpp,
    )


def read_area_of(config: SegmentConfig, info: SourceInfo, class_names: Sequence[str]) -> DrawnArea | None:
    """The area of a slide to segment; None where it is all.

    Parameters
    ----------
    class_names
        Classes of the support set.

    Raises
    ------
    SourceError, ConfigError
        See `read_area`; or what outlines the area is, in the same file, a class of objects that nobody asked for.
    """
    if config.aoi is None:
        return None
    asked = AreaOptions(config.aoi, config.aoi_classes, config.aoi_excluded, config.geojson_origin)
    area = read_area(asked, info, class_names)
    both = [one.class_name for one in area.used if one.class_name in class_names]
    if both and config.aoi in config.supports and not config.class_names:
        objects = [name for name in class_names if name not in both]
        raise ConfigError(
            f"{config.aoi}: {', '.join(both)} outlines the area, and would be looked for as well; say what to look "
            f"for, such as --class '{objects[0] if objects else both[0]}'"
        )

    def in_words(area_px: float) -> str:
        return f"{area_px * info.mpp**2 / 1e6:.3g} mm2" if info.mpp else f"{area_px:,.0f} px"

    log.info("%s: the area of %s is segmented: %s", config.source, area.uri, area.described(in_words))
    return area


def foreground_in(area: DrawnArea, foreground: Foreground, uri: str, noun: str) -> Foreground:
    """The foreground of a source in an area of it.

    Parameters
    ----------
    uri, noun
        Of the source, for errors.

    Raises
    ------
    SourceError
        There is none.
    """
    limited = replace(foreground, area=Area(area.geometry, foreground.shape))
    if limited.analysed().any():
        return limited
    if noun == "slide":
        raise SourceError(
            f"{uri}: no tissue was found in the area of {area.uri}; was it drawn on this slide? --foreground all "
            "segments it nevertheless"
        )
    raise SourceError(
        f"{uri}: no pixel in the area of {area.uri} could be read; was it drawn on this {noun}?"
    )


def shown_like(source: Source, ranges: Ranges) -> Source:
    """The source in the ranges of values of the labelled pictures, where it is stretched and of the same exposure."""
    from fewscope.connectors.slides.channel_source import ChannelSource

    return source.matched(ranges) if isinstance(source, ChannelSource) else source


def check_index_bands(config: SegmentConfig) -> None:
    """Check that the raster has the bands of the water indices, if any are asked for.

    Raises
    ------
    SourceError
        It does not.
    """
    if config.raster is not None and config.raster.index_bands is not None:
        open_source(config.source, raster=config.raster.index_bands.view(config.raster.view)).close()


def ground_of(info: SourceInfo) -> GroundMeasure:
    """How to measure on a raster's ground."""
    return GroundMeasure.of(info.crs, info.transform, info.height, info.width)


def pixel_m2(info: SourceInfo) -> float | None:
    """Mean area of a raster's pixels on the ground; None for slides, and where no CRS is stated."""
    if info.kind == "slide":
        return None
    corners = [(0, 0), (info.width, 0), (info.width, info.height), (0, info.height)]
    whole = shapely.Polygon([info.transform @ corner for corner in corners])
    area = float(ground_of(info).area_m2(np.array([whole]))[0]) / (info.height * info.width)
    return area if np.isfinite(area) else None


def _check_channels(config: SegmentConfig, info: SourceInfo, drawn_on: SourceInfo, uri: str) -> None:
    """Raise SourceError if the support set was drawn on other channels than those of the source."""
    if info.channels != drawn_on.channels:
        own, other = (", ".join(one.channels) or "red, green, blue" for one in (info, drawn_on))
        raise SourceError(
            f"{config.source}: has the channels {own}, but {uri}, which the support set was drawn on, "
            f"{other}; give --channels that both have"
        )


def _open(config: SegmentConfig, uri: str, view: RasterOptions | None = None) -> Source:
    if config.raster is None:
        return open_source(uri, mpp=config.mpp, slide_mpp=config.slide_mpp, slide=config.slide)
    return open_source(uri, raster=view or config.raster.view)
