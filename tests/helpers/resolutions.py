"""What the page says of its working resolution, and the runs that it starts there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fewscope.annotate.run_routes import start_run
from fewscope.annotate.web_keys import LEARNING, RUNS
from tests.helpers.pages import Page, rectangle

GLAND = rectangle(100, 100, 460, 460, name="gland")  # 180 um across
NUCLEUS = rectangle(600, 100, 618, 118, name="nucleus")  # 9 um


async def settled(page: Page) -> dict[str, Any]:
    """What the page says of the resolution, once it has learned from the newest labels."""
    assert await asyncio.to_thread(page.client.app[LEARNING].wait_learned, 60)
    return await page.get("/api/resolution")


async def command_of_a_run(page: Page, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run that the page starts."""
    commands: list[list[str]] = []
    runs = page.client.app[RUNS]
    monkeypatch.setattr(runs, "start", lambda folder, kind, sources, words, request: commands.append(words))
    body = {"sources": ["0"]}
    await asyncio.to_thread(start_run, page.session, runs, page.client.app[LEARNING], body)
    return list(commands[0])
