"""The area of interest in the page of ``fewscope annotate``: drawn, with a hole, dimmed outside, and run."""

from __future__ import annotations

import json
import time

import pytest

from examples import make_demo_slide
from tests.browser.test_slide import labels
from tests.helpers.browser import Annotator, annotating

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("area")
    assert make_demo_slide.main([str(folder / "ihc.tif"), "--side", "768"]) == 0
    with annotating(folder / "log", folder / "out", folder / "ihc.tif") as running:
        yield running


def settled_count(person: Annotator) -> int:
    """The number of objects in view, once it has not changed for a while: on a busy machine, the view is new to the
    server when the page already shows the number of the former one."""
    count, since = "", time.monotonic()
    while time.monotonic() < since + 5:
        person.previewed()
        person.counted()
        if (now := person.text("#counts strong")) != count:
            count, since = now, time.monotonic()
        person.page.wait_for_timeout(100)
    return int(count.replace(",", ""))


def test_an_area_with_a_hole_is_drawn_and_run(person, server):
    page = person.page
    page.set_viewport_size({"width": 1300, "height": 900})
    person.open(server.url, labels=labels(2))
    person.show(0, 0, 768, 768)
    person.counted()
    whole = settled_count(person)

    # corners by clicks, then a hole in one stroke
    person.key("i")
    for corner in ((60, 60), (700, 90), (660, 600), (80, 560)):
        person.click(corner)
    person.picture("corners")
    person.key("Enter")
    person.saved()
    person.drag([(300, 250), (420, 260), (430, 380), (300, 370), (300, 250)])
    person.saved()
    file = server.out / "area.geojson"
    (polygon,) = json.loads(file.read_text())["features"]
    assert len(polygon["geometry"]["coordinates"]) == 2, "a hole"
    assert "Area" not in (server.out / "labels.geojson").read_text()
    person.until("/in the area/.test(document.querySelector('.count-in-view')?.textContent ?? '')")
    person.until(f"Number(document.querySelector('#counts strong').textContent) < {whole}")
    person.picture("dimmed")

    # as any label: it is selected by its edge, undone, and there again after a reload
    person.key("v")
    person.click((370, 580))
    page.wait_for_selector("#selection-bar:not([hidden])")
    assert person.text("#selection-bar strong") == "Area"
    person.key("Escape")
    person.key("Control+z")
    person.saved()
    assert len(json.loads(file.read_text())["features"][0]["geometry"]["coordinates"]) == 1
    person.key("Control+Shift+Z")
    person.saved()
    page.reload()
    page.wait_for_selector("html[data-ready]")
    person.key("F8")
    assert "Only the area is segmented" in person.text("#panel-run")
    page.select_option("#run-adapt", "0")
    page.click("#start-run")
    page.wait_for_selector(".run")
    page.click(".command summary >> nth=0")
    assert "--aoi" in person.text(".command pre")
    person.picture("run")
    page.click(".run button:has-text('Cancel')")
    page.wait_for_selector(".run.cancelled")
    page.set_viewport_size({"width": 480, "height": 700})
    person.until("document.documentElement.scrollWidth <= innerWidth")
