"""A browser for the journeys of a module; skipped where there is no Chromium, except in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers.browser import Annotator, chromium, missing
from tests.helpers.machine import ROOT

PICTURES = ROOT / "build" / "browser"
NO_WEBGL = """const of = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
    return /webgl/.test(kind) ? null : of.call(this, kind, ...more);
};"""
"""What a browser without WebGL does, as on many remote desktops."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    lacking = missing()
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(lacking)
    if lacking:
        pytest.skip(lacking)
    with chromium() as started:
        yield started


@pytest.fixture
def person(request, browser) -> Iterator[Annotator]:
    """Somebody at the page. At the end, no script has failed and nothing was refused by the page's policy."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, color_scheme="light")
    if getattr(request, "param", "") == "without WebGL":
        context.add_init_script(NO_WEBGL)
    page = context.new_page()
    page.set_default_timeout(60_000)
    annotator = Annotator(page, PICTURES, request.node.name.removeprefix("test_").partition("[")[0])
    yield annotator
    page.wait_for_timeout(0)  # what has happened until now is told
    problems = list(annotator.problems)
    context.close()  # which cuts off requests, and what waits for them
    assert problems == []
