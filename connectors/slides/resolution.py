"""Resolution of a slide: that of its file, checked for plausibility, and the working resolution.

A resolution is never guessed: a slide read at the wrong scale gives wrong counts without any sign of it. The
magnification of the objective is only a hint in an error message.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import openslide

from fewscope.connectors.pixels.levels import SAME_RESOLUTION
from fewscope.connectors.source import DEFAULT_MPP, FINEST_OF_LIGHT, PLAUSIBLE_MPP
from fewscope.errors import SourceError

log = logging.getLogger(__name__)

NEAR_DEFAULT = 0.02  # relative tolerance for an integer multiple of the slide's mpp to replace DEFAULT_MPP
ANISOTROPY = 0.01  # largest relative difference of the resolutions across and down
FINEST_ENLARGEMENT = 8.0  # finer working grids would be interpolation alone


def working_scale(
    uri: str, native_mpp: float, mpp: float | None, level_steps: Sequence[float]
) -> tuple[float, float]:
    """Scale of the working grid.

    A level within 0.1 % of the requested resolution is used without resampling: the grid keeps the level's exact step,
    so that positions stay exact.

    Parameters
    ----------
    uri
        For errors.
    native_mpp
        um per px of level 0.
    mpp
        Requested um per px; None for the default, which is the finest level's own if only an electron microscope
        resolves as much.
    level_steps
        Level-0 px per px of each level.

    Returns
    -------
    Level-0 px per working px, and um per working px.

    Raises
    ------
    SourceError
        The requested resolution is much finer than the slide.
    """
    if mpp is None:
        whole = max(1, round(DEFAULT_MPP / native_mpp))
        if native_mpp < FINEST_OF_LIGHT:
            return 1.0, native_mpp
        if native_mpp >= DEFAULT_MPP or abs(whole * native_mpp / DEFAULT_MPP - 1) <= NEAR_DEFAULT:
            return float(whole), native_mpp * whole
        return DEFAULT_MPP / native_mpp, DEFAULT_MPP
    scale = mpp / native_mpp
    if scale < 1 / FINEST_ENLARGEMENT:
        raise SourceError(
            f"{uri}: --mpp {mpp:g} is {1 / scale:.0f} times finer than the slide's {native_mpp:g} um per px; "
            f"give {native_mpp:g} or more, or --slide-mpp if the slide's own is wrong"
        )
    for step in level_steps:
        if abs(scale / step - 1) < SAME_RESOLUTION:
            return step, native_mpp * step
    return scale, mpp


def resolve_mpp(
    uri: str, properties: Mapping[str, str], mpp: float | None, slide_mpp: float | None
) -> tuple[float, str]:
    """um per px of level 0, and its origin in words.

    Parameters
    ----------
    uri
        For errors.
    properties
        OpenSlide's properties of the slide.
    mpp, slide_mpp
        Values of ``--mpp`` and ``--slide-mpp``. The latter overrides the file; the former is used for level 0 only if
        the file states no resolution.

    Raises
    ------
    SourceError
        The resolution is not stated, not plausible, or differs across and down; names the values and the option.
    """
    hint = ""
    if power := properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER):
        magnification = _number(power)
        if magnification:
            hint = f", which for its objective of {magnification:g}x would be about {10 / magnification:.2g}"
    # OpenSlide reads the files of slide scanners: finer values are mm, or another mistake
    return settle_mpp(uri, _stated(properties), mpp, slide_mpp, hint, finest=FINEST_OF_LIGHT)


def _stated(properties: Mapping[str, str]) -> tuple[str, str, str] | None:
    """What OpenSlide's properties state: where, and um per px across and down, as text."""
    openslide_x = properties.get(openslide.PROPERTY_NAME_MPP_X)
    openslide_y = properties.get(openslide.PROPERTY_NAME_MPP_Y)
    if openslide_x or openslide_y:
        origin = (
            "TIFF resolution"
            if properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff"
            else "openslide.mpp-x"
        )
        return origin, openslide_x or openslide_y or "", openslide_y or openslide_x or ""
    if aperio := properties.get("aperio.MPP"):
        return "aperio.MPP", aperio, aperio
    if properties.get("tiff.ResolutionUnit") in ("inch", "centimeter"):
        unit_um = {"inch": 25400.0, "centimeter": 1e4}[properties["tiff.ResolutionUnit"]]
        x, y = (_number(properties.get(f"tiff.{axis}Resolution", "")) for axis in "XY")
        if x and y:
            return "TIFF resolution", f"{unit_um / x:.6g}", f"{unit_um / y:.6g}"
    return None


def settle_mpp(
    uri: str,
    stated: tuple[str, str, str] | None,
    mpp: float | None,
    slide_mpp: float | None,
    hint: str = "",
    finest: float = PLAUSIBLE_MPP[0],
) -> tuple[float, str]:
    """um per px of level 0, and its origin in words, as `resolve_mpp`.

    Parameters
    ----------
    stated
        Where the file states its resolution, and um per px across and down as it does; None if it states none.
    hint
        Continues the sentence that asks for ``--slide-mpp``.
    finest
        um per px that such a file may state, at least.
    """
    for flag, value in (("--mpp", mpp), ("--slide-mpp", slide_mpp)):
        if value is not None and not PLAUSIBLE_MPP[0] <= value <= PLAUSIBLE_MPP[1]:
            raise SourceError(
                f"{uri}: {flag} {value:g} is not a slide's resolution; give {PLAUSIBLE_MPP[0]:g}.."
                f"{PLAUSIBLE_MPP[1]:g} um per px (0.25 is a 40x scan, 0.5 a 20x scan, 0.005 a thin section under an "
                "electron microscope)"
            )
    if slide_mpp is not None:
        return slide_mpp, "--slide-mpp"
    cure = f"give the um per px of its level 0 with --slide-mpp{hint}"
    of_screen = stated is not None and is_of_a_screen(stated)
    if stated is None or of_screen:
        lacks = "does not state its resolution"
        if stated is not None and of_screen:
            lacks = f"{lacks} ({in_dpi(stated)}, that of a screen or a printer)"
        if mpp is not None:
            if of_screen:
                log.warning("%s: %s; --mpp %g was taken for it", uri, lacks, mpp)
            return mpp, "--mpp"
        raise SourceError(f"{uri}: {lacks}; {cure}")

    origin, text_x, text_y = stated
    x, y = _number(text_x), _number(text_y)
    if not (x and y and all(finest <= value <= PLAUSIBLE_MPP[1] for value in (x, y))):
        shown = " x ".join(dict.fromkeys(f"{_number(text) or text:.6}" for text in (text_x, text_y)))
        raise SourceError(
            f"{uri}: states {shown} um per px ({origin}), expected {finest:g}.."
            f"{PLAUSIBLE_MPP[1]:g} for a slide; {cure}"
        )
    if abs(x / y - 1) > ANISOTROPY:
        raise SourceError(
            f"{uri}: states {x:g} um per px across and {y:g} down ({origin}), expected the same; {cure}"
        )
    return (x + y) / 2, origin


def is_of_a_screen(stated: tuple[str, str, str]) -> bool:
    """Whether what a file states, as for `settle_mpp`, is too coarse for any microscope: most programs write 72 or 96
    dpi where they know of none."""
    sizes = [_number(text) for text in stated[1:]]
    return all(um is not None and um > PLAUSIBLE_MPP[1] for um in sizes)


def in_dpi(stated: tuple[str, str, str]) -> str:
    """What a file states as its reader shows it: "72 dpi, 352.778 um per px"."""
    um = _number(stated[1]) or math.nan
    return f"{25400 / um:.3g} dpi, {um:g} um per px"


def _number(text: str) -> float | None:
    """A positive finite number, or None."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
