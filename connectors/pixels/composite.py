"""Pictures of many channels for people: each channel in its colour, added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewscope.connectors.colours import Colour
from fewscope.connectors.source import SourceInfo

CHANNEL_COLOURS: tuple[tuple[str, Colour], ...] = (
    ("blue", (0, 0, 255)),
    ("green", (0, 255, 0)),
    ("red", (255, 0, 0)),
    ("cyan", (0, 255, 255)),
    ("magenta", (255, 0, 255)),
    ("yellow", (255, 255, 0)),
    ("grey", (160, 160, 160)),
)
"""Of the first channels where the file states none: the nuclear stain is usually the first, and blue. Further channels
are not shown, as no eye separates more."""

BLACK: Colour = (0, 0, 0)
PRIMARIES: tuple[Colour, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


def composite(image: NDArray[np.uint8], info: SourceInfo) -> NDArray[np.uint8]:
    """RGB picture, uint8 (..., 3), of pixels of a source, uint8 (..., C); RGB pixels stay as they are."""
    return image if not info.channels else blend(image, info.colours)


def blend(image: NDArray[np.uint8], colours: Sequence[Colour]) -> NDArray[np.uint8]:
    """Channels, uint8 (..., C), added up in their colours, clipped: uint8 (..., 3).

    >>> blend(np.array([[255, 0, 200], [128, 255, 0]], np.uint8), [(0, 0, 255), (255, 0, 255), (0, 0, 0)]).tolist()
    [[0, 0, 255], [255, 0, 255]]
    """
    shown = [c for c, colour in enumerate(colours) if any(colour)]
    weights = np.array([colours[c] for c in shown], np.float32).reshape(-1, 3) / 255
    mixed = image[..., shown].astype(np.float32) @ weights
    return np.rint(mixed.clip(0, 255)).astype(np.uint8)


def default_colours(n_channels: int) -> tuple[Colour, ...]:
    """Colours of channels whose file states none."""
    known = [colour for _, colour in CHANNEL_COLOURS[:n_channels]]
    return tuple(known + [BLACK] * (n_channels - len(known)))


def colours_in_words(channels: Sequence[str], colours: Sequence[Colour]) -> str:
    """Which channel is shown in which colour.

    >>> colours_in_words(["DAPI", "CD3", "CD8"], [(0, 0, 255), (1, 2, 3), (0, 0, 0)])
    'DAPI blue, CD3 #010203; CD8 not shown'
    """
    names = {colour: name for name, colour in CHANNEL_COLOURS}
    shown = [
        f"{channel} {names.get(colour, f'#{bytes(colour).hex()}')}"
        for channel, colour in zip(channels, colours, strict=True)
        if any(colour)
    ]
    hidden = [channel for channel, colour in zip(channels, colours, strict=True) if not any(colour)]
    return ", ".join(shown) + (f"; {', '.join(hidden)} not shown" if hidden else "")


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of channels, with a number after those that occur more than once, or are empty.

    >>> unique_names(["DAPI", "CD3", "DAPI", ""])
    ('DAPI (1)', 'CD3', 'DAPI (3)', 'channel 4')
    """
    return tuple(
        f"channel {i}" if not name else name if list(names).count(name) == 1 else f"{name} ({i})"
        for i, name in enumerate(names, start=1)
    )
