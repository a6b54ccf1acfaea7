"""The page of ``fewscope annotate`` on a map, in a real browser."""

from __future__ import annotations

import re

import pytest

from examples import make_demo_scene
from tests.browser.journeys import accept_a_window, open_gallery, run_and_look
from tests.helpers.browser import annotating, labels_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("map")
    assert make_demo_scene.main([str(folder), "--side", "1024"]) == 0
    options = ("--support", folder / "support.geojson", "--bands", "4,3,2", "--res", "20")
    with annotating(folder / "log", folder / "out", folder / "scene.tif", *options) as running:
        yield running


def test_map(person, server):
    person.open(server.url)
    page = person.page
    person.previewed()
    person.counted()
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
    person.until("document.querySelector('#show-unsure').checked")
    person.rested("performance.getEntriesByType('resource').length")
    person.picture("unsure")
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
    open_gallery(person, at_least=1)
    accept_a_window(person)
    assert run_and_look(person) >= 1
