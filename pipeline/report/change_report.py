"""The maps of several dates compared: a table, figures with the years in colours, one page to print."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from fewscope.connectors.results.map_series import Centreline, MapSeries
from fewscope.connectors.results.reader import open_result
from fewscope.errors import ResultNotFound
from fewscope.pipeline.geometry.geodesy import GroundMeasure, total_m2
from fewscope.pipeline.maps.changes import Change, Floats, are_long, changed_areas, migration
from fewscope.pipeline.maps.files import windows
from fewscope.pipeline.report.drawing import Picture, colour_map, picture
from fewscope.pipeline.report.html import fill, write_files
from fewscope.pipeline.report.map_figures import (
    GAINED,
    KEPT,
    LOST,
    RGB,
    Colour,
    MapView,
    change_picture,
    grey,
    with_lines,
    with_map_elements,
)

FIGURE_PX = 1400  # longer side of the two large figures
SMALL_PX = 640  # of those of each interval
PALEST = 0.88  # of the colour map that lines are drawn with: its last yellow is lost on paper

COLUMNS = (
    "from",
    "to",
    "years",
    "gained_km2",
    "lost_km2",
    "kept_km2",
    "compared_km2",
    "centreline_moved_mean_m",
    "centreline_moved_max_m",
    "centreline_moved_m_per_year",
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """One date: its name, when (a year with decimals, or None), and the folder with its map."""

    name: str
    year: float | None
    out: str


@dataclass(frozen=True, slots=True)
class EpochSummary:
    """Numbers of the map of one date: water and valid area; length and mean width of the rivers that are compared.

    ``water_km2`` is the area found. ``estimate_km2`` is the estimated true area and ``interval_km2`` its 95 % interval;
    None where the report of the date has none.
    """

    name: str
    water_km2: float
    estimate_km2: float | None
    interval_km2: tuple[float, float] | None
    valid_km2: float
    river_km: float | None
    width_m: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Everything that the page shows, in numbers."""

    epochs: tuple[EpochSummary, ...]
    changes: tuple[Change, ...]
    overall: Change
    ground: GroundMeasure


def compare(epochs: Sequence[Epoch], series: MapSeries) -> Comparison:
    """Compare each date with the next one, and the last with the first.

    Memory does not grow with the maps: they are read in windows, two dates at a time.

    Raises
    ------
    ValueError
        There are fewer than two dates, or the maps have no CRS: no areas can be given in km2.
    """
    if len(epochs) < 2:
        raise ValueError(f"{len(epochs)} raster has no changes; give the same area at two dates or more")
    ground = GroundMeasure.of(series.crs, series.transform, series.height, series.width)
    if ground.method == "pixels":
        raise ValueError(
            f"{epochs[0].name}: has no CRS, so no areas in km2; give it one, e.g. gdal_edit.py -a_srs EPSG:32618"
        )
    pairs = [*((k, k + 1) for k in range(len(epochs) - 1)), (0, len(epochs) - 1)]
    areas = {pair: np.zeros(4) for pair in pairs}
    alone = np.zeros((len(epochs), 2))
    for window in windows(series.height, series.width):
        pixels = ground.pixel_areas_m2(series.transform, window)
        seen = [series.read(index, window) for index in range(len(epochs))]
        for pair in areas:
            areas[pair] += changed_areas(seen[pair[0]], seen[pair[1]], pixels)
        alone += [[total_m2(water & valid, pixels), total_m2(valid, pixels)] for water, valid in seen]
    rivers = [reaches_of_long_rivers(series.centrelines(index)) for index in range(len(epochs))]
    changes = [
        _change(epochs[one], epochs[other], areas[one, other], (rivers[one], rivers[other]), series, ground)
        for one, other in pairs
    ]
    numbers = [_numbers(epoch, alone[k] / 1e6, rivers[k]) for k, epoch in enumerate(epochs)]
    return Comparison(tuple(numbers), tuple(changes[:-1]), changes[-1], ground)


def reaches_of_long_rivers(reaches: Sequence[Centreline]) -> list[Centreline]:
    """The reaches of the rivers whose main channels are long: of the river, and not of lakes beside it."""
    lengths: dict[int, float] = {}
    for reach in reaches:
        own = (reach.length_km or 0.0) if reach.role == "main" else 0.0
        lengths[reach.river] = lengths.get(reach.river, 0.0) + own
    chosen = {river for river, keep in zip(lengths, are_long(list(lengths.values())), strict=True) if keep}
    return [reach for reach in reaches if reach.river in chosen]


def _change(
    before: Epoch,
    after: Epoch,
    areas: Floats,
    rivers: tuple[Sequence[Centreline], Sequence[Centreline]],
    series: MapSeries,
    ground: GroundMeasure,
) -> Change:
    """One row of the table. The later main channels are compared with all channels that there were."""
    centre = series.transform @ (series.width / 2, series.height / 2)

    def flat(reaches: Sequence[Centreline]) -> list[Floats]:
        return [ground.local_plane_m(np.array(reach.line.coords), centre) for reach in reaches]

    moved = migration(flat(rivers[0]), flat([reach for reach in rivers[1] if reach.role == "main"]))
    gained, lost, kept, compared = (areas / 1e6).tolist()
    return Change(
        before=before.name,
        after=after.name,
        years=None if before.year is None or after.year is None else round(after.year - before.year, 3),
        gained_km2=gained,
        lost_km2=lost,
        kept_km2=kept,
        compared_km2=compared,
        moved_mean_m=moved[0] if moved else None,
        moved_max_m=moved[1] if moved else None,
    )


def _area_ratios(out: str) -> tuple[float, float, float] | None:
    """Estimated true area and both ends of its interval over the area found, of the first class; from the report."""
    try:
        report = open_result(out).report
    except ResultNotFound:
        return None
    first = report["classes"][0] if "classes" in report else report
    estimate, interval = first.get("covered_estimate_px"), first.get("covered_interval_px")
    if estimate is None or not interval or not first["covered_px"]:
        return None
    low, middle, high = (area / first["covered_px"] for area in (interval[0], estimate, interval[1]))
    return low, middle, high


def _numbers(epoch: Epoch, areas_km2: Floats, reaches: Sequence[Centreline]) -> EpochSummary:
    lengths = [reach.length_km or 0.0 for reach in reaches]
    main = [reach.length_km or 0.0 for reach in reaches if reach.role == "main"]
    widths = [reach.width_m or 0.0 for reach in reaches]
    water, ratios = float(areas_km2[0]), _area_ratios(epoch.out)
    return EpochSummary(
        name=epoch.name,
        water_km2=water,
        estimate_km2=water * ratios[1] if ratios else None,
        interval_km2=(water * ratios[0], water * ratios[2]) if ratios else None,
        valid_km2=float(areas_km2[1]),
        river_km=sum(main) if main else None,
        width_m=float(np.average(widths, weights=lengths)) if reaches else None,
    )


# -- files -----------------------------------------------------------------------------------------------------------


def table_text(comparison: Comparison) -> str:
    """The changes as CSV, each interval and then the whole time."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for c in (*comparison.changes, comparison.overall):
        values = (c.years, c.gained_km2, c.lost_km2, c.kept_km2, c.compared_km2)
        moved = (c.moved_mean_m, c.moved_max_m, c.moved_m_per_year)
        writer.writerow(
            [_inert(c.before), _inert(c.after), *("" if v is None else f"{v:.6g}" for v in (*values, *moved))]
        )
    return buffer.getvalue()


def _inert(cell: str) -> str:
    """A cell that spreadsheets show as text: one that begins like a formula gets an apostrophe before it."""
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@")) or cell[:1] in "\t\r\n" else cell


def write_changes(out: str, epochs: Sequence[Epoch], background: RGB, title: str) -> Comparison:
    """Compare the maps and write ``changes.html``, ``changes.csv``, ``changes.jpg`` and ``centrelines.jpg``.

    Parameters
    ----------
    out : str
        Folder, a path or an fsspec URL.
    epochs : Sequence[Epoch]
        In the order of time.
    background : RGB
        (h, w, 3) the first raster as it looks, whole, at any size.
    """
    with MapSeries([epoch.out for epoch in epochs]) as series:
        comparison = compare(epochs, series)
        figures = draw_changes(epochs, series, comparison, background)
    page = fill(
        "changes.html.j2",
        title=title,
        c=comparison,
        overall=figures.overall,
        lines=figures.lines,
        intervals=figures.intervals,
    )
    files = {
        "changes.csv": table_text(comparison).encode(),
        "changes.jpg": _jpeg(figures.overall),
        "centrelines.jpg": _jpeg(figures.lines),
        "changes.html": page.encode("utf-8", "replace"),
    }
    write_files(out, files)
    return comparison


def _jpeg(shown: Picture) -> bytes:
    """The file that a picture's data URI holds."""
    return base64.b64decode(shown.uri.partition(",")[2])


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """Pictures of the page: all changes, the centrelines of all dates, and each interval by itself."""

    overall: Picture
    lines: Picture
    intervals: tuple[Picture, ...]


def draw_changes(
    epochs: Sequence[Epoch], series: MapSeries, comparison: Comparison, background: RGB
) -> Figures:
    """Draw what `Figures` holds."""
    view = MapView.of(series.height, series.width, series.transform, comparison.ground, FIGURE_PX)
    small = MapView.of(series.height, series.width, series.transform, comparison.ground, SMALL_PX)
    legend = (("water on both dates", KEPT), ("new water", GAINED), ("former water", LOST))
    names = [epoch.name for epoch in epochs]

    def changed(one: int, other: int, on: MapView) -> RGB:
        shape = on.height, on.width
        return change_picture(_fitted(background, on), series.shrunk(one, shape), series.shrunk(other, shape))

    overall = with_map_elements(changed(0, len(epochs) - 1, view), view, legend, f"{names[0]} to {names[-1]}")
    colours = year_colours(epochs)
    lines = [
        (np.array(reach.line.coords), colour)
        for index, colour in enumerate(colours)
        for reach in reaches_of_long_rivers(series.centrelines(index))
    ]
    drawn = with_lines(_fitted(background, view), view, lines, width=max(2.0, view.width / 500))
    drawn = with_map_elements(drawn, view, tuple(zip(names, colours, strict=True)))
    intervals = [
        with_map_elements(changed(k, k + 1, small), small, (), f"{names[k]} to {names[k + 1]}")
        for k in range(len(epochs) - 1)
    ]
    return Figures(
        overall=picture(overall, series.width, lines=True),
        lines=picture(drawn, series.width, lines=True),
        intervals=tuple(picture(image, series.width, lines=True) for image in intervals),
    )


def year_colours(epochs: Sequence[Epoch]) -> list[Colour]:
    """A colour for each date, from dark violet for the first to light green for the last, by time where it is known."""
    years = [epoch.year for epoch in epochs]
    known = [year for year in years if year is not None]
    if len(known) < len(years) or len(set(known)) < len(known):
        known = [float(k) for k in range(len(epochs))]
    span = known[-1] - known[0] or 1.0
    colours = colour_map()
    chosen = [colours[round(PALEST * (len(colours) - 1) * (year - known[0]) / span)] for year in known]
    return [(int(r), int(g), int(b)) for r, g, b in chosen]


def _fitted(background: RGB, view: MapView) -> RGB:
    size = view.width, view.height
    return grey(np.asarray(Image.fromarray(background).resize(size, Image.Resampling.BICUBIC)))
