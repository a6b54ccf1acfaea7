"""Large objects in the page of ``fewscope annotate``: a coarser resolution is offered, and finds them."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from shapely.geometry import mapping, shape

from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from tests.helpers.browser import Annotator, annotating, labels_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SIDE, PITCH, WALL = 2016, 504, 34
"""px of the slide at 0.5 um/px, from gland to gland, and of their walls: inside, they look like what is around them."""


def glands() -> list[tuple[int, int, int]]:
    """x, y, radius of glands of 150 to 186 um, row by row."""
    rng = np.random.default_rng(0)
    middles = [(PITCH // 2 + PITCH * col, PITCH // 2 + PITCH * row) for row in range(4) for col in range(4)]
    return [(x + int(dx), y + int(dy), int(rng.integers(150, 186))) for (x, y), (dx, dy) in
            zip(middles, rng.integers(-40, 41, (16, 2)), strict=True)]  # fmt: skip


def tissue() -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): glands in ground with nuclei, which are in their lumina, too."""
    rng = np.random.default_rng(1)
    rows, cols = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    image = np.full((SIDE, SIDE, 3), (226, 176, 200), np.float32)
    for x, y in rng.integers(0, SIDE - 8, (1400, 2)):
        image[y : y + 8, x : x + 8] = 120, 80, 160
    for x, y, radius in glands():
        distance = np.hypot(cols - x, rows - y)
        image[(distance < radius) & (distance > radius - WALL)] = 150, 92, 160
    noise = rng.normal(0, 14, (SIDE, SIDE, 1)).astype(np.float32)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def iou(person: Annotator, box: tuple[int, int, int, int]) -> float:
    """IoU of what the preview finds in a box with the glands."""
    person.show(*box)
    person.previewed()
    person.counted()
    inside = shapely.box(*box)
    found = shapely.union_all([shape(one["geometry"]) for one in person.found("Gland", box)])
    truth = shapely.union_all([shapely.Point(x, y).buffer(radius) for x, y, radius in glands()])
    found, truth = found & inside, truth & inside
    return float((found & truth).area / (found | truth).area)


def test_glands_are_found_at_the_resolution_that_is_offered(person, browser, tmp_path):
    slide = tmp_path / "glands.tif"
    write_pyramid(slide, tissue(), 0.5)
    (x0, y0, r0), (x1, y1, r1) = glands()[:2]
    drawn = [
        {"geometry": mapping(shapely.box(0, 0, 1000, 500)), "properties": {"kind": "region"}},
        {
            "geometry": mapping(shapely.Point(x0, y0).buffer(r0)),
            "properties": {"kind": "object", "class": "Gland"},
        },
    ]
    x, y, _ = glands()[10]
    held_out = (x - 220, y - 220, x + 220, y + 220)
    with annotating(tmp_path / "log", tmp_path / "out", slide, "--mpp", "0.5") as server:
        person.open(server.url, labels=[{"type": "Feature", **one} for one in drawn])
        page = person.page
        page.set_viewport_size({"width": 1000, "height": 640})
        person.show(x1 - 200, y1 - 200, x1 + 200, y1 + 200)
        turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        person.lasso([(x1 + r1 * np.cos(t), y1 + r1 * np.sin(t)) for t in turns])
        person.saved()
        page.wait_for_selector("#resolution-bar:not([hidden])")
        assert "px across, too large at 0.5 µm/px" in person.text("#resolution-bar")
        at_start = iou(person, held_out)
        person.picture("offered")

        page.click("#resolution-change")
        person.until("document.querySelector('#resolution').value === '4'")
        page.wait_for_selector("#resolution-bar", state="hidden")
        coarser = iou(person, held_out)
        person.picture("coarser")
        assert coarser > 0.9
        assert at_start < coarser - 0.1, "at 0.5 um/px only walls are seen"
        assert labels_of(server) == {"Region*": 1, "Gland": 2}
