"""Parts of journeys that a slide and a map share."""

from __future__ import annotations

import re

from tests.helpers.browser import Annotator, Server, labels_of


def open_gallery(person: Annotator, at_least: int) -> None:
    """Look at the windows to label next."""
    person.key("g")
    person.page.wait_for_selector(".gallery .window img")
    person.until("[...document.querySelectorAll('.gallery img')].every(one => one.naturalWidth > 0)")
    assert at_least <= person.page.locator(".gallery .window").count() <= 8
    person.picture("gallery")


def accept_a_window(person: Annotator) -> None:
    """Click a window of the gallery, and accept what the preview has put into it."""
    person.page.click(".gallery .window >> nth=0")
    person.page.wait_for_selector("#proposal-bar:not([hidden])")
    person.picture("window")
    person.page.click("#accept")
    person.saved()


def wait_for_labels(person: Annotator, server: Server, expected: dict[str, int]) -> None:
    """Wait until the file on the disk holds so many features of each class."""
    for _ in range(300):
        if labels_of(server) == expected:
            return
        person.page.wait_for_timeout(30)
    raise AssertionError(f"{labels_of(server)}, expected {expected}")


def run_and_look(person: Annotator, workers: int | None = None) -> int:
    """Start the whole run, wait for it, and look at an instance; how many were found."""
    page = person.page
    person.key("F8")
    page.select_option("#run-adapt", "0")
    if workers is not None:
        page.fill("#run-workers", str(workers))
    page.click("#start-run")
    page.wait_for_selector(".run")
    page.click(".command summary >> nth=0")
    command = person.text(".command pre")
    assert "--support" in command
    assert ("--local" if workers is None else f"--workers {workers}") in command
    person.picture("running")
    page.wait_for_selector(".run.done", timeout=240_000)
    page.click(".run.done .button.primary")
    page.wait_for_selector(".table-wrap tbody tr")
    total = int(re.sub(r"\D", "", person.text(".drawer header .quiet")))
    page.click(".table-wrap tbody tr >> nth=0")
    page.wait_for_selector(".detail dd")
    person.picture("result")
    report = page.get_attribute("#panel-results a.button", "href")
    assert page.request.get(page.url.rstrip("/") + report).ok
    return total
