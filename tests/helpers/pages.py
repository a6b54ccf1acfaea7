"""A page without a browser: an HTTP client that has opened the printed address, and a preview that needs no network."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from aiohttp.test_utils import TestClient, TestServer
from rasterio.windows import Window

from fewscope.annotate.app import make_app
from fewscope.annotate.config import AnnotateConfig
from fewscope.annotate.preview import PreviewEvent, PreviewStatus
from fewscope.annotate.security import Gate
from fewscope.annotate.session import Session
from fewscope.pipeline.tiling.foreground import Foreground

HEIGHT, WIDTH = 700, 900


def picture(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 (height, width, 3), another colour at each place of a few hundred px."""
    rows, cols = np.mgrid[:height, :width]
    return np.stack([rows % 256, cols % 256, (rows + cols) // 8 % 256], 2).astype(np.uint8)


class InstantPreview:
    """Knows at once: probability is the column modulo 256, everywhere in the source."""

    object_radius_um: float | None = None

    def __init__(self, sources: Sequence[Any], on_event: Callable[[PreviewEvent], None]) -> None:
        self.sources, self.on_event = sources, on_event
        self.supports: list[tuple[Any, int]] = []
        self.looks: list[tuple[int, Window, Any]] = []
        self.closed = False

    def set_support(self, support: Any, revision: int) -> None:
        self.supports.append((support, revision))
        self.on_event(PreviewEvent(0, self.status(0), boxes=((0, 0, 10, 20),)))

    def look_at(self, source: int, window: Window, pointer: Any = None) -> None:
        self.looks.append((source, window, pointer))

    def status(self, source: int) -> PreviewStatus:
        support, revision = self.supports[-1] if self.supports else (None, 0)
        return PreviewStatus(revision, "empty" if support is None else "ready", 1, 1, 0.0)

    def learned(self) -> Any:
        support, revision = self.supports[-1] if self.supports else (None, 0)
        return None if support is None else SimpleNamespace(revision=revision, support=support)

    def probability(self, source: int, window: Window, class_index: int) -> tuple[np.ndarray, np.ndarray]:
        return self._answer(source, window)

    def _answer(self, source: int, window: Window) -> tuple[np.ndarray, np.ndarray]:
        info = self.sources[source].info
        places = np.mgrid[
            window.row_off : window.row_off + window.height, window.col_off : window.col_off + window.width
        ]
        known = (places[0] < info.height) & (places[1] < info.width)
        return np.where(known, places[1] % 256, 0).astype(np.uint8), known

    def close(self) -> None:
        self.closed = True


DISCS = [(100, 100, 14), (300, 120, 20), (310, 400, 11), (700, 500, 17), (122, 110, 12)]
"""x, y, radius in image px, which are working px here; the last one touches the first."""


class DiscPreview(InstantPreview):
    """Sees discs, everywhere and at once."""

    def probability(self, source: int, window: Window, class_index: int) -> tuple[np.ndarray, np.ndarray]:
        rows, cols = np.mgrid[
            window.row_off : window.row_off + window.height, window.col_off : window.col_off + window.width
        ]
        inside = np.zeros(rows.shape, bool)
        for x, y, radius in DISCS:
            inside |= (rows + 0.5 - y) ** 2 + (cols + 0.5 - x) ** 2 < radius**2
        known = (rows >= 0) & (rows < HEIGHT) & (cols >= 0) & (cols < WIDTH)
        return np.where(inside & known, 230, 10).astype(np.uint8), known

    def learned(self) -> Any:
        found = super().learned()
        if found is not None:
            found.pack = SimpleNamespace(n_classes=1)
        return found

    def settled(self, timeout: float | None = None) -> None:
        return None

    def foreground(self, source: int, timeout: float | None = None) -> Foreground:
        return Foreground(np.ones((HEIGHT // 4, WIDTH // 4), bool), (HEIGHT, WIDTH))


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

    async def ops(self, *operations: Any, revision: int = 10**6, source: str = "0", status: int = 200) -> Any:
        body = {"source": source, "revision": revision, "ops": list(operations)}
        return await self.post("/api/labels/ops", body, status)

    async def until(self, path: str, holds: Callable[[Any], bool]) -> Any:
        """The first answer of an address for which something holds."""
        while not holds(answer := await self.get(path)):
            await asyncio.sleep(0.02)
        return answer


def visit(
    config: AnnotateConfig, journey: Callable[[Page], Awaitable[None]], make_preview: Any = InstantPreview
) -> None:
    """Start a server, open its address, and do what `journey` does."""

    async def travel() -> None:
        session, gate = Session(config), Gate.new("127.0.0.1")
        client = TestClient(TestServer(make_app(session, gate, make_preview)))
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
    """To annotate one source."""
    return AnnotateConfig((str(slide),), (slide.stem,), str(out), **more)


def rectangle(
    x0: float, y0: float, x1: float, y1: float, kind: str = "object", name: str | None = "cell"
) -> dict[str, Any]:
    """An operation that adds a rectangle."""
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    properties = {"kind": kind, "class": name if kind == "object" else None}
    geometry = {"type": "Polygon", "coordinates": [ring]}
    return {"op": "add", "feature": {"type": "Feature", "geometry": geometry, "properties": properties}}


def point(x: float, y: float, name: str | None = "cell", **more: Any) -> dict[str, Any]:
    """An operation that adds a point."""
    properties = {"kind": "point", "class": name, **more}
    geometry = {"type": "Point", "coordinates": [x, y]}
    return {"op": "add", "feature": {"type": "Feature", "geometry": geometry, "properties": properties}}
