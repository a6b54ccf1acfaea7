"""The page of ``fewscope annotate`` on a slide, in a real browser: from an empty slide to the count."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import shapely
from shapely.geometry import mapping, shape

from examples import make_demo_slide
from tests.browser.journeys import accept_a_window, open_gallery, run_and_look, wait_for_labels
from tests.helpers.browser import annotating, labels_of
from tests.helpers.machine import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIDE = 768
UNNAMED = """() => [...document.querySelectorAll("button, input, select, summary, a")].filter(one => {
    const name = one.getAttribute("aria-label") || one.textContent.trim() || one.labels?.[0]?.textContent;
    return !name || !one.closest("[data-tip]")?.dataset.tip;
}).map(one => one.outerHTML)"""
"""Controls without a name or without a tooltip."""


@pytest.fixture(scope="module")
def slide(tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "ihc.tif"
    assert make_demo_slide.main([str(path), "--side", str(SIDE)]) == 0
    return path


@pytest.fixture(scope="module")
def server(browser, slide, tmp_path_factory):
    """One for the tests that bring labels of their own and ask neither for earlier classes nor for earlier rounds."""
    folder = tmp_path_factory.mktemp("shared")
    with annotating(folder / "log", folder / "out", slide) as running:
        yield running


@pytest.fixture
def new_server(browser, slide, tmp_path):
    """Nobody has drawn on it yet."""
    with annotating(tmp_path / "log", tmp_path / "out", slide) as running:
        yield running


def drawn():
    """The regions of the demo's support set, each with its nuclei, the largest first."""
    features = json.loads((ROOT / "examples" / "ihc_nuclei.geojson").read_text())["features"]
    named = [(one["properties"]["classification"]["name"], shape(one["geometry"])) for one in features]
    nuclei = sorted((one for name, one in named if name == "Nucleus"), key=lambda one: -one.area)
    regions = [one for name, one in named if name == "Region*"]
    return [(region, [one for one in nuclei if region.contains(one.centroid)]) for region in regions]


def label(geometry, name: str | None = None):
    properties = {"kind": "object" if name else "region", "class": name}
    return {"type": "Feature", "geometry": mapping(geometry), "properties": properties}


def labels(n_regions: int):
    """The first regions of the demo with all of their nuclei."""
    chosen = drawn()[:n_regions]
    return [
        one for region, nuclei in chosen for one in (label(region), *(label(n, "Nucleus") for n in nuclei))
    ]


def corners(polygon):
    return [(x, y) for x, y, *_ in polygon.exterior.coords[:-1]]


def middle(polygon):
    return polygon.representative_point().coords[0]


def test_from_an_empty_slide(person, new_server):
    """The guide says what to do; the preview begins at the first outline and fills in the first region."""
    person.open(new_server.url, labels=[])
    page = person.page
    assert "token" not in page.url
    person.picture("empty")
    assert "Give it a name" in person.text("#guide-text")
    page.click("#guide-action")
    page.keyboard.type("Nucleus")
    person.key("Enter")
    person.saved()
    (region, nuclei), *_ = drawn()
    x0, y0, x1, y1 = region.bounds
    person.show(x0 - 20, y0 - 20, x1 + 20, y1 + 20)
    assert "Draw round one whole object" in person.text("#guide-text")
    person.lasso(corners(nuclei[0]))
    person.previewed()
    person.counted()
    assert int(person.text("#counts strong")) > 5, "one outline is enough for a preview"
    person.lasso(corners(nuclei[1]))
    person.polygon(corners(nuclei[2]))
    person.previewed()
    person.counted()
    assert "press A" in person.text("#guide-text")
    person.picture("preview")
    person.key("f")
    page.wait_for_selector("#proposal-bar:not([hidden])")
    person.picture("region")
    person.key("Enter")
    person.saved()
    found = labels_of(new_server)
    assert found["Region*"] == 1
    assert found["Nucleus"] > 10
    assert "Then press G" in person.text("#guide-text")
    person.previewed()
    open_gallery(person, at_least=3)
    accept_a_window(person)
    assert labels_of(new_server)["Region*"] == 2
    person.until("/^\\d\\.\\d+$/.test(document.querySelector('.score-number')?.textContent ?? '')")
    assert "2 of 2 regions were filled in" in person.text("#panel-improve")
    person.picture("rounds")


def test_a_worse_round_is_undone_by_one_click(person, new_server):
    person.open(new_server.url, labels=labels(3))
    page = person.page
    person.key("F7")
    done = "/^\\d\\.\\d+$/.test(document.querySelector('.score-number')?.textContent ?? '')"
    person.until(f"{done} && /3 regions/.test(document.querySelector('.score-words').textContent)")
    before = labels_of(new_server)
    x0, y0, x1, y1 = drawn()[1][0].bounds
    person.show(x0, y0, x1, y1)
    person.key("l")
    person.drag(
        [(x0 + 5, y0 + 5), (x1 - 5, y0 + 5), (x1 - 5, y1 - 5), (x0 + 5, y1 - 5)]
    )  # all is one nucleus
    person.saved()
    page.wait_for_selector("#undo-round")
    person.until("/worse/.test(document.querySelector('#guide-text').textContent)")
    person.picture("worse")
    page.route("**/api/rounds", lambda route: route.abort())  # a lost answer makes no script of the page fail
    page.click("#undo-round")
    person.until("/Back to the labels/.test(document.querySelector('.toasts')?.textContent ?? '')")
    page.wait_for_timeout(500)
    assert labels_of(new_server) == before


def test_edits_are_undone_and_kept(person, server):
    (region, nuclei), *_ = drawn()
    person.open(server.url, labels=[label(region), *(label(one, "Nucleus") for one in nuclei[:6])])
    page = person.page
    person.show(*region.bounds)
    person.previewed()
    person.counted()

    # the threshold changes in the page: fewer are found above a higher one, and no tile is asked for
    tiles = (
        "performance.getEntriesByType('resource').filter(one => one.name.includes('/probability/')).length"
    )
    asked, found = person.rested(tiles), person.text("#counts strong")
    page.focus("#threshold")
    for _ in range(30):
        person.key("ArrowRight")
    person.until(f"document.querySelector('#counts strong').textContent !== '{found}'")
    assert page.evaluate(tiles) == asked
    for _ in range(30):
        person.key("ArrowLeft")

    x1, y0 = region.bounds[2] + 6, region.bounds[1]
    person.key("n")
    person.drag([(x1, y0 + 20), (x1, y0 + 60)])
    person.saved()
    page.wait_for_selector("#finish-bar:not([hidden])")
    before = labels_of(server)
    assert before == {"Region*": 1, "Nucleus": 6, "Not*": 1}
    person.key("v")
    person.click(middle(nuclei[1]))
    page.wait_for_selector("#selection-bar:not([hidden])")
    person.key("Delete")
    person.saved()
    assert labels_of(server)["Nucleus"] == 5
    person.key("Control+z")
    person.saved()
    assert labels_of(server) == before
    for _ in range(2):
        person.key("Control+z")
    for _ in range(2):
        person.key("Control+Shift+Z")
    person.saved()
    assert labels_of(server) == before
    file = server.out / "labels.geojson"
    text = file.read_bytes()
    file.write_bytes(text[: len(text) // 2])  # by another program
    person.until("/labels.geojson/.test(document.querySelector('.toasts')?.textContent ?? '')")
    file.write_bytes(text)

    def with_note(route: Any) -> None:
        answer = route.fetch()
        info = answer.json()
        info["sources"][0]["notes"] = ["the journal was damaged"]
        route.fulfill(response=answer, json=info)

    page.route("**/api/info", with_note)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert person.text("#panel-label .notes") == "the journal was damaged"
    assert person.text(".class-row .number") == "6"


def test_found_objects_are_accepted_rejected_and_split(person, server):
    person.open(server.url, labels=labels(2))
    box = (205, 235, 310, 340)  # the third region of the demo, which is not labelled
    person.show(*box)
    person.previewed()
    person.counted()
    before = labels_of(server)
    found = [shape(one["geometry"]) for one in person.found("Nucleus", box)]
    whole = [one for one in found if shapely.box(*box).contains(one) and one.geom_type == "Polygon"]
    right, wrong, two = sorted(whole, key=lambda one: one.area)[-3:]
    person.key("v")
    person.click_object(middle(right), "#accept-object")
    wait_for_labels(person, server, before | {"Nucleus": before["Nucleus"] + 1})
    person.click_object(middle(wrong), "#reject-object")
    wait_for_labels(person, server, before | {"Nucleus": before["Nucleus"] + 1, "Not*": 1})
    person.previewed()
    person.counted()
    person.click_object(middle(two), "#split-object")
    left, _, right_end, _ = two.bounds
    across = middle(two)[1]
    person.drag([(left - 4, across), ((left + right_end) / 2, across), (right_end + 4, across)])
    wait_for_labels(person, server, before | {"Nucleus": before["Nucleus"] + 3, "Not*": 1})
    person.picture("corrected")


def test_objects_are_marked_by_one_click_each(person, new_server):
    """Points in regions: the page asks for a region, the preview infers outlines, a run counts from them."""
    person.open(new_server.url, labels=[])
    page = person.page
    person.name_class("Nucleus")
    person.saved()
    for number, (region, nuclei) in enumerate(drawn()[:2]):
        x0, y0, x1, y1 = region.bounds
        person.show(x0 - 20, y0 - 20, x1 + 20, y1 + 20)
        person.key("t")
        person.click(middle(nuclei[0]))
        page.wait_for_selector("#region-here")
        if not number:
            assert "Points teach in a region" in person.text("#guide-text")
            person.picture("no-region")
        person.region(x0, y0, x1, y1)
        page.wait_for_selector("#finish-bar", state="hidden")
        assert page.get_attribute("#tool-point", "aria-pressed") == "true"
        for one in nuclei[1:]:
            person.click(middle(one))
        person.saved()
    marked = {"Region*": 2, "Nucleus": sum(len(nuclei) for _, nuclei in drawn()[:2])}
    wait_for_labels(person, new_server, marked)
    person.click(middle(nuclei[1]))  # on its point: it goes
    wait_for_labels(person, new_server, marked | {"Nucleus": marked["Nucleus"] - 1})
    person.key("Control+z")
    wait_for_labels(person, new_server, marked)
    person.previewed()
    person.counted()
    person.picture("preview")
    found = person.found("Nucleus", region.bounds)
    areas = [shape(one["geometry"]).area for one in found]
    assert len(nuclei) / 2 < len(found) < 2 * len(nuclei)
    drawn_areas = [one.area for one in nuclei]
    assert 0.4 < np.median(areas) / np.median(drawn_areas) < 2.5, "outlines, not the discs of the points"
    assert run_and_look(person) > 20


def test_a_run_on_ray(person, server):
    person.open(server.url, labels=labels(2))
    assert run_and_look(person, workers=1) > 20
    person.key("d")
    person.picture("dark")
    assert person.page.evaluate(UNNAMED) == []


@pytest.mark.parametrize("person", ["without WebGL"], indirect=True)
def test_without_webgl(person, server):
    """Plain coloured tiles: everything works, and the threshold asks for new ones."""
    person.open(server.url, labels=labels(2))
    person.previewed()
    names = "performance.getEntriesByType('resource').map(one => one.name)"
    asked = names + ".some(name => /probability.*paint=[0-9a-f]{6}&threshold=T/.test(name))"
    person.until(asked.replace("=T", "=0.500"))
    person.key(".")
    person.until(asked.replace("=T", "=0.550"))
    assert "no WebGL" in person.text("#panel-label")
    person.picture("preview")
