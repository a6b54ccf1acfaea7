"""The working resolution of the page: by itself for large objects, by a person, kept, and taken over by runs."""

from __future__ import annotations

import asyncio
import json
import shlex
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
from fewscope.annotate.resolution import Choice, Ladder, may_change, wanted
from fewscope.annotate.results import Filters, ResultTable
from fewscope.annotate.run_routes import start_run
from fewscope.annotate.web_keys import LEARNING, RUNS
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.several import load_several
from fewscope.jobs import segment_raster, segment_wsi
from fewscope.pipeline.plan import make_plan
from tests.helpers.finished_runs import finished
from tests.helpers.pages import DiscPreview, InstantPreview, Page, config_of, picture, rectangle, visit
from tests.helpers.rasters import north_up, waves, write_raster
from tests.helpers.support_folders import photo, save_pair

GLAND = rectangle(100, 100, 460, 460, name="gland")  # 180 um across
NUCLEUS = rectangle(600, 100, 618, 118, name="nucleus")  # 9 um
LADDER = Ladder(0.5, "µm", 4, is_given=False, halvings=2)


async def settled(page: Page) -> dict[str, Any]:
    """What the page says of the resolution, once it has learned from the newest labels."""
    assert await asyncio.to_thread(page.client.app[LEARNING].wait_learned, 60)
    return await page.get("/api/resolution")


async def command_of_a_run(page: Page, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run that the page starts."""
    commands: list[list[str]] = []
    runs = page.client.app[RUNS]
    monkeypatch.setattr(runs, "start", lambda folder, kind, sources, words, request: commands.append(words))
    body = {"sources": ["0"]}
    await asyncio.to_thread(start_run, page.session, runs, page.client.app[LEARNING], body)
    return list(commands[0])


def test_the_page_is_at_the_resolution_of_a_job_as_soon_as_a_large_object_is_drawn(
    slide, tmp_path, monkeypatch
):
    out = tmp_path / "out"

    async def draw(page: Page) -> None:
        await page.get("/api/resolution")
        await page.ops(GLAND)
        said = await settled(page)
        assert said["factor"] == 4
        assert said["text"] == "Now at 2 µm/px, as gland is about 180 µm across."
        assert (said["is_kept"], said["to"]) == (True, 1)
        assert [one["text"] for one in said["values"]] == ["0.5 µm/px", "1 µm/px", "2 µm/px"]
        info = await page.get("/api/info")
        assert (info["sources"][0]["work_scale"], info["patch"]) == (4.0, 4 * 224)
        learning = page.client.app[LEARNING]
        assert [one.info.mpp for one in learning.preview.sources] == [2.0]
        job = segment_wsi.configs(
            segment_wsi.parse(
                [str(slide), "--support", str(out / "labels.geojson"), "--out", str(tmp_path / "job")]
            )
        )
        assert learning.support.digest() == make_plan(job[0]).support.digest(), "as a job without --mpp"
        (config,) = segment_wsi.configs(segment_wsi.parse(await command_of_a_run(page, monkeypatch)))
        assert config.mpp == 2.0

    async def again(page: Page) -> None:
        assert (await settled(page))["factor"] == 4
        (label,) = (await page.get("/api/labels?source=0"))["features"]
        assert shapely.geometry.shape(label["geometry"]).bounds == (100, 100, 460, 460)
        view = {"source": "0", "box": [400, 400, 800, 600], "pointer": None}
        await page.post("/api/view", view, status=204)
        _, window, _ = page.client.app[LEARNING].preview.looks[-1]
        assert (window.col_off, window.row_off, window.width, window.height) == (100, 100, 100, 50)
        await page.ops({"op": "undo"})
        assert (await settled(page))["factor"] == 1, "nothing large is left"

    visit(config_of(slide, out), draw)
    assert json.loads((out / "resolution.json").read_text())["factor"] == 4
    visit(config_of(slide, out), again)


def test_what_a_person_chooses_stays(slide, tmp_path):
    config = config_of(slide, tmp_path / "out")

    async def take_back(page: Page) -> None:
        await page.ops(GLAND)
        assert (await settled(page))["factor"] == 4
        said = await page.post("/api/resolution", {"factor": 1})
        assert (said["factor"], said["text"]) == (1, "")
        await page.ops(rectangle(480, 100, 800, 420, name="gland"))
        assert await settled(page) == said, "what was declined is not offered again"
        for wrong in ({"factor": 3}, {"factor": True}, {"factor": "2"}, {"factor": 64}, {}):
            assert "is no resolution" in (await page.post("/api/resolution", wrong, status=400))["error"]

    async def by_hand(page: Page) -> None:
        assert (await settled(page))["factor"] == 1
        await page.post("/api/resolution", {"factor": 2})
        assert (await settled(page))["factor"] == 2
        await page.ops({"op": "undo"}, revision=10**6)
        await page.ops({"op": "undo"})
        assert (await settled(page))["factor"] == 2, "undo is of labels"
        await page.ops(rectangle(600, 100, 612, 112, name="granule"))
        said = await settled(page)
        assert said["text"] == "granule: about 6 px across, too small at 1 µm/px."
        assert (said["to"], said["is_kept"]) == (1, False)

    visit(config, take_back)
    visit(config, by_hand)


def test_a_resolution_that_was_asked_for_is_left_and_another_one_offered(slide, tmp_path, monkeypatch):
    config = config_of(
        slide, tmp_path / "out", mpp=0.5, slide_arguments=("--mpp", "0.5", "--fine-words", "x")
    )

    async def offered(page: Page) -> None:
        await page.ops(GLAND)
        said = await settled(page)
        assert said["factor"] == 1
        assert said["text"] == "gland: about 360 px across, too large at 0.5 µm/px."
        assert (said["to"], said["is_kept"]) == (4, False)
        words = await command_of_a_run(page, monkeypatch)
        assert shlex.join(words).endswith("--mpp 0.5 --fine-words x")
        await page.post("/api/resolution", {"factor": 4})
        assert (await settled(page))["text"] == ""
        words = await command_of_a_run(page, monkeypatch)
        assert shlex.join(words).endswith("--mpp 2 --fine-words x")

    async def asked_again(page: Page) -> None:
        assert (await settled(page))["factor"] == 1

    visit(config, offered)
    visit(config, asked_again)


def test_regions_that_would_become_too_small_keep_the_resolution_until_a_person_changes_it(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(rectangle(90, 90, 314, 314, "region"))
        await page.ops(GLAND)
        said = await settled(page)
        assert (said["factor"], said["to"]) == (1, 4)
        await page.post("/api/resolution", {"factor": 1})
        assert (await settled(page))["text"] == ""

    visit(config_of(slide, tmp_path / "out"), journey)


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


def test_a_raster_is_offered_another_resolution_in_its_unit(tmp_path, monkeypatch):
    path = Path(write_raster(tmp_path / "scene.tif", waves(700, 900).astype("uint8"), north_up(10.0)))
    config = config_of(path, tmp_path / "out", raster_arguments=("--res", "10"))
    lake = rectangle(100, 100, 460, 460, name="lake")

    async def journey(page: Page) -> None:
        await page.ops(rectangle(60, 60, 700, 600, "region"), lake)
        said = await settled(page)
        assert (said["factor"], said["to"]) == (1, 4)
        assert said["text"] == "lake: about 360 px across, too large at 10 m/px."
        assert said["values"][2]["text"] == "40 m/px"
        await page.post("/api/resolution", {"factor": 4})
        await settled(page)
        info = await page.get("/api/info")
        assert (info["sources"][0]["work_scale"], info["sources"][0]["width"]) == (4.0, 900)
        await page.ops(rectangle(480, 200, 560, 280, name="lake"))
        await settled(page)
        file = str(tmp_path / "out" / "labels.geojson")
        source = open_source(str(path), raster=RasterOptions(res=40.0))
        batch = load_support(file, source=source)
        source.close()
        assert page.client.app[LEARNING].support.digest() == batch.digest()
        drawn = [
            shapely.geometry.shape(one["geometry"]) for one in json.loads(Path(file).read_text())["features"]
        ]
        assert [round(shape.area) for shape in drawn] == [640 * 540 * 100, 360 * 360 * 100, 80 * 80 * 100]
        words = await command_of_a_run(page, monkeypatch)
        (config,) = segment_raster.configs(segment_raster.parse(words))
        assert config.raster.view.res == 40.0
        assert words.count("--res") == 1

    async def again(page: Page) -> None:
        assert (await settled(page))["factor"] == 4
        first = (await page.get("/api/labels?source=0"))["features"][1]
        assert shapely.geometry.shape(first["geometry"]).bounds == (100, 100, 460, 460)

    visit(config, journey)
    visit(config, again)


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


def test_with_labelled_pictures_there_is_one_resolution(slide, tmp_path):
    folder = tmp_path / "two"
    for k in range(2):
        save_pair(folder, str(k), photo(seed=k))
    (folder / "support.json").write_text(json.dumps({"mpp": 0.5, "class": "cell"}))

    async def journey(page: Page) -> None:
        await page.ops(GLAND)
        said = await settled(page)
        assert (len(said["values"]), said["factor"], said["text"]) == (1, 1, "")

    visit(config_of(slide, tmp_path / "out", folders=(str(folder),)), journey)


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


def test_small_objects_are_seen_at_a_finer_resolution(tmp_path, monkeypatch):
    path, out = tmp_path / "fine.tif", tmp_path / "out"
    write_pyramid(path, picture(1000, 1000), mpp=0.125)

    async def journey(page: Page) -> None:
        await page.get("/api/resolution")
        region = rectangle(200, 200, 424, 424, "region")  # 28 um
        await page.ops(region, *(rectangle(x, 250, x + 20, 270, name="granule") for x in (220, 300, 380)))
        said = await settled(page)
        assert said["text"] == "Now at 0.25 µm/px, as granule is about 2.5 µm across."
        assert [one["text"] for one in said["values"][:3]] == ["0.125 µm/px", "0.25 µm/px", "0.5 µm/px"]
        learning = page.client.app[LEARNING]
        assert [one.info.mpp for one in learning.preview.sources] == [0.25]
        (config,) = segment_wsi.configs(segment_wsi.parse(await command_of_a_run(page, monkeypatch)))
        assert config.mpp == 0.25
        job = segment_wsi.parse([str(path), "--support", str(out / "labels.geojson"), "--out", str(tmp_path)])
        assert learning.support.digest() == make_plan(segment_wsi.configs(job)[0]).support.digest()

    async def again(page: Page) -> None:
        assert (await settled(page))["factor"] == 0.5

    visit(config_of(path, out), journey)
    visit(config_of(path, out), again)


@pytest.mark.parametrize(
    ("sizes", "now", "factor"),
    [
        ({}, Choice(), 1),
        ({"nucleus": 8}, Choice(), 1),
        ({"gland": 180}, Choice(), 4),
        ({"gland": 180, "nucleus": 9}, Choice(), 2),
        ({"gland": 90}, Choice(4, "page"), 4),  # 45 px are no reason to change again
        ({"gland": 90, "nucleus": 9}, Choice(4, "page"), 2),  # but nuclei of 4.5 px are
        ({"tumour": 10_000}, Choice(), 16),  # the last rung
        ({}, Choice(4, "page"), 1),
        ({}, Choice(4, "person"), 4),
        ({"granule": 2.5}, Choice(), 0.5),
        ({"granule": 0.2}, Choice(), 0.25),  # the slide has no finer one
        ({"granule": 2, "nucleus": 40}, Choice(), 1),
        ({"nucleus": 9}, Choice(0.5, "page"), 0.5),  # 36 px fit as well
        ({"gland": 180}, Choice(0.5, "page"), 4),
        ({}, Choice(0.25, "page"), 1),
    ],
)
def test_which_resolution_is_wanted(sizes, now, factor):
    assert wanted(now, LADDER.suits(sizes), LADDER, sizes) == factor


def test_the_page_changes_the_resolution_only_where_nothing_is_lost():
    small, large = shapely.box(0, 0, 224, 224), shapely.box(0, 0, 900, 900)
    assert may_change(Choice(), 4, LADDER, "slide", [])
    assert may_change(Choice(), 4, LADDER, "slide", [(large, 1.0)])
    assert not may_change(Choice(), 4, LADDER, "slide", [(large, 1.0), (small, 1.0)])
    assert not may_change(Choice(), 4, LADDER, "slide", [(large, 4.0)]), "level-0 px of a slide that is finer"
    assert not may_change(Choice(1, "person"), 4, LADDER, "slide", [])
    assert not may_change(Choice(), 4, replace(LADDER, is_given=True), "slide", [])
    assert not may_change(Choice(), 4, LADDER, "raster", [])
    assert may_change(Choice(4, "page"), 1, LADDER, "slide", [(large, 1.0)])
    assert not may_change(Choice(4, "page"), 1, LADDER, "slide", [(large, 1.0)] * 2), "more than 32 patches"
    assert may_change(Choice(), 0.25, LADDER, "slide", [(small, 1.0)] * 2)
    assert not may_change(Choice(), 0.25, LADDER, "slide", [(small, 1.0)] * 3), "of 16 patches each"


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
