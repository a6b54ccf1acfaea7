"""The page while its working resolution changes, and what lies where at another one."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely
from affine import Affine

from fewscope.annotate.correcting import WAIT_S
from fewscope.annotate.events import EventHub
from fewscope.annotate.results import Filters, ResultTable
from fewscope.annotate.web_keys import LEARNING
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.several import load_several
from tests.helpers.finished_runs import finished
from tests.helpers.pages import DiscPreview, InstantPreview, Page, config_of, picture, rectangle, visit
from tests.helpers.rasters import north_up, waves, write_raster
from tests.helpers.resolutions import GLAND, NUCLEUS, settled


def test_a_region_of_too_many_patches_is_learned_from_at_a_coarser_resolution(tmp_path):
    path = tmp_path / "wide.tif"
    write_pyramid(path, picture(1500, 1600), mpp=0.5)

    async def journey(page: Page) -> None:
        await page.ops(rectangle(0, 0, 1600, 1500, "region"), rectangle(1200, 100, 1260, 160, name="tumour"))
        state = await page.until("/api/preview?source=0", lambda now: "more than 32" in now["message"])
        assert state["state"] == "empty"
        await page.ops(rectangle(100, 100, 1000, 1000, name="tumour"))
        state = await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        assert (await page.get("/api/resolution"))["factor"] == 4
        assert state["message"] == ""

    visit(config_of(path, tmp_path / "out"), journey)


def test_labels_on_a_raster_stay_in_place_at_another_res(tmp_path):
    path = Path(write_raster(tmp_path / "scene.tif", waves(700, 900).astype("uint8"), north_up(10.0)))
    config = config_of(path, tmp_path / "out")
    drawn = (rectangle(60, 60, 284, 284, "region"), rectangle(100, 100, 160, 180, name="lake"))

    def bounds(answer: dict[str, Any]) -> list[tuple[float, ...]]:
        return [shapely.geometry.shape(one["geometry"]).bounds for one in answer["features"]]

    async def draw(page: Page) -> None:
        await page.ops(*drawn)

    async def undo(page: Page) -> None:
        assert len(bounds(await page.get("/api/labels?source=0"))) == 2
        await page.ops({"op": "undo"})
        await page.ops({"op": "redo"})

    async def coarser(page: Page) -> None:
        found = await page.get("/api/labels?source=0")
        assert bounds(found) == [(30, 30, 142, 142), (50, 50, 80, 90)]
        assert "is of another --res" in " ".join((await page.get("/api/info"))["sources"][0]["notes"])

    visit(config, draw)
    file = (tmp_path / "out" / "labels.geojson").read_bytes()
    visit(config, undo)
    assert (tmp_path / "out" / "labels.geojson").read_bytes() == file
    visit(replace(config, raster=RasterOptions(res=20.0)), coarser)
    shapes = [
        shapely.geometry.shape(one["geometry"])
        for text in (file, (tmp_path / "out" / "labels.geojson").read_bytes())
        for one in json.loads(text)["features"]
    ]
    assert [shape.equals(other) for shape, other in zip(shapes[:2], shapes[2:], strict=True)] == [True, True]


@pytest.fixture
def two_slides(slide, tmp_path):
    """The slide and a copy of it, in one page."""
    other = tmp_path / "other.tif"
    other.write_bytes(slide.read_bytes())
    config = config_of(slide, tmp_path / "out")
    return replace(config, sources=(str(slide), str(other)), names=("slide", "other"))


def test_all_images_change_together(two_slides):
    async def journey(page: Page) -> None:
        await page.ops({**GLAND}, source="1")
        assert (await settled(page))["factor"] == 4
        assert [one["work_scale"] for one in (await page.get("/api/info"))["sources"]] == [4.0, 4.0]

    visit(two_slides, journey)


def test_after_a_change_the_image_looked_at_last_is_previewed_first(two_slides):
    async def journey(page: Page) -> None:
        await page.ops(NUCLEUS)
        await settled(page)
        for source in ("0", "1", "0"):
            view = {"source": source, "box": [0, 0, 400, 400], "pointer": None}
            await page.post("/api/view", view, status=204)
        await page.post("/api/resolution", {"factor": 2})
        await settled(page)
        assert [source for source, *_ in page.client.app[LEARNING].preview.looks] == [1, 0], (
            "the last one wins"
        )

    visit(two_slides, journey)


def test_while_the_resolution_is_changed_the_page_says_so(slide, tmp_path, monkeypatch):
    """Though the labels were just being read for the resolution before."""
    opened, may_open = [], threading.Event()

    def make_preview(*arguments: Any) -> InstantPreview:
        opened.append(arguments)
        if len(opened) > 1:
            may_open.wait(20)
        return InstantPreview(*arguments)

    async def journey(page: Page) -> None:
        learning = page.client.app[LEARNING]

        def change_while_reading(*arguments: Any) -> Any:
            if len(opened) == 1:
                page.session.hub.in_loop(learning.reopened)
            return load_several(*arguments)

        monkeypatch.setattr("fewscope.annotate.learning.load_several", change_while_reading)
        try:
            await page.ops(NUCLEUS)
            await page.until("/api/preview?source=0", lambda now: len(opened) == 2)
            assert (await page.get("/api/preview?source=0"))["message"] == "the resolution is being changed"
        finally:
            may_open.set()
        await settled(page)

    visit(config_of(slide, tmp_path / "out"), journey, make_preview)


def test_a_preview_that_cannot_be_made_at_another_resolution_says_so(slide, tmp_path):
    made = []

    def make_preview(*arguments: Any) -> InstantPreview:
        if made:
            raise MemoryError("no room")
        made.append(InstantPreview(*arguments))
        return made[0]

    async def journey(page: Page) -> None:
        await page.ops(NUCLEUS)
        await settled(page)
        await page.post("/api/resolution", {"factor": 2})
        state = await page.until("/api/preview?source=0", lambda now: "changed" not in now["message"])
        assert state["message"] == "no preview: MemoryError('no room')"
        await page.ops(GLAND)

    visit(config_of(slide, tmp_path / "out"), journey, make_preview)


def test_a_region_that_is_proposed_while_the_resolution_changes_is_refused_at_once(slide, tmp_path):
    class Slow(DiscPreview):
        def probability(self, source: int, window: Any, class_index: int) -> Any:
            values, known = super().probability(source, window, class_index)
            return values, known & False

        def status(self, source: int) -> Any:
            return replace(super().status(source), state="computing")

    async def journey(page: Page) -> None:
        await page.ops(NUCLEUS)
        await settled(page)
        looks = page.client.app[LEARNING].preview.looks
        asked = asyncio.create_task(
            page.post("/api/propose", {"source": "0", "x": 300, "y": 300}, status=400)
        )
        while not looks:
            await asyncio.sleep(0.01)
        before = time.monotonic()
        await page.post("/api/resolution", {"factor": 2})
        assert "the resolution" in (await asked)["error"]
        assert time.monotonic() - before < WAIT_S / 2

    visit(config_of(slide, tmp_path / "out"), journey, Slow)


@pytest.mark.parametrize("kind", ["slide", "raster"])
def test_a_result_at_another_resolution_than_the_page_lies_where_it_is(tmp_path, kind):
    found = np.zeros((100, 100), np.uint32)
    found[20:40, 50:70] = 1
    of_page = north_up(10.0) if kind == "raster" else Affine.scale(2.0)
    source = SimpleNamespace(info=SimpleNamespace(transform=of_page @ Affine.scale(4.0), kind=kind))
    finished(tmp_path, found, source)
    table = ResultTable(tmp_path, 1.0, SimpleNamespace(transform=of_page, kind=kind))  # type: ignore[arg-type]
    px = 4.0 if kind == "raster" else 8.0  # image px: those of a raster at the start, of a slide's level 0
    (row,) = table.rows(table.view(Filters()))
    assert row[-2:] == [60 * px, 30 * px]
    assert table.at(51 * px, 21 * px) is not None
    assert table.at(49 * px, 21 * px) is None


def test_what_fails_in_the_loop_fails_where_it_was_asked_for():
    def fail() -> None:
        raise ValueError("no such source")

    async def serve() -> None:
        hub = EventHub()
        hub.start(asyncio.get_running_loop())
        with pytest.raises(ValueError, match="no such source"):
            await asyncio.to_thread(hub.in_loop, fail)

    asyncio.run(serve())
