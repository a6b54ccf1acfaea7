"""Options for reading a support set. Light to import: a command line needs them before it reads a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fewscope.connectors.slide_options import NO_STACK, StackOptions
from fewscope.errors import ConfigError

CellPart = Literal["auto", "nucleus", "cell"]
GeoJsonOrigin = Literal["scan", "file"]

SLIDES_ONLY = (".xml", ".ndpa", ".roi")
"""Endings of annotations of other programs than QuPath, which are read on slides alone."""


@dataclass(frozen=True, slots=True)
class SupportOptions:
    """How a support set is to be read.

    Attributes
    ----------
    class_names
        Which classes to look for, in this order, where there are several; all by default. A single name for a support
        set of one class without a name only names it.
    cell_part
        Outline to take of QuPath's cells, which have one of the nucleus beside one of the cell. "auto": the nucleus
        for classes that mean nuclei, else the cell.
    geojson_origin
        Where the coordinates of GeoJSON on a slide start, if the slide states a scanned area. "scan": at its corner,
        as QuPath counts; "file": at the corner of the slide, as OpenSlide counts.
    stack
        Which plane and time point of labelled pictures that are stacks.
    mpp : float | None
        Resolution, um per px, to which labelled pictures of a finer one are resampled; None: to none.

    Raises
    ------
    ConfigError
        There is no such choice, or a class is named twice.
    """

    class_names: tuple[str, ...] = ()
    cell_part: CellPart = "auto"
    geojson_origin: GeoJsonOrigin = "scan"
    stack: StackOptions = NO_STACK
    mpp: float | None = None

    def __post_init__(self) -> None:
        for option, value, known in (
            ("--cell-part", self.cell_part, get_args(CellPart)),
            ("--geojson-origin", self.geojson_origin, get_args(GeoJsonOrigin)),
        ):
            if value not in known:
                raise ConfigError(f"{option} {value!r} is none of {', '.join(known)}")
        for i, name in enumerate(self.class_names):
            if not name.strip():
                raise ConfigError("--class has no name; give one, or leave it out for all classes")
            if name in self.class_names[:i]:
                raise ConfigError(f"--class {name} is given twice; name each class once")
