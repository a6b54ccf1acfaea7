"""The working resolution of a page: which ones there are, which one suits what is drawn, and which one was chosen.

A resolution is counted as a factor: so many times coarser than the one that the page starts with, a power of two, below
1 where it is finer; or that of the slide itself, where it is finer than all of these. What suits is the rule of a job
without ``--mpp`` (`pipeline.working_resolution`).
"""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import shapely
from shapely.geometry.base import BaseGeometry

from fewscope.connectors.conventions import PATCH_SIZE
from fewscope.connectors.source import PLAUSIBLE_MPP, SourceInfo
from fewscope.connectors.storage.atomic import write_atomic
from fewscope.connectors.storage.filesystem import open_filesystem
from fewscope.connectors.support.annotation_files import AnnotationFile
from fewscope.connectors.support.object_sizes import largest_region, typical_diameters
from fewscope.connectors.support.sparse import starts
from fewscope.connectors.support.support_set import MAX_PATCHES, SupportSet
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import FewscopeError
from fewscope.pipeline.working_resolution import (
    LARGEST_PX,
    SMALLEST_PX,
    SMALLEST_REGION_PX,
    drawn_diameters,
    fitting_mpp,
)

log = logging.getLogger(__name__)

FILE = "resolution.json"
MOST_DOUBLINGS, MOST_HALVINGS = 5, 3
APART = 0.02
"""Relative difference from which on the slide's own resolution is another one than the step that is closest."""

SQUARE = 1e-6
"""Relative difference of the sides of a raster's pixels up to which ``--res`` keeps their shape."""

LEAST_LABELLED = 0.1
"""Part of a region's patch that must be labelled for it to be scored: a square of 71 px; fewer say too little."""

LEAST_POINTS = 20
"""Points of a class from which on their size counts: clicks come one by one, and the size at which a few of them stand
out jumps. On nuclei of the demonstration slide, 5 um across, it was 3 to 45 um with 2 clicks, 6 to 23 um with 12, and
4 to 8 um with 20 (8 draws each)."""

By = Literal["start", "page", "person"]


@dataclass(frozen=True, slots=True)
class Choice:
    """The resolution that was chosen.

    Attributes
    ----------
    factor : float
        So many times coarser than at the start.
    by : str
        "start": nobody has chosen yet; "page": from the sizes of the objects; "person".
    declined : float
        The factor that a person was offered and did not take; 0 for none.
    """

    factor: float = 1
    by: By = "start"
    declined: float = 0


@dataclass(frozen=True, slots=True)
class Ladder:
    """The resolutions that a page can have.

    Attributes
    ----------
    start : float
        Side of a pixel on the ground at the start; 0 where it is not known.
    unit : str
        Of the side: "µm", "m", "degrees", or nothing where it is not known.
    doublings, halvings : int
        How often it can be doubled, and halved, which makes it finer, as far as all images are.
    is_given : bool
        Whether it was asked for, and only a person may change it.
    own : float
        Factor of the finest one that all slides have, where it is finer than all halvings; else 0.
    """

    start: float
    unit: str
    doublings: int
    is_given: bool
    halvings: int = 0
    own: float = 0

    @classmethod
    def of(cls, infos: Sequence[SourceInfo], unit: str, is_given: bool) -> Ladder:
        """Those of the sources of a page, as they are at the start."""
        sides = [side_of(info) for info in infos]
        start = sides[0] or 0.0
        longest = min(max(info.height, info.width) for info in infos)
        doublings = halvings = 0
        own = 0.0
        is_slide, is_known = (
            infos[0].kind == "slide",
            all(side and abs(side / start - 1) < SQUARE for side in sides),
        )
        if start and is_known:
            doublings = min(MOST_DOUBLINGS, max(0, int(math.log2(longest / PATCH_SIZE))))
        if is_slide and doublings:
            doublings = min(doublings, max(0, int(math.log2(PLAUSIBLE_MPP[1] / start))))
        if is_slide and start and is_known:
            finest = max(info.native_mpp or start for info in infos)
            halvings = min(MOST_HALVINGS, max(0, int(math.log2(start / finest) + SQUARE)))
            own = finest / start if finest / start < (1 - APART) * 0.5**halvings else 0.0
        return cls(start, unit, doublings, is_given, halvings, own)

    @property
    def factors(self) -> list[float]:
        """The factors, from the finest resolution on.

        >>> Ladder(0.5, "µm", 1, False, 2).factors
        [0.25, 0.5, 1, 2]
        >>> Ladder(0.5, "µm", 0, False, 0, own=0.68).factors
        [0.68, 1]
        """
        finest = [self.own] if self.own else []
        return (
            finest + [0.5**k for k in range(self.halvings, 0, -1)] + [2**k for k in range(self.doublings + 1)]
        )

    def words(self, factor: float) -> str:
        """A resolution for people.

        >>> Ladder(0.499, "µm", 3, False).words(4)
        '2 µm/px'
        """
        return f"{_short(self.start * factor)} {self.unit or 'units'}/px"

    def suits(self, sizes: Mapping[str, float], coarsest: float = math.inf) -> float:
        """The factor at which objects of these typical diameters, by class, fit the network, up to a resolution."""
        finest = self.start * self.factors[0]
        fitting = fitting_mpp(sizes.values(), self.start, finest, coarsest) if self.start else None
        if fitting is None:
            return 1
        return min(self.factors, key=lambda factor: abs(math.log(fitting / self.start / factor)))


@dataclass(frozen=True, slots=True)
class Advice:
    """What to say of the resolution, if anything.

    Attributes
    ----------
    text : str
        One or two sentences; "" for nothing.
    to : float
        The factor of the first button; the second one keeps what is.
    is_kept : bool
        Whether the page has changed it already, and the first button takes this back.
    """

    text: str = ""
    to: float = 1
    is_kept: bool = False


def side_of(info: SourceInfo) -> float | None:
    """Side of a working pixel, um of slides, in units of the CRS of rasters; None where it cannot be changed."""
    if info.kind == "slide":
        return None if info.mpp_source == "--mpp" else info.mpp
    t = info.transform
    right, down = math.hypot(t.a, t.d), math.hypot(t.b, t.e)
    return right if right and abs(down / right - 1) < SQUARE else None


def sizes_of(
    drawn: Sequence[tuple[AnnotationFile, float | None]],
    options: SupportOptions,
    ladder: Ladder,
    radius_um: float | None,
    read: Callable[[], SupportSet],
) -> dict[str, float]:
    """Typical diameter of the objects of each class, in the unit of the ladder.

    Parameters
    ----------
    drawn
        Annotations with their regions, and the side of a pixel of their coordinates.
    radius_um, read
        As in `drawn_diameters`; what is read is at the resolution of the start.
    """
    if len(ladder.factors) > 1:
        # too little is labelled, or nothing can be read: the page says so elsewhere
        with suppress(FewscopeError):
            return drawn_diameters(drawn, options, ladder.start, radius_um, read, LEAST_POINTS)[0]
    return typical_diameters(drawn, options)


def coarsest_of(drawn: Sequence[tuple[AnnotationFile, float | None]]) -> float:
    """Up to which resolution the largest region is large enough to learn from, as in a job."""
    side = largest_region(drawn)
    return side / SMALLEST_REGION_PX if side else math.inf


def wanted(now: Choice, suits: float, ladder: Ladder, sizes: Mapping[str, float]) -> float:
    """The factor that objects of these sizes ask for: a finer one only where some have no shape at that of now, a
    coarser one only where some do not fit the network."""
    if not sizes:
        return suits if now.by == "page" else now.factor
    side = ladder.start * now.factor
    is_too_small, is_too_large = (
        min(sizes.values()) < SMALLEST_PX * side,
        max(sizes.values()) > LARGEST_PX * side,
    )
    return suits if (is_too_large if suits > now.factor else is_too_small) else now.factor


def may_change(
    now: Choice, to: float, ladder: Ladder, kind: str, regions: Sequence[tuple[BaseGeometry, float]]
) -> bool:
    """Whether the page may change the resolution by itself: nobody has chosen one, and no region loses its worth.

    Regions do at a coarser one where they become too small, at a finer one where they take too many patches.

    Parameters
    ----------
    kind : str
        Of the sources; of rasters a job does not choose a resolution either.
    regions : sequence of (geometry, scale)
        In image px, and image px per working px at the start.
    """
    if kind != "slide" or ladder.is_given or now.by == "person":
        return False
    if to < now.factor:
        bounds = [[side / (scale * to) for side in region.bounds] for region, scale in regions]
        n_patches = sum(
            len(starts(top, bottom)) * len(starts(left, right)) for left, top, right, bottom in bounds
        )
        return n_patches <= MAX_PATCHES
    least = LEAST_LABELLED * PATCH_SIZE**2
    return all(shapely.area(region) >= least * (scale * to) ** 2 for region, scale in regions)


def advice(now: Choice, to: float, ladder: Ladder, sizes: Mapping[str, float]) -> Advice:
    """What to say: what the page has chosen, or that another resolution suits better."""
    if not sizes:
        return Advice()
    largest, smallest = (pick(sizes.items(), key=lambda item: item[1]) for pick in (max, min))
    if to == now.factor:
        if now.by != "page" or now.factor == 1:
            return Advice()
        name, size = largest if now.factor > 1 else smallest
        across = f"{name} is about {_short(size)} {ladder.unit} across"
        return Advice(f"Now at {ladder.words(now.factor)}, as {across}.", 1, True)
    if to == now.declined:
        return Advice()
    (name, size), what = (largest, "large") if to > now.factor else (smallest, "small")
    px = _short(size / (ladder.start * now.factor))
    return Advice(f"{name}: about {px} px across, too {what} at {ladder.words(now.factor)}.", to)


def _short(value: float) -> str:
    """Two digits, of small numbers three, without an exponent unless it is very small.

    >>> _short(359.6), _short(0.499), _short(0.125)
    ('360', '0.5', '0.125')
    """
    return f"{float(f'{value:.{2 if value >= 0.2 else 3}g}'):g}"


def read_choice(out: Path, ladder: Ladder) -> Choice:
    """What was chosen in an earlier start; where it was given now, or there is no such factor, nothing."""
    try:
        stated = json.loads((out / FILE).read_text(encoding="utf-8"))
        if ladder.is_given or abs(stated["start"] / ladder.start - 1) > SQUARE:
            return Choice()
        found = Choice(float(stated["factor"]), stated["by"], float(stated["declined"]))
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return Choice()
    is_known = found.factor in ladder.factors and found.by in ("start", "page", "person")
    return found if is_known else Choice()


def keep_choice(out: Path, ladder: Ladder, choice: Choice) -> None:
    """Write what was chosen, for the next start."""
    record: dict[str, Any] = {"start": ladder.start, "unit": ladder.unit, **asdict(choice)}
    path = str(out / FILE)
    try:
        write_atomic(open_filesystem(path)[0], os.path.abspath(path), json.dumps(record, indent=1).encode())
    except FewscopeError as error:  # the page goes on with it
        log.warning("%s", error)
