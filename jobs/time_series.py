"""The time points of the slides and pictures of a command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fewscope.connectors.open import stack_size
from fewscope.connectors.slide_options import SlideOptions, StackOptions
from fewscope.errors import ConfigError, SourceError

FIELD_PIXELS = 2**24
"""Of a time point: a series of pictures up to 4096 px a side is analysed whole; one of slides takes hours for each."""


def time_points(args: argparse.Namespace, slides: Sequence[str]) -> list[tuple[int | None, ...]]:
    """For each slide, the time points that are asked for, counted from 1; (None,) of one that is no series.

    A slide that cannot be opened is as one without time points: its run says what is wrong with it.

    Raises
    ------
    ConfigError
        A series is large, and it is not said what to analyse of it.
    """
    if isinstance(args.time, int):
        return [(args.time,)] * len(slides)
    options = SlideOptions(args.channels, args.series, stack=StackOptions(pages=args.pages))
    found: list[tuple[int | None, ...]] = []
    for slide in slides:
        try:
            size = stack_size(slide, options)
        except SourceError:
            found.append((None,))
            continue
        if size.n_times > 1 and args.time is None and size.n_pixels > FIELD_PIXELS:
            raise ConfigError(
                f"{slide}: is a series of {size.n_times} time points of {size.n_pixels / 1e6:.0f} megapixels; give "
                f"one of them, from 1 to {size.n_times}, with --time, or --time all"
            )
        found.append(tuple(range(1, size.n_times + 1)) if size.n_times > 1 else (None,))
    return found
