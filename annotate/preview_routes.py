"""Routes of the preview: what to look at, its state, its tiles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aiohttp import web
from rasterio.windows import Window

from fewscope.annotate.label_routes import body_of, source_of
from fewscope.annotate.layer_tiles import Read, layer_png, paint_of, painted, painted_unsure
from fewscope.annotate.session import OpenSource
from fewscope.annotate.tile_routes import ADDRESS, address_of, in_readers
from fewscope.annotate.web_keys import LEARNING, SESSION
from fewscope.errors import LabelError

if TYPE_CHECKING:
    from fewscope.annotate.preview import Preview

routes = web.RouteTableDef()
MAX_COORDINATE = 2.0**40
KEPT_S = "private, max-age=60"
"""Tiles of a revision are asked for again as cells become ready, under another address."""


def numbers_of(value: Any, n: int, what: str) -> list[float]:
    """A list of n finite numbers of the page.

    Raises
    ------
    LabelError
        It is none.
    """
    is_list = isinstance(value, list) and len(value) == n
    if not is_list or not all(
        isinstance(one, int | float) and not isinstance(one, bool) and abs(one) < MAX_COORDINATE
        for one in value
    ):
        raise LabelError(f"{what} is no list of {n} numbers")
    return [float(one) for one in value]


def window_of(one: OpenSource, box: list[float]) -> Window:
    """Window of working px around a box in image px, clipped to the source.

    Raises
    ------
    LabelError
        They have no pixel in common.
    """
    info = one.source.info
    x0, y0, x1, y1 = (value / one.scale for value in box)
    left, top = max(0, int(x0)), max(0, int(y0))
    right, bottom = min(info.width, int(-(-x1 // 1))), min(info.height, int(-(-y1 // 1)))
    if left >= right or top >= bottom:
        raise LabelError("the box lies outside the image")
    return Window(left, top, right - left, bottom - top)


def preview_of(request: web.Request) -> Preview:
    """The preview.

    Raises
    ------
    LabelError
        The network is not loaded (yet).
    """
    learning = request.app[LEARNING]
    if learning.preview is None:
        raise LabelError(learning.message or "there is no preview yet")
    return learning.preview


@routes.post("/api/view")
async def view(request: web.Request) -> web.Response:
    """What is on the screen."""
    body = await body_of(request)
    one = request.app[SESSION].source(body.get("source"))
    box = numbers_of(body.get("box"), 4, "box")
    pointer: Any = body.get("pointer")
    request.app[LEARNING].looked_at(int(one.id), box)  # first: a preview that is being made looks there
    preview = request.app[LEARNING].preview
    if preview is not None:
        at = None if pointer is None else numbers_of(pointer, 2, "pointer")
        place = None if at is None else (at[0] / one.scale, at[1] / one.scale)
        try:
            window = window_of(one, box)
        except LabelError:  # beside the image: nothing to compute
            return web.Response(status=204)
        await asyncio.to_thread(preview.look_at, int(one.id), window, place)
    return web.Response(status=204)


@routes.get("/api/preview")
async def status(request: web.Request) -> web.Response:
    """What the preview shows, and what it is computing."""
    one = source_of(request)
    return web.json_response(await asyncio.to_thread(request.app[LEARNING].status, int(one.id)))


@routes.get(r"/tile/probability/{source}/{revision:\d+}/{class}/" + ADDRESS + ".png")
async def probability(request: web.Request) -> web.Response:
    """Probability of a class."""
    name = request.match_info["class"]
    learning = request.app[LEARNING]

    def reader(number: int) -> Read | None:
        index, preview = learning.class_index(name), learning.preview
        if index is None or preview is None:
            return None
        return lambda window: preview.probability(number, window, index)

    return await _layer(request, reader)


async def _layer(request: web.Request, reader: Callable[[int], Read | None]) -> web.Response:
    one, tile = request.app[SESSION].source(request.match_info["source"]), address_of(request)
    query: Mapping[str, str] = request.query
    paint = paint_of(query.get("paint"), query.get("threshold"))
    read = reader(int(one.id))
    if not one.grid.holds(tile) or read is None:
        raise web.HTTPNotFound(text="there is no such tile\n")
    draw = painted_unsure if query.get("unsure") == "1" else painted
    data = await in_readers(request, lambda: layer_png(one.grid, tile, one.scale, read, paint, draw))
    return web.Response(body=data, content_type="image/png", headers={"Cache-Control": KEPT_S})
