"""jobs/map_changes.py: dates of the command line, and the whole way from rasters to a table."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from shapely.geometry import box, mapping

import fewscope.jobs.segmenting
from fewscope.jobs import map_changes, segment_raster
from tests.helpers import fakes
from tests.helpers.rasters import ORIGIN, north_up, write_raster

X, Y = ORIGIN
HEIGHT, WIDTH, RIVER_PX = 240, 400, 20


def scene(top: int) -> np.ndarray:
    """Red, green, blue, NIR: a river from edge to edge, red for `fakes.ByColour`."""
    picture = np.zeros((4, HEIGHT, WIDTH), np.uint8)
    picture[:] = np.array([40, 60, 200, 150])[:, None, None]
    picture[:, top : top + RIVER_PX] = np.array([200, 60, 40, 10])[:, None, None]
    return picture


@pytest.fixture
def command(tmp_path, monkeypatch) -> list[str]:
    """Three dates, not in the order of time, and a support set drawn on the first of them."""
    monkeypatch.setattr(fewscope.jobs.segmenting, "model_loader", lambda config: fakes.ByColour)
    tops = {"2010": 130, "1990": 100, "2000": 110}
    rasters = [
        write_raster(tmp_path / f"river_{year}.tif", scene(top), north_up()) for year, top in tops.items()
    ]
    region, river = box(X, Y - 2400, X + 2240, Y - 160), box(X, Y - 1500, X + 4000, Y - 1300)
    features = [
        {"type": "Feature", "properties": {"class": name}, "geometry": mapping(shape)}
        for shape, name in ((region, "Region"), (river, "water"))
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32618"}}
    drawn = tmp_path / "drawn.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return [
        *rasters,
        "--support",
        str(drawn),
        "--out",
        str(tmp_path / "out"),
        "--local",
        "--threshold",
        "0.5",
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("no_pictures")
def test_dates_become_maps_and_a_table_in_the_order_of_time(command, tmp_path, capsys):
    assert map_changes.main(command) == 0
    rows = list(csv.DictReader((tmp_path / "out/changes.csv").read_text().splitlines()))
    assert [(row["from"], row["to"]) for row in rows] == [
        ("1990", "2000"),
        ("2000", "2010"),
        ("1990", "2010"),
    ]
    pixel_km2 = 100 / 1e6
    gained = [float(row["gained_km2"]) for row in rows]
    assert gained == pytest.approx([WIDTH * rows_px * pixel_km2 for rows_px in (10, 20, 20)], rel=1e-5)
    moved = [float(row["centreline_moved_mean_m"]) for row in rows]
    assert moved == pytest.approx([100, 200, 300], rel=0.02)
    assert [float(row["centreline_moved_m_per_year"]) for row in rows] == pytest.approx(
        [10, 20, 15], rel=0.02
    )
    for name in (
        "changes.html",
        "changes.jpg",
        "centrelines.jpg",
        "river_1990/report.html",
        "river_2010/mask.tif",
    ):
        assert (tmp_path / "out" / name).stat().st_size > 0, name
    assert "the centreline moved 300 m" in capsys.readouterr().out
    page = (tmp_path / "out/changes.html").read_text()
    assert "water found, km²" in page


def dates_of(*arguments: str) -> list[tuple[str, float | None]]:
    args = map_changes.parse([*arguments, "--support", "drawn.gpkg", "--out", "out"])
    return [(epoch.name, epoch.year) for epoch in map_changes.epochs(args, segment_raster.configs(args))]


def test_dates_of_the_command_line_go_before_those_of_names():
    given = dates_of("b.tif", "a_1985.tif", "--dates", "2024-07-02", "2023")
    assert given == [("2023", 2023.5), ("2024-07-02", 2024.5)]
    assert dates_of("b.tif", "a_1985.tif") == [("b", None), ("a_1985", 1985.5)]  # not all known: as given
    assert dates_of("b_20160816.tif", "a_1985.tif") == [("1985", 1985.5), ("2016-08-16", 2016.623)]
    assert dates_of("b_1985.tif", "a_1985.tif") == [("b_1985", 1985.5), ("a_1985", 1985.5)]  # not told apart


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.tif",), "two dates or more"),
        (("a.tif", "b.tif", "--mosaic"), "without --mosaic"),
        (("a.tif", "b.tif", "--dates", "2020"), "1 --dates for 2 rasters"),
        (("a.tif", "b.tif", "--dates", "2020", "soon"), "soon is not a date"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_done(arguments, words, capsys):
    assert map_changes.main([*arguments, "--support", "drawn.gpkg", "--out", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
