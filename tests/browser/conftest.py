"""A server and a browser for the journeys; skipped where there is no Chromium, except in CI."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.helpers.browser import Annotator, chromium, missing
from tests.helpers.machine import ROOT

PICTURES = ROOT / "build" / "browser"


@pytest.fixture(autouse=True)
def needs_a_browser() -> None:
    lacking = missing()
    if lacking and os.environ.get("CI") == "true":
        pytest.fail(lacking)
    if lacking:
        pytest.skip(lacking)


@pytest.fixture
def person(request) -> Iterator[Annotator]:
    """Somebody at the page. At the end, no script has failed and nothing was refused by the page's policy."""
    flags = getattr(request, "param", ())
    with chromium(*flags) as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
        page.set_default_timeout(60_000)
        annotator = Annotator(page, PICTURES, request.node.name.removeprefix("test_").partition("[")[0])
        yield annotator
        assert annotator.problems == []
