"""Routes of image tiles."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from fewscope.annotate.session import OpenSource
from fewscope.annotate.tiles import TileAddress
from fewscope.annotate.web_keys import SESSION

routes = web.RouteTableDef()
FOREVER = "private, max-age=31536000, immutable"
ADDRESS = r"{z:\d{1,2}}/{x:\d{1,8}}/{y:\d{1,8}}"


def address_of(request: web.Request) -> TileAddress:
    """The tile that an address names."""
    found = request.match_info
    return TileAddress(int(found["z"]), int(found["x"]), int(found["y"]))


async def in_readers(request: web.Request, make: Callable[[], bytes]) -> bytes:
    """Make a tile in the threads for reading."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(request.app[SESSION].readers, make)


@routes.get("/tile/image/{source}/" + ADDRESS + ".jpg")
async def image(request: web.Request) -> web.Response:
    """A tile of the image."""
    one, tile = request.app[SESSION].source(request.match_info["source"]), address_of(request)
    if not one.grid.holds(tile):
        raise web.HTTPNotFound(text="there is no such tile\n")
    headers = {"ETag": one.tiles.etag(tile), "Cache-Control": _kept(request, one)}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return web.Response(status=304, headers=headers)
    data = await in_readers(request, lambda: one.tiles.jpeg(tile))
    return web.Response(body=data, content_type="image/jpeg", headers=headers)


@routes.get("/tile/thumbnail/{source}.jpg")
async def thumbnail(request: web.Request) -> web.Response:
    """The whole image, small."""
    one = request.app[SESSION].source(request.match_info["source"])
    data = await in_readers(request, one.tiles.thumbnail)
    return web.Response(body=data, content_type="image/jpeg", headers={"Cache-Control": _kept(request, one)})


def _kept(request: web.Request, one: OpenSource) -> str:
    """How long a browser keeps a picture of a source: the next server at this port may show another one."""
    return FOREVER if request.query.get("v") == one.tiles.key else "no-cache"
