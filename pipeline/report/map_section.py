"""The part of the report that only rasters have: the map, and the rivers in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from fewscope.connectors.colours import class_colour
from fewscope.connectors.pixels.composite import composite
from fewscope.connectors.results.store import ResultStore
from fewscope.connectors.source import Source
from fewscope.pipeline.maps.files import MapSummary
from fewscope.pipeline.report.distributions import Histogram, histogram_of
from fewscope.pipeline.report.drawing import Picture, picture
from fewscope.pipeline.report.map_figures import INK, MapView, grey, tinted, with_lines, with_map_elements

if TYPE_CHECKING:
    from fewscope.pipeline.rivers.centreline import Floats

MAP_PX = 1400  # longer side: 180 mm of paper at 200 dots per inch
MAX_RIVERS = 10  # listed on the page; all of them are in features.gpkg
WIDTH_BINS = 30
WIDTH_END = 0.99  # of the rivers' length, at which the histogram ends


@dataclass(frozen=True, slots=True)
class RiverRow:
    """One river of the page's table. Lengths in km and widths in m; both in px where there is no CRS."""

    id: int
    class_name: str
    length: float
    main_length: float
    width: float
    braiding: float
    sinuosity: float | None


@dataclass(frozen=True, slots=True)
class MapSection:
    """What the report says of the map.

    Attributes
    ----------
    length_unit, width_unit : str
        "km" and "m", or "px" where the raster has no CRS.
    length, main_length : float
        Length of all rivers, and of their main channels.
    width : float | None
        Mean along all channels.
    rivers : tuple[RiverRow, ...]
        The longest `MAX_RIVERS` of ``n_rivers``.
    n_water_bodies : int
        Elongated objects that are no rivers by their shape, such as oxbow lakes.
    in_words : str
        Numbers of both in words, as in the log.
    widths : Histogram | None
        Metres (px) of channel by width.
    measured : str
        How areas and lengths were measured, in words.
    coarse : int
        The mask was reduced by this factor to find rivers; 1: it was not.
    """

    length_unit: str
    width_unit: str
    length: float
    main_length: float
    width: float | None
    n_rivers: int
    n_water_bodies: int
    in_words: str
    rivers: tuple[RiverRow, ...]
    widths: Histogram | None
    measured: str
    coarse: int


def map_section(summary: MapSummary) -> MapSection:
    """The map's numbers for the page and for ``report.json``."""
    from fewscope.pipeline.rivers.network import rivers_in_words  # its libraries take a second to import

    in_metres = summary.ground.method != "pixels"
    per_km = 1000.0 if in_metres else 1.0
    networks = summary.networks
    rows = [
        RiverRow(
            river.id, name, river.length_m / per_km, river.main_length_m / per_km, river.width_m, river.braiding,
            river.sinuosity,
        )
        for name, network in networks.items()
        for river in network.rivers
    ]  # fmt: skip
    n_water_bodies = sum(network.n_water_bodies for network in networks.values())
    rows.sort(key=lambda row: -row.main_length)
    widths, lengths = (
        np.concatenate(parts) for parts in zip(*(n.widths() for n in networks.values()), strict=True)
    )
    return MapSection(
        length_unit="km" if in_metres else "px",
        width_unit="m" if in_metres else "px",
        length=sum(network.length_m for network in networks.values()) / per_km,
        main_length=sum(network.main_length_m for network in networks.values()) / per_km,
        width=float(np.average(widths, weights=lengths)) if len(widths) else None,
        n_rivers=len(rows),
        n_water_bodies=n_water_bodies,
        in_words=rivers_in_words(len(rows), n_water_bodies),
        rivers=tuple(rows[:MAX_RIVERS]),
        widths=_histogram(widths, lengths, "m" if in_metres else "px") if len(widths) else None,
        measured=summary.ground.description,
        coarse=summary.river_factor,
    )


def draw_map(source: Source, store: ResultStore, summary: MapSummary) -> Picture:
    """What was found on what was seen, with centrelines, a scale bar and an arrow to north."""
    info = source.info
    view = MapView.of(info.height, info.width, info.transform, summary.ground, MAP_PX)
    size = view.width, view.height
    image = composite(source.overview(MAP_PX)[0], info)
    shown = grey(np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)))
    classes = _shrunk_classes(store, size)
    names = list(summary.networks)
    for value in range(1, len(names) + 1):
        shown = tinted(shown, classes == value, class_colour(value), 0.85)
    lines = [(reach.line, INK) for network in summary.networks.values() for reach in network.reaches]
    shown = with_lines(shown, view, lines, width=max(1.2, view.width / 900))
    legend = [(name, class_colour(value)) for value, name in enumerate(names, start=1)]
    legend += [("centreline", INK)] if lines else []
    return picture(with_map_elements(shown, view, legend), info.width, lines=True)


def _shrunk_classes(store: ResultStore, size: tuple[int, int]) -> Any:
    """Class map at the picture's size, uint8, from the coarsest level that is as fine as it."""
    level = 0
    while level + 1 < store.spec.levels and store.spec.shape(level + 1)[1] >= size[0]:
        level += 1
    classes = np.asarray(store.array("semantic", level)[:])
    return np.asarray(Image.fromarray(classes).resize(size, Image.Resampling.NEAREST))


def _histogram(widths: Floats, lengths: Floats, unit: str) -> Histogram:
    """Metres of channel by its width."""
    order = np.argsort(widths, kind="stable")
    so_far = np.cumsum(lengths[order]) / lengths.sum()
    median, end = (float(widths[order][np.searchsorted(so_far, q)]) for q in (0.5, WIDTH_END))
    return histogram_of(widths, lengths, median, end, unit, WIDTH_BINS)
