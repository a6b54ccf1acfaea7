"""Record the page of ``fewscope annotate``: the pictures of docs/annotate.md, from a real session.

    python docs/record_annotate.py            # docs/images/annotate*.{webp,jpg}; needs `make web` and Chromium

The slide is the demo's, of 1024 px, and two regions of its support set are there at the start. The preview, an outline,
a window of the gallery, the rounds, the whole run and its result are shown. Nothing is posed: what is seen is what the
server answers.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shapely.geometry import shape

from examples import make_demo_slide
from tests.helpers.browser import Annotator, Point, annotating, chromium

ROOT = Path(__file__).resolve().parents[1]
SUPPORT = ROOT / "examples" / "ihc_nuclei.geojson"
VIEWPORT = {"width": 1280, "height": 800}
SIDE = 1024
FILM_SIZE = (960, 600)
STILL_SIZE = (1120, 700)
MAX_BYTES = 2_000_000
POINTER = [(0, 0), (0, 17), (4, 13), (7, 20), (10, 19), (7, 12), (12, 12)]


class Film(Annotator):
    """A person at the page whose screen and pointer are recorded."""

    def __init__(self, page: Any, folder: Path) -> None:
        super().__init__(page, folder, "annotate")
        self.folder = folder
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []
        self.pointer: Point = (640, 400)

    def look(self, ms: int) -> None:
        """A frame that stays for some milliseconds."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        draw = ImageDraw.Draw(picture)
        corners = [(self.pointer[0] + x, self.pointer[1] + y) for x, y in POINTER]
        draw.polygon(corners, fill="white", outline="black")
        self.frames.append(picture.resize(FILM_SIZE, Image.Resampling.LANCZOS))
        self.durations.append(ms)

    def still(self, name: str) -> None:
        """A picture of its own for the documentation."""
        picture = Image.open(io.BytesIO(self.page.screenshot())).convert("RGB")
        picture = picture.resize(STILL_SIZE, Image.Resampling.LANCZOS)
        picture.save(self.folder / f"annotate-{name}.jpg", quality=76, optimize=True, progressive=True)

    def point(self, place: Sequence[float]) -> None:
        """Move the pointer to a place of the screen."""
        self.pointer = (place[0], place[1])
        self.page.mouse.move(*self.pointer)

    def press(self, selector: str) -> None:
        """Point at a control, and click it."""
        box = self.page.locator(selector).first.bounding_box()
        assert box is not None, selector
        self.point((box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))
        self.look(500)
        self.page.mouse.click(*self.pointer)

    def outline(self, corners: Sequence[Point], seen: bool) -> None:
        """Draw a polygon; ``seen``: corner by corner in the film."""
        if not seen:
            self.lasso(corners)
            return
        self.key("p")
        for place in self.screens(corners):
            self.point(place)
            self.page.mouse.click(*self.pointer)
            self.look(90)
        self.key("Enter")

    def write(self, path: Path) -> None:
        """Write the film; at a lower quality if it is too large."""
        for quality in (70, 55, 40, 25):
            first, *others = self.frames
            first.save(
                path,
                save_all=True,
                append_images=others,
                duration=self.durations,
                loop=0,
                quality=quality,
                method=4,
            )
            if path.stat().st_size < MAX_BYTES:
                return
        raise SystemExit(f"{path}: {path.stat().st_size} bytes, expected fewer than {MAX_BYTES}")


def two_regions(path: Path) -> None:
    """Write the first and the third region of the demo's support set, with the nuclei in them."""
    collection = json.loads(SUPPORT.read_text())
    features = [(one, shape(one["geometry"])) for one in collection["features"]]
    boxes = [pair for pair in features if pair[0]["properties"]["classification"]["name"] == "Region*"]
    kept = [boxes[0], boxes[2]]
    kept += [(one, at) for one, at in features if any(box.contains(at.centroid) for _, box in kept[:2])][2:]
    kept = list({one["id"]: (one, at) for one, at in kept}.values())
    path.write_text(json.dumps({**collection, "features": [one for one, _ in kept]}))


NUCLEUS: list[Point] = [(404, 209), (410, 203), (418, 205), (421, 213), (417, 221), (409, 220)]
"""Corners of a stroke's worth of outline for the film, in px of the slide."""


def journey(film: Film, url: str) -> None:
    """See, draw, correct, run, look."""
    page = film.page
    film.open(url)
    film.previewed()
    page.wait_for_timeout(2500)
    film.look(3000)
    film.still("preview")
    page.focus("#threshold")
    for step in ("ArrowLeft", "ArrowRight"):
        for _ in range(2):
            for _ in range(9):
                film.key(step)
            film.look(500)
    film.outline(NUCLEUS, seen=True)
    film.look(1200)
    film.key("Control+z")
    film.saved()
    film.look(800)

    film.key("g")
    page.wait_for_selector(".gallery .window img")
    film.until("[...document.querySelectorAll('.gallery img')].every(one => one.naturalWidth > 0)")
    film.until("/\\d/.test(document.querySelector('.score-number')?.textContent ?? '')", timeout_s=180)
    film.look(3000)
    film.press(".gallery .window >> nth=1")
    page.wait_for_selector("#proposal-bar:not([hidden])")
    page.wait_for_timeout(1500)
    film.look(3500)
    film.still("window")
    film.press("#accept")
    film.saved()
    film.previewed()
    page.wait_for_timeout(1500)
    film.look(2500)

    film.key("F8")
    page.select_option("#run-adapt", "0")
    film.look(1200)
    film.press("#start-run")
    page.wait_for_selector(".run")
    page.click(".command summary >> nth=0")
    while page.locator(".run.running").count():
        film.look(300)
        page.wait_for_timeout(5000)
    page.wait_for_selector(".run.done", timeout=5000)
    film.look(2500)
    film.press(".run.done .button.primary")
    page.wait_for_selector(".table-wrap tbody tr")
    page.wait_for_timeout(2500)
    film.look(2500)
    film.press(".table-wrap tbody tr >> nth=3")
    page.wait_for_timeout(2000)
    film.look(3000)
    film.still("result")
    film.key("d")
    page.wait_for_timeout(500)
    film.look(3000)
    film.key("F7")
    page.wait_for_timeout(500)
    film.look(2500)
    film.still("rounds")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, record, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder for the pictures")
    chosen = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        record(Path(scratch), chosen.out)
    return 0


def record(scratch: Path, out: Path) -> None:
    """Start the server on the slide, and record."""
    slide = scratch / "ihc.tif"
    make_demo_slide.main([str(slide), "--side", str(SIDE)])
    support = scratch / "two-regions.geojson"
    two_regions(support)
    with (
        annotating(scratch / "log", scratch / "out", slide, "--support", support) as server,
        chromium() as browser,
    ):
        page = browser.new_page(viewport=VIEWPORT, color_scheme="light")
        page.set_default_timeout(120_000)
        film = Film(page, out)
        journey(film, server.url)
    assert film.problems == [], film.problems
    film.write(out / "annotate.webp")
    print(f"{out / 'annotate.webp'}: {len(film.frames)} frames, {sum(film.durations) / 1000:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
