"""Labelled pictures beside what is drawn in the page: preview, list, switch, runs, and the next start."""

from __future__ import annotations

import asyncio
import io
import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewscope.annotate.run_routes import start_run
from fewscope.annotate.web_keys import LEARNING, RUNS
from fewscope.connectors.support.load import load_support
from fewscope.errors import ConfigError, SupportError
from fewscope.jobs import annotate as job
from fewscope.jobs import segment_wsi
from fewscope.pipeline.sources import open_sources, read_support
from tests.helpers.pages import Page, config_of, rectangle, visit
from tests.helpers.support_folders import photo, save_pair

REGION = rectangle(10, 10, 234, 234, "region")
CELL = rectangle(20, 20, 60, 60)


@pytest.fixture
def five(tmp_path) -> Path:
    folder = tmp_path / "five"
    for k in range(5):
        save_pair(folder, str(k), photo(seed=k))
    (folder / "support.json").write_text(json.dumps({"mpp": 0.5, "class": "cell"}))
    return folder


async def learned(page: Page):
    """The support set that the preview has learned from last, once it is of the newest labels."""
    learning = page.client.app[LEARNING]
    await asyncio.to_thread(learning.wait_learned, 10)
    return learning.support


def test_a_folder_is_learned_from_at_once_and_with_what_is_drawn(slide, five, tmp_path):
    async def journey(page: Page) -> None:
        info = await page.get("/api/info")
        assert [one["name"] for one in info["classes"]] == ["cell"]
        (folder,) = info["folders"]
        assert (folder["name"], folder["used"], folder["classes"]) == ("five", True, {"cell": 5})
        assert (await page.get("/api/labels?source=0"))["classes"] == info["classes"]
        support = await learned(page)
        assert support.digest() == load_support(str(five)).digest()
        await page.ops(REGION)  # nothing is drawn in it: background
        support = await learned(page)
        assert len(support.names) == 6
        assert (support.labels[5] == 0).all()
        await page.ops(CELL)
        assert ((await learned(page)).labels[5] == 1).sum() == 40 * 40

    visit(config_of(slide, tmp_path / "out", folders=(str(five),)), journey)


def test_patches_are_shown_with_the_outlines_of_their_objects(slide, five, tmp_path):
    async def journey(page: Page) -> None:
        data = await page.get("/api/folders/0/3.png")
        shown = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        changed = (shown != photo(seed=3)).any(axis=2)
        row, col = np.nonzero(changed)
        assert np.hypot(row - 112, col - 112) == pytest.approx(40, abs=2.5), "the edge of a disc"
        (cell,) = (await page.get("/api/info"))["classes"]
        assert tuple(shown[changed][0]) == tuple(bytes.fromhex(cell["colour"][1:]))
        assert (await learned(page)).digest() == load_support(str(five)).digest(), (
            "the picture is one of its own"
        )
        for path in ("/api/folders/1/0.png", "/api/folders/0/5.png"):
            await page.get(path, status=404)

    visit(config_of(slide, tmp_path / "out", folders=(str(five),)), journey)


def test_a_folder_is_switched_off_and_stays_so_until_the_next_start(slide, five, tmp_path, monkeypatch):
    config = config_of(slide, tmp_path / "out", folders=(str(five),))

    async def switch_off(page: Page) -> None:
        await page.ops(REGION, CELL)
        await learned(page)
        (folder,) = await page.post("/api/folders", {"number": 0, "used": False})
        assert not folder["used"]
        assert len((await learned(page)).names) == 1
        for wrong in (
            {"number": 1, "used": True},
            {"number": 0, "used": "yes"},
            {"number": True, "used": True},
        ):
            assert "no such folder" in (await page.post("/api/folders", wrong, status=400))["error"]

    async def still_off(page: Page) -> None:
        (folder,) = (await page.get("/api/info"))["folders"]
        assert (folder["uri"], folder["used"]) == (str(five), False)
        await page.post("/api/folders", {"number": 0, "used": True})
        assert len((await learned(page)).names) == 6

    async def on_again(page: Page) -> None:
        assert [one["used"] for one in (await page.get("/api/info"))["folders"]] == [True]

    async def gone(page: Page) -> None:
        info = await page.get("/api/info")
        assert info["folders"] == []
        assert "five: no such folder" in info["notes"][0]

    visit(config, switch_off)
    visit(config, still_off)
    monkeypatch.chdir(tmp_path / "out")  # the folder was kept by its absolute path
    visit(replace(config, folders=()), on_again)
    five.rename(tmp_path / "elsewhere")
    visit(replace(config, folders=()), gone)


def test_a_run_learns_from_both_as_the_page_does(slide, five, tmp_path, monkeypatch):
    commands: list[str] = []

    async def journey(page: Page) -> None:
        await page.ops(REGION, CELL)
        support = await learned(page)
        runs, app = page.client.app[RUNS], page.client.app
        monkeypatch.setattr(
            runs, "start", lambda folder, kind, sources, words, request: commands.append(words)
        )
        await asyncio.to_thread(start_run, page.session, runs, app[LEARNING], {"sources": ["0"]})
        (config,) = segment_wsi.configs(segment_wsi.parse(list(commands[0])))
        assert config.supports == (str(five), str(tmp_path / "out/runs/001/labels.geojson"))
        source, drawn_on = open_sources(config)
        assert read_support(config, source, drawn_on).digest() == support.digest()
        await page.post("/api/folders", {"number": 0, "used": False})
        await learned(page)
        await asyncio.to_thread(start_run, page.session, runs, app[LEARNING], {"sources": ["0"]})
        assert str(five) not in shlex.join(commands[1])

    visit(config_of(slide, tmp_path / "out", folders=(str(five),)), journey)


def test_a_run_without_a_label_learns_from_the_folder_alone(slide, five, tmp_path, monkeypatch):
    commands: list[list[str]] = []

    async def journey(page: Page) -> None:
        await learned(page)
        runs = page.client.app[RUNS]
        monkeypatch.setattr(
            runs, "start", lambda folder, kind, sources, words, request: commands.append(words)
        )
        start_run(page.session, runs, page.client.app[LEARNING], {"sources": ["0"]})

    visit(config_of(slide, tmp_path / "out", folders=(str(five),)), journey)
    assert commands[0].count("--support") == 1


def test_labels_of_several_images_and_a_folder_are_written_as_one_set(slide, five, tmp_path, monkeypatch):
    """Which reads back as what the preview has learned from, though the folder does not know the drawn class."""
    other = tmp_path / "other.tif"
    other.write_bytes(slide.read_bytes())
    config = replace(
        config_of(slide, tmp_path / "out", folders=(str(five),)),
        sources=(str(slide), str(other)),
        names=("slide", "other"),
    )

    async def journey(page: Page) -> None:
        await page.ops(REGION, CELL)
        await page.ops(
            rectangle(300, 10, 524, 234, "region"), rectangle(320, 20, 360, 60, name="gland"), source="1"
        )
        support = await learned(page)
        assert support.class_names == ("cell", "gland")
        runs = page.client.app[RUNS]
        monkeypatch.setattr(runs, "start", lambda *_: None)
        await asyncio.to_thread(
            start_run, page.session, runs, page.client.app[LEARNING], {"sources": ["0", "1"]}
        )
        assert load_support(str(tmp_path / "out/runs/001/support")).digest() == support.digest()

    visit(config, journey)


def test_a_class_of_the_folder_is_not_renamed(slide, five, tmp_path):
    async def journey(page: Page) -> None:
        rename = {"op": "class", "name": "nucleus", "colour": "#112233", "rename_from": "cell"}
        refused = await page.ops(rename, status=400)
        assert f"cell is a class of the labelled pictures in {five}" in refused["error"]
        recoloured = await page.ops({**rename, "name": "cell", "rename_from": None})
        assert recoloured["classes"] == [{"name": "cell", "colour": "#112233"}]

    visit(config_of(slide, tmp_path / "out", folders=(str(five),)), journey)


def test_a_folder_of_finer_pictures_is_resampled_to_what_the_page_shows(slide, five, tmp_path):
    (five / "support.json").write_text(json.dumps({"mpp": 0.25, "class": "cell"}))

    async def journey(page):
        assert (await learned(page)).digest() == load_support(str(five), mpp=0.5).digest()

    visit(config_of(slide, tmp_path / "out", folders=(str(five),)), journey)


def test_a_folder_of_coarser_pictures_is_refused_at_the_start(slide, five, tmp_path):
    (five / "support.json").write_text(json.dumps({"mpp": 1.0, "class": "cell"}))
    with pytest.raises(SupportError, match=r"five: is at 1 um per px, .* at 0\.5; give --mpp 1"):
        visit(config_of(slide, tmp_path / "out", folders=(str(five),)), None)
    assert not (tmp_path / "out").exists(), "nothing was written"


def test_the_command_takes_one_file_of_annotations_and_any_number_of_folders(
    slide, five, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr("fewscope.annotate.app.serve", lambda config: seen.append(config) or 0)
    words = [str(slide), "--support", str(five), "--support", "drawn.geojson", "--out", str(tmp_path / "out")]
    assert job.run(job.parse(words)) == 0
    assert (seen[0].support, seen[0].folders) == ("drawn.geojson", (str(five),))
    with pytest.raises(ConfigError, match="the page starts from one file of annotations"):
        job.run(job.parse([*words, "--support", "other.geojson"]))


def test_a_folder_of_slides_with_drawings_is_one_of_labelled_pictures(slide, tmp_path):
    folder = tmp_path / "drawn"
    folder.mkdir()
    Image.fromarray(photo(400, 400)).save(folder / "a.png")
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [[[x, x], [y, x], [y, y], [x, y], [x, x]]]},
            "properties": {"classification": {"name": name}},
        }
        for x, y, name in ((10, 200, "Region*"), (30, 60, "cell"))
    ]
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))

    async def journey(page: Page) -> None:
        assert (await learned(page)).class_names == ("cell",)
        assert [one["classes"] for one in await page.get("/api/folders")] == [{"cell": 1}]

    visit(config_of(slide, tmp_path / "out", folders=(str(folder),)), journey)
