"""Slides of any number of channels, from any file that an `ImageReader` reads: fluorescence, multiplex.

Each channel is stretched to 8 bits once for the whole slide, by what a coarse level holds. Up to three channels become
RGB; more travel as they are.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from fewscope.connectors.colours import Colour
from fewscope.connectors.conventions import Ranges
from fewscope.connectors.pixels.composite import colours_in_words, default_colours, unique_names
from fewscope.connectors.pixels.levels import Block, Level, best_level, render, whole_blocks
from fewscope.connectors.pixels.stretch import Stretch, matched_ranges, stretch_channels
from fewscope.connectors.slide_options import Pages, SlideOptions, StackOptions
from fewscope.connectors.slides.channel_image import (
    MAX_CHANNELS,
    Channel,
    ChannelImage,
    DecodeError,
    ImageReader,
    choose_channels,
    picture_stretch,
)
from fewscope.connectors.slides.pyramid_source import (
    BLOCK,
    DARK_LEVEL,
    PyramidSource,
    grid_size,
)
from fewscope.connectors.slides.resolution import settle_mpp, working_scale
from fewscope.connectors.slides.sampling import chunk_side, levels_of, sample_of
from fewscope.connectors.slides.stacks import Chosen, FlatReader, choose, plane_in_words, time_point
from fewscope.connectors.source import MeasuredChannel, Pixels, SourceInfo, changed_since, window_bounds
from fewscope.errors import SourceError

log = logging.getLogger(__name__)

OpenImage = Callable[[str, int | None, Pages | None], ImageReader]
"""Opens one image of a file: its address, the series, counted from 1, and what its pages are if it does not say it."""

MOST_CODE = 65535
"""Largest number of 16 bits."""


@dataclass(frozen=True, slots=True)
class ChannelView:
    """How stored values become the pixels of a source: picklable.

    Attributes
    ----------
    open_image
        Opens the file; a function of a module.
    series
        Image of the file, counted from 1; None: the first.
    channels
        Indices in the file.
    stretch
        Of these channels.
    pages
        What the pages are, if the file does not say it.
    chosen
        Plane and time point.
    """

    open_image: OpenImage
    series: int | None
    channels: tuple[int, ...]
    stretch: Stretch
    pages: Pages | None = None
    chosen: Chosen = Chosen()  # noqa: RUF009  # frozen


class ChannelSource(PyramidSource[Level]):
    """A slide of channels on its working grid. Made by `ChannelSource.open`; see `connectors.source.Source`."""

    def __init__(self, info: SourceInfo, view: ChannelView, reader: ImageReader) -> None:
        super().__init__(info, levels_of(reader.image))
        self._view, self._reader, self._closed = view, reader, False

    @classmethod
    def open(
        cls,
        uri: str,
        open_image: OpenImage,
        options: SlideOptions,
        *,
        mpp: float | None = None,
        slide_mpp: float | None = None,
    ) -> ChannelSource:
        """Open an image of a file; parameters and errors as in `connectors.open.open_source`."""
        reader = open_image(uri, options.series, options.stack.pages)
        try:
            return cls._open(uri, open_image, options, reader, mpp, slide_mpp)
        except BaseException:
            reader.close()
            raise

    @classmethod
    def _open(
        cls,
        uri: str,
        open_image: OpenImage,
        options: SlideOptions,
        stack: ImageReader,
        mpp: float | None,
        slide_mpp: float | None,
    ) -> ChannelSource:
        image = stack.image
        _check(uri, image)
        chosen = choose_channels(uri, image, options.channels)
        flat, assumed = choose(uri, stack, chosen, options.stack)
        reader, plane = FlatReader(stack, flat), plane_in_words(image, flat)
        channels = [image.channels[i] for i in chosen]
        is_picture = image.is_rgb and chosen == (0, 1, 2)
        sample = sample_of(reader, chosen)
        stretch = picture_stretch(image) if is_picture and options.scale is None else None
        stretch = stretch or stretch_channels(sample, options.scale)
        grid = _working_grid(uri, image, mpp, slide_mpp)
        height, width = image.shapes[0]
        rows, cols = grid_size(uri, height, width, grid.scale)
        several = len(chosen) > 3
        info = SourceInfo(
            uri=uri,
            kind="slide",
            height=rows,
            width=cols,
            transform=Affine.scale(grid.scale),
            mpp=grid.mpp,
            mpp_source=grid.mpp_source,
            native_mpp=grid.native_mpp,
            native_height=height,
            native_width=width,
            vendor=image.vendor,
            crs=None,
            background=(255 if is_picture and not _is_dark(sample, stretch) else 0,) * max(3, len(chosen)),
            fingerprint=reader.fingerprint,
            bands=f"{_words(channels, is_picture)}; {stretch.words}",
            appearance=_appearance(chosen, stretch),
            assumptions=image.assumptions + assumed + grid.assumptions + _assumed(uri, stretch, options),
            channels=tuple(channel.name for channel in channels) if several else (),
            colours=colours_of(channels) if several else (),
            measured=_measured(channels, image.dtype, sample),
            ranges=() if options.scale is not None or stretch.is_identity else stretch.ranges,
            is_field=image.is_field,
            plane=plane,
            time=time_point(image, flat),
            z=flat.plane if plane and isinstance(flat.plane, int) else None,
        )
        of = "".join(f"{text}, " for text in (plane, info.time and f"time point {info.time.number}") if text)
        at = f"{info.mpp:.4g} um per px ({info.mpp_source})" if info.mpp else "an unknown resolution"
        log.info(
            "%s: %s, %s%d x %d px, working on %d x %d px at %s; %s",
            uri, image.vendor, of, width, height, info.width, info.height, at, info.bands,
        )  # fmt: skip
        view = ChannelView(open_image, options.series, chosen, stretch, options.stack.pages, flat)
        return cls(info, view, reader)

    @classmethod
    def open_whole(
        cls, uri: str, open_image: OpenImage, *, as_is: bool = False, stack: StackOptions | None = None
    ) -> ChannelSource:
        """Open an image on its own pixels, whatever resolution it states, or none.

        Parameters
        ----------
        as_is
            Of 8 bits, pixels keep their values, also those of channels.
        stack
            Which plane and time point; of an image of a single one, that one.
        """
        stack = stack or StackOptions()
        reader = open_image(uri, None, stack.pages)
        try:
            plane = stack.plane if reader.image.n_planes > 1 else None
            stack = replace(stack, plane=plane, time=stack.time if reader.image.n_times > 1 else None)
            is_bytes = reader.image.dtype == np.uint8
            options = SlideOptions(scale=(0.0, 255.0) if as_is and is_bytes else None, stack=stack)
            stated = reader.image.mpp is not None or reader.image.is_field
            source = cls._open(uri, open_image, options, reader, None if stated else 1.0, None)
            info = source.info
            if (info.height, info.width) == (info.native_height, info.native_width):
                return source
            if info.z is not None:  # found once
                options = replace(options, stack=replace(stack, plane=info.z + 1))
            return cls._open(uri, open_image, options, reader, info.native_mpp, None)
        except BaseException:
            reader.close()
            raise

    def matched(self, ranges: Ranges) -> ChannelSource:
        """This source, shown in the ranges of another one of the same exposure; see `stretch.matched_ranges`.

        It shares the open file. Itself if the values stay as they are, were asked for, or its own ranges stay.
        """
        info, view = self._info, self._view
        found = matched_ranges(info.ranges, ranges)
        if not info.ranges or found == info.ranges:
            return self
        lows, highs = zip(*found, strict=True)
        shown = "; ".join(f"{low:.4g} to {high:.4g}" for low, high in found)
        stretch = Stretch(lows, highs, f"the range of the labelled pictures ({shown})")
        text = (
            f"{info.uri}: was stretched to 8 bits as the labelled pictures were, so that dim or empty places stay so; "
            "--scale MIN MAX gives another range."
        )
        info = replace(
            info,
            ranges=found,
            bands=f"{info.bands.partition(';')[0]}; {stretch.words}",
            appearance=_appearance(view.channels, stretch),
            assumptions=(*(one for one in info.assumptions if one != _own_values(info.uri)), text),
        )
        return ChannelSource(info, replace(view, stretch=stretch), self._reader)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._info, self._view)

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""
        self._closed = True
        self._reader.close()

    def read_measured(self, window: Window) -> NDArray[np.uint16]:
        """See `connectors.source.MeasurableSource`."""
        info = self._info
        steps = info.transform.e, info.transform.a
        level = best_level(self._levels, min(steps))
        grid, nothing = (info.height, info.width), (0,) * len(info.measured)
        bounds = window_bounds(window)
        return render(bounds, grid, steps, level, self._read_codes, nothing, dtype=np.uint16)[0]

    def _read_level(self, level: Level, bounds: Block) -> Iterator[tuple[Block, Pixels]]:
        """Pixels of a level, piece by piece, in whole blocks."""
        for block, values in self._stored(level, bounds):
            if values is None:
                shape = block[1] - block[0], block[3] - block[2]
                image, valid = np.empty((*shape, self._info.n_channels), np.uint8), np.zeros(shape, np.bool_)
            else:
                image, valid = self._view.stretch(values), _valid(values)
            if not valid.all():
                image[~valid] = self._info.background
            yield block, (image, valid)

    def _read_codes(
        self, level: Level, bounds: Block
    ) -> Iterator[tuple[Block, tuple[NDArray[np.uint16], NDArray[np.bool_]]]]:
        """Stored values of a level as 16 bits, piece by piece, in whole blocks."""
        measured = self._info.measured
        for block, values in self._stored(level, bounds):
            shape = block[1] - block[0], block[3] - block[2]
            codes, valid = np.zeros((*shape, len(measured)), np.uint16), np.zeros(shape, np.bool_)
            if values is not None:
                valid = _valid(values)
                for i, (one, channel) in enumerate(zip(measured, values, strict=True)):
                    codes[..., i] = _codes(channel, one)
                codes[~valid] = 0
            yield block, (codes, valid)

    def _stored(self, level: Level, bounds: Block) -> Iterator[tuple[Block, NDArray[np.generic] | None]]:
        """Stored values (n_channels, h, w) of a level, in whole blocks; None of those that fail to decode."""
        if self._closed:
            raise ValueError(f"{self._info.uri}: is closed")
        channels = self._view.channels
        side = chunk_side(self._reader.image, len(channels))
        for chunk in whole_blocks(*bounds, level, (BLOCK, BLOCK), (side, side)):
            try:
                yield chunk, self._reader.read(level.index, channels, chunk)
                continue
            except DecodeError as error:
                log.debug("%s: level %d at %s: %s", self._info.uri, level.index, chunk, error)
            for block in whole_blocks(*chunk, level, (BLOCK, BLOCK), (BLOCK, BLOCK)):
                try:
                    values = self._reader.read(level.index, channels, block)
                except DecodeError:
                    with self._lock:
                        self._failed.add((level, block))
                    yield block, None
                else:
                    yield block, values


def _valid(values: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Pixels (h, w) all of whose values (n_channels, h, w) are numbers."""
    if values.dtype.kind != "f":
        return np.ones(values.shape[1:], np.bool_)
    finite: NDArray[np.bool_] = np.isfinite(values).all(0)
    return finite


def _codes(values: NDArray[Any], channel: MeasuredChannel) -> NDArray[Any]:
    """Stored values (h, w) of a channel as whole numbers of 16 bits; one that is no number becomes 0."""
    if values.dtype.kind in "bu" and values.dtype.itemsize <= 2:
        return values
    with np.errstate(invalid="ignore"):
        found = np.rint((values.astype(np.float64) - channel.low) / channel.step)
    return np.clip(np.nan_to_num(found), 0, MOST_CODE)


@dataclass(frozen=True, slots=True)
class _Grid:
    """The working grid of an image: px of level 0 per px, and um per px of both, None if unknown."""

    scale: float
    mpp: float | None
    native_mpp: float | None
    mpp_source: str
    assumptions: tuple[str, ...] = ()


def _working_grid(uri: str, image: ChannelImage, mpp: float | None, slide_mpp: float | None) -> _Grid:
    """The grid that is asked for; of a picture of a field of view, its own pixels unless ``mpp`` asks for another."""
    if image.is_field and image.mpp is None and mpp is None and slide_mpp is None:
        unknown = (
            f"{uri}: does not state its resolution; it was analysed as it is, and sizes are in px. --slide-mpp gives "
            "um per px."
        )
        return _Grid(1.0, None, None, "not stated", (unknown,))
    native, origin = settle_mpp(uri, image.mpp, mpp, slide_mpp)
    steps = [level.row_step for level in levels_of(image) if level.row_step == level.col_step]
    scale, working = working_scale(uri, native, native if image.is_field and mpp is None else mpp, steps)
    return _Grid(scale, working, native, origin)


def colours_of(channels: Sequence[Channel]) -> tuple[Colour, ...]:
    """RGB in which channels are shown: the file's, where it has a colour of its own for each; else the default ones."""
    stated = [channel.colour for channel in channels]
    known = [colour for colour in stated if colour is not None]
    if len(known) == len(stated) and len(set(known)) > 1:
        return tuple(known)
    return default_colours(len(channels))


def _check(uri: str, image: ChannelImage) -> None:
    if image.dtype.kind not in "buif":
        raise SourceError(f"{uri}: holds values of type {image.dtype}, expected whole numbers or floats")
    if len(image.channels) > MAX_CHANNELS:
        raise SourceError(
            f"{uri}: states {len(image.channels)} channels, at most {MAX_CHANNELS} are read; save those to segment"
        )


def _is_dark(sample: NDArray[np.generic], stretch: Stretch) -> bool:
    """Whether the background is black: by the median of the brightest channel."""
    if not sample.size:
        return True
    return float(np.median(stretch(sample[:, None]).max(axis=2))) < DARK_LEVEL


def _words(channels: Sequence[Channel], is_picture: bool) -> str:
    """The channels, and how they are shown."""
    names = [channel.name for channel in channels]
    if is_picture:
        return "red, green and blue"
    if len(channels) == 1:
        return f"channel {names[0]} as grey"
    if len(channels) == 2:
        return f"channels {names[0]} (magenta) and {names[1]} (green)"
    if len(channels) == 3:
        return f"channels {names[0]}, {names[1]}, {names[2]} as red, green, blue"
    return f"{len(channels)} channels, shown as {colours_in_words(names, colours_of(channels))}"


def _assumed(uri: str, stretch: Stretch, options: SlideOptions) -> tuple[str, ...]:
    """That the channels were stretched by what they hold."""
    if options.scale is not None or stretch.is_identity:
        return ()
    return (_own_values(uri),)


def _own_values(uri: str) -> str:
    return f"{uri}: each channel was stretched to 8 bits by its own values; --scale MIN MAX gives one range to all."


def _measured(
    channels: Sequence[Channel], dtype: np.dtype[Any], sample: NDArray[np.generic]
) -> tuple[MeasuredChannel, ...]:
    """How the stored values of channels become 16 bits: whole numbers of as many as they are, others in equal steps.

    The steps span six times the range of a sample, a sixth of it below.
    """
    names = unique_names([channel.name for channel in channels])
    if dtype.kind in "bui" and dtype.itemsize <= 2:
        low = float(np.iinfo(dtype).min) if dtype.kind == "i" else 0.0
        return tuple(MeasuredChannel(name, low) for name in names)
    found = []
    for name, values in zip(names, sample.astype(np.float64), strict=True):
        least, most = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        width = (most - least) or 1.0
        found.append(MeasuredChannel(name, least - width, 6 * width / MOST_CODE))
    return tuple(found)


def _appearance(channels: Sequence[int], stretch: Stretch) -> str:
    return hashlib.sha256(repr((tuple(channels), stretch.low, stretch.high)).encode()).hexdigest()


def _reopen(info: SourceInfo, view: ChannelView) -> ChannelSource:
    """Reopen the source in another process; SourceError if the file has changed."""
    reader = FlatReader(view.open_image(info.uri, view.series, view.pages), view.chosen)
    if changed := changed_since(info, reader.fingerprint):
        reader.close()
        raise changed
    return ChannelSource(info, view, reader)
