"""Options for stains and for what counts as positive. Light to import: a command line needs them first."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fewscope.errors import ConfigError

STAIN_SETS: dict[str, tuple[str, str]] = {"h-dab": ("hematoxylin", "DAB"), "h-e": ("hematoxylin", "eosin")}
"""What ``--stains`` names, and the stains."""

MOST_GRADES = 3


@dataclass(frozen=True, slots=True)
class Positive:
    """From which mean of a channel an object counts as positive.

    Attributes
    ----------
    channel : str
        Name of a stain or channel.
    thresholds : tuple[float, ...]
        One value, or up to three: from which it is 1+, 2+, 3+. Ascending.

    Raises
    ------
    ConfigError
        The thresholds do not ascend, or there are too many or none.
    """

    channel: str
    thresholds: tuple[float, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.thresholds, self.thresholds[1:], strict=False))
        finite = all(math.isfinite(value) for value in self.thresholds)
        if not (1 <= len(self.thresholds) <= MOST_GRADES and ascending and finite and self.channel):
            raise ConfigError(
                f"--positive {self}: give a channel and one to three ascending numbers, such as DAB=0.2 or "
                "DAB=0.2,0.4,0.6"
            )

    def __str__(self) -> str:
        return f"{self.channel}={','.join(f'{value:g}' for value in self.thresholds)}"

    @classmethod
    def parse(cls, text: str) -> Positive:
        """``NAME=VALUE`` or ``NAME=VALUE,VALUE,VALUE``.

        Examples
        --------
        >>> Positive.parse("DAB=0.2,0.4,0.6").thresholds
        (0.2, 0.4, 0.6)
        """
        channel, _, values = text.rpartition("=")
        try:
            return cls(channel.strip(), tuple(float(value) for value in values.split(",")))
        except ValueError:
            raise ConfigError(
                f"--positive {text}: give a channel and one to three ascending numbers, such as DAB=0.2 or "
                "CD3=1200"
            ) from None


DAB_GRADES = Positive("DAB", (0.2, 0.4, 0.6))
"""What counts as positive where nothing is said: the optical densities from which QuPath grades nuclei by default."""


@dataclass(frozen=True, slots=True)
class StainOptions:
    """What is measured of a slide's stains, and what counts as positive.

    Attributes
    ----------
    stains : str | None
        One of `STAIN_SETS`; None: no stain is measured.
    positive : tuple[Positive, ...]
        For one channel or several.

    Raises
    ------
    ConfigError
        There are no such stains, or a channel is named twice.
    """

    stains: str | None = None
    positive: tuple[Positive, ...] = ()

    def __post_init__(self) -> None:
        if self.stains is not None and self.stains not in STAIN_SETS:
            raise ConfigError(
                f"--stains {self.stains} is none of {', '.join(STAIN_SETS)}; leave it out for none"
            )
        names = [one.channel for one in self.positive]
        if len(set(names)) < len(names):
            raise ConfigError(
                f"--positive names {next(n for n in names if names.count(n) > 1)} twice; give its thresholds once, "
                "such as DAB=0.2,0.4,0.6"
            )

    @property
    def grades(self) -> tuple[Positive, ...]:
        """What counts as positive; of slides with DAB, DAB unless something else is asked for."""
        if not self.positive and self.stains == "h-dab":
            return (DAB_GRADES,)
        return self.positive
