"""The server by HTTP: tiles and labels as the page asks for them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp.test_utils import TestClient, TestServer
from PIL import Image

from fewscope.annotate.app import make_app
from fewscope.annotate.config import AnnotateConfig
from fewscope.annotate.security import Gate
from fewscope.annotate.session import Session
from fewscope.connectors.slides.pyramid_tiff import write_pyramid

HEIGHT, WIDTH = 700, 900


def picture() -> np.ndarray:
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([rows % 256, cols % 256, (rows + cols) // 8 % 256], 2).astype(np.uint8)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_pyramid(path, picture(), mpp=0.5)
    return path


class Page:
    """A page that has opened the printed address."""

    def __init__(self, client: TestClient[Any, Any], session: Session, gate: Gate) -> None:
        self.client, self.session, self.gate = client, session, gate

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Fewscope": "1", "Origin": f"http://127.0.0.1:{self.client.port}"}

    async def get(self, path: str, status: int = 200) -> Any:
        response = await self.client.get(path)
        assert response.status == status, await response.text()
        return await response.json() if "json" in response.content_type else await response.read()

    async def post(self, path: str, body: Any, status: int = 200) -> Any:
        response = await self.client.post(path, json=body, headers=self.headers)
        assert response.status == status, await response.text()
        return await response.json() if response.status != 204 else None

    async def ops(self, *operations: Any, revision: int = 10**6, status: int = 200) -> Any:
        return await self.post(
            "/api/labels/ops", {"source": "0", "revision": revision, "ops": list(operations)}, status
        )


def visit(config: AnnotateConfig, journey: Callable[[Page], Awaitable[None]]) -> None:
    """Start a server, open its address, and do what `journey` does."""

    async def travel() -> None:
        session, gate = Session(config), Gate.new("127.0.0.1")
        client = TestClient(TestServer(make_app(session, gate)))
        await client.start_server()
        try:
            response = await client.get(f"/?token={gate.token}", allow_redirects=False)
            assert response.status == 303
            await journey(Page(client, session, gate))
        finally:
            await client.close()
            session.close()

    asyncio.run(travel())


def config_of(slide: Path, out: Path, **more: Any) -> AnnotateConfig:
    return AnnotateConfig((str(slide),), ("slide",), str(out), **more)


def test_tiles_of_the_finest_zoom_are_the_pixels_of_the_image(slide, tmp_path):
    async def journey(page: Page) -> None:
        (one,) = (await page.get("/api/info"))["sources"]
        assert (one["width"], one["height"], one["max_zoom"]) == (WIDTH, HEIGHT, 2)
        tile = np.asarray(Image.open(io.BytesIO(await page.get("/tile/image/0/2/1/1.jpg"))))
        expected = picture()[256:512, 256:512].astype(int)
        assert np.abs(tile.astype(int) - expected).mean() < 6  # JPEG, twice
        whole = np.asarray(Image.open(io.BytesIO(await page.get("/tile/image/0/0/0/0.jpg"))))
        assert whole.shape == (256, 256, 3)
        assert (whole[HEIGHT // 4 + 4 :] > 250).all(), "below the image is background"
        await page.get("/tile/image/0/2/4/0.jpg", status=404)

    visit(config_of(slide, tmp_path), journey)


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
