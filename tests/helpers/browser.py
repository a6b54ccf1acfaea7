"""Chromium and a running ``fewscope annotate``, for tests and for the script that records the page."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.machine import ROOT

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader")
"""WebGL in software, and everything else without the detour through it."""

PATIENCE_S = 150
"""For anything to appear: seconds on a quiet machine, more than a minute where other tests compute beside."""

STARTED = re.compile(r"annotate: (http://\S+)")

Point = tuple[float, float]


def missing() -> str:
    """What the tests in the browser lack on this machine, or nothing."""
    if not any(map(shutil.which, BROWSERS)):
        return "Chromium is not installed"
    if not (ROOT / "annotate" / "static" / "app.js").is_file():
        return "the page is not built: make web"
    try:
        import playwright  # noqa: F401
    except ImportError:
        return "playwright is not installed: make setup"
    return ""


@contextmanager
def chromium(*flags: str) -> Iterator[Any]:
    """A headless Chromium with WebGL in software."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes
    ----------
    url : str
        Address with the token, as it was printed.
    out : Path
        Its folder.
    """

    url: str
    out: Path


@contextmanager
def annotating(log: Path, out: Path, *arguments: object) -> Iterator[Server]:
    """``fewscope annotate`` until the block ends; it is then told to stop."""
    command = [
        sys.executable,
        ROOT / "jobs/annotate.py",
        *arguments,
        "--out",
        out,
        "--no-browser",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 120
        while not (found := STARTED.search(log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "no address was printed"
            time.sleep(0.1)
        yield Server(found[1], out)
        process.send_signal(signal.SIGTERM)  # also where SIGINT is ignored, as in the background of a shell
        process.wait(240)  # a round that is being scored is finished first
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


class Annotator:
    """A person at the page: draws in image px with the mouse, presses keys, reads what is shown."""

    def __init__(self, page: Any, pictures: Path, name: str) -> None:
        self.page = page
        self.pictures = pictures
        self.name = name
        self.count = 0
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("console", self._listen)
        page.on("response", self._check)
        page.set_default_timeout(PATIENCE_S * 1000)
        pictures.mkdir(parents=True, exist_ok=True)

    def _listen(self, message: Any) -> None:
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.problems.append(message.text)

    def _check(self, response: Any) -> None:
        # while a class is new, the answer on the screen may not know it yet
        new_class = response.status == 404 and "/tile/probability/" in response.url
        if response.status >= 400 and not new_class:
            self.problems.append(f"{response.status} {response.url}")
        is_picture = "/tile/image/" in response.url or "/tile/thumbnail/" in response.url
        if is_picture and "immutable" not in response.headers.get("cache-control", ""):
            self.problems.append(f"does not name its picture: {response.url}")

    def open(self, url: str, labels: Sequence[dict[str, Any]] | None = None) -> None:
        """Open the address and wait for the page; ``labels``: Features that are put in place of all others first."""
        if labels is not None:
            self.page.context.request.get(url)  # brings the cookie
            self._put(url.partition("?")[0].rstrip("/"), labels)
        self.page.goto(url)
        self.page.wait_for_selector("html[data-ready]")

    def _put(self, address: str, labels: Sequence[dict[str, Any]]) -> None:
        request = self.page.context.request
        now = request.get(f"{address}/api/labels?source=0").json()
        ops = [{"op": "delete", "ids": [one["id"] for one in now["features"]]}] if now["features"] else []
        ops += [{"op": "add", "feature": one} for one in labels]
        if ops:
            answer = request.post(
                f"{address}/api/labels/ops",
                data={"source": "0", "revision": now["revision"], "ops": ops},
                headers={"X-Fewscope": "1", "Origin": address},
            )
            assert answer.ok, answer.text()

    def found(self, name: str, box: Sequence[float]) -> list[dict[str, Any]]:
        """Objects of the preview that a box (x0, y0, x1, y1) touches: Features in image px."""
        corners = "&".join(f"{key}={value}" for key, value in zip(("x0", "y0", "x1", "y1"), box, strict=True))
        address = self.page.url.rstrip("/")
        answer = self.page.context.request.get(
            f"{address}/api/outlines?source=0&class={name}&threshold=0.5&{corners}"
        )
        return list(answer.json()["features"])

    def counted(self) -> None:
        """Wait until the newest preview's outlines are drawn and counted."""
        self.until("document.querySelector('#counts[data-state=counted] strong') !== null")

    def picture(self, what: str) -> Path:
        """Keep what is on the screen."""
        self.count += 1
        path = self.pictures / f"{self.name}-{self.count:02d}-{what}.png"
        self.page.screenshot(path=path)
        return path

    def screen(self, point: Point) -> list[float]:
        """Where a place of the image is on the screen."""
        return self.screens([point])[0]

    def screens(self, points: Sequence[Point]) -> list[list[float]]:
        """Where places of the image are on the screen."""
        ask = "points => points.map(([x, y]) => fewscope.screen(x, y))"
        return [list(place) for place in self.page.evaluate(ask, [list(point) for point in points])]

    def show(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Bring a part of the image into view, and wait until it is there."""
        self.page.evaluate("box => fewscope.fit(...box)", [x0, y0, x1, y1])
        last = None
        for _ in range(40):
            now = self.screen((x0, y0))
            if now == last:
                return
            last = now
            self.page.wait_for_timeout(80)

    def key(self, key: str) -> None:
        """Press a key."""
        self.page.keyboard.press(key)

    def click(self, point: Point) -> None:
        """Click a place of the image."""
        self.page.mouse.click(*self.screen(point))

    def click_object(self, point: Point, button: str) -> None:
        """Click a found object, and a button of the card that it opens; again where outlines were just renewed."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.click(point)
            for _ in range(40):
                if self.page.is_visible(button):
                    self.page.click(button)
                    return
                self.page.wait_for_timeout(100)
        raise AssertionError(f"no {button} at {point}")

    def drag(self, points: Sequence[Point]) -> None:
        """Draw a stroke."""
        first, *others = self.screens(points)
        self.page.mouse.move(*first)
        self.page.mouse.down()
        for other in others:
            self.page.mouse.move(*other)
        self.page.mouse.up()

    def polygon(self, corners: Sequence[Point]) -> None:
        """Outline an object with the polygon tool."""
        self.key("p")
        for place in self.screens(corners):
            self.page.mouse.click(*place)
        self.key("Enter")

    def lasso(self, corners: Sequence[Point]) -> None:
        """Outline an object with the lasso."""
        self.key("l")
        self.drag([*corners, corners[0]])

    def region(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """Drag a region."""
        self.key("r")
        self.drag([(x0, y0), ((x0 + x1) / 2, (y0 + y1) / 2), (x1, y1)])

    def name_class(self, name: str) -> None:
        """Name what is looked for."""
        self.key("F6")
        self.page.fill("#new-class", name)
        self.key("Enter")
        self.key("Escape")

    def text(self, selector: str) -> str:
        """The words in an element."""
        return str(self.page.inner_text(selector))

    def until(self, script: str, *, timeout_s: float = PATIENCE_S) -> None:
        """Wait until an expression of JavaScript is true. (The page's policy forbids what playwright has for it.)"""
        deadline = time.monotonic() + timeout_s
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, f"never true: {script}"
            self.page.wait_for_timeout(60)

    def rested(self, script: str, rest_s: float = 0.5) -> Any:
        """The value of an expression of JavaScript that has not changed for a moment."""
        value, since = self.page.evaluate(script), time.monotonic()
        while time.monotonic() - since < rest_s:
            self.page.wait_for_timeout(60)
            if (now := self.page.evaluate(script)) != value:
                value, since = now, time.monotonic()
        return value

    def saved(self) -> None:
        """Wait until every edit is on the disk."""
        self.until("document.querySelector('.saved').textContent === 'saved'")

    def previewed(self) -> None:
        """Wait until the preview shows the newest labels."""
        self.saved()
        self.until("document.querySelector('#preview-status').dataset.state === 'ready'")


def labels_of(server: Server) -> dict[str, int]:
    """How many features of each class the file on the disk holds."""
    found: dict[str, int] = {}
    for feature in json.loads((server.out / "labels.geojson").read_text())["features"]:
        properties = feature["properties"]
        name = properties.get("class") or properties.get("classification", {}).get("name")
        found[name] = found.get(name, 0) + 1
    return found
