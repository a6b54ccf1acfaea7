"""Routes of the working resolution."""

from __future__ import annotations

import asyncio

from aiohttp import web

from fewscope.annotate.label_routes import body_of
from fewscope.annotate.web_keys import RESOLUTION

routes = web.RouteTableDef()


@routes.get("/api/resolution")
async def resolution(request: web.Request) -> web.Response:
    """The resolution, the others, and what to say of it."""
    return web.json_response(request.app[RESOLUTION].described())


@routes.post("/api/resolution")
async def choose(request: web.Request) -> web.Response:
    """Change to another resolution, or keep that of now."""
    body, found = await body_of(request), request.app[RESOLUTION]
    await asyncio.to_thread(found.choose, body.get("factor"))
    return web.json_response(found.described())
