"""Maps of three dates of a synthetic river become a table, figures and a page with the answers that are known."""

from __future__ import annotations

import csv
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import cc3d
import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from rasterio.features import rasterize
from shapely import Point

from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.results.map_series import MapSeries
from fewscope.pipeline.execution.pool import LocalPool
from fewscope.pipeline.geometry.geodesy import GroundMeasure
from fewscope.pipeline.maps.changes import Change
from fewscope.pipeline.maps.files import write_map
from fewscope.pipeline.report.change_report import (
    Comparison,
    Epoch,
    compare,
    reaches_of_long_rivers,
    table_text,
    write_changes,
    year_colours,
)
from fewscope.pipeline.report.map_figures import (
    GAINED,
    KEPT,
    LOST,
    PAPER,
    UNKNOWN,
    MapView,
    change_picture,
    scale_length,
    with_map_elements,
)
from fewscope.pipeline.tiling.grid import plan_units
from tests.helpers.finished_runs import SIDE, finished
from tests.helpers.rivers import band, sinusoid

UTM = Affine(20, 0, 500_000, 0, -20, 9_000_000)
HEIGHT, WIDTH = 150, 300
SHIFT_M = (0.0, 100.0, 300.0)  # of the river, southward, on the three dates
WIDTH_M = 200.0
LENGTH_M = 5_000.0


def scene(folder: Path, name: str, shift_m: float, crs: str | None = "EPSG:32618") -> str:
    """The output folder of a run on a scene with a straight river and a lake that stays."""
    line = sinusoid(LENGTH_M, 0, 1000) + np.array([503_000, 8_999_000 - shift_m])
    shapes = [(band(line, WIDTH_M), 1), (Point(501_000, 8_999_600).buffer(250), 1)]
    water = rasterize(shapes, (HEIGHT, WIDTH), transform=UTM).astype(bool)
    path = folder / f"{name}.tif"
    profile = {"driver": "GTiff", "height": HEIGHT, "width": WIDTH, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=crs, transform=UTM, **profile) as dataset:
        dataset.write(np.where(water, 50, 180).astype(np.uint8), 1)
    labels = cc3d.connected_components(water, connectivity=8).astype(np.uint32)
    out = folder / "out" / name
    job = finished(out, labels, open_source(str(path), raster=RasterOptions()))
    pool = LocalPool(lambda: None)  # type: ignore[arg-type, return-value]
    write_map(pool, job, plan_units(HEIGHT, WIDTH, SIDE), str(out), ("water",))
    return str(out)


@pytest.fixture(scope="module")
def epochs(tmp_path_factory) -> list[Epoch]:
    folder = tmp_path_factory.mktemp("dates")
    names = ("1990", "2000", "2010")
    return [Epoch(n, float(n), scene(folder, n, shift)) for n, shift in zip(names, SHIFT_M, strict=True)]


BACKGROUND = np.full((60, 120, 3), 120, np.uint8)


def test_the_river_has_moved_by_what_it_was_moved(tmp_path, epochs):
    found = write_changes(str(tmp_path), epochs, BACKGROUND, "Test")
    assert [(c.before, c.after, c.years) for c in found.changes] == [
        ("1990", "2000", 10),
        ("2000", "2010", 10),
    ]
    for change, moved in zip((*found.changes, found.overall), (100, 200, 300), strict=True):
        assert change.moved_mean_m == pytest.approx(moved, rel=0.02)
        area = LENGTH_M * min(moved, WIDTH_M) / 1e6
        assert change.gained_km2 == pytest.approx(area, rel=0.02)
        assert change.lost_km2 == pytest.approx(area, rel=0.02)
        assert change.compared_km2 == HEIGHT * WIDTH * 400 / 1e6
    assert found.changes[0].moved_m_per_year == pytest.approx(10, rel=0.02)
    assert [e.river_km for e in found.epochs] == pytest.approx([5] * 3, rel=0.02)
    assert [e.width_m for e in found.epochs] == pytest.approx([200] * 3, rel=0.02)


def test_the_table_has_the_numbers_of_the_page(tmp_path, epochs):
    found = write_changes(str(tmp_path), epochs, BACKGROUND, "Test")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "changes.csv").read_text())))
    assert [(row["from"], row["to"]) for row in rows] == [
        ("1990", "2000"),
        ("2000", "2010"),
        ("1990", "2010"),
    ]
    assert float(rows[2]["gained_km2"]) == pytest.approx(found.overall.gained_km2, rel=1e-5)
    assert float(rows[1]["centreline_moved_m_per_year"]) == pytest.approx(20, rel=0.02)


class Page(HTMLParser):
    """What a page asks of others, and what it says."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_and_escapes_names(tmp_path, epochs):
    renamed = [Epoch("<b>1990</b>", None, epochs[0].out), *epochs[1:]]
    found = write_changes(str(tmp_path), renamed, BACKGROUND, "<script>alert(1)</script>")
    text = (tmp_path / "changes.html").read_text()
    page = Page()
    page.feed(text)
    assert "<script>" not in text
    assert "<b>1990</b> to 2000" in page.text
    assert page.sources
    assert all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    assert found.changes[0].moved_m_per_year is None
    assert f"{found.overall.gained_km2:.2f} km²" in page.text
    assert len(page.sources) == 2 + 2


def test_the_figures_show_what_came_in_blue_and_what_went_in_orange(tmp_path, epochs):
    write_changes(str(tmp_path), epochs, BACKGROUND, "Test")
    image = np.asarray(Image.open(tmp_path / "changes.jpg"), float)
    assert image.shape[:2] == (600, 1200)  # at most four times enlarged

    def at(x: float, y: float) -> np.ndarray:
        col, row = ~UTM @ (x, y)
        return image[int(row * 4), int(col * 4)]

    def colour_is(found: np.ndarray, expected: tuple[int, int, int]) -> bool:
        return bool(np.abs(found - expected).max() < 40)

    assert colour_is(at(503_000, 8_999_000), LOST)
    assert colour_is(at(503_000, 8_998_700), GAINED)
    assert colour_is(at(501_000, 8_999_600), KEPT)


def test_lakes_are_not_followed_and_one_date_has_no_changes(epochs):
    from fewscope.connectors.results.map_series import MapSeries

    with MapSeries([epoch.out for epoch in epochs]) as series:
        assert {reach.role for reach in reaches_of_long_rivers(series.centrelines(0))} == {"main"}
        with pytest.raises(ValueError, match="two dates or more"):
            compare(epochs[:1], series)


def test_without_a_crs_it_says_what_to_do(tmp_path):
    outs = [Epoch(n, None, scene(tmp_path, n, 0, crs=None)) for n in ("a", "b")]
    with pytest.raises(ValueError, match="has no CRS"):
        write_changes(str(tmp_path / "changes"), outs, BACKGROUND, "Test")


def test_colours_follow_time_and_are_all_different():
    def colours(*years: float | None) -> list[tuple[int, int, int]]:
        return year_colours([Epoch(str(year), year, "") for year in years])

    even = colours(None, None, None)
    assert even == colours(2000, 2010, 2020)
    assert even == colours(2000, 2000, 2020)  # two of one year: by their order
    late = colours(2000, 2019, 2020)
    assert late[1] != even[1]
    assert len(set(colours(*range(1985, 2021, 5)))) == 8


# -- the furniture of maps -------------------------------------------------------------------------------------------


def test_what_is_not_valid_is_no_change():
    def row(*values: int) -> np.ndarray:
        return np.array([values], bool)

    before = row(1, 1, 0, 0, 1), row(1, 1, 1, 1, 1)
    after = row(1, 0, 1, 0, 0), row(1, 1, 1, 1, 0)
    white = np.full((1, 5, 3), 255, np.uint8)
    drawn = change_picture(white, before, after, alpha=1.0)[0].tolist()
    assert drawn == [list(c) for c in (KEPT, LOST, GAINED, PAPER, UNKNOWN)]


@pytest.mark.parametrize(("pixel", "expected"), [(10, 2000), (0.3, 50), (120, 20_000)])
def test_the_scale_bar_is_round_and_as_long_as_it_says(pixel, expected):
    transform = Affine(pixel, 0, 500_000, 0, -pixel, 4e6)
    view = MapView(300, 1000, transform, GroundMeasure("EPSG:32618", "plane"))
    assert scale_length(view) == expected
    bare = np.full((300, 1000, 3), 200, np.uint8)
    map_ = with_map_elements(bare, view).astype(int)
    bottom = map_[-12 - 18 : -8]
    dark = np.flatnonzero((bottom.sum(axis=2) < 150).any(axis=0))
    assert dark.max() - dark.min() + 1 == pytest.approx(expected / pixel, abs=3)


def test_without_a_crs_a_map_has_neither_scale_nor_north():
    view = MapView(300, 1000, Affine.scale(1, -1), GroundMeasure(None, "pixels"))
    bare = np.full((300, 1000, 3), 200, np.uint8)
    np.testing.assert_array_equal(with_map_elements(bare, view), bare)


@pytest.mark.parametrize("side", [16, 40])
def test_a_map_of_a_few_pixels_is_drawn_too(side):
    view = MapView(
        side, side, Affine(20, 0, 500_000, 0, -20, 9_000_000), GroundMeasure("EPSG:32618", "plane")
    )
    drawn = with_map_elements(np.full((side, side, 3), 90, np.uint8), view)
    assert drawn.shape == (side, side, 3)
    assert (drawn != 90).any()


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "2020", "scene 1"])
def test_no_cell_of_the_table_is_a_formula(name):
    change = Change(name, name, 1.0, 0.5, 0.25, 1.0, 2.0, None, None)
    comparison = Comparison((), (change,), change, GroundMeasure.of(None, UTM, 1, 1))
    for row in list(csv.reader(io.StringIO(table_text(comparison))))[1:]:
        for cell in row[:2]:
            assert cell.strip()[0] not in "=+-@"
            assert cell.lstrip("'") == name


def test_the_area_found_and_the_estimated_true_area_of_each_date_are_named_apart(tmp_path, epochs):
    """From the report of the date, as a share of the area found: 10 % more, between nothing more and a fifth."""
    report = {"covered_px": 100, "covered_estimate_px": 110.0, "covered_interval_px": [100.0, 120.0]}
    page = Path(epochs[0].out) / "report.json"
    page.write_text(json.dumps(report))
    try:
        write_changes(str(tmp_path), epochs, np.full((HEIGHT, WIDTH, 3), 90, np.uint8), "Dates")
        with MapSeries([epoch.out for epoch in epochs]) as series:
            first, *others = compare(epochs, series).epochs
    finally:
        page.unlink()
    assert first.estimate_km2 == pytest.approx(1.1 * first.water_km2)
    assert first.interval_km2 == pytest.approx((first.water_km2, 1.2 * first.water_km2))
    assert {(other.estimate_km2, other.interval_km2) for other in others} == {(None, None)}
    text = (tmp_path / "changes.html").read_text()
    assert "water found, km²" in text
    low, middle, high = (f"{share * first.water_km2:.2f}" for share in (1, 1.1, 1.2))
    assert f"{middle} ({low} to {high})" in text
