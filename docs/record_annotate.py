"""Record the page of ``fewscope annotate``: the pictures of docs/annotate.md, from a real session.

    python docs/record_annotate.py            # docs/images/annotate*.{webp,jpg}; needs `make web` and Chromium

The slide is the demo's, of 1024 px, without any label at the start. Three nuclei are outlined, the preview is looked
at and corrected by keys, it fills in a region, a window of the gallery becomes another one, and the whole run counts.
The outlines that the hand draws are those of the demo's support set. Nothing is posed: what is seen is what the server
answers.
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

import numpy as np
import shapely
import skimage.data
from PIL import Image, ImageDraw
from rasterio.windows import Window

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shapely.geometry import Polygon, shape

from examples import make_demo_slide
from tests.helpers.browser import Annotator, Point, annotating, chromium

ROOT = Path(__file__).resolve().parents[1]
SUPPORT = ROOT / "examples" / "ihc_nuclei.geojson"
VIEWPORT = {"width": 1280, "height": 800}
SIDE = 1024
FILM_SIZE = (960, 600)
STILL_SIZE = (1120, 700)
MAX_BYTES = 4_000_000
PALE, SPECK_PX2, MOST_CLICKS = 195, 20, 14
"""Mean of red, green and blue of what is no nucleus; areas that are not worth a click; and clicks in a region."""
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

    def typed(self, text: str) -> None:
        """Type a word, letter by letter."""
        for letter in text:
            self.page.keyboard.type(letter)
            self.look(110)

    def drawn(self, corners: Sequence[Point]) -> None:
        """Draw round an object with the lasso, by hand."""
        self.key("l")
        first, *others = self.screens([*corners, corners[0]])
        self.point(first)
        self.look(250)
        self.page.mouse.down()
        for number, place in enumerate(others):
            self.point(place)
            if number % 3 == 0:
                self.look(120)
        self.page.mouse.up()
        self.look(350)

    def judged(self, at: Point, key: str) -> None:
        """Point at an object that was found, and press a key."""
        self.point(self.screen(at))
        self.point((self.pointer[0] + 1, self.pointer[1]))
        self.look(600)
        self.key(key)
        self.page.wait_for_timeout(300)
        self.saved()
        self.look(500)

    def answered(self, ms: int) -> None:
        """Wait until the preview and its outlines are there, and look at them for some milliseconds."""
        self.previewed()
        self.counted()
        self.page.wait_for_timeout(900)
        self.look(ms)

    def write(self, path: Path) -> None:
        """Write the film; at a lower quality if it is too large."""
        for quality in (60, 45, 32, 22, 15):
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


def outlines() -> tuple[Polygon, list[Polygon]]:
    """The first region of the demo's support set, and its nuclei, the largest first."""
    collection = json.loads(SUPPORT.read_text())
    features = [
        (one["properties"]["classification"]["name"], shape(one["geometry"]))
        for one in collection["features"]
    ]
    region = next(geometry for name, geometry in features if name == "Region*")
    nuclei = [one for name, one in features if name == "Nucleus" and region.contains(one.centroid)]
    return region, sorted(nuclei, key=lambda one: -one.area)


def corners(polygon: Polygon) -> list[Point]:
    """The corners of an outline."""
    return [(x, y) for x, y, *_ in polygon.exterior.coords[:-1]]


def journey(film: Film, url: str) -> None:
    """Name, draw, see, correct, run, look."""
    region, nuclei = outlines()
    film.open(url)
    film.page.wait_for_timeout(2500)
    film.look(3500)
    draw_and_see(film, region, nuclei)
    fill_a_region(film, nuclei)
    look_elsewhere(film)
    run_and_browse(film)


def draw_and_see(film: Film, region: Polygon, nuclei: Sequence[Polygon]) -> None:
    """From nothing to a preview."""
    film.press("#guide-action")
    film.look(500)
    film.typed("Nucleus")
    film.key("Enter")
    film.look(2000)
    film.press("#guide-action")
    film.page.wait_for_timeout(700)
    film.look(900)
    x0, y0, x1, y1 = region.bounds
    film.show(x0 - 30, y0 - 30, x1 + 30, y1 + 30)
    film.page.wait_for_timeout(900)
    film.look(2000)
    film.drawn(corners(nuclei[0]))
    film.answered(3500)
    film.drawn(corners(nuclei[1]))
    film.drawn(corners(nuclei[2]))
    film.answered(4000)
    film.still("preview")
    film.page.focus("#threshold")
    for step in ("ArrowRight", "ArrowLeft"):
        for _ in range(3):
            for _ in range(8):
                film.key(step)
            film.look(350)
    found = sorted(film.found("Nucleus", region.bounds), key=lambda one: -one["properties"]["area_px"])
    places = [shape(one["geometry"]).representative_point().coords[0] for one in found]
    film.judged(places[3], "a")
    film.judged(places[5], "a")
    film.judged(places[0], "x")
    film.answered(2500)


def fill_a_region(film: Film, nuclei: Sequence[Polygon]) -> None:
    """A region by the preview, completed by hand."""
    film.press("#guide-action")
    film.page.wait_for_selector("#proposal-bar:not([hidden])")
    film.page.wait_for_timeout(900)
    film.look(4000)
    leave_out_what_is_pale(film)
    film.press("#accept")
    film.saved()
    film.look(2500)
    film.drawn(corners(nuclei[-1]))
    film.drawn(corners(nuclei[-2]))
    film.answered(3000)


def leave_out_what_is_pale(film: Film) -> None:
    """Click those of the proposed objects that lie on pale ground, the largest first: no nucleus is pale."""
    picture = skimage.data.immunohistochemistry()
    pale = []
    for one in film.page.evaluate("() => fewscope.proposal()"):
        outline = shape(one["geometry"])
        left, top, right, bottom = (int(value) for value in outline.bounds)
        if one["properties"]["kind"] == "region" or outline.area < SPECK_PX2:
            continue
        window = Window(max(left, 0), max(top, 0), right - left + 1, bottom - top + 1)
        rows, cols = np.mgrid[: window.height, : window.width]
        inside = shapely.contains_xy(outline, cols + window.col_off + 0.5, rows + window.row_off + 0.5)
        if inside.any() and make_demo_slide.mirrored(picture, window)[inside].mean() > PALE:
            pale.append(outline)
    for outline in sorted(pale, key=lambda one: -one.area)[:MOST_CLICKS]:
        film.point(film.screen(outline.representative_point().coords[0]))
        film.look(180)
        film.page.mouse.click(*film.pointer)
        film.look(150)
    film.look(1500)


def look_elsewhere(film: Film) -> None:
    """A window of the gallery, and how well each region is predicted from the other."""
    page = film.page
    film.key("g")
    film.until(
        "document.querySelector('.gallery img') && !document.querySelector('.gallery .loading')"
        " && [...document.querySelectorAll('.gallery img')].every(one => one.naturalWidth > 0)"
    )
    film.look(4000)
    film.press(".gallery .window >> nth=1")
    page.wait_for_selector("#proposal-bar:not([hidden])")
    page.wait_for_timeout(1500)
    film.look(3500)
    leave_out_what_is_pale(film)
    film.still("window")
    film.press("#accept")
    film.saved()
    film.answered(3000)
    film.until("/^\\d\\.\\d/.test(document.querySelector('.score-number')?.textContent ?? '')", timeout_s=180)
    film.look(4500)


def run_and_browse(film: Film) -> None:
    """The whole run, its count, its objects."""
    page = film.page
    film.key("F8")
    page.select_option("#run-adapt", "0")
    film.look(2000)
    film.press("#start-run")
    page.wait_for_selector(".run")
    page.click(".command summary >> nth=0")
    while page.locator(".run.running").count():
        film.look(600)
        page.wait_for_timeout(4000)
    page.wait_for_selector(".run.done", timeout=5000)
    film.look(4500)
    film.press("#guide-action")
    page.wait_for_selector(".table-wrap tbody tr")
    page.wait_for_timeout(2500)
    film.look(3500)
    film.press(".table-wrap tbody tr >> nth=3")
    page.wait_for_timeout(2000)
    film.look(3000)
    box = page.locator(".histogram").bounding_box()
    film.point((box["x"] + 0.45 * box["width"], box["y"] + 30))
    page.mouse.down()
    film.point((box["x"] + 0.98 * box["width"], box["y"] + 30))
    film.look(700)
    page.mouse.up()
    page.wait_for_timeout(2000)
    film.look(4000)
    film.still("result")
    film.key("d")
    page.wait_for_timeout(500)
    film.look(3000)
    film.key("F7")
    page.wait_for_timeout(500)
    film.look(3500)
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
    with annotating(scratch / "log", scratch / "out", slide) as server, chromium() as browser:
        page = browser.new_page(viewport=VIEWPORT, color_scheme="light")
        page.set_default_timeout(120_000)
        film = Film(page, out)
        journey(film, server.url)
    assert film.problems == [], film.problems
    film.write(out / "annotate.webp")
    print(f"{out / 'annotate.webp'}: {len(film.frames)} frames, {sum(film.durations) / 1000:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
