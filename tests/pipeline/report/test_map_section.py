"""The report of a raster shows its map and its rivers, and says how they were measured."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from PIL import Image

from fewscope.connectors.colours import OBJECT_COLOUR
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.results.store import ResultStore
from fewscope.pipeline.maps.files import MapSummary
from fewscope.pipeline.report.map_figures import INK
from fewscope.pipeline.report.map_section import MAX_RIVERS, draw_map, map_section
from tests.helpers.mapped_scene import LAKE, LINE, UTM, mapped, scene


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, str, MapSummary]:
    folder = tmp_path_factory.mktemp("map")
    path, labels = scene(folder)
    return folder / "out", path, mapped(folder, path, labels)


def test_the_numbers_are_those_of_the_rivers(made):
    section = map_section(made[2])
    (river,) = section.rivers
    assert (section.length_unit, section.width_unit, section.n_rivers) == ("km", "m", 1)
    assert (
        section.main_length
        == river.main_length
        == pytest.approx(shapely.LineString(LINE).length / 1000, rel=0.02)
    )
    assert section.width == pytest.approx(100, rel=0.02)
    assert section.measured == "in the plane of the raster's projection"
    assert section.widths.median == pytest.approx(100, rel=0.05)
    assert sum(section.widths.counts) + section.widths.beyond == pytest.approx(section.length * 1000, abs=20)
    peak = int(np.argmax(section.widths.counts))
    assert section.widths.edges[peak] <= 105
    assert section.widths.edges[peak + 1] >= 95


def test_without_rivers_there_is_no_histogram(tmp_path):
    path, labels = scene(tmp_path)
    section = map_section(mapped(tmp_path, path, np.zeros_like(labels)))
    assert (section.n_rivers, section.length, section.width, section.widths) == (0, 0, None, None)
    assert len(section.rivers) <= MAX_RIVERS


def test_the_map_shows_water_centrelines_and_land_where_they_are(made):
    out, path, summary = made
    source = open_source(path, raster=RasterOptions())
    drawn = draw_map(source, ResultStore(str(out)), summary)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.uri.partition(",")[2]))), int)
    assert picture.shape == (150 * 4, 260 * 4, 3)

    def around(x: float, y: float, reach: int) -> np.ndarray:
        col, row = (int(4 * value) for value in ~UTM @ (x, y))
        return picture[row - reach : row + reach + 1, col - reach : col + reach + 1].reshape(-1, 3)

    lake = around(LAKE.centroid.x, LAKE.centroid.y, 2).mean(axis=0)
    assert lake[0] - lake[2] > 100, f"{lake} is not the orange {OBJECT_COLOUR}"
    near = np.abs(around(*LINE[len(LINE) // 3], 6) - INK).max(axis=1)
    assert near.min() < 105, "no line more ink than orange within 1.5 px of the true centreline"
    land = around(500_700, 8_998_700, 2)
    assert np.ptp(land, axis=1).max() < 12, "land is grey"


def test_the_section_is_plain_json(made):
    import dataclasses

    text = json.dumps(dataclasses.asdict(map_section(made[2])), allow_nan=False)
    assert json.loads(text)["rivers"][0]["class_name"] == "water"
