"""The server by HTTP: tiles, labels and the preview as the page asks for them."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from fewscope.annotate.web_keys import LEARNING
from fewscope.connectors.slides.pyramid_tiff import write_pyramid
from tests.helpers.pages import HEIGHT, WIDTH, Page, config_of, picture, rectangle, visit


def square(low: int, high: int) -> dict[str, Any]:
    """A square with both coordinates from low to high."""
    ring = [[low, low], [high, low], [high, high], [low, high], [low, low]]
    return {"type": "Polygon", "coordinates": [ring]}


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_tiles_of_the_finest_zoom_are_the_pixels_of_the_image(slide, tmp_path):
    async def journey(page: Page) -> None:
        (one,) = (await page.get("/api/info"))["sources"]
        assert (one["width"], one["height"], one["max_zoom"]) == (WIDTH, HEIGHT, 2)
        tile = pixels(await page.get("/tile/image/0/2/1/1.jpg"))
        expected = picture()[256:512, 256:512].astype(int)
        assert np.abs(tile.astype(int) - expected).mean() < 6  # JPEG, twice
        whole = pixels(await page.get("/tile/image/0/0/0/0.jpg"))
        assert whole.shape == (256, 256, 3)
        assert (whole[HEIGHT // 4 + 4 :] > 250).all(), "below the image is background"
        await page.get("/tile/image/0/2/4/0.jpg", status=404)
        thumbnail = pixels(await page.get("/tile/thumbnail/0.jpg"))
        assert max(thumbnail.shape) <= 256

    visit(config_of(slide, tmp_path), journey)


def test_tiles_are_not_sent_twice(slide, tmp_path):
    async def journey(page: Page) -> None:
        first = await page.client.get("/tile/image/0/2/0/0.jpg")
        again = await page.client.get(
            "/tile/image/0/2/0/0.jpg", headers={"If-None-Match": first.headers["ETag"]}
        )
        assert again.status == 304
        assert not await again.read()

    visit(config_of(slide, tmp_path), journey)


def test_tiles_are_kept_for_good_only_as_those_of_this_source(slide, tmp_path):
    """The next server at the same port may show another one, under the same number."""
    other = tmp_path / "other.tif"
    write_pyramid(other, picture()[::-1], mpp=0.5)
    keys, starts = set[str](), set[str]()

    async def journey(page: Page) -> None:
        info = await page.get("/api/info")
        key = info["sources"][0]["key"]
        for path in ("/tile/image/0/2/0/0.jpg", "/tile/thumbnail/0.jpg"):
            for query, kept in (("", "no-cache"), ("?v=1", "no-cache"), (f"?v={key}", "immutable")):
                answer = await page.client.get(path + query)
                assert kept in answer.headers["Cache-Control"]
        keys.add(key)
        starts.add(info["start"])

    for number, path in enumerate((slide, other, slide)):
        visit(config_of(path, tmp_path / str(number)), journey)
    assert (len(keys), len(starts)) == (2, 3)


def test_a_stroke_is_a_feature_and_can_be_undone(slide, tmp_path):
    async def journey(page: Page) -> None:
        stroke = {"op": "brush", "line": [[100, 100], [200, 100]], "radius": 10, "class": "cell"}
        answer = await page.ops(stroke)
        (feature,) = answer["changed"]
        assert feature["properties"]["class"] == "cell"
        assert answer["undo"]
        assert (await page.get("/api/labels?source=0"))["features"] == [feature]
        assert (await page.ops({"op": "undo"}))["removed"] == [feature["id"]]
        assert (await page.ops({"op": "redo"}))["changed"] == [feature]
        assert (await page.ops({"op": "redo"}, status=400))["error"] == "there is nothing to redo"

    visit(config_of(slide, tmp_path), journey)


def test_what_another_window_has_changed_is_a_conflict_and_is_shown(slide, tmp_path):
    async def journey(page: Page) -> None:
        first = await page.ops(rectangle(10, 10, 60, 60))
        own = first["changed"][0]["id"]
        await page.ops({"op": "relabel", "ids": [own], "class": "gland"}, revision=first["revision"])
        late = {"op": "delete", "ids": [own]}
        refused = await page.ops(late, revision=first["revision"], status=409)
        assert [one["properties"]["class"] for one in refused["features"]] == ["gland"]
        await page.ops(rectangle(100, 10, 160, 60), revision=first["revision"])  # names nothing: no conflict
        await page.ops(late, revision=refused["revision"])

    visit(config_of(slide, tmp_path), journey)


def test_every_page_is_told_of_changes(slide, tmp_path):
    async def journey(page: Page) -> None:
        stream = await page.client.get("/api/events")
        assert stream.content_type == "text/event-stream"
        await page.ops(rectangle(10, 10, 60, 60))
        async for line in stream.content:
            if line.startswith(b"data:") and (event := json.loads(line[5:]))["type"] == "labels":
                break
        assert event["source"] == "0"
        stream.close()

    visit(config_of(slide, tmp_path), journey)


def test_a_file_that_another_program_changes_is_taken_over_and_can_be_undone(slide, tmp_path):
    async def journey(page: Page) -> None:
        await page.ops(rectangle(10, 10, 210, 210, "region"), rectangle(20, 20, 60, 60))
        path = tmp_path / "labels.geojson"
        drawn = json.loads(path.read_text())
        before = await page.get("/api/labels?source=0")
        drawn["features"] = drawn["features"][:1]  # an object is deleted in QuPath
        path.write_text(json.dumps(drawn))
        after = await page.until("/api/labels?source=0", lambda now: now["revision"] > before["revision"])
        assert [one["id"] for one in after["features"]] == [before["features"][0]["id"]]
        assert len((await page.ops({"op": "undo"}))["changed"]) == 1

    visit(config_of(slide, tmp_path), journey)


def test_a_file_that_was_read_before_an_edit_that_is_refused_is_taken_over_all_the_same(slide, tmp_path):
    async def journey(page: Page) -> None:
        first = await page.ops(rectangle(10, 10, 210, 210, "region"), rectangle(20, 20, 60, 60))
        learning = page.client.app[LEARNING]
        await asyncio.to_thread(learning.wait_learned, 10)
        path = tmp_path / "labels.geojson"
        drawn = json.loads(path.read_text())
        drawn["features"].append(drawn["features"][1] | {"id": "other", "geometry": square(100, 140)})
        stream = await page.client.get("/api/events")
        path.write_text(json.dumps(drawn))
        await page.ops({"op": "redo"}, status=400)
        async for line in stream.content:
            if line.startswith(b"data:") and (event := json.loads(line[5:]))["type"] == "labels":
                break
        assert event["revision"] == first["revision"] + 1
        stream.close()
        await asyncio.to_thread(learning.wait_learned, 10)
        assert (learning.support.labels == 1).sum() == 2 * 40 * 40

    visit(config_of(slide, tmp_path), journey)


def test_what_another_program_draws_outside_the_image_is_told_of(slide, tmp_path, monkeypatch):
    monkeypatch.setattr("fewscope.annotate.app.WATCH_S", 0.02)

    async def journey(page: Page) -> None:
        told: list[dict[str, Any]] = []
        await page.ops(rectangle(10, 10, 60, 60))
        monkeypatch.setattr(page.session.hub, "publish", told.append)
        path = tmp_path / "labels.geojson"
        stated = json.loads(path.read_text())
        stated["features"][0]["geometry"]["coordinates"][0] = [
            [9000, 9000],
            [9090, 9000],
            [9000, 9090],
            [9000, 9000],
        ]
        path.write_text(json.dumps(stated))
        while not (said := [one["error"] for one in told if "error" in one]):
            await asyncio.sleep(0.02)
        assert "1 of 1 labels lie outside the image" in said[0]

    visit(config_of(slide, tmp_path), journey)


def test_the_preview_learns_what_a_batch_job_would_read_from_the_file(slide, tmp_path):
    from fewscope.connectors.open import open_source
    from fewscope.connectors.support.load import load_support

    async def journey(page: Page) -> None:
        state = await page.until(
            "/api/preview?source=0", lambda now: "draw round an object" in now["message"]
        )
        assert state["state"] == "empty"
        await page.ops(
            rectangle(10, 10, 210, 210, "region"), rectangle(20, 20, 60, 60), rectangle(90, 80, 120, 99)
        )
        await page.ops(rectangle(500, 400, 540, 440), rectangle(600, 400, 640, 440, "not"))
        state = await page.until(
            "/api/preview?source=0", lambda now: now["state"] == "ready" and now["revision"] > 2
        )
        learning = next(value for value in page.client.app.values() if hasattr(value, "labels_changed"))
        source = open_source(str(slide))
        batch = load_support(str(tmp_path / "labels.geojson"), source=source)
        source.close()
        assert learning.support.digest() == batch.digest()
        assert (batch.n_dense, batch.n_sparse) == (1, 1)

    visit(config_of(slide, tmp_path), journey)


def test_labels_that_a_library_cannot_take_do_not_end_the_preview(slide, tmp_path, monkeypatch):
    learn = "fewscope.annotate.learning.load_several"

    def fail(*arguments: Any) -> Any:
        raise ValueError("a ring crosses itself")

    async def journey(page: Page) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(learn, fail)
            await page.ops(rectangle(20, 20, 60, 60))
            state = await page.until("/api/preview?source=0", lambda now: "ring" in now["message"])
            assert state["state"] == "empty"
        await page.ops(rectangle(100, 20, 160, 60))
        state = await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        assert state["message"] == ""

    visit(config_of(slide, tmp_path), journey)


def test_tiles_of_the_preview_lie_where_their_pixels_lie(slide, tmp_path):
    async def journey(page: Page) -> None:
        name = "a/b ü"
        region = rectangle(10, 10, 210, 210, "region")
        await page.ops(region, rectangle(20, 20, 60, 60, name=name))
        await page.until("/api/preview?source=0", lambda now: now["state"] == "ready")
        address = f"/tile/probability/0/1/{quote(name, safe='')}"
        tile = pixels(await page.get(f"{address}/2/3/2.png"))
        assert (tile[0, :132, 0] == np.arange(768, 900) % 256).all()
        assert (tile[:188, :132, 3] == 255).all()
        assert not tile[188:, :, 3].any()
        assert not tile[:, 132:, 3].any()
        half = pixels(await page.get(f"{address}/1/0/0.png"))
        assert (half[0, :, 0] == (np.arange(256) * 2 + 1) % 256).all()
        painted = pixels(await page.get(f"{address}/2/0/0.png?paint=ff8000&threshold=0.5"))
        assert painted[0, 127, 3] == 0
        assert tuple(painted[0, 200, :3]) == (255, 128, 0)
        unsure = pixels(await page.get(f"{address}/2/0/0.png?paint=ff8000&threshold=0.5&unsure=1"))[0, :, 3]
        assert unsure[127:129].min() > 250
        assert unsure[0] == unsure[255] == 0
        await page.get(f"{address}/2/0/0.png?paint=red", status=400)
        await page.get("/tile/probability/0/1/unknown/2/0/0.png", status=404)

    visit(config_of(slide, tmp_path), journey)


def test_what_is_on_the_screen_is_looked_at_in_working_pixels(slide, tmp_path):
    async def journey(page: Page) -> None:
        learning = next(value for value in page.client.app.values() if hasattr(value, "labels_changed"))
        while learning.preview is None:
            await asyncio.sleep(0.01)
        body = {"source": "0", "box": [-50, 100, 400, 300.5], "pointer": [200, 150]}
        await page.post("/api/view", body, status=204)
        source, window, pointer = learning.preview.looks[-1]
        assert (source, window.col_off, window.row_off, window.width, window.height) == (0, 0, 50, 200, 101)
        assert pointer == (100, 75)
        await page.post("/api/view", body | {"box": [0, 0, float("1e300"), 5]}, status=400)

    visit(config_of(slide, tmp_path, mpp=1.0), journey)
