"""Which working resolution the page chooses, offers and keeps, and that its runs have it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import shapely

from fewscope.annotate.resolution import LEAST_POINTS, Choice, Ladder, may_change, wanted
from fewscope.annotate.web_keys import LEARNING
from fewscope.connectors.open import open_source
from fewscope.connectors.raster_options import RasterOptions
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from fewscope.connectors.support.load import load_support
from fewscope.jobs import segment_raster, segment_wsi
from fewscope.pipeline.plan import make_plan
from tests.helpers.pages import Page, config_of, picture, point, rectangle, visit
from tests.helpers.rasters import north_up, waves, write_raster
from tests.helpers.resolutions import GLAND, command_of_a_run, settled
from tests.helpers.support_folders import photo, save_pair

LADDER = Ladder(0.5, "µm", 4, is_given=False, halvings=2)


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


def test_the_largest_region_limits_the_resolution_as_in_a_job(slide, tmp_path):
    out = tmp_path / "out"

    async def journey(page: Page) -> None:
        await page.ops(rectangle(90, 90, 314, 314, "region"))
        await page.ops(GLAND)
        said = await settled(page)
        assert said["text"] == "Now at 1 µm/px, as gland is about 180 µm across.", (
            "not at 2: the region is 112 µm wide"
        )
        job = segment_wsi.parse(
            [str(slide), "--support", str(out / "labels.geojson"), "--out", str(tmp_path)]
        )
        plan = make_plan(segment_wsi.configs(job)[0])
        assert page.client.app[LEARNING].support.digest() == plan.support.digest()

    visit(config_of(slide, out), journey)


def test_regions_that_would_become_too_small_keep_the_resolution_until_a_person_changes_it(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(rectangle(90, 90, 474, 474, "region"), rectangle(500, 90, 600, 190, "region"))
        await page.ops(GLAND)
        said = await settled(page)
        assert (said["factor"], said["to"]) == (1, 4)
        await page.post("/api/resolution", {"factor": 1})
        assert (await settled(page))["text"] == ""

    visit(config_of(slide, tmp_path / "out"), journey)


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


def granules(path: Path) -> list[dict[str, Any]]:
    """A slide of 0.125 um/px with dark discs, 2 um across; operations that put a region around them, and a point on
    each."""
    middles = [(x, y) for y in range(230, 630, 80) for x in range(230, 630, 80)]
    rows, cols = np.mgrid[:900, :900]
    image = np.full((900, 900, 3), 220, np.uint8)
    for x, y in middles:
        image[np.hypot(cols + 0.5 - x, rows + 0.5 - y) < 8] = 60
    write_pyramid(path, image, mpp=0.125)
    return [rectangle(200, 200, 648, 648, "region"), *(point(x, y, "granule") for x, y in middles)]


def test_small_objects_at_points_are_seen_at_the_resolution_of_a_job(tmp_path, monkeypatch):
    path, out = tmp_path / "granules.tif", tmp_path / "out"
    region, *points = granules(path)
    first, second = points[: LEAST_POINTS - 1], points[LEAST_POINTS - 1 :]

    async def journey(page: Page) -> None:
        await page.ops(region, *first)
        assert (await settled(page))["factor"] == 1, "a few clicks do not say yet how large what they mark is"
        await page.ops(*second)
        said = await settled(page)
        assert said["text"] == "Now at 0.25 µm/px, as granule is about 2 µm across."
        learning = page.client.app[LEARNING]
        assert [one.info.mpp for one in learning.preview.sources] == [0.25]
        job = segment_wsi.parse([str(path), "--support", str(out / "labels.geojson"), "--out", str(tmp_path)])
        assert learning.support.digest() == make_plan(segment_wsi.configs(job)[0]).support.digest()
        await page.ops({"op": "undo"})
        assert (await settled(page))["factor"] == 1

    async def stated(page: Page) -> None:
        await page.ops(region, points[0])
        assert (await settled(page))["factor"] == 0.5

    visit(config_of(path, out), journey)
    visit(config_of(path, tmp_path / "stated", object_radius_um=1.0), stated)


def test_a_resolution_of_the_slide_between_two_steps_is_offered_and_taken_as_by_a_job(tmp_path, monkeypatch):
    path, out = tmp_path / "between.tif", tmp_path / "out"
    write_pyramid(path, picture(1000, 1000), mpp=0.34)

    async def journey(page: Page) -> None:
        said = await page.get("/api/resolution")
        assert [one["text"] for one in said["values"][:3]] == ["0.34 µm/px", "0.5 µm/px", "1 µm/px"]
        region = rectangle(200, 200, 424, 424, "region")
        await page.ops(region, *(rectangle(x, 250, x + 6, 256, name="granule") for x in (220, 300, 380)))
        said = await settled(page)
        assert said["text"] == "Now at 0.34 µm/px, as granule is about 2 µm across."
        learning = page.client.app[LEARNING]
        assert [one.info.mpp for one in learning.preview.sources] == pytest.approx([0.34])
        (config,) = segment_wsi.configs(segment_wsi.parse(await command_of_a_run(page, monkeypatch)))
        assert config.mpp == pytest.approx(0.34)
        job = segment_wsi.parse([str(path), "--support", str(out / "labels.geojson"), "--out", str(tmp_path)])
        assert learning.support.digest() == make_plan(segment_wsi.configs(job)[0]).support.digest()

    async def again(page: Page) -> None:
        said = await settled(page)
        assert said["factor"] == said["values"][0]["factor"]

    visit(config_of(path, out), journey)
    visit(config_of(path, out), again)


@pytest.mark.parametrize(
    ("native", "start", "factors"),
    [
        ((0.34,), 0.5, [0.68, 1, 2]),
        ((0.26,), 0.5, [0.52, 1, 2]),
        ((0.13,), 0.5, [0.26, 0.5, 1, 2]),
        ((0.248,), 0.5, [0.5, 1, 2]),  # as good as a step
        ((0.5,), 0.5, [1, 2]),
        ((0.25, 0.34), 0.5, [0.68, 1, 2]),  # finer than the second slide is
        ((0.25,), 0.3, [0.25 / 0.3, 1, 2]),  # --mpp 0.3
    ],
)
def test_the_finest_resolution_is_that_of_the_slides(native, start, factors):
    infos = [
        SimpleNamespace(
            kind="slide", mpp=start, mpp_source="", native_mpp=own, width=500, height=460, transform=None
        )
        for own in native
    ]
    assert Ladder.of(infos, "µm", is_given=False).factors == pytest.approx(factors)  # type: ignore[arg-type]


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
