"""Colours of classes: the same in the result store, in QuPath and in the report."""

from __future__ import annotations

Colour = tuple[int, int, int]

OBJECT_COLOUR: Colour = (230, 85, 13)
"""Of class 1."""

_OTHERS: tuple[Colour, ...] = (
    (0, 114, 178),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (60, 60, 60),
)
"""Of Okabe and Ito's palette, which colour-blind readers can distinguish; without the orange, which is close to class
1."""


def class_colour(value: int) -> Colour:
    """RGB of class ``value`` = 1, 2...; from the eighth class on, darker shades of the first seven.

    >>> class_colour(1), class_colour(2), class_colour(8)
    ((230, 85, 13), (0, 114, 178), (149, 55, 8))
    """
    colours = (OBJECT_COLOUR, *_OTHERS)
    shade = 0.65 ** ((value - 1) // len(colours))
    red, green, blue = colours[(value - 1) % len(colours)]
    return int(red * shade), int(green * shade), int(blue * shade)
