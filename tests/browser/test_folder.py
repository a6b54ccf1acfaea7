"""The page of ``fewscope annotate`` with labelled pictures: they are learned from before anything is drawn."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from examples import make_demo_slide
from fewscope.connectors.open import open_source
from fewscope.connectors.support.load import load_support
from fewscope.connectors.support.several import write_folder
from tests.helpers.browser import annotating, labels_of
from tests.helpers.machine import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    """On a slide of the demo; the labelled pictures are regions of another one."""
    folder = tmp_path_factory.mktemp("folder")
    drawn = str(ROOT / "examples" / "ihc_nuclei.geojson")
    assert make_demo_slide.main([str(folder / "labelled.tif"), "--side", "1024"]) == 0
    assert make_demo_slide.main([str(folder / "ihc.tif"), "--side", "768"]) == 0
    with closing(open_source(str(folder / "labelled.tif"))) as source:
        write_folder(str(folder / "five"), load_support(drawn, source=source))
    options = ("--support", folder / "five")
    with annotating(folder / "log", folder / "out", folder / "ihc.tif", *options) as running:
        yield running


def test_a_folder_is_previewed_corrected_and_run(person, server):
    page = person.page
    page.set_viewport_size({"width": 1300, "height": 900})
    person.open(server.url)
    assert person.text(".folder .number") == "5 patches"
    person.until("[...document.querySelectorAll('.patch img')].every(one => one.naturalWidth === 224)")
    person.show(200, 200, 420, 420)
    person.previewed()
    person.counted()
    assert int(person.text("#counts strong")) > 5, "found by the labelled pictures alone"
    assert "found by the labelled pictures" in person.text("#guide-text")
    person.picture("preview")
    page.click(".patch >> nth=2")
    person.picture("large")
    page.click(".patch.large")

    # the first correction: background, which a set of labels without an object knows
    person.key("n")
    person.drag([(260, 260), (280, 262)])
    person.saved()
    person.previewed()
    person.key("v")
    person.key("f")
    page.wait_for_selector("#proposal-bar:not([hidden])")
    person.key("Enter")
    person.saved()
    assert labels_of(server)["Region*"] == 1
    person.key("F7")
    done = "/^\\d\\.\\d+$/.test(document.querySelector('.score-number')?.textContent ?? '')"
    person.until(f"{done} && /6 patches/.test(document.querySelector('.score-words').textContent)")
    person.picture("rounds")

    # switched off, and on again
    person.key("F6")
    person.previewed()
    page.click("#folder-0")
    page.wait_for_selector(".folder.off")
    person.previewed()
    person.picture("off")
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.wait_for_selector(".folder.off")
    page.click("#folder-0")
    page.wait_for_selector(".folder:not(.off)")
    assert json.loads((server.out / "folders.json").read_text())["folders"][0]["used"]

    person.key("F8")
    assert "With 5 labelled patches, 1 region and" in person.text("#panel-run")
    page.select_option("#run-adapt", "0")
    page.click("#start-run")
    page.wait_for_selector(".run")
    page.click(".command summary >> nth=0")
    assert person.text(".command pre").count("--support") == 2
    person.picture("run")
    page.click(".run button:has-text('Cancel')")
    page.wait_for_selector(".run.cancelled")
