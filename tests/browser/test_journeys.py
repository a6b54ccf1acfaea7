"""The whole journey through the page of ``fewscope annotate``, in a real browser, on a slide and on a map."""

from __future__ import annotations

import json
import re

import pytest
from shapely.geometry import shape

from examples import make_demo_scene, make_demo_slide
from tests.helpers.browser import Annotator, annotating, labels_of
from tests.helpers.machine import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SUPPORT = ROOT / "examples" / "ihc_nuclei.geojson"


def drawn(region: int) -> tuple[tuple[float, ...], list[list[tuple[float, float]]]]:
    """A region of the demo's support set, and the outlines of six nuclei in it."""
    features = json.loads(SUPPORT.read_text())["features"]
    named = [
        (feature["properties"]["classification"]["name"], shape(feature["geometry"])) for feature in features
    ]
    area = [geometry for name, geometry in named if name == "Region*"][region]
    nuclei = [geometry for name, geometry in named if name == "Nucleus" and area.contains(geometry.centroid)]
    return area.bounds, [[(x, y) for x, y, *_ in nucleus.exterior.coords[:-1]] for nucleus in nuclei[:6]]


def find_and_accept_a_window(person: Annotator, at_least: int) -> None:
    """Open the gallery, click a window, and accept what the preview has put into it."""
    person.key("g")
    person.page.wait_for_selector(".gallery .window img")
    person.until("[...document.querySelectorAll('.gallery img')].every(one => one.naturalWidth > 0)")
    assert at_least <= person.page.locator(".gallery .window").count() <= 8
    person.picture("gallery")
    person.page.click(".gallery .window >> nth=0")
    person.page.wait_for_selector("#proposal-bar:not([hidden])")
    person.picture("window")
    person.page.click("#accept")
    person.saved()


def run_and_look(person: Annotator) -> int:
    """Start the whole run, wait for it, and look at an instance; how many were found."""
    page = person.page
    person.key("F8")
    page.select_option("#run-adapt", "0")
    page.click("#start-run")
    page.wait_for_selector(".run")
    page.click(".command summary >> nth=0")
    assert "--support" in person.text(".command pre")
    person.picture("running")
    page.wait_for_selector(".run.done", timeout=240_000)
    page.click(".run.done .button.primary")
    page.wait_for_selector(".table-wrap tbody tr")
    total = int(re.sub(r"\D", "", person.text(".drawer header .quiet")))
    page.click(".table-wrap tbody tr >> nth=0")
    page.wait_for_selector(".detail dd")
    page.wait_for_timeout(600)
    person.picture("result")
    report = page.get_attribute("#panel-results a.button", "href")
    assert page.request.get(page.url.rstrip("/") + report).ok
    return total


UNNAMED = """() => [...document.querySelectorAll("button, input, select, summary, a")].filter(one => {
    const name = one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.[0]?.textContent;
    return !name || !one.closest("[data-tip]")?.dataset.tip;
}).map(one => one.outerHTML)"""
"""Controls without a name or without a tooltip."""


def test_slide(person, tmp_path):
    slide = tmp_path / "ihc.tif"
    assert make_demo_slide.main([str(slide), "--side", "1024"]) == 0
    with annotating(tmp_path / "log", tmp_path / "out", slide) as server:
        person.open(server.url)
        page = person.page
        assert "token" not in page.url
        person.picture("empty")
        assert "Give it a name" in person.text("#guide-text")
        person.name_class("Nucleus")
        assert "Draw a region" in person.text("#guide-text")

        box, nuclei = drawn(0)
        person.show(*box)
        person.region(*box)
        person.saved()
        assert "Outline every object" in person.text("#guide-text")
        for number, nucleus in enumerate(nuclei):
            (person.polygon if number % 2 else person.lasso)(nucleus)
        person.previewed()
        assert labels_of(server) == {"Region*": 1, "Nucleus": len(nuclei)}
        person.until("document.querySelector('#counts strong')")
        person.picture("preview")

        # the threshold changes in the page: fewer are found above a higher one, and no tile is asked for
        tiles = "performance.getEntriesByType('resource').filter(one => one.name.includes('/probability/')).length"
        page.wait_for_timeout(800)
        asked, found = page.evaluate(tiles), person.text("#counts strong")
        page.focus("#threshold")
        for _ in range(30):
            person.key("ArrowRight")
        person.until(f"document.querySelector('#counts strong').textContent !== '{found}'")
        assert page.evaluate(tiles) == asked
        for _ in range(30):
            person.key("ArrowLeft")

        # corrections: a stroke outside, an object that goes and comes back, the same after a reload
        right = box[2] + 6
        person.key("n")
        person.drag([(right, box[1] + 20), (right, box[1] + 60)])
        person.saved()
        page.wait_for_selector("#finish-bar:not([hidden])")
        person.picture("stroke")
        before = labels_of(server)
        assert len(before) == 3
        person.key("v")
        x, y = shape({"type": "Polygon", "coordinates": [nuclei[1]]}).representative_point().coords[0]
        person.click((x, y))
        page.wait_for_selector("#selection-bar:not([hidden])")
        person.key("Delete")
        person.saved()
        assert labels_of(server)["Nucleus"] == len(nuclei) - 1
        person.key("Control+z")
        person.saved()
        assert labels_of(server) == before
        for _ in range(3):
            person.key("Control+z")
        for _ in range(3):
            person.key("Control+Shift+Z")
        person.saved()
        assert labels_of(server) == before
        page.reload()
        page.wait_for_selector("html[data-ready]")
        assert person.text(".class-row .number") == str(len(nuclei))

        person.previewed()
        find_and_accept_a_window(person, at_least=6)
        assert labels_of(server)["Region*"] == 2
        person.until(
            "/^0?\\.\\d+$|^1\\.00$/.test(document.querySelector('.score-number')?.textContent ?? '')"
        )
        person.picture("rounds")
        assert run_and_look(person) > 20
        person.key("d")
        person.picture("dark")
        assert page.evaluate(UNNAMED) == []


def test_map(person, tmp_path):
    assert make_demo_scene.main([str(tmp_path), "--side", "1024"]) == 0
    arguments = (
        tmp_path / "scene.tif",
        "--support",
        tmp_path / "support.geojson",
        "--bands",
        "4,3,2",
        "--res",
        "20",
    )
    with annotating(tmp_path / "log", tmp_path / "out", *arguments) as server:
        person.open(server.url)
        page = person.page
        person.previewed()
        person.until("document.querySelector('#counts strong')")
        middle = person.screen((256, 256))
        page.mouse.move(*middle)
        page.mouse.move(middle[0] + 3, middle[1])
        person.until("/°/.test(document.querySelector('.statusbar').textContent)")
        status = person.text(".statusbar")
        assert re.search(r"E [\d,]+ {2}N [\d,]+ m", status)
        assert re.search(r"\d (km|m)\b", status)
        assert "UTM" in status
        person.picture("preview")
        person.key("u")
        page.wait_for_timeout(1000)
        person.picture("unlike")
        person.key("u")

        # the brush and the eraser, and undo without an end
        before = labels_of(server)
        person.key("b")
        person.drag([(30, 30), (60, 40), (90, 30)])
        person.saved()
        assert labels_of(server)["water"] == before["water"] + 1
        person.key("e")
        person.drag([(60, 0), (60, 80)])
        person.saved()
        for _ in range(9):
            person.key("Control+z")
        person.saved()
        assert labels_of(server) == before

        person.previewed()
        find_and_accept_a_window(person, at_least=1)
        assert run_and_look(person) >= 1


@pytest.mark.parametrize("person", [("--disable-3d-apis",)], indirect=True)
def test_without_webgl(person, tmp_path):
    """Plain coloured tiles: everything works, and the threshold asks for new ones."""
    slide = tmp_path / "ihc.tif"
    assert make_demo_slide.main([str(slide), "--side", "512"]) == 0
    with annotating(tmp_path / "log", tmp_path / "out", slide, "--support", SUPPORT) as server:
        person.open(server.url)
        person.previewed()
        names = "performance.getEntriesByType('resource').map(one => one.name)"
        asked = names + ".some(name => /probability.*paint=[0-9a-f]{6}&threshold=T/.test(name))"
        person.until(asked.replace("=T", "=0.500"))
        person.key(".")
        person.until(asked.replace("=T", "=0.550"))
        assert "no WebGL" in person.text("#panel-label")
        person.page.wait_for_timeout(800)
        person.picture("preview")
