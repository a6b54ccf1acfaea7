"""An area of interest: drawn in the page, kept beside the labels, and what a run segments."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import box, mapping, shape

from fewscope.annotate.label_files import LabelFile
from fewscope.annotate.results import Filters, ResultTable
from fewscope.annotate.run_routes import start_run
from fewscope.annotate.shapes import Label
from fewscope.annotate.tiles import TileAddress, TileGrid
from fewscope.annotate.web_keys import LEARNING, RUNS
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.support.area_files import AreaOptions, read_area
from fewscope.connectors.support_options import SupportOptions
from fewscope.errors import PageRunError
from fewscope.jobs import segment_raster, segment_wsi
from tests.helpers import fakes
from tests.helpers.pages import DISCS, DiscPreview, Page, config_of, rectangle, visit
from tests.helpers.rasters import north_up, write_raster

LABELS = (rectangle(10, 10, 234, 234, "region"), rectangle(20, 20, 60, 60))


def area(x0: float, y0: float, x1: float, y1: float, negative: bool = False) -> dict:
    operation = rectangle(x0, y0, x1, y1, "area", None)
    operation["feature"]["properties"]["negative"] = negative
    return operation


def drawn(path: Path, *boxes: tuple[float, float, float, float], name: str = "Tumor") -> str:
    features = [
        {"type": "Feature", "geometry": mapping(box(*one)), "properties": {"classification": {"name": name}}}
        for one in boxes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return str(path)


def test_an_area_is_kept_beside_the_labels_and_undone_like_them(slide, tmp_path):
    async def draw(page: Page) -> None:
        await page.ops(*LABELS)
        answer = await page.ops(area(100, 100, 500, 400))
        assert shape(answer["area"]).equals(box(100, 100, 500, 400))
        answer = await page.ops(area(200, 200, 300, 300, negative=True))
        expected = box(100, 100, 500, 400).difference(box(200, 200, 300, 300))
        assert shape(answer["area"]).equals(expected)
        assert "Area" not in (tmp_path / "labels.geojson").read_text(), "a support set knows nothing of it"
        with closing(open_source(str(slide))) as source:
            read = read_area(AreaOptions(str(tmp_path / "area.geojson")), source.info)
        assert read.geometry.equals(expected)
        assert shape((await page.ops({"op": "undo"}))["area"]).equals(box(100, 100, 500, 400))
        await page.ops({"op": "redo"})
        await page.ops({"op": "erase", "line": [[90, 150], [510, 150]], "radius": 20})
        assert shape((await page.get("/api/labels?source=0"))["area"]).equals(expected), (
            "no eraser touches it"
        )

    async def look(page: Page) -> None:
        found = await page.get("/api/labels?source=0")
        ids = [one["id"] for one in found["features"] if one["properties"]["kind"] == "area"]
        assert len(ids) == 2
        (one,) = (await page.get("/api/info"))["sources"]
        assert (one["n_regions"], one["n_objects"]) == (1, 1)
        assert (await page.ops({"op": "delete", "ids": ids}))["area"] is None
        assert json.loads((tmp_path / "area.geojson").read_text())["features"] == []

    visit(config_of(slide, tmp_path), draw)
    visit(config_of(slide, tmp_path), look)


def test_where_areas_and_holes_overlap_the_later_one_counts(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(area(100, 100, 500, 400))
        await page.ops(area(200, 200, 300, 300, negative=True))
        answer = await page.ops(area(240, 240, 260, 500))  # from within the hole to below the area
        holed = box(100, 100, 500, 400).difference(box(200, 200, 300, 300))
        assert shape(answer["area"]).equals(holed.union(box(240, 240, 260, 500)))
        first = answer["changed"][0]["id"]
        assert shape((await page.ops({"op": "delete", "ids": [first]}))["area"]).equals(holed)

    visit(config_of(slide, tmp_path), journey)


def test_labels_that_another_program_or_an_earlier_round_brings_leave_the_area(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        (one,) = page.session.sources
        then = one.labels.state_now()
        await page.ops(area(100, 100, 500, 400))
        await page.ops(rectangle(300, 20, 360, 60))
        one.labels.restore(*then)
        assert one.labels.area.equals(box(100, 100, 500, 400))
        text = json.loads((tmp_path / "labels.geojson").read_text())
        text["features"] = text["features"][:1]
        (tmp_path / "labels.geojson").write_text(json.dumps(text))
        one.labels.reload()
        assert len(one.labels.all()) == 1
        assert one.labels.area.equals(box(100, 100, 500, 400))

    visit(config_of(slide, tmp_path), journey)


def rewrite(path: Path, *boxes: tuple[float, float, float, float], name: str = "Area*") -> None:
    """What another program does that changes a file: not in the same instant as the page."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    drawn(path, *boxes, name=name)
    os.utime(path, ns=(before + 10**9, before + 10**9))


def test_an_area_that_another_program_changes_is_read_again(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("fewscope.annotate.app.WATCH_S", 0.02)
    file = tmp_path / "area.geojson"

    async def area_is(page: Page, expected: shapely.Geometry | None) -> None:
        def holds(answer: Any) -> bool:
            return answer["area"] is expected or (
                None not in (answer["area"], expected) and shape(answer["area"]).equals(expected)
            )

        await asyncio.wait_for(page.until("/api/labels?source=0", holds), 20)

    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        await page.ops(area(100, 100, 500, 400))
        rewrite(file, (100, 100, 500, 300))
        await area_is(page, box(100, 100, 500, 300))
        assert shape((await page.ops({"op": "undo"}))["area"]).equals(box(100, 100, 500, 400))
        await page.ops({"op": "redo"})
        file.unlink()  # nothing is lost
        while not file.exists():
            await asyncio.sleep(0.02)
        await area_is(page, box(100, 100, 500, 300))
        rewrite(file)  # everything in it was deleted
        await area_is(page, None)
        rewrite(file, (300, 300, 600, 600), name="Tumor")
        await area_is(page, box(300, 300, 600, 600))
        assert len((await page.get("/api/labels?source=0"))["features"]) == 3

    async def closed_meanwhile(page: Page) -> None:
        await area_is(page, box(0, 0, 200, 200))
        await page.ops({"op": "undo"})
        await area_is(page, box(300, 300, 600, 600))

    visit(config_of(slide, tmp_path), journey)
    rewrite(file, (0, 0, 200, 200))
    visit(config_of(slide, tmp_path), closed_meanwhile)


def test_an_area_that_cannot_be_read_keeps_nobody_from_drawing(slide, tmp_path):
    file = tmp_path / "area.geojson"

    async def journey(page: Page) -> None:
        await page.ops(area(100, 100, 500, 400))
        text = '{"type": "FeatureCollection", "features": [{'  # another program is still writing
        file.write_text(text)
        await page.ops(*LABELS)
        answer = await page.ops(area(0, 0, 50, 50), status=400)
        assert "area.geojson: cannot be read" in answer["error"]
        assert file.read_text() == text
        rewrite(file, (0, 0, 200, 200))
        answer = await page.ops(area(200, 0, 300, 200))
        assert shape(answer["area"]).equals(box(0, 0, 300, 200))

    visit(config_of(slide, tmp_path), journey)


def test_an_area_among_labels_that_another_program_has_exported_is_told_apart(slide, tmp_path):
    file = tmp_path / "area.geojson"

    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        await page.ops(area(100, 100, 500, 400))
        both = json.loads(file.read_text())
        both["features"] += json.loads((tmp_path / "labels.geojson").read_text())["features"]
        both["features"][0]["geometry"] = mapping(box(100, 100, 400, 400))
        file.write_text(json.dumps(both))
        page.session.sources[0].labels.reload()
        assert shape((await page.get("/api/labels?source=0"))["area"]).equals(box(100, 100, 400, 400))

    visit(config_of(slide, tmp_path), journey)


def test_an_area_that_a_crash_kept_from_the_disk_is_written_at_the_next_start(slide, tmp_path):
    file = tmp_path / "area.geojson"

    async def draw(page: Page) -> None:
        await page.ops(area(100, 100, 500, 400))
        before = file.read_bytes()
        await page.ops(area(500, 100, 600, 400))
        file.write_bytes(before)

    async def again(page: Page) -> None:
        whole = box(100, 100, 600, 400)
        assert shape((await page.get("/api/labels?source=0"))["area"]).equals(whole)
        with closing(open_source(str(slide))) as source:
            assert read_area(AreaOptions(str(file)), source.info).geometry.equals(whole)

    visit(config_of(slide, tmp_path), draw)
    visit(config_of(slide, tmp_path), again)


def test_nothing_is_learned_again_from_an_area(slide, tmp_path):
    async def journey(page: Page) -> None:
        learning = page.client.app[LEARNING]
        await page.ops(*LABELS)
        await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        before = learning.revision
        await page.ops(area(100, 100, 500, 400))
        assert learning.revision == before
        await page.ops(rectangle(300, 20, 360, 60))
        assert learning.revision == before + 1

    async def again(page: Page) -> None:
        await page.ops(area(0, 0, 50, 50))
        assert page.client.app[LEARNING].revision == 1

    visit(config_of(slide, tmp_path), journey)
    visit(config_of(slide, tmp_path), again)


def test_found_objects_are_counted_in_the_area_alone(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        address = "/api/outlines?source=0&class=cell&threshold=0.5&x0=0&y0=0&x1=900&y1=700"
        everywhere = await page.get(address)
        await page.ops(area(250, 50, 400, 500))
        inside = await page.get(address)
        assert everywhere["count"] > inside["count"] == 2
        discs = sum(np.pi * radius**2 for x, _, radius in DISCS if 250 < x < 400)
        assert inside["area_fraction"] == pytest.approx(discs / (150 * 450), rel=0.05)

    visit(config_of(slide, tmp_path), journey, DiscPreview)


def test_a_run_segments_the_area_of_each_slide(slide, tmp_path, monkeypatch):
    other = tmp_path / "other.tif"
    other.write_bytes(slide.read_bytes())
    config = replace(
        config_of(slide, tmp_path / "out"), sources=(str(slide), str(other)), names=("slide", "other")
    )
    commands: list[list[str]] = []

    async def journey(page: Page) -> None:
        runs, learning = page.client.app[RUNS], page.client.app[LEARNING]
        monkeypatch.setattr(
            runs, "start", lambda folder, kind, sources, words, request: commands.append(words)
        )
        await page.ops(*LABELS)
        await page.ops(area(100, 100, 500, 400))
        for sources in (["0"], ["1"], ["0", "1"]):
            await asyncio.to_thread(start_run, page.session, runs, learning, {"sources": sources})
        await page.ops(area(0, 0, 900, 700, negative=True))
        with pytest.raises(PageRunError, match="nothing is left of the area of slide"):
            start_run(page.session, runs, learning, {"sources": ["0"]})

    visit(config, journey)
    first, second, both = (segment_wsi.configs(segment_wsi.parse(list(words))) for words in commands)
    assert first[0].aoi == str(tmp_path / "out/runs/001/area.geojson")
    assert second[0].aoi is None
    sizes = []
    with closing(open_source(str(slide))) as source:
        for one in both:
            sizes.append(read_area(AreaOptions(one.aoi), source.info).geometry.area)
    assert sizes == [400 * 300, 900 * 700]


def test_a_page_opens_with_an_area(slide, tmp_path):
    """Once: what is made of it in the page stays."""
    path = drawn(tmp_path / "aoi.geojson", (100, 100, 300, 300), (200, 200, 400, 400))
    config = config_of(slide, tmp_path / "out", areas=(path,))

    async def first(page: Page) -> None:
        found = await page.get("/api/labels?source=0")
        assert shape(found["area"]).equals(box(100, 100, 300, 300).union(box(200, 200, 400, 400)))
        await page.ops({"op": "delete", "ids": [one["id"] for one in found["features"]]})

    async def second(page: Page) -> None:
        assert (await page.get("/api/labels?source=0"))["area"] is None

    visit(config, first)
    visit(config, second)


def test_the_result_of_an_area_of_a_raster_lies_where_it_is(tmp_path, monkeypatch, no_pictures):
    """Its grid begins at the corner of the area; the page shows it on that of the whole raster."""
    monkeypatch.setattr("fewscope.jobs.segmenting.model_loader", lambda config: fakes.ByColour)
    path, transform = tmp_path / "scene.tif", north_up(10)
    write_raster(path, np.moveaxis(fakes.picture(), 2, 0), transform=transform, crs="EPSG:32618")
    with closing(open_source(str(path), raster=RasterOptions())) as source:
        file = LabelFile(source.info, SupportOptions())
        wanted = box(130, 90, 430, 390)
        (tmp_path / "area.geojson").write_bytes(file.area_text(wanted))
        (back,) = file.read_area(str(tmp_path / "area.geojson"))
        assert back.geometry.symmetric_difference(wanted).area < 1
        (tmp_path / "drawn.geojson").write_bytes(
            file.text(
                [
                    Label("a", box(10, 10, 210, 210), "region"),
                    Label("b", box(30, 30, 60, 60), "object", "blob"),
                ],
                {},
            )
        )
        words = [
            str(path),
            "--support",
            str(tmp_path / "drawn.geojson"),
            "--local",
            "--threshold",
            "0.5",
            "--adapt",
            "0",
        ]
        whole, part = str(tmp_path / "whole"), str(tmp_path / "part")
        assert segment_raster.main([*words, "--out", whole]) == 0
        assert segment_raster.main([*words, "--out", part, "--aoi", str(tmp_path / "area.geojson")]) == 0
        tables = [ResultTable(Path(out), 1.0, source.info) for out in (whole, part)]
        assert [one.origin for one in tables] == [(0, 0), (90, 130)]
        grid = TileGrid(source.info.width, source.info.height)
        address = TileAddress(grid.max_zoom, 1, 1)
        shown = [one.tile(grid, address, False, Filters())[..., 3] > 0 for one in tables]
        assert shown[1].any()
        assert np.array_equal(shown[0][:134, :174], shown[1][:134, :174]), "the same inside the area"
        assert not shown[1][134:].any()
        rows = tables[1].rows(tables[1].view(Filters()))
        x, y = np.array([row[-2:] for row in rows]).T
        assert shapely.contains_xy(wanted, x, y).all()
        assert tables[1].at(x[0], y[0]) is None or tables[1].at(x[0], y[0])["id"] >= 1


def test_several_rasters_with_areas_are_run_one_at_a_time(tmp_path):
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path in paths:
        write_raster(path, np.moveaxis(fakes.picture(), 2, 0), transform=north_up(10), crs="EPSG:32618")
    config = replace(config_of(paths[0], tmp_path / "out"), sources=tuple(map(str, paths)), names=("a", "b"))

    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        await page.ops(area(100, 100, 500, 400))
        with pytest.raises(PageRunError, match="run one at a time"):
            start_run(page.session, page.client.app[RUNS], page.client.app[LEARNING], {"sources": ["0", "1"]})

    visit(config, journey)


def test_slides_of_one_name_with_areas_are_run_one_at_a_time(slide, tmp_path):
    paths = [tmp_path / folder / "slide.tif" for folder in "ab"]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(slide.read_bytes())
    config = replace(config_of(paths[0], tmp_path / "out"), sources=tuple(map(str, paths)), names=("1", "2"))

    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        await page.ops(area(100, 100, 500, 400))
        with pytest.raises(PageRunError, match=r"2 images are called slide\.tif, .* run one at a time"):
            start_run(page.session, page.client.app[RUNS], page.client.app[LEARNING], {"sources": ["0", "1"]})

    visit(config, journey)


def test_the_gallery_is_of_the_area(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(*LABELS)
        await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        await page.ops(area(400, 200, 900, 700))
        for one in await page.get("/api/suggest?source=0"):
            window = box(one["x0"], one["y0"], one["x1"], one["y1"])
            assert window.intersection(box(400, 200, 900, 700)).area >= window.area / 2
        await page.ops(area(0, 0, 900, 700, negative=True))
        assert "in the area" in (await page.get("/api/suggest?source=0", status=400))["error"]

    visit(config_of(slide, tmp_path), journey, DiscPreview)
