"""Routes of labelled pictures that are learned from beside what is drawn."""

from __future__ import annotations

import asyncio

from aiohttp import web

from fewscope.annotate.label_routes import body_of
from fewscope.annotate.tile_routes import in_readers
from fewscope.annotate.web_keys import LEARNING, SESSION

routes = web.RouteTableDef()


@routes.get("/api/folders")
async def folders(request: web.Request) -> web.Response:
    """All of them."""
    return web.json_response(request.app[SESSION].folders.described())


@routes.post("/api/folders")
async def switch(request: web.Request) -> web.Response:
    """Learn from one, or not."""
    body, session = await body_of(request), request.app[SESSION]
    loop, number, used = asyncio.get_running_loop(), body.get("number"), body.get("used")
    await loop.run_in_executor(session.writer, session.folders.switch, number, used)
    session.hub.publish({"type": "folders"})
    session.learn_again(request.app[LEARNING].last_source)
    return web.json_response(session.folders.described())


@routes.get(r"/api/folders/{number:\d{1,3}}/{patch:\d{1,4}}.png")
async def picture(request: web.Request) -> web.Response:
    """A patch with its outlines."""
    session, found = request.app[SESSION], request.match_info
    info = session.sources[0].source.info

    def make() -> bytes:
        drawn = session.folders.picture(int(found["number"]), int(found["patch"]), session.classes, info)
        return drawn or b""

    if not (data := await in_readers(request, make)):
        raise web.HTTPNotFound(text="there is no such patch\n")
    return web.Response(body=data, content_type="image/png", headers={"Cache-Control": "no-cache"})
