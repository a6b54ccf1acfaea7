"""What the report says of the area of a slide that was asked for, where it is not all of it."""

from __future__ import annotations

from dataclasses import dataclass

from fewscope.connectors.support.area_files import DrawnArea, OfClass
from fewscope.pipeline.report.formatting import short


@dataclass(frozen=True, slots=True)
class Outlines:
    """Polygons of one class: how many, and what they cover together."""

    class_name: str
    polygons: int
    area_px: float
    area_mm2: float | None


@dataclass(frozen=True, slots=True)
class AreaSection:
    """The area asked for, as ``report.json`` has it under ``aoi``.

    Attributes
    ----------
    file : str
        That it was drawn in.
    area_px, area_mm2 : float, float | None
        All of it, with what is no tissue; None where no resolution is known.
    used, excluded : tuple[Outlines, ...]
        The polygons that it is made of (none: the whole slide), and those left out of it.
    in_words : str
        All of that.
    """

    file: str
    area_px: float
    area_mm2: float | None
    used: tuple[Outlines, ...]
    excluded: tuple[Outlines, ...]
    in_words: str


def area_section(drawn: DrawnArea, mpp: float | None) -> AreaSection:
    """The section of an area; ``mpp``: um per px of the working grid."""

    def mm2(area_px: float) -> float | None:
        return area_px * mpp**2 / 1e6 if mpp else None

    def outlines(classes: tuple[OfClass, ...]) -> tuple[Outlines, ...]:
        return tuple(Outlines(c.class_name, c.n_polygons, c.area_px, mm2(c.area_px)) for c in classes)

    def in_words(area_px: float) -> str:
        return f"{short(area_px * mpp**2 / 1e6)} mm²" if mpp else f"{area_px:,.0f} px"

    area_px = float(drawn.geometry.area)
    return AreaSection(
        file=drawn.uri,
        area_px=area_px,
        area_mm2=mm2(area_px),
        used=outlines(drawn.used),
        excluded=outlines(drawn.excluded),
        in_words=drawn.described(in_words),
    )
